//! Where the one upload stands, and the upgrade it becomes: one at a time, and whoever comes
//! second is turned away while the first goes on.

use alloc::boxed::Box;
use alloc::format;
use core::task::Poll;

use crate::api::control::{Finished, UploadId};
use crate::api::error::{ApiError, Code};
use crate::api::types::{Plan, Progress, UpgradeState};

/// An image on its way in, as far as its course is concerned.
pub trait Upload: Sized {
    /// A whole image that was checked.
    type Whole;

    /// `length` bytes will follow.
    ///
    /// # Errors
    /// They can't be an image; a report is kept.
    fn begin(length: u64, dry_run: bool) -> Result<Self, ApiError>;
    /// Its number, which its report will have.
    fn id(&self) -> UploadId;
    /// Whether only the plan is wanted.
    fn dry_run(&self) -> bool;
    /// Bytes so far.
    fn progress(&self) -> Progress;
    /// The next bytes.
    ///
    /// # Errors
    /// The image is refused; a report is kept.
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), ApiError>;
    /// All bytes have arrived.
    ///
    /// # Errors
    /// The image is refused; a report is kept.
    fn finish(&mut self) -> Result<Self::Whole, ApiError>;
    /// It ends here; a report is kept.
    fn cancel(&self, reason: &str);
    /// What PLAN would say.
    fn plan(whole: &Self::Whole) -> Plan;
    /// The whole image is not wanted any more; a report is kept.
    fn withdraw(whole: Self::Whole, reason: &str);
}

enum State<U: Upload> {
    Idle,
    /// Bytes arrive.
    Arriving(Box<U>),
    /// The image is whole and checked; its client is being told.
    Accepted(UploadId, Progress, Box<U::Whole>),
    /// The client was told: to be taken by the main loop.
    Due(UploadId, Progress, Box<U::Whole>),
    /// The main loop has it, and is there with it.
    Under(UploadId, Progress, Withdrawal, UpgradeState),
}

/// Whether what is under way can still be taken back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdrawal {
    /// It can.
    Possible,
    /// It shall be.
    Asked,
    /// It can't.
    Over,
}

/// The one upload.
pub struct Uploads<U: Upload> {
    state: State<U>,
}

const GONE: &str = "the upload ended before the image was whole";
/// Why an upgrade is cancelled by a DELETE.
pub const OPERATOR: &str = "the operator cancelled it";

impl<U: Upload> Uploads<U> {
    /// None.
    pub const fn new() -> Self {
        Self { state: State::Idle }
    }

    /// Which one is under way.
    pub fn id(&self) -> Option<UploadId> {
        match &self.state {
            State::Idle => None,
            State::Arriving(upload) => Some(upload.id()),
            State::Accepted(id, ..) | State::Due(id, ..) | State::Under(id, ..) => Some(*id),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> UpgradeState {
        match &self.state {
            State::Idle => UpgradeState::Idle,
            State::Arriving(_) => UpgradeState::Staging,
            State::Accepted(..) | State::Due(..) => UpgradeState::Planning,
            State::Under(.., state) => *state,
        }
    }

    /// How much of it has arrived.
    pub fn progress(&self) -> Progress {
        match &self.state {
            State::Idle => Progress::default(),
            State::Arriving(upload) => upload.progress(),
            State::Accepted(_, progress, _) | State::Due(_, progress, _) | State::Under(_, progress, ..) => *progress,
        }
    }

    /// See [`Control::begin_upgrade`](crate::api::Control::begin_upgrade).
    ///
    /// # Errors
    /// As there.
    pub fn begin(&mut self, length: u64, dry_run: bool) -> Result<UploadId, ApiError> {
        if let Some(running) = self.id() {
            return Err(ApiError::operator(
                Code::Busy,
                format!(
                    "upgrade {} is under way and goes on: wait for its report, or cancel it with DELETE /v1/upgrade",
                    running.0
                ),
            ));
        }
        let upload = Box::new(U::begin(length, dry_run)?);
        let id = upload.id();
        self.state = State::Arriving(upload);
        Ok(id)
    }

    fn arriving(&mut self, id: UploadId) -> Result<&mut U, ApiError> {
        match &mut self.state {
            State::Arriving(upload) if upload.id() == id => Ok(upload),
            _ => Err(ApiError::operator(Code::Cancelled, format!("upload {} was cancelled", id.0)).with_report(id.0)),
        }
    }

    /// See [`Control::upload`](crate::api::Control::upload).
    ///
    /// # Errors
    /// As there.
    pub fn chunk(&mut self, id: UploadId, bytes: &[u8]) -> Result<(), ApiError> {
        let result = self.arriving(id)?.chunk(bytes);
        if result.is_err() {
            self.state = State::Idle;
        }
        result
    }

    /// See [`Control::finish_upload`](crate::api::Control::finish_upload).
    ///
    /// # Errors
    /// As there.
    pub fn finish(&mut self, id: UploadId) -> Result<Poll<Finished>, ApiError> {
        let upload = self.arriving(id)?;
        let (dry_run, progress, result) = (upload.dry_run(), upload.progress(), upload.finish());
        self.state = State::Idle;
        let whole = result?;
        if dry_run {
            return Ok(Poll::Ready(Finished::Plan(Box::new(U::plan(&whole)))));
        }
        self.state = State::Accepted(id, progress, Box::new(whole));
        Ok(Poll::Ready(Finished::Accepted(self.state())))
    }

    /// See [`Control::abort_upload`](crate::api::Control::abort_upload).
    pub fn abort(&mut self, id: UploadId) {
        if let Ok(upload) = self.arriving(id) {
            upload.cancel(GONE);
            self.state = State::Idle;
        }
    }

    /// See [`Control::start_upgrade`](crate::api::Control::start_upgrade).
    pub fn start(&mut self, id: UploadId) {
        self.state = match core::mem::replace(&mut self.state, State::Idle) {
            State::Accepted(accepted, progress, whole) if accepted == id => State::Due(id, progress, whole),
            other => other,
        };
    }

    /// See [`Control::cancel`](crate::api::Control::cancel).
    ///
    /// # Errors
    /// As there.
    pub fn cancel(&mut self) -> Result<UploadId, ApiError> {
        match core::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Err(ApiError::operator(Code::NotRunning, "no upgrade is under way")),
            State::Arriving(upload) => {
                upload.cancel(OPERATOR);
                Ok(upload.id())
            }
            State::Accepted(id, _, whole) | State::Due(id, _, whole) => {
                U::withdraw(*whole, OPERATOR);
                Ok(id)
            }
            State::Under(id, progress, Withdrawal::Possible | Withdrawal::Asked, at) => {
                self.state = State::Under(id, progress, Withdrawal::Asked, at);
                Ok(id)
            }
            State::Under(id, progress, Withdrawal::Over, at) => {
                self.state = State::Under(id, progress, Withdrawal::Over, at);
                Err(ApiError::operator(
                    Code::TooLate,
                    format!("upgrade {} can't be cancelled any more: wait for its report", id.0),
                ))
            }
        }
    }

    /// Takes the upgrade that shall begin now.
    pub fn take_due(&mut self) -> Option<U::Whole> {
        match core::mem::replace(&mut self.state, State::Idle) {
            State::Due(id, progress, whole) => {
                self.state = State::Under(id, progress, Withdrawal::Possible, UpgradeState::Planning);
                Some(*whole)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Whether what the main loop has shall be taken back.
    pub fn is_withdrawn(&self) -> bool {
        matches!(self.state, State::Under(_, _, Withdrawal::Asked, _))
    }

    /// What the main loop has gets ready in its sandbox.
    pub fn warming(&mut self) {
        if let State::Under(.., at) = &mut self.state {
            *at = UpgradeState::Warming;
        }
    }

    /// From here on what the main loop has can't be taken back.
    pub fn close(&mut self) {
        if let State::Under(_, _, withdrawal, _) = &mut self.state {
            *withdrawal = Withdrawal::Over;
        }
    }

    /// No client will hear of an image that was accepted: it is not tried.
    pub fn withdraw(&mut self, reason: &str) {
        self.state = match core::mem::replace(&mut self.state, State::Idle) {
            State::Accepted(_, _, whole) => {
                U::withdraw(*whole, reason);
                State::Idle
            }
            other => other,
        };
    }

    /// What was taken has ended.
    pub fn ended(&mut self) {
        if matches!(self.state, State::Under(..)) {
            self.state = State::Idle;
        }
    }
}

#[cfg(test)]
#[path = "uploads_tests.rs"]
mod tests;
