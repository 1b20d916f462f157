//! Release 0.1, format 1: the IOMMU's snapshot.

use alloc::vec::Vec;

use handover::State;
use handover::state::device::{
    AliasV1, DEVICE_ATS, DEVICE_RESETTABLE, DeviceV1, LeavingV1, PasidV1, STATE_QUARANTINED,
};
use handover::state::interrupt::{IRTE_OWN, IrteV1, PostedV1};
use handover::state::management::{
    FAULT_ATOMIC, FAULT_INTERRUPT, FAULT_PAGE_REQUEST, FAULT_READ, FAULT_WRITE, FaultV1, NO_PASID,
};
use handover::state::unit::{
    DOMAIN_COHERENT, DOMAIN_FORCE_SNOOP, DomainIdV1, DomainV1, FORMAT_FIRST_STAGE, FORMAT_NESTED, FORMAT_PASS_THROUGH,
    FORMAT_SECOND_STAGE, UNIT_CACHING_MODE, UNIT_FAULT_EVENT, UNIT_INCLUDE_ALL, UNIT_NON_COHERENT, UnitRestV1, UnitV1,
};
use iommu::intel::spec::faults::{Qualifiers, Reason};
use iommu::state::{
    AliasState, DeviceState, DidState, DomainState, FIRST_STAGE, IrteState, LeavingState, NESTED, PASS_THROUGH,
    PasidState, PostedState, SECOND_STAGE, Snapshot, UnitState,
};
use iommu::{Access, Fault, FaultLine};
use machine::addr::{HostPhys, Iova, PAGE_SIZE};
use machine::paging::LeafSizes;
use machine::pci::Bdf;
use zerocopy::FromZeros;

use super::memory::{leaf_mask, leaf_sizes};
use super::{ConvertError, Converted, find, name_of, narrow, refuse, require};

/// [`DeviceV1::flags`] that this image knows how to keep. PRI it never turns on.
pub(super) const KNOWN_DEVICE_FLAGS: u32 = DEVICE_ATS | DEVICE_RESETTABLE;
/// ECAP.C: the unit snoops when it walks tables (VT-d 11.4.3).
const ECAP_COHERENT: u64 = 1;
/// CAP.CM: the unit caches absence (VT-d 11.4.2).
const CAP_CACHING_MODE: u64 = 1 << 7;
/// Kinds of tables, as the driver and as records know them.
const FORMATS: [(u8, u32); 4] = [
    (SECOND_STAGE, FORMAT_SECOND_STAGE),
    (FIRST_STAGE, FORMAT_FIRST_STAGE),
    (PASS_THROUGH, FORMAT_PASS_THROUGH),
    (NESTED, FORMAT_NESTED),
];
/// Address bits translated by a table of one level, and by each further one.
const LEVEL_BITS: [u32; 2] = [21, 9];

/// A function as records hold it.
pub(super) const fn bdf(function: Bdf) -> u32 {
    (function.segment() as u32) << 16 | function.requester_id() as u32
}

/// Likewise, back.
pub(super) const fn function(bdf: u32) -> Bdf {
    Bdf::from_requester_id((bdf >> 16) as u16, bdf as u16)
}

const fn function_of(device: &DeviceState) -> Bdf {
    Bdf::from_requester_id(device.segment, device.source)
}

/// Entries of the interrupt remapping table that IRTA tells of (VT-d 11.4.7.3).
const fn interrupt_entries(irta: u64) -> u32 {
    if irta == 0 { 0 } else { 2 << (irta & 0xf) }
}

/// Domain ids that CAP tells of (VT-d 11.4.2).
const fn did_count(cap: u64) -> u32 {
    1 << (4 + 2 * (cap & 7))
}

/// What of a unit's abilities the records tell again.
const fn unit_flags(unit: &UnitState) -> u32 {
    let coherent = if unit.ecap & ECAP_COHERENT == 0 { UNIT_NON_COHERENT } else { 0 };
    let caching = if unit.cap & CAP_CACHING_MODE == 0 { 0 } else { UNIT_CACHING_MODE };
    coherent | caching | if unit.fault_event == 0 { 0 } else { UNIT_FAULT_EVENT }
}

/// Appends units, domains and attached devices, each device without what [`super::pci::save_plan`] adds to it. Part of the
/// plan. `space_of` is the address space that a domain maps, zero for Baton's own; which unit translates for which device
/// is found out again from ACPI.
///
/// # Errors
/// A device or domain id refers to a unit that the snapshot does not have.
pub fn save_plan(state: &mut State, snapshot: &Snapshot, space_of: impl Fn(u64) -> u64) -> Converted<()> {
    state.units.extend((0..).zip(&snapshot.units).map(|(index, unit)| UnitV1 {
        register_base: unit.base,
        cap: unit.cap,
        ecap: unit.ecap,
        root_table: unit.rtaddr,
        interrupt_table: unit.irta,
        queue: unit.iqa,
        status_word: unit.status,
        index,
        segment: unit.segment.into(),
        version: unit.version,
        status: unit.gsts,
        interrupt_entries: interrupt_entries(unit.irta),
        did_count: did_count(unit.cap),
        fault_data: unit.fedata,
        fault_address: unit.feaddr,
        fault_upper_address: unit.feuaddr,
        flags: unit_flags(unit),
    }));
    state.domains.extend(snapshot.domains.iter().map(|domain| DomainV1 {
        token: domain.token,
        space: space_of(domain.token),
        table_root: domain.root,
        levels: domain.levels.into(),
        leaf_mask: leaf_mask(LeafSizes { two_mib: domain.leaf_sizes & 1 != 0, one_gib: domain.leaf_sizes & 2 != 0 }),
        width: width(domain.levels.into()),
        format: FORMATS.iter().find(|(stage, _)| *stage == domain.stage).map_or(0, |(_, format)| *format),
        flags: if domain.coherent == 0 { 0 } else { DOMAIN_COHERENT }
            | if domain.snoop == 0 { 0 } else { DOMAIN_FORCE_SNOOP },
        parent: domain.parent,
        address_bits: domain.address_bits.into(),
        ..DomainV1::new_zeroed()
    }));
    for id in &snapshot.dids {
        state.domain_ids.push(DomainIdV1 { domain: id.token, unit: unit_at(snapshot, id.unit)?, did: id.did.into() });
    }
    for device in &snapshot.devices {
        state.devices.push(DeviceV1 {
            domain: device.token,
            owner: 0,
            bdf: u32::from(device.segment) << 16 | u32::from(device.source),
            guest_bdf: 0,
            unit: unit_at(snapshot, device.unit)?,
            identity: 0,
            msix_capability: 0,
            msix_entries: 0,
            msix_table_bar: 0,
            msix_table_offset: 0,
            msix_pending_bar: 0,
            msix_pending_offset: 0,
            msi_capability: 0,
            flags: if device.ats == 0 { 0 } else { DEVICE_ATS },
            ats_depth: device.ats_depth.into(),
            pasid_directory: device.directory,
            state: if device.quarantined == 0 { 0 } else { STATE_QUARANTINED },
            ..DeviceV1::new_zeroed()
        });
    }
    state.posted.extend(snapshot.posted.iter().map(|posted| PostedV1 { frame: posted.frame, used: posted.used }));
    state.pasids.extend(snapshot.pasids.iter().map(|pasid| PasidV1 {
        domain: pasid.token,
        device: u32::from(pasid.segment) << 16 | u32::from(pasid.source),
        pasid: pasid.pasid,
    }));
    state.aliases.extend(snapshot.aliases.iter().map(|alias| {
        let segment = u32::from(alias.segment) << 16;
        AliasV1 { device: segment | u32::from(alias.source), requester: segment | u32::from(alias.alias) }
    }));
    state.leaving.extend(snapshot.leaving.iter().map(|leaving| LeavingV1 {
        requester: u32::from(leaving.segment) << 16 | u32::from(leaving.source),
        reserved: [0; 4],
    }));
    Ok(())
}

/// Number of the unit with registers at `base`.
fn unit_at(snapshot: &Snapshot, base: u64) -> Converted<u32> {
    let position = snapshot.units.iter().position(|unit| unit.base == base);
    position.map(|index| index as u32).ok_or(ConvertError::Unsaved {
        record: name_of::<UnitV1>([u64::MAX, 0]),
        what: "a reference to a unit that is not there, at",
        value: base,
    })
}

/// Appends what changes of units until FREEZE, and faults. Part of the rest; the units are those of the plan.
///
/// # Errors
/// A unit is there that was not planned.
pub fn save_rest(state: &mut State, snapshot: &Snapshot) -> Converted<()> {
    for unit in &snapshot.units {
        let index = unit_at(snapshot, unit.base)?;
        state.unit_rests.push(UnitRestV1 {
            queue_head: unit.iqt,
            queue_tail: unit.iqt,
            index,
            status: unit.gsts,
            fault_control: unit.fectl,
            sequence: unit.sequence,
        });
    }
    faults(state, snapshot)
}

/// Appends the remapping entries. Part of the rest, settled; units and devices are those of the plan.
///
/// # Errors
/// A unit is there that was not planned.
pub fn save_entries(state: &mut State, snapshot: &Snapshot) -> Converted<()> {
    for entry in &snapshot.irtes {
        let unit = unit_at(snapshot, entry.unit)?;
        // Only attached devices have a record; what is the management NIC's own is gone by then.
        let attached = |owner: &Bdf| snapshot.devices.iter().any(|device| function_of(device) == *owner);
        let owner = entry.owner.filter(attached).map(bdf);
        state.irtes.push(IrteV1 {
            low: entry.low,
            high: entry.high,
            unit,
            index: entry.index.into(),
            owner: owner.unwrap_or(0),
            flags: if owner.is_none() { IRTE_OWN } else { 0 },
        });
    }
    Ok(())
}

fn faults(state: &mut State, snapshot: &Snapshot) -> Converted<()> {
    for (sequence, line) in (1..).zip(&snapshot.faults) {
        let fault = &line.fault;
        let (access, entry) = match fault.access {
            Access::Read => (FAULT_READ, 0),
            Access::Write => (FAULT_WRITE, 0),
            Access::Atomic => (FAULT_ATOMIC, 0),
            Access::PageRequest => (FAULT_PAGE_REQUEST, 0),
            Access::Interrupt(index) => (FAULT_INTERRUPT, index),
        };
        state.faults.push(FaultV1 {
            sequence,
            address: fault.address.0,
            tsc: line.reported_at,
            count: line.count,
            reported: line.reported,
            unit: unit_at(snapshot, fault.unit.0)?,
            source: bdf(fault.device),
            reason: fault.reason.0.into(),
            access,
            entry: entry.into(),
            pasid: fault.pasid.unwrap_or(NO_PASID),
        });
    }
    Ok(())
}

/// The snapshot in a set, for `Iommu::prepare` and `Iommu::finish`, which compare it with the machine.
///
/// # Errors
/// A record is missing, or holds what this image cannot take over.
pub fn load(state: &State) -> Converted<Snapshot> {
    let mut snapshot = Snapshot::default();
    load_into(state, &mut snapshot)?;
    Ok(snapshot)
}

/// Likewise, into one that was loaded before: takes memory only where there is more than then.
///
/// # Errors
/// As [`load`].
pub fn load_into(state: &State, snapshot: &mut Snapshot) -> Converted<()> {
    load_unsettled_into(state, snapshot)?;
    let base = |index: u32| find(&state.units, [index.into(), 0]).map(|unit| unit.register_base);
    let irte = |record: &IrteV1| {
        require(record.flags & !IRTE_OWN == 0, record, "flags", record.flags)?;
        Ok(IrteState {
            unit: base(record.unit)?,
            low: record.low,
            high: record.high,
            index: narrow(record, "index", record.index)?,
            owner: (record.flags & IRTE_OWN == 0).then(|| function(record.owner)),
        })
    };
    refill(&mut snapshot.irtes, &state.irtes, irte)
}

/// Likewise, but for the remapping entries, which stay as an earlier call has loaded them.
///
/// # Errors
/// As [`load`].
pub fn load_unsettled_into(state: &State, snapshot: &mut Snapshot) -> Converted<()> {
    let base = |index: u32| find(&state.units, [index.into(), 0]).map(|unit| unit.register_base);
    let did = |record: &DomainIdV1| {
        Ok(DidState { unit: base(record.unit)?, token: record.domain, did: narrow(record, "id", record.did)? })
    };
    let device = |record: &DeviceV1| {
        require(record.flags & !KNOWN_DEVICE_FLAGS == 0, record, "flags", record.flags)?;
        require(record.state & !STATE_QUARANTINED == 0, record, "state", record.state)?;
        let ats = record.flags & DEVICE_ATS != 0;
        require(ats || record.ats_depth == 0, record, "queue depth without ATS", record.ats_depth)?;
        // VT-d 6.5.2.5: five bits and one.
        require(record.ats_depth <= 32, record, "queue depth", record.ats_depth)?;
        Ok(DeviceState {
            unit: base(record.unit)?,
            token: record.domain,
            directory: record.pasid_directory,
            segment: (record.bdf >> 16) as u16,
            source: record.bdf as u16,
            ats: ats.into(),
            ats_depth: narrow(record, "queue depth", record.ats_depth)?,
            quarantined: (record.state & STATE_QUARANTINED != 0).into(),
            consumed: false,
        })
    };
    let pasid = |record: &PasidV1| {
        let device = find(&state.devices, [record.device.into(), 0])?;
        Ok(PasidState {
            unit: base(device.unit)?,
            token: record.domain,
            pasid: record.pasid,
            segment: (record.device >> 16) as u16,
            source: record.device as u16,
            consumed: false,
        })
    };
    let alias = |record: &AliasV1| {
        require(record.requester >> 16 == record.device >> 16, record, "segment", record.requester)?;
        Ok(AliasState {
            segment: (record.device >> 16) as u16,
            source: record.device as u16,
            alias: record.requester as u16,
        })
    };
    let leaving = |record: &LeavingV1| {
        Ok(LeavingState { segment: (record.requester >> 16) as u16, source: record.requester as u16 })
    };
    refill(&mut snapshot.units, &state.units, |unit| load_unit(state, unit))?;
    refill(&mut snapshot.domains, &state.domains, load_domain)?;
    refill(&mut snapshot.dids, &state.domain_ids, did)?;
    refill(&mut snapshot.devices, &state.devices, device)?;
    refill(&mut snapshot.pasids, &state.pasids, pasid)?;
    refill(&mut snapshot.aliases, &state.aliases, alias)?;
    refill(&mut snapshot.leaving, &state.leaving, leaving)?;
    refill(&mut snapshot.posted, &state.posted, |record| Ok(PostedState { frame: record.frame, used: record.used }))?;
    refill(&mut snapshot.faults, &state.faults, |record| load_fault(state, record))
}

/// Puts what `records` say in the place of what was in `list`.
fn refill<T, R>(list: &mut Vec<T>, records: &[R], load: impl Fn(&R) -> Converted<T>) -> Converted<()> {
    list.clear();
    for record in records {
        list.push(load(record)?);
    }
    Ok(())
}

fn load_unit(state: &State, record: &UnitV1) -> Converted<UnitState> {
    let known = UNIT_INCLUDE_ALL | UNIT_NON_COHERENT | UNIT_CACHING_MODE | UNIT_FAULT_EVENT;
    require(record.flags & !known == 0, record, "flags", record.flags)?;
    let rest = find(&state.unit_rests, [record.index.into(), 0])?;
    require(rest.queue_head == rest.queue_tail, rest, "queue head of a drained queue", rest.queue_head)?;
    require(rest.status == record.status, rest, "status", rest.status)?;
    let unit = UnitState {
        base: record.register_base,
        segment: narrow(record, "segment", record.segment)?,
        version: record.version,
        cap: record.cap,
        ecap: record.ecap,
        gsts: record.status,
        rtaddr: record.root_table,
        irta: record.interrupt_table,
        iqa: record.queue,
        iqt: rest.queue_tail,
        status: record.status_word,
        sequence: rest.sequence,
        fectl: rest.fault_control,
        fedata: record.fault_data,
        feaddr: record.fault_address,
        feuaddr: record.fault_upper_address,
        fault_event: (record.flags & UNIT_FAULT_EVENT != 0).into(),
        consumed: false,
    };
    require(unit.base.is_multiple_of(PAGE_SIZE), record, "register base", unit.base)?;
    // What is told twice must be told alike.
    let again = unit_flags(&unit);
    require(record.flags & !UNIT_INCLUDE_ALL == again, record, "flags", record.flags)?;
    let entries = interrupt_entries(unit.irta);
    require(record.interrupt_entries == entries, record, "interrupt entries", record.interrupt_entries)?;
    require(record.did_count == did_count(unit.cap), record, "number of domain ids", record.did_count)?;
    Ok(unit)
}

/// Bits of an I/O address that tables of `levels` translate; none without a table.
const fn width(levels: u32) -> u32 {
    let [first, further] = LEVEL_BITS;
    if levels == 0 { 0 } else { first + further * (levels - 1) }
}

fn load_domain(record: &DomainV1) -> Converted<DomainState> {
    let known = FORMATS.iter().find(|(_, format)| *format == record.format);
    let Some((stage, _)) = known else { return refuse(record, "format", record.format) };
    let levels = if *stage == PASS_THROUGH { 0..=0 } else { 3..=5 };
    require(levels.contains(&record.levels), record, "levels", record.levels)?;
    require(record.width == width(record.levels), record, "width", record.width)?;
    // Tables shared with a nested page table have another format on the machines this image runs on.
    let known = DOMAIN_COHERENT | DOMAIN_FORCE_SNOOP;
    require(record.flags & !known == 0, record, "flags", record.flags)?;
    let leaves = leaf_sizes(record, record.leaf_mask)?;
    Ok(DomainState {
        token: record.token,
        root: record.table_root,
        parent: record.parent,
        stage: *stage,
        levels: narrow(record, "levels", record.levels)?,
        leaf_sizes: u8::from(leaves.two_mib) | u8::from(leaves.one_gib) << 1,
        snoop: (record.flags & DOMAIN_FORCE_SNOOP != 0).into(),
        coherent: (record.flags & DOMAIN_COHERENT != 0).into(),
        address_bits: narrow(record, "address bits", record.address_bits)?,
        consumed: false,
    })
}

fn load_fault(state: &State, record: &FaultV1) -> Converted<FaultLine> {
    let access = match record.access {
        FAULT_READ => Access::Read,
        FAULT_WRITE => Access::Write,
        FAULT_ATOMIC => Access::Atomic,
        FAULT_PAGE_REQUEST => Access::PageRequest,
        FAULT_INTERRUPT => Access::Interrupt(narrow(record, "remapping entry", record.entry)?),
        other => return refuse(record, "access", other),
    };
    let is_interrupt = matches!(access, Access::Interrupt(_));
    require(is_interrupt || record.entry == 0, record, "remapping entry without use", record.entry)?;
    require(record.pasid == NO_PASID || record.pasid < 1 << 20, record, "PASID", record.pasid)?;
    require(record.reported <= record.count, record, "number told of", record.reported)?;
    Ok(FaultLine {
        fault: Fault {
            unit: HostPhys(find(&state.units, [record.unit.into(), 0])?.register_base),
            device: function(record.source),
            reason: Reason(narrow(record, "reason", record.reason)?),
            access,
            address: Iova(record.address),
            pasid: (record.pasid != NO_PASID).then_some(record.pasid),
            qualifiers: Qualifiers::default(),
        },
        count: record.count,
        reported: record.reported,
        reported_at: record.tsc,
    })
}
