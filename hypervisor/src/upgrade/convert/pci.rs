//! Release 0.1, format 1: assigned functions and their interrupts' routes.
//!
//! What the new image rebuilds a function from without writing to it: the [`FunctionPlan`] (its place, BARs, MSI-X table), then
//! the registers as the guest set them, then the routes.

use alloc::vec::Vec;

use handover::State;
use handover::record::Record;
use handover::state::device::{
    BAR_64, BAR_MAPPED, BAR_PREFETCHABLE, BarV1, DEVICE_ATS, DEVICE_RESETTABLE, DevicePolicyV1, DeviceV1, FUNCTION_MSI,
    FUNCTION_MSI_ENABLED, FUNCTION_MSIX, FUNCTION_MSIX_ENABLED, FUNCTION_MSIX_MASKED, PciFunctionV1,
    PhysicalFunctionV1,
};
use handover::state::interrupt::{MSIX_IS_MSI, MSIX_OPEN, MSIX_PENDING, MsixV1, NO_IRTE};
use machine::addr::HostPhys;
use machine::pci::Bdf;

use super::iommu::{KNOWN_DEVICE_FLAGS, bdf, function};
use super::{ConvertError, Converted, find, flag, group, name_of, narrow, require};
use crate::guest::message::MsiMessage;
use crate::guest::pci::access::{BarDescription, MSI_ENTRY};
use crate::guest::pci::{BARS, MsiState, MsixEntryState, PciFunctionState};
use crate::passthrough::sriov::{self, Physical};

/// A BAR that is not mapped, in [`PciFunctionState::mapped`].
const UNMAPPED: u64 = u64::MAX;
/// The most entries an MSI-X table has (PCI 3.0 6.8.2.3).
const MSIX_ENTRIES: u32 = 2048;

/// Where a function's MSI-X structures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixPlace {
    /// Offset of the capability.
    pub capability: u8,
    /// Entries of the table, 1 to 2048.
    pub entries: u16,
    /// BAR of the table.
    pub table_bar: u8,
    /// Offset of the table in that BAR.
    pub table_offset: u32,
    /// BAR of the pending bits.
    pub pending_bar: u8,
    /// Offset of the pending bits in that BAR.
    pub pending_offset: u32,
}

/// What does not change of a function that is attached to a domain: a guest's, or Baton's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionPlan {
    /// Its place in the machine.
    pub device: Bdf,
    /// Token of the guest that has it, zero for Baton.
    pub owner: u64,
    /// Its slot on the guest's bus, 1 to 31; zero for Baton's own.
    pub slot: u8,
    /// Vendor in bits 15:0, device in 31:16.
    pub identity: u32,
    /// Memory BARs.
    pub bars: Vec<BarDescription>,
    /// Where the guest sees each BAR, `u64::MAX` where it does not.
    pub mapped: [u64; BARS],
    /// Its MSI-X structures.
    pub msix: Option<MsixPlace>,
    /// Offset of the MSI capability.
    pub msi: Option<u8>,
    /// It can be reset alone.
    pub resettable: bool,
    /// Its translation cache is on; part of what `super::iommu` saves.
    pub ats: bool,
}

/// The way of one interrupt of a device, for the new image's router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteState {
    /// The device.
    pub device: Bdf,
    /// MSI-X index, or [`MSI_ENTRY`].
    pub entry: u16,
    /// What is delivered to the guest.
    pub guest: MsiMessage,
    /// Index of the remapping entry, in the table of the device's unit.
    pub irte: u16,
    /// Vector on the host, 32 to 255.
    pub host_vector: u8,
    /// pCPU the interrupt goes to.
    pub pcpu: u32,
    /// It arrived and was not delivered yet: the new image delivers it once.
    pub pending: bool,
}

/// Completes the record of an attached device ([`super::iommu::save_plan`] comes first). Part of the plan.
///
/// # Errors
/// The device is not attached.
pub fn save_plan(state: &mut State, plan: &FunctionPlan) -> Converted<()> {
    let number = bdf(plan.device);
    let record = state.devices.iter_mut().find(|record| record.bdf == number);
    let record = record.ok_or(ConvertError::Missing { record: name_of::<DeviceV1>([number.into(), 0]) })?;
    record.owner = plan.owner;
    record.guest_bdf = u32::from(plan.slot) << 3;
    record.identity = plan.identity;
    record.msi_capability = plan.msi.map_or(0, u32::from);
    if let Some(msix) = plan.msix {
        record.msix_capability = msix.capability.into();
        record.msix_entries = msix.entries.into();
        record.msix_table_bar = msix.table_bar.into();
        record.msix_table_offset = msix.table_offset;
        record.msix_pending_bar = msix.pending_bar.into();
        record.msix_pending_offset = msix.pending_offset;
    }
    if plan.resettable {
        record.flags |= DEVICE_RESETTABLE;
    }
    state.bars.extend(plan.bars.iter().map(|bar| {
        let mapped = plan.mapped.get(usize::from(bar.index)).copied().filter(|at| *at != UNMAPPED);
        let flag = |set, bit| if set { bit } else { 0 };
        BarV1 {
            host_base: bar.host.get(),
            bytes: bar.bytes,
            guest_base: mapped.unwrap_or(0),
            device: number,
            index: bar.index.into(),
            flags: flag(bar.wide, BAR_64)
                | flag(bar.prefetchable, BAR_PREFETCHABLE)
                | flag(mapped.is_some(), BAR_MAPPED),
            reserved: [0; 4],
        }
    }));
    Ok(())
}

/// Appends what the operator wants of devices. Part of the plan.
pub fn save_policy(state: &mut State, fault_limit: u32) {
    state.device_policy.push(DevicePolicyV1 { fault_limit, flags: 0 });
}

/// Faults of one device within a second that quarantine it, if the image before said.
#[must_use]
pub fn load_policy(state: &State) -> Option<u32> {
    state.device_policy.first().map(|policy| policy.fault_limit)
}

/// Appends the physical functions that have virtual ones. Part of the plan.
pub fn save_physical(state: &mut State, physical: &[Physical]) {
    state.physical_functions.extend(physical.iter().map(|physical| PhysicalFunctionV1 {
        bdf: bdf(physical.bdf),
        identity: physical.identity,
        device_id: physical.device.into(),
        count: physical.count.into(),
        first: physical.first.into(),
        stride: physical.stride.into(),
    }));
}

/// The physical functions that have virtual ones, for comparison with the hardware.
///
/// # Errors
/// A number that can't be.
pub fn load_physical(state: &State) -> Converted<Vec<Physical>> {
    let load = |record: &PhysicalFunctionV1| {
        Ok(sriov::recorded(
            function(record.bdf),
            record.identity,
            narrow(record, "device id", record.device_id)?,
            narrow(record, "number of functions", record.count)?,
            narrow(record, "place of the functions", record.first)?,
            narrow(record, "stride", record.stride)?,
        ))
    };
    state.physical_functions.iter().map(load).collect()
}

/// The devices of `owner` (zero for Baton's own) by their slots.
///
/// # Errors
/// A device that this image cannot be given.
pub fn load_plan(state: &State, owner: u64) -> Converted<Vec<FunctionPlan>> {
    let owned = state.devices.iter().filter(|record| record.owner == owner);
    let mut plans = owned.map(|record| plan(state, record)).collect::<Converted<Vec<_>>>()?;
    plans.sort_by_key(|plan| plan.slot);
    // A guest's devices have slots 1, 2, 3 and so on, in this order.
    for (expected, plan) in (1..).zip(&plans) {
        if owner != 0 && plan.slot != expected {
            let record = find(&state.devices, [bdf(plan.device).into(), 0])?;
            return super::refuse(record, "place in the guest", record.guest_bdf);
        }
    }
    Ok(plans)
}

fn plan(state: &State, record: &DeviceV1) -> Converted<FunctionPlan> {
    require(record.flags & !KNOWN_DEVICE_FLAGS == 0, record, "flags", record.flags)?;
    let in_guest = record.guest_bdf & 7 == 0 && record.guest_bdf >> 3 <= 31;
    require(in_guest, record, "place in the guest", record.guest_bdf)?;
    let key = u64::from(record.bdf);
    // This release gives guests no view of configuration space but its own.
    if let Some(config) = group(&state.configs, key).first() {
        return Err(ConvertError::Unexpected { record: config.name() });
    }
    let mut bars = Vec::new();
    let mapped = each_bar(state, record, |bar| bars.push(bar))?;
    Ok(FunctionPlan {
        device: function(record.bdf),
        owner: record.owner,
        slot: (record.guest_bdf >> 3) as u8,
        identity: record.identity,
        bars,
        mapped,
        msix: msix_place(record)?,
        msi: match record.msi_capability {
            0 => None,
            at => Some(narrow(record, "MSI capability", at)?),
        },
        resettable: record.flags & DEVICE_RESETTABLE != 0,
        ats: record.flags & DEVICE_ATS != 0,
    })
}

/// Shows a device's BARs; where the guest sees each.
fn each_bar(state: &State, record: &DeviceV1, mut show: impl FnMut(BarDescription)) -> Converted<[u64; BARS]> {
    let mut mapped = [UNMAPPED; BARS];
    for bar in group(&state.bars, record.bdf.into()) {
        require(bar.flags & !(BAR_64 | BAR_PREFETCHABLE | BAR_MAPPED) == 0, bar, "flags", bar.flags)?;
        let place = usize::try_from(bar.index).ok().and_then(|index| mapped.get_mut(index));
        let Some(place) = place else {
            return super::refuse(bar, "number", bar.index);
        };
        if bar.flags & BAR_MAPPED != 0 {
            require(bar.guest_base != UNMAPPED, bar, "guest address", bar.guest_base)?;
            *place = bar.guest_base;
        } else {
            require(bar.guest_base == 0, bar, "guest address without use", bar.guest_base)?;
        }
        show(BarDescription {
            index: narrow(bar, "number", bar.index)?,
            wide: bar.flags & BAR_64 != 0,
            prefetchable: bar.flags & BAR_PREFETCHABLE != 0,
            host: HostPhys(bar.host_base),
            bytes: bar.bytes,
        });
    }
    Ok(mapped)
}

fn msix_place(record: &DeviceV1) -> Converted<Option<MsixPlace>> {
    if record.msix_capability == 0 {
        require(record.msix_entries == 0, record, "MSI-X entries", record.msix_entries)?;
        return Ok(None);
    }
    let entries = record.msix_entries;
    require((1..=MSIX_ENTRIES).contains(&entries), record, "MSI-X entries", entries)?;
    let bar = |field, bar: u32| {
        require(bar < BARS as u32, record, field, bar)?;
        narrow(record, field, bar)
    };
    Ok(Some(MsixPlace {
        capability: narrow(record, "MSI-X capability", record.msix_capability)?,
        entries: narrow(record, "MSI-X entries", entries)?,
        table_bar: bar("BAR of the MSI-X table", record.msix_table_bar)?,
        table_offset: record.msix_table_offset,
        pending_bar: bar("BAR of the MSI-X pending bits", record.msix_pending_bar)?,
        pending_offset: record.msix_pending_offset,
    }))
}

/// Appends the registers and routes of guest `owner`'s functions. Part of the rest, after [`save_plan`] of each.
///
/// # Errors
/// A function has changed since the plan, or has a routed interrupt that is not in `routes`, or the other way round.
pub fn save(state: &mut State, owner: u64, functions: &[PciFunctionState], routes: &[RouteState]) -> Converted<()> {
    for function in functions {
        save_function(state, owner, function, routes)?;
    }
    for route in routes {
        let key = entry_key(route.device, route.entry);
        let routed = state.msix.iter().any(|entry| entry.key() == key && entry.irte == u32::from(route.irte));
        if !routed {
            return Err(ConvertError::Unsaved {
                record: name_of::<MsixV1>(key),
                what: "a route that no entry has, through remapping entry",
                value: route.irte.into(),
            });
        }
    }
    Ok(())
}

fn entry_key(device: Bdf, entry: u16) -> [u64; 2] {
    let minor = if entry == MSI_ENTRY { u64::from(MSIX_IS_MSI) << 32 } else { entry.into() };
    [bdf(device).into(), minor]
}

fn save_function(state: &mut State, owner: u64, function: &PciFunctionState, routes: &[RouteState]) -> Converted<()> {
    let device = Bdf::from_requester_id(function.segment, function.requester_id);
    let number = bdf(device);
    let planned = find_device(state, number)?;
    let moved = |what, value| {
        let record = name_of::<PciFunctionV1>([number.into(), 0]);
        Err(ConvertError::Unsaved { record, what, value })
    };
    if planned.owner != owner || planned.identity != function.identity {
        return moved("another owner or identity than planned,", function.identity.into());
    }
    for (at, planned) in function.mapped.iter().zip(each_bar(state, planned, |_| ())?) {
        if *at != planned {
            return moved("a BAR moved since the plan, to", *at);
        }
    }
    let entries = function.msix.as_ref().map_or(0, |msix| msix.entries.len());
    if entries != planned.msix_entries as usize {
        return moved("another number of MSI-X entries than planned,", entries as u64);
    }
    if function.msi.is_some() != (planned.msi_capability != 0) {
        return moved("MSI that was not planned,", 1);
    }
    let mut flags = 0;
    let mut set = |bit, yes: bool| flags |= if yes { bit } else { 0 };
    if let Some(msi) = &function.msi {
        set(FUNCTION_MSI, true);
        set(FUNCTION_MSI_ENABLED, msi.enabled != 0);
        let entry = MsixEntryState {
            guest: msi.guest,
            routed_guest: msi.guest,
            host: msi.host,
            control: msi.masked,
            routed: msi.routed,
            open: 0,
        };
        save_entry(state, device, MSI_ENTRY, &entry, routes)?;
    }
    if let Some(msix) = &function.msix {
        set(FUNCTION_MSIX, true);
        set(FUNCTION_MSIX_ENABLED, msix.enabled != 0);
        set(FUNCTION_MSIX_MASKED, msix.function_masked != 0);
        for (index, entry) in (0..).zip(&msix.entries) {
            save_entry(state, device, index, entry, routes)?;
        }
    }
    state.functions.push(PciFunctionV1 {
        device: number,
        bars: function.bars,
        command: function.command.into(),
        express_control: function.express_control,
        cache_line: function.cache_line.into(),
        interrupt_line: function.interrupt_line.into(),
        flags,
    });
    Ok(())
}

/// The record of a device while records are not in order yet.
fn find_device(state: &State, number: u32) -> Converted<&DeviceV1> {
    let record = state.devices.iter().find(|record| record.bdf == number);
    record.ok_or(ConvertError::Missing { record: name_of::<DeviceV1>([number.into(), 0]) })
}

/// Appends an entry, unless it is as after reset.
fn save_entry(
    state: &mut State,
    device: Bdf,
    index: u16,
    entry: &MsixEntryState,
    routes: &[RouteState],
) -> Converted<()> {
    let is_msi = index == MSI_ENTRY;
    let route = routes.iter().find(|route| route.device == device && route.entry == index);
    let route = match (route, entry.routed != 0) {
        (Some(route), true) if route.guest == entry.routed_guest => Some(route),
        (None, false) => None,
        _ => {
            return Err(ConvertError::Unsaved {
                record: name_of::<MsixV1>(entry_key(device, index)),
                what: "a routed interrupt that the router knows differently, its data",
                value: entry.routed_guest.data.into(),
            });
        }
    };
    let reset = MsixEntryState { control: u32::from(!is_msi), ..MsixEntryState::default() };
    if *entry == reset {
        return Ok(());
    }
    let mut flags = if is_msi { MSIX_IS_MSI } else { 0 };
    if entry.open != 0 {
        flags |= MSIX_OPEN;
    }
    if route.is_some_and(|route| route.pending) {
        flags |= MSIX_PENDING;
    }
    let routed = |value: u32| if route.is_some() { value } else { 0 };
    let routed_address = |value: u64| if route.is_some() { value } else { 0 };
    state.msix.push(MsixV1 {
        guest_address: entry.guest.address,
        routed_address: routed_address(entry.routed_guest.address),
        host_address: routed_address(entry.host.address),
        device: bdf(device),
        index: if is_msi { 0 } else { index.into() },
        guest_data: entry.guest.data,
        guest_control: entry.control,
        routed_data: routed(entry.routed_guest.data),
        host_data: routed(entry.host.data),
        irte: route.map_or(NO_IRTE, |route| route.irte.into()),
        host_vector: route.map_or(0, |route| route.host_vector.into()),
        pcpu: route.map_or(0, |route| route.pcpu),
        flags,
    });
    Ok(())
}

/// The functions that were planned so, by their slots, and the routes of their interrupts, into the lists of an earlier call: with as many
/// routes no memory is taken. `PciBus::restore` checks registers' bits.
///
/// # Errors
/// A record is missing, or holds what this image cannot take over.
pub fn load(
    state: &State,
    plans: &[FunctionPlan],
    functions: &mut Vec<PciFunctionState>,
    routes: &mut Vec<RouteState>,
) -> Converted<()> {
    routes.clear();
    functions.resize_with(plans.len(), PciFunctionState::default);
    plans.iter().zip(functions).try_for_each(|(plan, function)| load_function(state, plan, function, routes))
}

fn load_function(
    state: &State,
    plan: &FunctionPlan,
    function: &mut PciFunctionState,
    routes: &mut Vec<RouteState>,
) -> Converted<()> {
    let key = u64::from(bdf(plan.device));
    let record = find(&state.functions, [key, 0])?;
    let has = |bit: u32| record.flags & bit != 0;
    let known = FUNCTION_MSI | FUNCTION_MSI_ENABLED | FUNCTION_MSIX | FUNCTION_MSIX_ENABLED | FUNCTION_MSIX_MASKED;
    let fits = record.flags & !known == 0
        && has(FUNCTION_MSI) == plan.msi.is_some()
        && has(FUNCTION_MSIX) == plan.msix.is_some()
        && (has(FUNCTION_MSI) || !has(FUNCTION_MSI_ENABLED))
        && (has(FUNCTION_MSIX) || record.flags & (FUNCTION_MSIX_ENABLED | FUNCTION_MSIX_MASKED) == 0);
    require(fits, record, "flags", record.flags)?;
    let reset = MsixEntryState { control: 1, ..MsixEntryState::default() };
    let mut msi = plan.msi.map(|_| MsiState { enabled: has(FUNCTION_MSI_ENABLED).into(), ..MsiState::default() });
    let mut msix = plan.msix.map(|place| {
        let msix = function.msix.get_or_insert_default();
        msix.entries.clear();
        msix.entries.resize(usize::from(place.entries), reset);
        msix.enabled = has(FUNCTION_MSIX_ENABLED).into();
        msix.function_masked = has(FUNCTION_MSIX_MASKED).into();
        msix
    });
    for entry in group(&state.msix, key) {
        let loaded = load_entry(entry)?;
        let index = if entry.flags & MSIX_IS_MSI != 0 {
            let Some(msi) = &mut msi else {
                return Err(ConvertError::Unexpected { record: entry.name() });
            };
            require(entry.index == 0, entry, "number", entry.index)?;
            require(loaded.open == 0, entry, "flags", entry.flags)?;
            // The one message of MSI has no other message while a new route is made.
            let same = loaded.routed == 0 || loaded.routed_guest == loaded.guest;
            require(same, entry, "message when routed", entry.routed_data)?;
            msi.guest = loaded.guest;
            msi.host = loaded.host;
            msi.masked = loaded.control;
            msi.routed = loaded.routed;
            MSI_ENTRY
        } else {
            let entries = msix.as_deref_mut().map(|msix| msix.entries.as_mut_slice()).unwrap_or_default();
            let place = usize::try_from(entry.index).ok().and_then(|index| entries.get_mut(index));
            let Some(place) = place else {
                return super::refuse(entry, "number", entry.index);
            };
            *place = loaded;
            narrow(entry, "number", entry.index)?
        };
        if loaded.routed != 0 {
            routes.push(load_route(entry, plan.device, index)?);
        }
    }
    if msix.is_none() {
        function.msix = None;
    }
    function.msi = msi;
    function.mapped = plan.mapped;
    function.bars = record.bars;
    function.identity = plan.identity;
    function.express_control = record.express_control;
    function.segment = plan.device.segment();
    function.requester_id = plan.device.requester_id();
    function.command = narrow(record, "command register", record.command)?;
    function.cache_line = narrow(record, "cache line size", record.cache_line)?;
    function.interrupt_line = narrow(record, "interrupt line", record.interrupt_line)?;
    Ok(())
}

fn load_entry(entry: &MsixV1) -> Converted<MsixEntryState> {
    require(entry.flags & !(MSIX_IS_MSI | MSIX_OPEN | MSIX_PENDING) == 0, entry, "flags", entry.flags)?;
    flag(entry, "vector control", entry.guest_control)?;
    let routed = entry.irte != NO_IRTE;
    if !routed {
        let route = [
            ("routed address", entry.routed_address),
            ("host address", entry.host_address),
            ("routed data", entry.routed_data.into()),
            ("host data", entry.host_data.into()),
            ("host vector", entry.host_vector.into()),
            ("pCPU", entry.pcpu.into()),
            ("flags without route", (entry.flags & !MSIX_IS_MSI).into()),
        ];
        route.into_iter().try_for_each(|(field, value)| require(value == 0, entry, field, value))?;
    }
    let message = |address, data| MsiMessage { address, data };
    Ok(MsixEntryState {
        guest: message(entry.guest_address, entry.guest_data),
        routed_guest: message(entry.routed_address, entry.routed_data),
        host: message(entry.host_address, entry.host_data),
        control: entry.guest_control,
        routed: routed.into(),
        open: (entry.flags & MSIX_OPEN != 0).into(),
    })
}

fn load_route(entry: &MsixV1, device: Bdf, index: u16) -> Converted<RouteState> {
    require(entry.host_vector >= 32, entry, "host vector", entry.host_vector)?;
    Ok(RouteState {
        device,
        entry: index,
        guest: MsiMessage { address: entry.routed_address, data: entry.routed_data },
        irte: narrow(entry, "remapping entry", entry.irte)?,
        host_vector: narrow(entry, "host vector", entry.host_vector)?,
        pcpu: entry.pcpu,
        pending: entry.flags & MSIX_PENDING != 0,
    })
}
