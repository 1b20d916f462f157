//! The API's hypervisor: the real one.

use alloc::string::ToString;
use core::task::Poll;

use handover::note::NoteError;
use handover::phase::{Outcome, Phase};
use handover::state::report::BLAME_OPERATOR;

use super::uploads::{Upload, Uploads};
use super::{devices, view};
use crate::api::control::{Control, Finished, UploadId};
use crate::api::error::{ApiError, Code};
use crate::api::types::{Devices, Guests, Iommu, Outcomes, Plan, Progress, Status, Upgrade};
use crate::host;
use crate::upgrade::stage::{Refused, Staged, Staging};
use crate::upgrade::{dry_run, report};

/// The API's view of the machine, and the one upgrade.
pub struct Machine {
    /// The upload, and the upgrade it becomes.
    pub uploads: Uploads<Staging>,
}

impl Machine {
    /// Idle.
    pub const fn new() -> Self {
        Self { uploads: Uploads::new() }
    }
}

/// What programs are told of a refusal.
fn code(refused: &Refused) -> Code {
    match refused {
        Refused::Image(NoteError::Slot { .. }) => Code::TooLarge,
        Refused::Image(_) => Code::BadImage,
        Refused::Version(_) => Code::VersionRange,
        Refused::Untrusted(_) => Code::BadSignature,
    }
}

fn refuse(staging: &Staging, refused: &Refused) -> ApiError {
    let message = refused.to_string();
    let report = staging.refuse(&message);
    log::warn!("upgrade {} is refused: {message}", report.sequence);
    ApiError::operator(code(refused), message).with_report(report.sequence)
}

impl Upload for Staging {
    type Whole = Staged;

    fn begin(length: u64, dry_run: bool) -> Result<Self, ApiError> {
        Self::begin(length, dry_run).map_err(|error| {
            let host = host::get();
            let begun = report::begin(report::next_sequence(), host.generation + 1, &host.note);
            let message = error.to_string();
            let report = report::end(begun, Outcome::Refused, Some(Phase::Stage), BLAME_OPERATOR, &message);
            log::warn!("upgrade {} is refused: {message}", report.sequence);
            ApiError::operator(Code::TooLarge, message).with_report(report.sequence)
        })
    }

    fn id(&self) -> UploadId {
        UploadId(self.report.sequence)
    }

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn progress(&self) -> Progress {
        let (received, total) = Self::progress(self);
        Progress { received, total }
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        Self::chunk(self, bytes).map_err(|refused| refuse(self, &refused))
    }

    fn finish(&mut self) -> Result<Staged, ApiError> {
        let mut staged = Self::finish(self).map_err(|refused| refuse(self, &refused))?;
        staged.report.format = staged.format.into();
        let version = report::version(&staged.note);
        log::info!("upgrade {}: image {version} is whole", staged.report.sequence);
        Ok(staged)
    }

    fn cancel(&self, reason: &str) {
        report::end(self.report, Outcome::Cancelled, None, BLAME_OPERATOR, reason);
        log::info!("upgrade {} is cancelled: {reason}", self.report.sequence);
    }

    fn plan(whole: &Staged) -> Plan {
        dry_run::dry_run(whole)
    }

    fn withdraw(whole: Staged, reason: &str) {
        report::end(whole.report, Outcome::Cancelled, None, BLAME_OPERATOR, reason);
        log::info!("upgrade {} is cancelled: {reason}", whole.report.sequence);
    }
}

impl Control for Machine {
    fn status(&self) -> Status {
        view::status()
    }

    fn guests(&self) -> Guests {
        view::guests()
    }

    fn iommu(&self) -> Iommu {
        view::iommu()
    }

    fn devices(&self) -> Devices {
        devices::devices()
    }

    fn upgrade_progress(&self) -> Upgrade {
        let uploads = &self.uploads;
        view::upgrade(uploads.state(), uploads.progress(), uploads.id(), &report::all())
    }

    fn outcomes(&self) -> Outcomes {
        report::outcomes()
    }

    fn begin_upgrade(&mut self, length: u64, dry_run: bool) -> Result<UploadId, ApiError> {
        self.uploads.begin(length, dry_run)
    }

    fn upload(&mut self, id: UploadId, chunk: &[u8]) -> Result<(), ApiError> {
        self.uploads.chunk(id, chunk)
    }

    fn finish_upload(&mut self, id: UploadId) -> Result<Poll<Finished>, ApiError> {
        self.uploads.finish(id)
    }

    fn abort_upload(&mut self, id: UploadId) {
        self.uploads.abort(id);
    }

    fn start_upgrade(&mut self, id: UploadId) {
        self.uploads.start(id);
    }

    fn cancel(&mut self) -> Result<UploadId, ApiError> {
        self.uploads.cancel()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upgrade::trust::Untrusted;
    use handover::note::Refusal;

    #[test]
    fn refusals_have_the_codes_of_the_api() {
        assert_eq!(code(&Refused::Image(NoteError::Digest)).status(), 422);
        assert_eq!(code(&Refused::Image(NoteError::Magic)).as_str(), "bad_image");
        let slot = NoteError::Slot { needs: 9 << 20, room: 8 << 20 };
        assert_eq!(code(&Refused::Image(slot)).as_str(), "too_large");
        let untrusted = Refused::Untrusted(Untrusted::NoKeys);
        assert_eq!((code(&untrusted).as_str(), code(&untrusted).status()), ("bad_signature", 422));
        let version = Refusal::TooNew { writes: 1, reads: 60_000 };
        assert_eq!(code(&Refused::Version(version)).as_str(), "version_range");
    }
}
