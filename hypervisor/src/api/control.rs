//! What the hypervisor does for the API.

use alloc::boxed::Box;
use core::task::Poll;

use super::error::ApiError;
use super::types::{Devices, Guests, Iommu, Outcomes, Plan, Status, Upgrade, UpgradeState};

/// One upload, and the upgrade it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadId(pub u64);

/// What became of a complete upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// The image was verified; the upgrade waits for [`Control::start_upgrade`].
    Accepted(UpgradeState),
    /// A dry run: nothing has changed.
    Plan(Box<Plan>),
}

/// The hypervisor, as the API sees it.
///
/// Every method returns soon: it is called from the management loop of pCPU 0.
pub trait Control {
    /// GET /v1/status.
    fn status(&self) -> Status;
    /// GET /v1/guests.
    fn guests(&self) -> Guests;
    /// GET /v1/iommu.
    fn iommu(&self) -> Iommu;
    /// GET /v1/devices.
    fn devices(&self) -> Devices;
    /// GET /v1/upgrade.
    fn upgrade_progress(&self) -> Upgrade;
    /// Upgrades since power-on, for /metrics.
    fn outcomes(&self) -> Outcomes;

    /// STAGE begins: `length` bytes will follow.
    ///
    /// # Errors
    /// `busy` while another upload or upgrade is under way, which goes on;
    /// `too_large` when the image cannot fit.
    fn begin_upgrade(&mut self, length: u64, dry_run: bool) -> Result<UploadId, ApiError>;
    /// The next bytes of the image. Never more than were announced.
    ///
    /// # Errors
    /// Ends the upload: neither `finish_upload` nor `abort_upload` follows.
    fn upload(&mut self, id: UploadId, chunk: &[u8]) -> Result<(), ApiError>;
    /// All announced bytes have been passed on. `Pending` means: ask again at the
    /// next poll, 10 ms later at most.
    ///
    /// # Errors
    /// The image was refused; this ends the upload.
    fn finish_upload(&mut self, id: UploadId) -> Result<Poll<Finished>, ApiError>;
    /// The client is gone before the end: forget the upload. Also called while
    /// `finish_upload` is pending, and for an upload that has ended in the meantime.
    fn abort_upload(&mut self, id: UploadId);
    /// The response that accepts the upgrade has reached the client, or 500 ms have
    /// passed: begin. Called once for each [`Finished::Accepted`], unless a cancel came first.
    fn start_upgrade(&mut self, id: UploadId);
    /// DELETE /v1/upgrade: back to the state before PLAN. Returns what was cancelled.
    ///
    /// # Errors
    /// `not_running`, or `too_late` from FREEZE on.
    fn cancel(&mut self) -> Result<UploadId, ApiError>;
}
