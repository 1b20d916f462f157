//! What a soak does to the machine: upgrades, and everything else that can be asked of one.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use batonctl::api::Report;
use batonctl::client::{Client, Error};
use batonctl::upgrade;

use super::dice::Dice;
use crate::cases::faults;
use crate::images;
use crate::log::wait_for;
use crate::machine::Machine;
use crate::paths;

/// How long an upgrade may take until its report is there.
const PATIENCE: Duration = Duration::from_secs(120);

/// The images that take turns, and the one that faults are planted in.
pub struct Images {
    good: Vec<(String, Vec<u8>)>,
    fault: Vec<u8>,
}

impl Images {
    /// Reads them.
    ///
    /// # Errors
    /// One is missing.
    pub fn read() -> Result<Self> {
        let read = |name: &str| std::fs::read(paths::image(name)).with_context(|| format!("{name} was not built"));
        let good = ["baton-next1", "baton-next2", "baton-next3"].map(|name| Ok((name.into(), read(name)?)));
        Ok(Self { good: good.into_iter().collect::<Result<_>>()?, fault: read("baton-fault")? })
    }

    /// Any but the one that runs.
    fn other<'a>(&'a self, dice: &mut Dice, running: &str) -> Result<&'a (String, Vec<u8>)> {
        let others: Vec<_> = self.good.iter().filter(|(name, _)| name != running).collect();
        dice.pick(&others).copied().context("there is no other image")
    }
}

/// What is done between two upgrades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A DELETE while the image arrives.
    CancelUpload,
    /// A DELETE as soon as the image was accepted: it may come too late.
    CancelUpgrade,
    /// The client goes away in the middle.
    Abandon,
    /// A dry run.
    DryRun,
    /// An image that must be refused.
    Wrong,
    /// An image with a planted fault.
    Fault,
}

impl Act {
    /// Each as often as it shall happen.
    pub const ALL: [Self; 8] = [
        Self::CancelUpload,
        Self::CancelUpgrade,
        Self::Abandon,
        Self::DryRun,
        Self::Wrong,
        Self::Fault,
        Self::Fault,
        Self::Fault,
    ];

    /// For the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CancelUpload => "cancel_upload",
            Self::CancelUpgrade => "cancel_upgrade",
            Self::Abandon => "abandon",
            Self::DryRun => "dry_run",
            Self::Wrong => "wrong_image",
            Self::Fault => "fault",
        }
    }
}

/// The machine, and what is sent to it.
pub struct Hand<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The images.
    pub images: &'a Images,
}

impl Hand<'_> {
    /// An upgrade to another image than the one that runs; its name and report.
    ///
    /// # Errors
    /// No report comes.
    pub fn upgrade(&self, api: &Client, dice: &mut Dice) -> Result<(String, Report)> {
        let (name, image) = self.images.other(dice, &api.status()?.build_name)?;
        let accepted = upgrade::send(api, &mut image.as_slice(), image.len() as u64)?;
        Ok((name.clone(), upgrade::wait(api, accepted.id, PATIENCE, &mut |_| ())?))
    }

    /// Does something, and sees that it ends as it must; its report, if it has one.
    ///
    /// # Errors
    /// It ends in another way.
    pub fn perform(&self, act: Act, api: &Client, dice: &mut Dice) -> Result<Option<Report>> {
        let (_, image) = self.images.other(dice, &api.status()?.build_name)?;
        match act {
            Act::CancelUpload => {
                let upload = self.begin(api, image, dice)?;
                let cancelled = api.cancel()?;
                drop(upload);
                self.ended(api, cancelled.id, &["cancelled"]).map(Some)
            }
            Act::Abandon => {
                let upload = self.begin(api, image, dice)?;
                let id = api.upgrade()?.id.context("an upload without a number")?;
                drop(upload);
                self.ended(api, id, &["cancelled"]).map(Some)
            }
            Act::CancelUpgrade => {
                let accepted = upgrade::send(api, &mut image.as_slice(), image.len() as u64)?;
                let asked = api.cancel();
                let report = upgrade::wait(api, accepted.id, PATIENCE, &mut |_| ())?;
                let due = match asked {
                    Ok(_) => "cancelled",
                    // Too late, or nobody answers for the images change places; or that is over.
                    Err(Error::Refused(_) | Error::Unreachable { .. }) => "committed",
                    Err(error) => return Err(error.into()),
                };
                ensure!(report.outcome == due, "it should be {due}: {report:?}");
                Ok(Some(report))
            }
            Act::DryRun => {
                let plan = api.plan(&mut image.as_slice(), image.len() as u64)?.plan;
                ensure!(plan.ok && !plan.objects.is_empty(), "a dry run says {plan:?}");
                Ok(None)
            }
            Act::Wrong => {
                let wrong = images::all(image)?;
                let wrong = dice.pick(&wrong).context("no wrong image")?;
                match upgrade::send(api, &mut wrong.bytes.as_slice(), wrong.bytes.len() as u64) {
                    Err(Error::Refused(refusal)) if refusal.message.contains(wrong.reason) => {
                        refusal.report_id.map(|id| self.ended(api, id, &["refused"])).transpose()
                    }
                    other => bail!("an image with {} gives {other:?}", wrong.name),
                }
            }
            Act::Fault => self.fault(api, dice).map(Some),
        }
    }

    /// An image with a planted fault: its upgrade is rolled back, with the fault's reason.
    fn fault(&self, api: &Client, dice: &mut Dice) -> Result<Report> {
        let all = faults::planted();
        let planted = dice.pick(&all).context("no faults")?;
        let mut image = self.images.fault.clone();
        images::set_fault(&mut image, planted.numbers.0, planted.numbers.1)?;
        let accepted = upgrade::send(api, &mut image.as_slice(), image.len() as u64)?;
        let report = upgrade::wait(api, accepted.id, PATIENCE, &mut |_| ())?;
        ensure!(
            report.outcome == planted.outcome && planted.reasons.split('|').any(|word| report.reason.contains(word)),
            "{}: {report:?}",
            planted.name
        );
        Ok(report)
    }

    /// A part of an image is sent; the connection stays open.
    fn begin(&self, api: &Client, image: &[u8], dice: &mut Dice) -> Result<TcpStream> {
        let part = dice.below(image.len());
        let mut upload = TcpStream::connect(self.machine.host())?;
        write!(upload, "POST /v1/upgrade HTTP/1.1\r\nHost: baton\r\nContent-Length: {}\r\n\r\n", image.len())?;
        upload.write_all(image.get(..part).unwrap_or_default())?;
        wait_for(
            "upload under way",
            PATIENCE,
            || self.machine.alive(),
            || api.upgrade().ok().filter(|upgrade| upgrade.state == "staging"),
        )?;
        Ok(upload)
    }

    /// Waits for a report, whose outcome is one of these.
    fn ended(&self, api: &Client, id: u64, outcomes: &[&str]) -> Result<Report> {
        let report = upgrade::wait(api, id, PATIENCE, &mut |_| ())?;
        ensure!(outcomes.contains(&report.outcome.as_str()), "it should be {outcomes:?}: {report:?}");
        Ok(report)
    }
}
