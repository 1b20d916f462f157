//! What a set of units has in common: where a new domain gets its format from.

use crate::error::Error;
use crate::ids::{Token, UnitIndex};
use crate::intel::unit::Unit;
use crate::table::Stage;
use machine::paging::LeafSizes;

/// What every unit of a set can do, so that a device behind any of them can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Kind of new domains' tables: second stage where every unit has it.
    pub stage: Stage,
    /// Levels of new domains' tables: 4 if every unit has them, else 3 or 5; 0 if units have
    /// no stage and number of levels in common.
    pub levels: u8,
    /// Leaf sizes that every unit has in that stage.
    pub leaf_sizes: LeafSizes,
    /// Address bits that every unit accepts from devices, and the tables translate.
    pub address_bits: u8,
    /// Every unit snoops the CPU's caches when it walks tables.
    pub coherent: bool,
    /// Every unit can force snooping of devices' requests.
    pub snoop: bool,
    /// Every unit lets zero-length reads through where only writes are allowed (ZLR).
    pub zero_length_reads: bool,
}

impl Geometry {
    /// The common denominator of `units`.
    pub(crate) fn of<'a, R: 'a>(units: impl Iterator<Item = &'a Unit<R>> + Clone) -> Self {
        let all = |test: &dyn Fn(&Unit<R>) -> bool| units.clone().all(test);
        // Four levels first: walks of five cost more, and three translate 39 bits only.
        let formats =
            [(Stage::Second, 4), (Stage::Second, 3), (Stage::Second, 5), (Stage::First, 4), (Stage::First, 5)];
        let common = formats.into_iter().find(|(stage, levels)| all(&|unit| unit.supports(*stage, *levels)));
        let (stage, levels) = common.unwrap_or((Stage::Second, 0));
        let accepted = units.clone().map(|unit| unit.address_bits()).min().unwrap_or(0);
        Self {
            stage,
            levels,
            leaf_sizes: LeafSizes {
                two_mib: all(&|unit| unit.leaf_sizes(stage).two_mib),
                one_gib: all(&|unit| unit.leaf_sizes(stage).one_gib),
            },
            address_bits: accepted.min(stage.format().input_bits(levels) as u8),
            coherent: all(&|unit| unit.walks_coherently()),
            snoop: all(&|unit| unit.ecap.snoop_control()),
            zero_length_reads: all(&|unit| unit.cap.zero_length_reads()),
        }
    }

    /// Refuses a set of units without a common format.
    pub(crate) fn check(self, token: Token) -> Result<Self, Error> {
        if self.levels == 0 { Err(Error::NoCommonFormat { token }) } else { Ok(self) }
    }
}

/// Refuses a set that names a unit that does not exist.
pub(crate) fn check_units(units: &[UnitIndex], count: usize) -> Result<(), Error> {
    match units.iter().find(|unit| unit.0 >= count) {
        Some(unit) => Err(Error::BadUnit { index: unit.0 }),
        None => Ok(()),
    }
}
