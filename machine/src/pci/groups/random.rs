//! Random machines against an oracle: a request followed hop by hop, as the specification routes it.

use super::*;
use crate::pci::model::{Device, Model};
use crate::pci::{Buses, ConfigSpace, Enumeration, HeaderKind, enumerate};
use proptest::prelude::*;

const ACS: u16 = 0x100;
const EXPRESS: usize = 0x40;

/// One random decision after the other.
struct Dice<'a>(core::slice::Iter<'a, u8>);

impl Dice<'_> {
    /// True in so many of 16 cases.
    fn of_16(&mut self, cases: u8) -> bool {
        self.0.next().is_some_and(|roll| roll & 15 < cases)
    }
}

/// A machine as it was built: what the oracle knows without reading configuration space.
#[derive(Default)]
struct Built {
    model: Model,
    /// Name, parent, what it is, whether it has (and keeps on) all of ACS.
    functions: Vec<(Bdf, Option<Bdf>, Kind, bool)>,
    next_bus: u8,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Root,
    Up,
    Down,
    ToPci,
    Endpoint,
}

impl Built {
    fn add(&mut self, dice: &mut Dice<'_>, parent: Option<Bdf>, bdf: Bdf, kind: Kind) {
        let port_type = match kind {
            Kind::Root => 4,
            Kind::Up => 5,
            Kind::Down => 6,
            Kind::ToPci => 7,
            Kind::Endpoint => 0,
        };
        let mut device = Device::new(0x8086, 0x1234, if kind == Kind::Endpoint { 0x02_0000 } else { 0x06_0400 });
        device.express(EXPRESS, port_type, false);
        device.bytes[0x0e] |= 0x80;
        let has_acs = dice.of_16(10);
        if has_acs {
            device.acs(ACS.into(), 0x1d);
            device.set(usize::from(ACS) + 6, 2, 0x1d);
        }
        self.functions.push((bdf, parent, kind, has_acs));
        if kind != Kind::Endpoint {
            self.next_bus += 1;
            let bus = self.next_bus;
            self.below(dice, bdf, kind, bus);
            device.bridge(bus, self.next_bus);
        }
        self.model.0.borrow_mut().insert(bdf, device);
    }

    /// What is behind a bridge.
    fn below(&mut self, dice: &mut Dice<'_>, parent: Bdf, kind: Kind, bus: u8) {
        let full = self.next_bus > 40;
        for device in 0..4 {
            let child = match kind {
                Kind::Up if device < 3 && !full => Kind::Down,
                Kind::Root | Kind::Down if device == 0 && !full && dice.of_16(4) => Kind::Up,
                Kind::Root | Kind::Down if device == 0 && !full && dice.of_16(3) => Kind::ToPci,
                Kind::Root | Kind::Down if device == 0 => Kind::Endpoint,
                Kind::ToPci => Kind::Endpoint,
                _ => continue,
            };
            let Some(first) = Bdf::new(0, bus, device, 0) else { continue };
            self.add(dice, Some(parent), first, child);
            if child == Kind::Endpoint && dice.of_16(5) {
                self.add(dice, Some(parent), first.sibling(3), Kind::Endpoint);
            }
        }
    }

    fn new(rolls: &[u8]) -> Self {
        let mut built = Self::default();
        let mut dice = Dice(rolls.iter());
        for device in 1..4 {
            let Some(port) = Bdf::new(0, 0, device, 0) else { continue };
            built.add(&mut dice, None, port, Kind::Root);
            if dice.of_16(6) {
                built.add(&mut dice, None, port.sibling(1), Kind::Root);
            }
        }
        built
    }

    fn get(&self, bdf: Bdf) -> (Option<Bdf>, Kind, bool) {
        let found = self.functions.iter().find(|function| function.0 == bdf).unwrap();
        (found.1, found.2, found.3)
    }

    fn is_below(&self, mut bdf: Bdf, top: Bdf) -> bool {
        while let Some(parent) = self.get(bdf).0 {
            if parent == top {
                return true;
            }
            bdf = parent;
        }
        false
    }

    /// Whether a request of `from` can get to `to` without the root complex seeing it, or under its name.
    fn reaches(&self, from: Bdf, to: Bdf) -> bool {
        let mut here = from;
        loop {
            let (parent, kind, acs) = self.get(here);
            // Inside the device: to another function, and through it if it is a bridge. A root port's request does not
            // come from behind it, unless it lets it.
            let sibling = |other: &Bdf| other.same_device(here) && *other != here;
            let siblings = self.functions.iter().map(|function| function.0).filter(sibling);
            if !acs && siblings.into_iter().any(|other| other == to || self.is_below(to, other)) {
                return true;
            }
            match (kind, parent) {
                // Back down from the port, to anything behind it.
                (Kind::Root, _) if here != from && !acs && self.is_below(to, here) => return true,
                // From one downstream port to another, and out of it.
                (Kind::Down, Some(switch)) if here != from && !acs && self.is_below(to, switch) => return true,
                // A bus where everybody hears everything, and one name for all.
                (Kind::ToPci, _) if here != from && self.is_below(to, here) => return true,
                _ => {}
            }
            match parent {
                Some(parent) => here = parent,
                None => return false,
            }
        }
    }
}

fn found(built: &Built) -> Enumeration {
    enumerate(&built.model, &[Buses { segment: 0, first: 0, last: 255 }])
}

proptest! {
    #[test]
    fn who_reaches_whom_is_in_one_group(rolls in prop::collection::vec(any::<u8>(), 0..300)) {
        let built = Built::new(&rolls);
        let found = found(&built);
        prop_assert_eq!(found.oddities.len(), 0);
        prop_assert_eq!(found.functions.len(), built.functions.len());
        let before: Vec<_> = built.model.0.borrow().values().map(|device| device.bytes.clone()).collect();
        let groups = Groups::compute(&built.model, &found);
        let after: Vec<_> = built.model.0.borrow().values().map(|device| device.bytes.clone()).collect();
        prop_assert!(before == after, "nothing is written");

        let endpoints: Vec<Bdf> =
            found.functions.iter().filter(|one| one.header == HeaderKind::Endpoint).map(|one| one.bdf).collect();
        for &from in &endpoints {
            let group = groups.of(from).unwrap();
            for &to in &endpoints {
                if built.reaches(from, to) {
                    prop_assert!(group.members.contains(&to), "{from} reaches {to}: {group:?}");
                }
            }
            // No larger than needed: each member is joined to another in one direction or the other, or is reached by a
            // bridge, which is a requester itself and may have devices plugged in behind it later.
            let alone = group.members.iter().filter(|one| {
                let joined = |other: &Bdf| built.reaches(**one, *other) || built.reaches(*other, **one);
                !group.members.iter().filter(|other| other != one).any(joined)
                    && !group.bridges.iter().any(|bridge| built.reaches(*bridge, **one))
            });
            prop_assert!(group.members.len() == 1 || alone.count() == 0, "{group:?}");
            // A port that checks no names makes everything behind it unfit.
            let mut root = from;
            while let Some(parent) = built.get(root).0 {
                root = parent;
            }
            if !built.get(root).2 {
                prop_assert!(group.unvalidated.is_some());
            }
            let all = groups.check(from, |other| group.members.contains(&other));
            prop_assert_eq!(all.is_ok(), group.unvalidated.is_none());
            let none = groups.check(from, |_| false);
            prop_assert_eq!(none.is_ok(), group.unvalidated.is_none() && group.members.len() == 1);
        }
        // Each id of one owner's devices once.
        let sources = groups.sources(&endpoints);
        let mut ids: Vec<u16> = sources.iter().flat_map(|(bdf, more)| more.iter().copied().chain([bdf.requester_id()])).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), count);
        prop_assert_eq!(built.model.read8("00:01.0".parse().unwrap(), 0x0e) & 0x7f, 1);
    }
}
