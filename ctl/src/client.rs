//! Requests to one machine, and what can go wrong with them.

use std::fmt;
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, SendBody};

use crate::api::{Accepted, Devices, ErrorBody, Guests, Iommu, Planned, Refusal, Status, Upgrade};

/// What can go wrong with a request.
#[derive(Debug)]
pub enum Error {
    /// Nobody answers, or the answer broke off.
    Unreachable {
        /// The address asked.
        host: String,
        /// What the system says.
        cause: String,
    },
    /// Baton said no.
    Refused(Refusal),
    /// Something answers that isn't Baton's API.
    Strange {
        /// The address asked.
        host: String,
        /// What is strange about it.
        cause: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { host, cause } => write!(
                f,
                "{host} can't be reached: {cause}; check --host, and that Baton's log says the management address"
            ),
            Self::Refused(refusal) => {
                write!(f, "refused: {} ({}, to be mended by: {})", refusal.message, refusal.code, refusal.blame)
            }
            Self::Strange { host, cause } => write!(f, "what answers at {host} isn't Baton: {cause}; check --host"),
        }
    }
}

impl std::error::Error for Error {}

/// How long an answer may take to begin.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// One machine's management address.
#[derive(Clone)]
pub struct Client {
    host: String,
    agent: Agent,
}

impl Client {
    /// For a `host:port`.
    #[must_use]
    pub fn new(host: &str) -> Self {
        Self::within(host, ANSWER)
    }

    /// For a `host:port` whose answers begin within `answer`, or are asked for anew.
    #[must_use]
    pub fn within(host: &str, answer: Duration) -> Self {
        let agent = Agent::config_builder()
            // Errors carry JSON that is worth reading.
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(answer))
            .timeout_recv_body(Some(Duration::from_secs(30)))
            // A connection must not outlive the image that accepted it.
            .max_idle_connections(0)
            .build()
            .into();
        Self { host: host.into(), agent }
    }

    /// The address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    fn failed(&self, error: &ureq::Error) -> Error {
        let host = self.host.clone();
        match error {
            ureq::Error::Http(_) | ureq::Error::BadUri(_) | ureq::Error::Protocol(_) | ureq::Error::Json(_) => {
                Error::Strange { host, cause: error.to_string() }
            }
            _ => Error::Unreachable { host, cause: error.to_string() },
        }
    }

    fn body<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T, Error> {
        let (status, text) = whole(response).map_err(|error| self.failed(&error))?;
        self.meaning(status, &text)
    }

    fn meaning<T: DeserializeOwned>(&self, status: StatusCode, text: &str) -> Result<T, Error> {
        let strange = |cause: String| Error::Strange { host: self.host.clone(), cause };
        if status.is_success() {
            return serde_json::from_str(text).map_err(|error| strange(format!("{status} with a body that {error}")));
        }
        match serde_json::from_str::<ErrorBody>(text) {
            Ok(body) if !body.error.code.is_empty() => Err(Error::Refused(body.error)),
            _ => Err(strange(format!("{status} without a reason"))),
        }
    }

    /// A GET of any path.
    ///
    /// # Errors
    /// Unreachable, refused, or not Baton.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let (status, text) = self.insist(|| self.agent.get(self.url(path)).call())?;
        self.meaning(status, &text)
    }

    /// The answer to a request that may be made twice: where the connection is cut off it is made again, for a second or so. Images may
    /// be changing places, or Baton has as many connections as it can take.
    fn insist(
        &self,
        mut request: impl FnMut() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<(StatusCode, String), Error> {
        let mut pauses = PAUSES.iter();
        loop {
            match request().and_then(whole) {
                Ok(answer) => return Ok(answer),
                Err(error) => match pauses.next() {
                    Some(pause) if cut_off(&error) => thread::sleep(*pause),
                    _ => return Err(self.failed(&error)),
                },
            }
        }
    }

    /// GET /v1/status.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn status(&self) -> Result<Status, Error> {
        self.get("/v1/status")
    }

    /// GET /v1/guests.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn guests(&self) -> Result<Guests, Error> {
        self.get("/v1/guests")
    }

    /// GET /v1/devices.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn devices(&self) -> Result<Devices, Error> {
        self.get("/v1/devices")
    }

    /// GET /v1/iommu.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn iommu(&self) -> Result<Iommu, Error> {
        self.get("/v1/iommu")
    }

    /// GET /v1/upgrade.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn upgrade(&self) -> Result<Upgrade, Error> {
        self.get("/v1/upgrade")
    }

    /// DELETE /v1/upgrade.
    ///
    /// # Errors
    /// Refused when none runs or when it is too late.
    pub fn cancel(&self) -> Result<Accepted, Error> {
        let mut asked = 0;
        let (status, text) = self.insist(|| {
            asked += 1;
            self.agent.delete(self.url("/v1/upgrade")).call()
        })?;
        let answer = self.meaning(status, &text);
        if asked == 1 || !matches!(answer, Err(Error::Refused(_))) {
            return answer;
        }
        // The first request may have been heard although its answer was lost.
        match self.upgrade()?.last {
            Some(report) if report.outcome == "cancelled" => Ok(Accepted { id: report.id }),
            _ => answer,
        }
    }

    fn post(&self, path: &str, image: &mut dyn Read, bytes: u64) -> Result<Response<Body>, Error> {
        self.agent
            .post(self.url(path))
            .header("Content-Type", "application/octet-stream")
            .header("Content-Length", bytes.to_string())
            .send(SendBody::from_reader(&mut Exactly { inner: image, left: bytes }))
            .map_err(|error| self.failed(&error))
    }

    /// POST /v1/upgrade: sends an image of `bytes` bytes.
    ///
    /// # Errors
    /// Unreachable also when Baton refused before the end and the refusal was lost on the way.
    pub fn send(&self, image: &mut dyn Read, bytes: u64) -> Result<Accepted, Error> {
        self.body(self.post("/v1/upgrade", image, bytes)?)
    }

    /// POST /v1/upgrade?dry_run=1: what would happen.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn plan(&self, image: &mut dyn Read, bytes: u64) -> Result<Planned, Error> {
        self.body(self.post("/v1/upgrade?dry_run=1", image, bytes)?)
    }
}

/// Between the attempts of a request whose connection was cut off.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(600)];

/// Somebody was there, and went.
fn cut_off(error: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error, ureq::Error::Io(error)
        if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

fn whole(mut response: Response<Body>) -> Result<(StatusCode, String), ureq::Error> {
    let text = response.body_mut().read_to_string()?;
    Ok((response.status(), text))
}

/// A file that shrinks or grows while it is sent must not become a wrong length on the wire.
struct Exactly<'a> {
    inner: &'a mut dyn Read,
    left: u64,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.inner.read(&mut buffer[..wanted])?;
        if got == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image became shorter while it was sent"));
        }
        self.left -= got as u64;
        Ok(got)
    }
}
