//! Units, domains, domain ids.

use alloc::vec::Vec;

use super::ranges::{FRAME, Range, disjoint, frames, memory_in, owned};
use super::{Checked, GraphError, find, follow, one_each, value};
use crate::record::Record;
use crate::state::State;
use crate::state::machine::OWNER_ARENA;
use crate::state::unit::{
    DOMAIN_COHERENT, DOMAIN_FORCE_SNOOP, DOMAIN_SHARES_NESTED, DomainV1, FORMAT_NESTED, FORMAT_PASS_THROUGH,
    FORMAT_SECOND_STAGE, UNIT_AMD, UNIT_CACHING_MODE, UNIT_FAULT_EVENT, UNIT_INCLUDE_ALL, UNIT_NON_COHERENT, UnitV1,
};

/// Bits of RTADDR, IRTA and IQA that hold the address (VT-d 11.4.5, 11.4.7.3, 11.4.9.3).
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of an interrupt remapping entry.
const IRTE_BYTES: u64 = 16;

pub(super) fn check(state: &State) -> Checked {
    for unit in &state.units {
        unit_fields(state, unit)?;
    }
    let registers =
        state.units.iter().map(|unit| Range { space: 0, base: unit.register_base, bytes: FRAME, record: unit.name() });
    disjoint(registers.collect())?;
    let mut tables = Vec::new();
    for unit in &state.units {
        let mut table =
            |base: u64, bytes| tables.push(Range { space: 0, base: base & ADDRESS, bytes, record: unit.name() });
        table(unit.root_table, FRAME);
        table(unit.queue, FRAME);
        if unit.interrupt_entries > 0 {
            table(unit.interrupt_table, u64::from(unit.interrupt_entries) * IRTE_BYTES);
        }
    }
    disjoint(tables)?;
    domains(state)?;
    domain_ids(state)
}

fn unit_fields(state: &State, unit: &UnitV1) -> Checked {
    frames(unit, "register base", unit.register_base, FRAME)?;
    if let Some(region) = memory_in(&state.regions, unit.register_base, FRAME) {
        return Err(GraphError::Overlap { first: unit.name(), second: region.name(), address: unit.register_base });
    }
    let known = UNIT_INCLUDE_ALL | UNIT_NON_COHERENT | UNIT_CACHING_MODE | UNIT_AMD | UNIT_FAULT_EVENT;
    value(unit.flags & !known == 0, unit, "flags", unit.flags.into())?;
    value(unit.segment <= 0xffff, unit, "segment", unit.segment.into())?;
    value(unit.did_count > 0 && unit.did_count <= 1 << 20, unit, "number of domain ids", unit.did_count.into())?;
    value(unit.interrupt_entries <= 1 << 16, unit, "interrupt entries", unit.interrupt_entries.into())?;
    let lies = |field, base, bytes| owned(&state.regions, OWNER_ARENA, unit, field, base, bytes);
    lies("root table", unit.root_table & ADDRESS, FRAME)?;
    if unit.interrupt_entries > 0 {
        lies("interrupt table", unit.interrupt_table & ADDRESS, u64::from(unit.interrupt_entries) * IRTE_BYTES)?;
    }
    lies("queue", unit.queue & ADDRESS, FRAME)?;
    lies("status word", unit.status_word, 8)
}

fn domains(state: &State) -> Checked {
    let mut roots = Vec::new();
    for domain in &state.domains {
        let known = DOMAIN_COHERENT | DOMAIN_FORCE_SNOOP | DOMAIN_SHARES_NESTED;
        value(domain.flags & !known == 0, domain, "flags", domain.flags.into())?;
        value((FORMAT_SECOND_STAGE..=FORMAT_NESTED).contains(&domain.format), domain, "format", domain.format.into())?;
        value(
            domain.address_bits == 0 || (30..=57).contains(&domain.address_bits),
            domain,
            "address bits",
            domain.address_bits.into(),
        )?;
        value(domain.leaf_mask & !7 == 0 && domain.leaf_mask & 1 == 1, domain, "leaf sizes", domain.leaf_mask.into())?;
        if domain.format == FORMAT_PASS_THROUGH {
            pass_through(domain)?;
            continue;
        }
        value((2..=5).contains(&domain.levels), domain, "levels", domain.levels.into())?;
        value((30..=57).contains(&domain.width), domain, "width", domain.width.into())?;
        frames(domain, "table root", domain.table_root, FRAME)?;
        if domain.format == FORMAT_NESTED {
            // Its table is the guest's own, at an address that the parent translates: nothing of Baton's to overlap with.
            nested(state, domain)?;
            continue;
        }
        value(domain.parent == 0, domain, "parent", domain.parent)?;
        owned(&state.regions, OWNER_ARENA, domain, "table root", domain.table_root, FRAME)?;
        let root = Range { space: 0, base: domain.table_root, bytes: FRAME, record: domain.name() };
        if domain.space == 0 {
            value(domain.flags & DOMAIN_SHARES_NESTED == 0, domain, "flags", domain.flags.into())?;
            roots.push(root);
            continue;
        }
        let space = follow(domain, "address space", &state.spaces, [domain.space, 0])?;
        if domain.flags & DOMAIN_SHARES_NESTED == 0 {
            roots.push(root);
        } else if domain.table_root != space.nested_root {
            return Err(GraphError::Mismatch {
                first: domain.name(),
                second: space.name(),
                what: "the root they share",
            });
        }
    }
    // The same table under two names would be changed behind one's back.
    roots.extend(state.spaces.iter().map(|space| Range {
        space: 0,
        base: space.nested_root,
        bytes: FRAME,
        record: space.name(),
    }));
    disjoint(roots)
}

/// A domain without a table shows everything: no guest's.
fn pass_through(domain: &DomainV1) -> Checked {
    value(domain.space == 0, domain, "address space", domain.space)?;
    value(domain.parent == 0, domain, "parent", domain.parent)?;
    value(domain.table_root == 0 && domain.levels == 0, domain, "table root", domain.table_root)?;
    value(domain.flags & DOMAIN_SHARES_NESTED == 0, domain, "flags", domain.flags.into())
}

/// A guest's table over a second stage of the same address space.
fn nested(state: &State, domain: &DomainV1) -> Checked {
    let parent = follow(domain, "parent", &state.domains, [domain.parent, 0])?;
    value(parent.format == FORMAT_SECOND_STAGE, domain, "parent", domain.parent)?;
    if parent.space != domain.space || domain.space == 0 {
        let (first, second) = (domain.name(), parent.name());
        return Err(GraphError::Mismatch { first, second, what: "the address space" });
    }
    value(domain.flags & DOMAIN_SHARES_NESTED == 0, domain, "flags", domain.flags.into())
}

fn domain_ids(state: &State) -> Checked {
    let mut claims = Vec::new();
    for id in &state.domain_ids {
        follow(id, "domain", &state.domains, [id.domain, 0])?;
        let unit = follow(id, "unit", &state.units, [id.unit.into(), 0])?;
        value(id.did < unit.did_count, id, "id", id.did.into())?;
        claims.push((id.unit, id.did, id.domain));
    }
    claims.sort_unstable();
    match claims.array_windows().find(|[first, second]| (first.0, first.1) == (second.0, second.1)) {
        Some([first, second]) => {
            Err(GraphError::SameDomainId { unit: first.0, did: first.1, first: first.2, second: second.2 })
        }
        None => Ok(()),
    }
}

/// What a refresh replaces.
pub(super) fn check_rest(state: &State) -> Checked {
    one_each(&state.units, &state.unit_rests)?;
    for rest in &state.unit_rests {
        value(rest.queue_head == rest.queue_tail, rest, "queue head of a drained queue", rest.queue_head)?;
        if let Some(unit) = find(&state.units, [rest.index.into(), 0])
            && unit.status != rest.status
        {
            return Err(GraphError::Mismatch { first: unit.name(), second: rest.name(), what: "the status register" });
        }
    }
    Ok(())
}
