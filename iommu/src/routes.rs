//! Which unit translates for which device.

use crate::ids::UnitIndex;
use alloc::vec::Vec;
use machine::pci::Bdf;

/// A range of requester ids that one unit translates for: a device scope of a DRHD,
/// resolved by the caller to bus numbers. An endpoint is one id, a bridge every id
/// of the buses below it (and its own), INCLUDE_PCI_ALL every id of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// PCI segment.
    pub segment: u16,
    /// First requester id.
    pub first: u16,
    /// Last requester id, inclusive.
    pub last: u16,
    /// The unit.
    pub unit: UnitIndex,
}

impl Route {
    /// One function.
    #[must_use]
    pub const fn function(device: Bdf, unit: UnitIndex) -> Self {
        Self { segment: device.segment(), first: device.requester_id(), last: device.requester_id(), unit }
    }

    /// Every function on the buses `first` to `last`.
    #[must_use]
    pub const fn buses(segment: u16, first: u8, last: u8, unit: UnitIndex) -> Self {
        Self { segment, first: (first as u16) << 8, last: (last as u16) << 8 | 0xff, unit }
    }

    /// The whole segment: what no other route names.
    #[must_use]
    pub const fn segment(segment: u16, unit: UnitIndex) -> Self {
        Self { segment, first: 0, last: u16::MAX, unit }
    }

    fn contains(&self, device: Bdf) -> bool {
        self.segment == device.segment() && (self.first..=self.last).contains(&device.requester_id())
    }
}

/// All routes. The narrowest that contains a device counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(pub(crate) Vec<Route>);

impl Routes {
    pub(crate) fn unit(&self, device: Bdf) -> Option<UnitIndex> {
        let fitting = self.0.iter().filter(|route| route.contains(device));
        fitting.min_by_key(|route| route.last.saturating_sub(route.first)).map(|route| route.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn bdf(segment: u16, bus: u8, device: u8, function: u8) -> Bdf {
        Bdf::new(segment, bus, device, function).unwrap()
    }

    #[test]
    fn the_narrowest_route_counts() {
        let gpu = bdf(0, 0, 2, 0);
        let routes = Routes(vec![
            Route::segment(0, UnitIndex(2)),
            Route::function(gpu, UnitIndex(0)),
            Route::buses(0, 3, 5, UnitIndex(1)),
        ]);
        assert_eq!(routes.unit(gpu), Some(UnitIndex(0)));
        assert_eq!(routes.unit(bdf(0, 5, 31, 7)), Some(UnitIndex(1)));
        assert_eq!(routes.unit(bdf(0, 6, 0, 0)), Some(UnitIndex(2)));
        assert_eq!(routes.unit(bdf(1, 3, 0, 0)), None);
    }
}
