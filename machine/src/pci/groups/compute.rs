//! The groups, from what is there and what is switched on.

use super::names::{Link, Names, link, names};
use super::{Group, Groups, NEEDED, Named, Why};
use crate::pci::{Acs, Bdf, ConfigSpace, Enumeration, Function, HeaderKind, PortType};
use alloc::vec::Vec;

impl Groups {
    /// Joins the functions of `found` to groups. Nothing is written: what counts is what is switched on now, see
    /// [`enable_acs`](super::enable_acs).
    ///
    /// - A switch's downstream port lets requests through to its neighbours, and to what is behind them, unless source
    ///   validation, request and completion redirect and upstream forwarding are all on (PCIe 6.12.1.1).
    /// - A root port may lack the redirects: it then has no way between peers. One without source validation lets
    ///   devices pose as anything.
    /// - A bridge to conventional PCI hides who made a request.
    /// - A function among several of a device reaches the others, and what is behind them, unless it has access
    ///   control services; those that it lacks then are not needed. Functions on the link behind a port are one device,
    ///   whatever their device numbers (ARI).
    /// - A virtual function is apart from its physical function and its neighbours: with SR-IOV, a way between
    ///   functions comes with access control services (PCIe 6.12.1.2).
    /// - Who can pose as another function is joined to it.
    pub fn compute(config: &(impl ConfigSpace + ?Sized), found: &Enumeration) -> Self {
        let functions = &found.functions;
        let mut sets = Sets { functions, parents: (0..functions.len()).collect(), why: Vec::new() };
        let mut unvalidated = Vec::new();
        let mut known = Vec::new();
        for (index, function) in functions.iter().enumerate() {
            let is_bridge = matches!(function.header, HeaderKind::Bridge { .. });
            if is_bridge {
                let parent = function.path.last().copied().unwrap_or(function.bdf);
                match behind(config, function.bdf) {
                    Behind::Apart => {}
                    Behind::Joined(why) => sets.join_below(index, function.bdf, why),
                    Behind::Switch(why) => sets.join_below(index, parent, why),
                    Behind::Unvalidated(why) => {
                        sets.join_below(index, function.bdf, why);
                        unvalidated.push((index, function.bdf));
                    }
                }
            }
            if function.physical.is_none() && !is_apart(config, function.bdf) {
                let on_a_link = function.path.last().is_some_and(|parent| is_link(config, *parent));
                sets.join_siblings(index, function, on_a_link);
            }
            let names = names(config, function);
            for id in names.ids.iter().skip(1) {
                let of = Bdf::from_requester_id(function.bdf.segment(), *id);
                if let Some(other) = sets.index(of) {
                    sets.join(index, other, Why::Alias { function: function.bdf, of });
                }
            }
            known.push((is_bridge, names));
        }
        sets.into_groups(known, &unvalidated)
    }
}

/// What a bridge does to what is behind it.
enum Behind {
    /// It keeps it apart.
    Apart,
    /// All of it is one.
    Joined(Why),
    /// All that is behind its switch is one.
    Switch(Why),
    /// All of it is one and nobody checks its names.
    Unvalidated(Why),
}

fn behind(config: &(impl ConfigSpace + ?Sized), port: Bdf) -> Behind {
    let (can, on) = acs(config, port).unwrap_or((Acs::empty(), Acs::empty()));
    match link(config, port) {
        Link::Express(PortType::ROOT_PORT) => {
            let lacks = (Acs::SOURCE_VALIDATION | NEEDED & can) - on;
            let why = Why::NoAcs { port, lacks };
            if lacks.is_empty() {
                Behind::Apart
            } else if lacks.contains(Acs::SOURCE_VALIDATION) {
                Behind::Unvalidated(why)
            } else {
                Behind::Joined(why)
            }
        }
        Link::Express(PortType::DOWNSTREAM) if !on.contains(NEEDED) => {
            Behind::Switch(Why::NoAcs { port, lacks: NEEDED - on })
        }
        // An upstream port has nothing to keep apart: that is for the downstream ports.
        Link::Express(_) => Behind::Apart,
        Link::ToPci | Link::FromPci => Behind::Joined(Why::Conventional { bridge: port }),
    }
}

/// What access control services `bdf` has, and those of them that are on.
fn acs(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<(Acs, Acs)> {
    let (offset, can) = Acs::find(config, bdf)?;
    Some((can, Acs::control(config, bdf, offset) & can))
}

/// Whether a function's requests can't reach its siblings.
fn is_apart(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> bool {
    acs(config, bdf).is_some_and(|(can, on)| on.contains(NEEDED & can))
}

/// Sets of functions, by index.
struct Sets<'a> {
    functions: &'a [Function],
    /// Another of the same set with a lower index, or itself.
    parents: Vec<usize>,
    /// What joined, with one of those it joined.
    why: Vec<(usize, Why)>,
}

impl Sets<'_> {
    fn index(&self, bdf: Bdf) -> Option<usize> {
        self.functions.iter().position(|function| function.bdf == bdf)
    }

    /// The lowest index of the set.
    fn root(&self, mut index: usize) -> usize {
        // Ends: parents are lower, but for the lowest.
        while let Some(&parent) = self.parents.get(index).filter(|parent| **parent != index) {
            index = parent;
        }
        index
    }

    fn join(&mut self, one: usize, other: usize, why: Why) {
        if one == other {
            return;
        }
        let (one, other) = (self.root(one), self.root(other));
        if let Some(parent) = self.parents.get_mut(one.max(other)) {
            *parent = one.min(other);
        }
        if !self.why.iter().any(|(_, known)| *known == why) {
            self.why.push((one, why));
        }
    }

    /// Joins `index`, the bridge `top` and everything below that.
    // Not worth a copy for each caller in an image that counts its bytes.
    #[inline(never)]
    fn join_below(&mut self, index: usize, top: Bdf, why: Why) {
        for other in 0..self.functions.len() {
            let function = self.functions.get(other);
            if function.is_some_and(|function| function.bdf == top || function.path.contains(&top)) {
                self.join(index, other, why);
            }
        }
    }

    /// Joins a function with the others of its device, and with what is behind any of them. On a link there is one device,
    /// so whoever is on its bus is a sibling.
    fn join_siblings(&mut self, index: usize, function: &Function, on_a_link: bool) {
        let (functions, here) = (self.functions, function.bdf);
        let why = Why::Siblings { function: here };
        let mut alone = true;
        for other in functions.iter().filter(|other| other.physical.is_none() && other.bdf != here) {
            let on_my_bus = (here.segment(), here.bus()) == (other.bdf.segment(), other.bdf.bus());
            if here.same_device(other.bdf) || on_a_link && on_my_bus {
                self.join_below(index, other.bdf, why);
                alone = false;
            }
        }
        if !alone {
            self.join_below(index, here, why);
        }
    }

    fn into_groups(self, known: Vec<(bool, Names)>, unvalidated: &[(usize, Bdf)]) -> Groups {
        let mut made = Groups::default();
        // The root of each group.
        let mut roots: Vec<usize> = Vec::new();
        for (index, (function, (bridge, names))) in self.functions.iter().zip(known).enumerate() {
            let (bdf, root) = (function.bdf, self.root(index));
            let group = roots.iter().position(|known| *known == root).unwrap_or(roots.len());
            if group == roots.len() {
                roots.push(root);
                let why = self.why.iter().filter(|(at, _)| self.root(*at) == root).map(|(_, why)| *why).collect();
                let port = unvalidated.iter().find(|(at, _)| self.root(*at) == root).map(|(_, port)| *port);
                made.groups.push(Group { id: bdf, members: Vec::new(), bridges: Vec::new(), why, unvalidated: port });
            }
            if let Some(group) = made.groups.get_mut(group) {
                group.id = group.id.min(bdf);
                let list = if bridge { &mut group.bridges } else { &mut group.members };
                list.insert(list.partition_point(|known| *known < bdf), bdf);
            }
            made.functions.push(Named { bdf, bridge, group, names });
        }
        made
    }
}

/// Whether there is a PCI Express link behind the bridge, with one device at its end.
fn is_link(config: &(impl ConfigSpace + ?Sized), bridge: Bdf) -> bool {
    matches!(link(config, bridge), Link::Express(PortType::ROOT_PORT | PortType::DOWNSTREAM))
}
