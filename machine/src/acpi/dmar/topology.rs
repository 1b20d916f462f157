//! Who is behind which unit, and what else the table says about a device: scopes, resolved through the bridges.

use super::error::{ReservedError, ScopeError};
use super::scope::{DeviceScope, ScopeKind, resolve_scope};
use super::structures::{Dmar, Rmrr};
use crate::pci::{Bdf, ConfigSpace, Function, HeaderKind};
use alloc::vec::Vec;
use core::ops::Range;

/// Requester ids that one unit translates for. Of several that hold an id the narrowest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRange {
    /// The segment group.
    pub segment: u16,
    /// The first id.
    pub first: u16,
    /// The last id, inclusive.
    pub last: u16,
    /// Index of the unit in [`Dmar::units`].
    pub unit: usize,
}

/// What a scope names, and the first and last requester id of the buses behind it.
type Scoped = (Bdf, Option<(u16, u16)>);

fn resolve(config: &(impl ConfigSpace + ?Sized), segment: u16, scope: &DeviceScope) -> Result<Scoped, ScopeError> {
    let device = resolve_scope(scope, segment, config)?;
    let offset = scope.offset;
    match HeaderKind::read(config, device) {
        HeaderKind::Bridge { secondary, subordinate } if scope.kind == ScopeKind::SUB_HIERARCHY => {
            // As firmware numbered it; a bridge without numbers forwards nothing.
            if secondary == 0 && subordinate == 0 {
                Ok((device, None))
            } else if secondary > device.bus() && subordinate >= secondary {
                Ok((device, Some((u16::from(secondary) << 8, u16::from(subordinate) << 8 | 0xff))))
            } else {
                Err(ScopeError::BusNumber { offset, bridge: device, secondary })
            }
        }
        _ => Ok((device, None)),
    }
}

impl Dmar {
    /// Which requester ids go through which unit (VT-d 8.3), with the bus numbers that bridges have now; and what of the
    /// table could not be used. Nothing is written.
    ///
    /// - An endpoint is one id, a sub-hierarchy the bridge's own and those of all buses behind it, a device that AML names
    ///   the id of its path. Paths may begin on any bus: machines with several root complexes have several root buses.
    /// - A unit for the rest has the whole segment.
    /// - I/O APICs and HPETs send interrupts only: see [`interrupt_source`](Self::interrupt_source).
    /// - Virtual functions go with their physical one, whose scope does not name them: whoever makes them sees to it.
    pub fn ranges(&self, config: &(impl ConfigSpace + ?Sized)) -> (Vec<UnitRange>, Vec<ScopeError>) {
        let (mut ranges, mut errors) = (Vec::<UnitRange>::new(), Vec::new());
        for (unit, described) in self.units.iter().enumerate() {
            let segment = described.segment;
            if described.include_all {
                ranges.push(UnitRange { segment, first: 0, last: u16::MAX, unit });
            }
            for scope in &described.scopes {
                let offset = scope.offset;
                if !matches!(scope.kind, ScopeKind::ENDPOINT | ScopeKind::SUB_HIERARCHY | ScopeKind::NAMED) {
                    continue;
                }
                let number = scope.enumeration_id;
                if scope.kind == ScopeKind::NAMED && self.named.iter().all(|named| named.number != number) {
                    errors.push(ScopeError::Nameless { offset, number });
                }
                let (device, below) = match resolve(config, segment, scope) {
                    Ok(found) => found,
                    Err(error) => {
                        errors.push(error);
                        continue;
                    }
                };
                let id = device.requester_id();
                for (first, last) in [Some((id, id)), below].into_iter().flatten() {
                    let range = UnitRange { segment, first, last, unit };
                    let same = |other: &&UnitRange| UnitRange { unit, ..**other } == range;
                    match ranges.iter().find(same) {
                        Some(other) if other.unit != unit => errors.push(ScopeError::Taken { offset, device }),
                        Some(_) => {}
                        None => ranges.push(range),
                    }
                }
            }
        }
        // Nobody is kept from a device that is not where reserved memory says it is: that is told, too.
        let scopes = self.reserved.iter().flat_map(|region| region.scopes.iter().map(|scope| (region.segment, scope)));
        errors.extend(scopes.filter_map(|(segment, scope)| resolve(config, segment, scope).err()));
        (ranges, errors)
    }

    /// The unit (its index) that remaps the interrupts of the I/O APIC ([`ScopeKind::IO_APIC`]) or HPET
    /// ([`ScopeKind::HPET`]) with this id, and the requester id they carry.
    pub fn interrupt_source(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        kind: ScopeKind,
        id: u8,
    ) -> Option<(usize, Bdf)> {
        self.units.iter().enumerate().find_map(|(index, unit)| {
            let named = |scope: &&DeviceScope| scope.kind == kind && scope.enumeration_id == id;
            let scope = unit.scopes.iter().find(named)?;
            Some((index, resolve_scope(scope, unit.segment, config).ok()?))
        })
    }

    /// The reserved regions that `function` uses (VT-d 8.4).
    pub fn reserved_for<'a, C: ConfigSpace + ?Sized>(
        &'a self,
        config: &'a C,
        function: &'a Function,
    ) -> impl Iterator<Item = &'a Rmrr> {
        self.reserved.iter().filter(move |region| names(config, region.segment, &region.scopes, function))
    }

    /// The reserved regions of all `functions` as ranges of bytes, none twice: regions of several devices may overlap.
    pub fn reserved_ranges<'a>(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        functions: impl Iterator<Item = &'a Function>,
    ) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for function in functions {
            for region in self.reserved_for(config, function) {
                let mut new = region.base.0..region.last.0 + 1;
                // What it touches becomes part of it.
                ranges.retain(|known| {
                    let apart = known.end < new.start || new.end < known.start;
                    if !apart {
                        new = new.start.min(known.start)..new.end.max(known.end);
                    }
                    apart
                });
                ranges.push(new);
            }
        }
        ranges
    }

    /// Whether requests for translation from `function` get through to a unit (VT-d 8.5): its root port passes them, or
    /// it is in the root complex itself.
    pub fn passes_ats(&self, config: &(impl ConfigSpace + ?Sized), function: &Function) -> bool {
        let segment = function.bdf.segment();
        let Some(root) = function.path.first() else { return true };
        let named = |scope: &DeviceScope| resolve_scope(scope, segment, config) == Ok(*root);
        let mut ports = self.ats_ports.iter().filter(|ports| ports.segment == segment);
        ports.any(|ports| ports.all_ports || ports.scopes.iter().any(named))
    }

    /// Whether `function` only works with its translation cache in use (VT-d 8.8).
    pub fn requires_ats(&self, config: &(impl ConfigSpace + ?Sized), function: &Function) -> bool {
        let mut caching = self.caching.iter().filter(|caching| caching.required);
        caching.any(|caching| names(config, caching.segment, &caching.scopes, function))
    }

    /// The proximity domain of the unit at index `unit` (VT-d 8.6).
    #[must_use]
    pub fn proximity(&self, unit: usize) -> Option<u32> {
        let base = self.units.get(unit)?.base;
        self.nodes.iter().find(|node| node.base == base).map(|node| node.proximity)
    }
}

impl Rmrr {
    /// Whether the region may be mapped for its devices: it must be neither memory that the memory map says is `free`,
    /// where somebody else's data is or will be, nor `ours`. Both are ranges of bytes.
    ///
    /// # Errors
    /// It is.
    pub fn check(
        &self,
        mut free: impl Iterator<Item = Range<u64>>,
        mut ours: impl Iterator<Item = Range<u64>>,
    ) -> Result<(), ReservedError> {
        let (base, last) = (self.base.0, self.last.0);
        let overlaps = |range: Range<u64>| range.start <= last && base < range.end;
        let error = |free| ReservedError { offset: self.offset, base, last, free };
        // Baton's memory was free before.
        if ours.any(overlaps) {
            return Err(error(false));
        }
        if free.any(overlaps) {
            return Err(error(true));
        }
        Ok(())
    }
}

/// Whether a scope names the function itself or a bridge above it.
fn names(config: &(impl ConfigSpace + ?Sized), segment: u16, scopes: &[DeviceScope], function: &Function) -> bool {
    segment == function.bdf.segment()
        && scopes.iter().any(|scope| match (scope.kind, resolve_scope(scope, segment, config)) {
            (ScopeKind::ENDPOINT, Ok(named)) => named == function.bdf || Some(named) == function.physical,
            (ScopeKind::SUB_HIERARCHY, Ok(named)) => named == function.bdf || function.path.contains(&named),
            _ => false,
        })
}
