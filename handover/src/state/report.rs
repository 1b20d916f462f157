//! What became of upgrades, kept so that the new image can tell who made it and how.

use super::NAME_BYTES;

/// Bytes of a report's reason: a refusal in one line.
pub const REASON_BYTES: usize = 192;

record! {
    /// The report of one upgrade; the one in progress is written at FREEZE and completed by the new image.
    ReportV1 [0x0803, "report", Any, false, {1: 472, 2: 480}] key |record| [record.sequence, 0];
    {
        /// Number of the attempt since power-on, refused ones counted.
        pub sequence: u64,
        /// Generation it led to, or would have.
        pub generation: u64,
        /// TSC at which each phase began, by [`crate::phase::Phase::index`]; [`crate::phase::END`] for
        /// the end; zero when not reached. The pause is from FREEZE to the end of RUN.
        pub phase_tsc: [u64; 12],
        /// Faults seen meanwhile.
        pub faults: u64,
        /// Device interrupts pending at FREEZE.
        pub interrupts_pending: u64,
        /// Of those, delivered after RUN.
        pub interrupts_delivered: u64,
        /// Build id of the old image.
        pub from_build: [u8; 32],
        /// Build id of the new image.
        pub to_build: [u8; 32],
        /// Version of the old image: UTF-8, padded with zeros.
        pub from_version: [u8; NAME_BYTES],
        /// Version of the new image, likewise; all zero when it had none.
        pub to_version: [u8; NAME_BYTES],
        /// Why it failed: UTF-8, padded with zeros.
        pub reason: [u8; REASON_BYTES],
        /// [`crate::phase::Outcome::code`], zero while in progress.
        pub outcome: u32,
        /// Phase it failed in, by [`crate::phase::Phase::index`].
        pub failed_phase: u32,
        /// Handover format used.
        pub format: u32,
        /// Whom to blame for a failure: `BLAME_*`.
        pub blame: u32,
    }
    late {
        /// How often either image took memory between FREEZE and RUN. Zero: never, or not counted, as before.
        pub pause_allocations: u64,
    }
}

record! {
    /// A guest that an upgrade stopped, because it was not to be preserved. Without these an upgrade stopped none, as in format 1.
    StoppedV1 [0x0807, "stopped guest", Plan, false, {2: 48}] key |record| [record.sequence, record.number.into()];
    {
        /// [`ReportV1::sequence`] of the upgrade, which may be the one that is planned here.
        pub sequence: u64,
        /// Name of the guest.
        pub name: [u8; NAME_BYTES],
        /// Its number on the machine, as [`super::guest::GuestV1::number`].
        pub number: u32,
        reserved: [u8; 4],
    }
}

/// [`ReportV1::blame`]: nobody, or unknown.
pub const BLAME_NONE: u32 = 0;
/// [`ReportV1::blame`]: the operator's input.
pub const BLAME_OPERATOR: u32 = 1;
/// [`ReportV1::blame`]: the old image.
pub const BLAME_OLD_IMAGE: u32 = 2;
/// [`ReportV1::blame`]: the new image.
pub const BLAME_NEW_IMAGE: u32 = 3;
/// [`ReportV1::blame`]: hardware or firmware.
pub const BLAME_MACHINE: u32 = 4;
/// [`ReportV1::blame`]: a guest.
pub const BLAME_GUEST: u32 = 5;
