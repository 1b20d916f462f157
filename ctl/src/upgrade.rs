//! Sends an image and waits for the report.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use crate::api::{Accepted, Refusal, Report, Upgrade};
use crate::client::{ANSWER, Client, Error};

/// How long between two looks at a running upgrade.
const POLL: Duration = Duration::from_millis(100);
/// How long the first of several looks waits for its answer: a connection that was begun while nobody was there gets it only when
/// TCP tries again, seconds later, and a new one gets it at once.
const FIRST: Duration = Duration::from_secs(1);

/// Sends the image. When the connection broke before an answer came, the reason is looked for in the reports.
///
/// # Errors
/// As [`Client::send`].
pub fn send(client: &Client, image: &mut dyn Read, bytes: u64) -> Result<Accepted, Error> {
    let before = client.upgrade()?.last.map_or(0, |report| report.id);
    let lost = match client.send(image, bytes) {
        Err(lost @ Error::Unreachable { .. }) => lost,
        answer => return answer,
    };
    let Ok(Upgrade { last: Some(report), .. }) = client.upgrade() else {
        return Err(lost);
    };
    if report.id <= before || report.outcome == "committed" {
        return Err(lost);
    }
    Err(Error::Refused(Refusal {
        code: report.outcome,
        message: report.reason,
        blame: report.blame.unwrap_or_default(),
        report_id: Some(report.id),
    }))
}

/// Waits for the report of an accepted upgrade; `look` sees each state on the way.
/// While the images change places nobody answers: that is no failure before `patience` is over.
///
/// # Errors
/// The last failure, when `patience` is over.
pub fn wait(client: &Client, id: u64, patience: Duration, look: &mut dyn FnMut(&Upgrade)) -> Result<Report, Error> {
    let end = Instant::now() + patience;
    let mut answer = FIRST;
    loop {
        let failure = match Client::within(client.host(), answer).upgrade() {
            Ok(upgrade) => {
                answer = FIRST;
                look(&upgrade);
                if let Some(report) = upgrade.report(id) {
                    return Ok(report.clone());
                }
                format!("upgrade {id} has no report, its state is {}", upgrade.state)
            }
            Err(Error::Unreachable { cause, .. }) => {
                // A machine may also be slow.
                answer = (answer * 2).min(ANSWER);
                cause
            }
            Err(error) => return Err(error),
        };
        if Instant::now() >= end {
            let cause = format!("{failure} (waited {} s; --timeout changes that)", patience.as_secs());
            return Err(Error::Unreachable { host: client.host().into(), cause });
        }
        thread::sleep(POLL);
    }
}
