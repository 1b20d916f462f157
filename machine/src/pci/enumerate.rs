//! What is there: a walk through bridges with their bus numbers as found. Nothing is written.

use super::bdf::Bdf;
use super::config::ConfigSpace;
use super::ecam::EcamRegion;
use super::express::Express;
use super::extended::Ari;
use super::header::{self, Class, HeaderKind, Ids};
use alloc::vec::Vec;
use core::fmt;

/// Buses to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buses {
    /// The segment group.
    pub segment: u16,
    /// The first bus, a root bus.
    pub first: u8,
    /// The last bus, inclusive.
    pub last: u8,
}

impl From<EcamRegion> for Buses {
    fn from(region: EcamRegion) -> Self {
        Self { segment: region.segment, first: region.start_bus, last: region.end_bus }
    }
}

/// A function that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub bdf: Bdf,
    /// Who made it.
    pub ids: Ids,
    /// What it is.
    pub class: Class,
    /// The layout of its header.
    pub header: HeaderKind,
    /// Whether the device says it has more than one function.
    pub multifunction: bool,
    /// The bridges above it, the one at the root first; empty on a root bus.
    pub path: Vec<Bdf>,
    /// Of a virtual function: the physical one it is part of.
    pub physical: Option<Bdf>,
}

/// Something wrong with the bus numbers that firmware left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// The bridge has no bus numbers; what is behind it cannot be seen.
    Unnumbered {
        /// The bridge.
        bridge: Bdf,
    },
    /// The numbers contradict those of the bridges above or beside; not followed.
    Misnumbered {
        /// The bridge.
        bridge: Bdf,
        /// Its secondary bus.
        secondary: u8,
        /// Its subordinate bus.
        subordinate: u8,
    },
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnumbered { bridge } => {
                write!(f, "firmware gave bridge {bridge} no bus numbers; devices behind it are not used")
            }
            Self::Misnumbered { bridge, secondary, subordinate } => write!(
                f,
                "firmware gave bridge {bridge} buses {secondary:02x} to {subordinate:02x}, which overlap others or leave \
                 those of the bridge above; devices behind it are not used"
            ),
        }
    }
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enumeration {
    /// The functions, parents before children.
    pub functions: Vec<Function>,
    /// What was wrong.
    pub oddities: Vec<Oddity>,
}

impl Enumeration {
    /// The function named `bdf`.
    #[must_use]
    pub fn get(&self, bdf: Bdf) -> Option<&Function> {
        self.functions.iter().find(|function| function.bdf == bdf)
    }
}

/// Lists every function on `ranges`, through bridges. Each bus is visited at most once,
/// whatever the bridges claim.
///
/// Buses of a range that no bridge claims are looked at as further root buses (machines
/// with several host bridges), unless some bridge's numbers were wrong: then a bus might
/// look like a root bus while it is behind that bridge, with a false path.
#[must_use]
pub fn enumerate(config: &(impl ConfigSpace + ?Sized), ranges: &[Buses]) -> Enumeration {
    let mut found = Enumeration::default();
    for range in ranges {
        let owner = [ROOT; 256];
        let mut walk = Walk { config, range: *range, owner, bridges: ROOT, trusted: true, found: &mut found };
        walk.tree(range.first);
        for bus in range.first..=range.last {
            if bus != range.first && walk.trusted && walk.owner[usize::from(bus)] == ROOT {
                walk.tree(bus);
            }
        }
    }
    found
}

/// The owner of buses that no bridge claims.
const ROOT: u16 = 0;

/// A bus still to be looked at.
struct Todo {
    bus: u8,
    /// The highest bus its bridge forwards.
    last: u8,
    /// The number of its bridge, counted as they are found.
    owner: u16,
    path: Vec<Bdf>,
}

struct Walk<'a, C: ?Sized> {
    config: &'a C,
    range: Buses,
    /// The innermost bridge that claims each bus.
    owner: [u16; 256],
    bridges: u16,
    trusted: bool,
    found: &'a mut Enumeration,
}

impl<C: ConfigSpace + ?Sized> Walk<'_, C> {
    fn tree(&mut self, root: u8) {
        let mut todo = alloc::vec![Todo { bus: root, last: self.range.last, owner: ROOT, path: Vec::new() }];
        // Ends: a bridge enters only with buses that its parent owned, above the
        // parent's first, and owns them from then on.
        while let Some(next) = todo.pop() {
            self.bus(&next, &mut todo);
        }
    }

    fn bus(&mut self, here: &Todo, todo: &mut Vec<Todo>) {
        let port = here.path.last().and_then(|port| Express::find(self.config, *port));
        if port.is_some_and(|port| port.forwards_ari(self.config)) && self.numbered(here, todo) {
            return;
        }
        for device in 0..32u16 {
            let first = Bdf::from_requester_id(self.range.segment, u16::from(here.bus) << 8 | device << 3);
            if !self.config.is_present(first) {
                continue;
            }
            let multifunction = header::read(self.config, first).3;
            for function in 0..if multifunction { 8 } else { 1 } {
                let bdf = first.sibling(function);
                if self.config.is_present(bdf) {
                    self.function(bdf, multifunction, here, todo);
                }
            }
        }
    }

    /// One device with up to 256 functions, each of which names the next (PCIe 7.8.8.2). Returns whether there is one.
    fn numbered(&mut self, here: &Todo, todo: &mut Vec<Todo>) -> bool {
        let first = Bdf::from_requester_id(self.range.segment, u16::from(here.bus) << 8);
        let mut next = Ari::find(self.config, first).filter(|_| self.config.is_present(first)).map(|_| first);
        let is_device = next.is_some();
        while let Some(bdf) = next {
            let following = Ari::find(self.config, bdf).map_or(0, |ari| ari.next_function);
            // Upwards only, so it ends.
            let follows = following > bdf.devfn();
            next =
                follows.then(|| Bdf::from_requester_id(first.segment(), first.requester_id() | u16::from(following)));
            if self.config.is_present(bdf) {
                self.function(bdf, bdf != first || next.is_some(), here, todo);
            }
        }
        is_device
    }

    fn function(&mut self, bdf: Bdf, multifunction: bool, here: &Todo, todo: &mut Vec<Todo>) {
        let (ids, class, header, _) = header::read(self.config, bdf);
        if let HeaderKind::Bridge { secondary, subordinate } = header {
            self.bridge(bdf, secondary, subordinate, here, todo);
        }
        let path = here.path.clone();
        self.found.functions.push(Function { bdf, ids, class, header, multifunction, path, physical: None });
    }

    fn bridge(&mut self, bridge: Bdf, secondary: u8, subordinate: u8, here: &Todo, todo: &mut Vec<Todo>) {
        if secondary == 0 && subordinate == 0 {
            // Nothing is forwarded, so nothing behind it can pose as something else.
            self.found.oddities.push(Oddity::Unnumbered { bridge });
            return;
        }
        let nested = here.bus < secondary && secondary <= subordinate && subordinate <= here.last;
        let claimed = self.owner.get_mut(usize::from(secondary)..=usize::from(subordinate));
        match claimed {
            Some(buses) if nested && buses.iter().all(|owner| *owner == here.owner) => {
                self.bridges += 1;
                buses.fill(self.bridges);
            }
            _ => {
                self.trusted = false;
                self.found.oddities.push(Oddity::Misnumbered { bridge, secondary, subordinate });
                return;
            }
        }
        let mut path = here.path.clone();
        path.push(bridge);
        todo.push(Todo { bus: secondary, last: subordinate, owner: self.bridges, path });
    }
}
