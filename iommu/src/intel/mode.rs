//! The translation table mode of a unit, and what it can translate in it: VT-d 3.4.

use super::spec::registers::{Capability, ExtendedCapability};
use super::unit::Unit;
use crate::table::Stage;
use machine::paging::LeafSizes;

/// What the root table's entries lead to: TTM of RTADDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Context entries name second-stage tables.
    Legacy,
    /// Context entries name PASID directories, whose entries name tables of either stage.
    Scalable,
}

/// Which mode a unit shall work in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preference {
    /// Scalable mode where the unit has it (ECAP.SMTS) and a stage to go with it.
    #[default]
    Auto,
    /// Legacy mode.
    Legacy,
    /// Scalable mode, or none.
    Scalable,
}

impl Preference {
    /// The mode of a unit with `cap` and `ecap`; `None` when it lacks what is asked for.
    pub(crate) fn mode(self, cap: Capability, ecap: ExtendedCapability) -> Option<Mode> {
        let can = |mode| {
            let levels = |stage| (3..=5).any(|levels| supports(mode, cap, ecap, stage, levels));
            levels(Stage::Second) || levels(Stage::First)
        };
        let wanted: &[Mode] = match self {
            Self::Auto => &[Mode::Scalable, Mode::Legacy],
            Self::Legacy => &[Mode::Legacy],
            Self::Scalable => &[Mode::Scalable],
        };
        wanted.iter().copied().find(|mode| can(*mode))
    }
}

/// Whether a unit can walk tables of `stage` with `levels`: CAP.SAGAW and CAP.FS5LP (VT-d 11.4.2),
/// ECAP.SSTS, FSTS, NEST, PT (VT-d 11.4.3).
pub(crate) fn supports(mode: Mode, cap: Capability, ecap: ExtendedCapability, stage: Stage, levels: u8) -> bool {
    let scalable = mode == Mode::Scalable && ecap.scalable_mode();
    let second = matches!(levels, 3..=5) && cap.widths() & (1 << (levels - 2)) != 0;
    let first = scalable && ecap.first_stage() && (levels == 4 || (levels == 5 && cap.first_stage_5()));
    match stage {
        Stage::Second => second && (mode == Mode::Legacy || (scalable && ecap.second_stage())),
        Stage::First => first,
        Stage::PassThrough => ecap.pass_through() && (mode == Mode::Legacy || scalable),
        Stage::Nested => first && ecap.nested() && ecap.second_stage(),
    }
}

impl<R> Unit<R> {
    pub(crate) fn mode(&self) -> Mode {
        self.tables.mode
    }

    /// Whether a domain of `stage`, its table of `levels`, can be attached to.
    pub(crate) fn supports(&self, stage: Stage, levels: u8) -> bool {
        supports(self.mode(), self.cap, self.ecap, stage, levels)
    }

    /// Leaf sizes in tables of `stage`. The first stage always has 2 MiB leaves (VT-d 3.6).
    pub(crate) fn leaf_sizes(&self, stage: Stage) -> LeafSizes {
        let sizes = self.cap.large_pages();
        match stage {
            Stage::First | Stage::Nested => LeafSizes { two_mib: true, one_gib: self.cap.first_stage_1g() },
            _ => LeafSizes { two_mib: sizes & 1 != 0, one_gib: sizes & 2 != 0 },
        }
    }

    /// Whether the unit snoops when it walks page tables. For root, context and PASID tables
    /// ECAP.C counts in either mode.
    pub(crate) fn walks_coherently(&self) -> bool {
        match self.mode() {
            Mode::Legacy => self.ecap.coherent(),
            Mode::Scalable => self.ecap.scalable_coherent(),
        }
    }

    /// The most levels of the second stage, which a pass-through entry must name.
    pub(crate) fn widest(&self) -> u8 {
        (3..=5).rev().find(|levels| self.cap.widths() & (1 << (levels - 2)) != 0).unwrap_or(4)
    }

    /// The first PASID that cannot be attached: PSS (VT-d 11.4.3), and one frame of directory.
    /// 0 when requests with PASID do not exist.
    pub(crate) fn pasid_limit(&self) -> u32 {
        if self.mode() == Mode::Legacy || !self.ecap.pasid() {
            return 0;
        }
        (2u32 << self.ecap.pasid_size().min(19)).min(super::pasids::LIMIT)
    }

    /// Address bits that devices may use.
    pub(crate) fn address_bits(&self) -> u8 {
        self.cap.max_width() + 1
    }
}
