//! Guests and their vCPUs.

use alloc::vec::Vec;

use super::ranges::{FRAME, frames, owned};
use super::{Checked, GraphError, count, follow, group, one_each, value};
use crate::record::{Record, RecordName};
use crate::state::guest::{
    CONSOLE_COM2, GUEST_RUNNING, GUEST_STOPPED, GuestV1, ON_UPGRADE_PRESERVE, ON_UPGRADE_STOP, POWER_RESET,
};
use crate::state::machine::OWNER_ARENA;
use crate::state::management::{MANAGEMENT_DHCP, ManagementV1, NO_NIC};
use crate::state::page::{VcpuPage, VcpuPlaceV1};
use crate::state::platform::{UART_INPUT_MAX, UART_PIECE, UartV1};
use crate::state::trust::{TRUST_UNSIGNED, TrustV1};
use crate::state::vcpu::{
    ACTIVITY_RUNNING, ACTIVITY_WAIT_FOR_SIPI, EVENT_HAS_ERROR, EVENT_SOFTWARE_EXCEPTION, NMI_BLOCKED, SHADOW_MOV_SS,
    SHADOW_STI, VcpuV1, XSAVE_MAX, XSAVE_PIECE,
};
use crate::state::{State, text};

pub(super) fn check(state: &State) -> Checked {
    for guest in &state.guests {
        value(text(&guest.name).is_some_and(|name| !name.is_empty()), guest, "name", 0)?;
        value(guest.console <= CONSOLE_COM2, guest, "console", guest.console.into())?;
        value(
            (ON_UPGRADE_PRESERVE..=ON_UPGRADE_STOP).contains(&guest.on_upgrade),
            guest,
            "upgrade policy",
            guest.on_upgrade.into(),
        )?;
        value(guest.vcpu_count > 0, guest, "vCPUs", 0)?;
        value(text(&guest.kernel).is_some(), guest, "kernel", 0)?;
        value(guest.number <= 0xffff, guest, "number", guest.number.into())?;
        let space = follow(guest, "address space", &state.spaces, [guest.space, 0])?;
        if space.guest != guest.token {
            return Err(GraphError::Mismatch {
                first: guest.name(),
                second: space.name(),
                what: "whose address space it is",
            });
        }
    }
    for entry in &state.cpuids {
        follow(entry, "guest", &state.guests, [entry.guest, 0])?;
    }
    for stopped in &state.stopped {
        value(text(&stopped.name).is_some_and(|name| !name.is_empty()), stopped, "name", 0)?;
    }
    places(state)?;
    super::device::counted(state)?;
    management(state)?;
    trust(state)
}

/// Either all vCPUs of a guest have a place, or none.
fn places(state: &State) -> Checked {
    let mut ranges = Vec::new();
    for place in &state.vcpu_places {
        follow(place, "guest", &state.guests, [place.guest, 0])?;
        follow(place, "pCPU", &state.pcpus, [place.pcpu.into(), 0])?;
        let fine = place.area_bytes <= XSAVE_MAX
            && place.page_offset >= place.area_bytes
            && place.page_offset.is_multiple_of(64)
            && place.page_offset <= 2 * XSAVE_MAX;
        value(fine, place, "offset of the page", place.page_offset.into())?;
        let bytes = place_bytes(place);
        frames(place, "address", place.base, bytes)?;
        owned(&state.regions, OWNER_ARENA, place, "address", place.base, bytes)?;
        ranges.push((place.base, bytes, place.name()));
    }
    ranges.sort_unstable_by_key(|(base, ..)| *base);
    for [first, second] in ranges.array_windows() {
        if first.0.saturating_add(first.1) > second.0 {
            return Err(GraphError::Overlap { first: first.2, second: second.2, address: second.0 });
        }
    }
    for guest in &state.guests {
        let places = group(&state.vcpu_places, guest.token);
        if !places.is_empty() {
            count(guest, "places of vCPUs", guest.vcpu_count.into(), places.len())?;
        }
        for (expected, place) in places.iter().enumerate() {
            value(u64::from(place.vcpu) == expected as u64, place, "number", place.vcpu.into())?;
        }
    }
    Ok(())
}

/// Bytes of the frames of a place.
#[must_use]
pub fn place_bytes(place: &VcpuPlaceV1) -> u64 {
    (u64::from(place.page_offset) + size_of::<VcpuPage>() as u64).next_multiple_of(FRAME)
}

fn trust(state: &State) -> Checked {
    match state.trusts.as_slice() {
        [] => Ok(()),
        [trust] => value(trust.flags & !TRUST_UNSIGNED == 0, trust, "flags", trust.flags.into()),
        several => Err(GraphError::NotOne { kind: TrustV1::NAME, found: several.len() }),
    }
}

fn management(state: &State) -> Checked {
    let management = match state.management.as_slice() {
        [] => return Ok(()),
        [one] => one,
        several => {
            return Err(GraphError::NotOne { kind: ManagementV1::NAME, found: several.len() });
        }
    };
    value(management.flags & !MANAGEMENT_DHCP == 0, management, "flags", management.flags.into())?;
    value(management.prefix <= 32, management, "prefix", management.prefix.into())?;
    value(management.port <= 0xffff, management, "port", management.port.into())?;
    match super::find(&state.devices, [management.nic.into(), 0]) {
        Some(device) if device.owner != 0 && management.nic != NO_NIC => Err(GraphError::Mismatch {
            first: management.name(),
            second: device.name(),
            what: "who owns the network card",
        }),
        _ => Ok(()),
    }
}

/// What a refresh replaces.
pub(super) fn check_rest(state: &State) -> Checked {
    one_each(&state.guests, &state.guest_rests)?;
    for rest in &state.guest_rests {
        value((GUEST_RUNNING..=GUEST_STOPPED).contains(&rest.state), rest, "state", rest.state.into())?;
        value(rest.power <= POWER_RESET, rest, "power", rest.power.into())?;
        value(text(&rest.reason).is_some(), rest, "reason", 0)?;
    }
    for guest in &state.guests {
        let vcpus = group(&state.vcpus, guest.token);
        let elsewhere = !group(&state.vcpu_places, guest.token).is_empty();
        let due = if guest.on_upgrade == ON_UPGRADE_PRESERVE && !elsewhere { guest.vcpu_count } else { 0 };
        count(guest, "vCPUs", due.into(), vcpus.len())?;
        for (expected, vcpu) in vcpus.iter().enumerate() {
            value(u64::from(vcpu.index) == expected as u64, vcpu, "number", vcpu.index.into())?;
        }
    }
    for vcpu in &state.vcpus {
        follow(vcpu, "guest", &state.guests, [vcpu.guest, 0])?;
        vcpu_fields(state, vcpu)?;
    }
    one_each(&state.vcpus, &state.lapics)?;
    one_each(&state.vcpus, &state.clocks)?;
    one_each(&state.vcpus, &state.vcpu_msrs)?;
    xsave(state)?;
    platform(state)
}

/// What a vCPU's own fields must be.
pub fn vcpu_fields(state: &State, vcpu: &VcpuV1) -> Checked {
    follow(vcpu, "pCPU", &state.pcpus, [vcpu.pcpu.into(), 0])?;
    value(
        (ACTIVITY_RUNNING..=ACTIVITY_WAIT_FOR_SIPI).contains(&vcpu.activity),
        vcpu,
        "activity",
        vcpu.activity.into(),
    )?;
    value(vcpu.shadow & !(SHADOW_STI | SHADOW_MOV_SS) == 0, vcpu, "interrupt shadow", vcpu.shadow.into())?;
    value(vcpu.event & !EVENT_HAS_ERROR <= EVENT_SOFTWARE_EXCEPTION, vcpu, "event", vcpu.event.into())?;
    value(vcpu.event_vector <= 0xff, vcpu, "vector", vcpu.event_vector.into())?;
    value(vcpu.nmi & !NMI_BLOCKED == 0, vcpu, "NMI state", vcpu.nmi.into())?;
    value(vcpu.xsave_bytes <= XSAVE_MAX, vcpu, "XSAVE bytes", vcpu.xsave_bytes.into())
}

/// The pieces of a vCPU stand together, those of the vCPUs in the order of the vCPUs.
fn xsave(state: &State) -> Checked {
    let mut pieces = state.xsave.as_slice();
    for vcpu in &state.vcpus {
        let own = pieces.iter().take_while(|piece| (piece.guest, piece.vcpu) == (vcpu.guest, vcpu.index)).count();
        count(vcpu, "XSAVE pieces", vcpu.xsave_pieces.into(), own)?;
        let (own, rest) = pieces.split_at_checked(own).unwrap_or_default();
        for piece in own {
            let fine = piece.offset < vcpu.xsave_bytes && (piece.offset as usize).is_multiple_of(XSAVE_PIECE);
            value(fine, piece, "offset", piece.offset.into())?;
            let used = (vcpu.xsave_bytes.saturating_sub(piece.offset)) as usize;
            let clean = piece.bytes.iter().skip(used).all(|byte| *byte == 0);
            value(clean, piece, "bytes past the end of the area", vcpu.xsave_bytes.into())?;
        }
        pieces = rest;
    }
    match pieces.first() {
        Some(piece) => {
            let target = RecordName { kind: VcpuV1::NAME, key: [piece.guest, piece.vcpu.into()] };
            Err(GraphError::Dangling { record: piece.name(), field: "vCPU", target })
        }
        None => Ok(()),
    }
}

fn platform(state: &State) -> Checked {
    let of_guest = |record: &dyn Fn() -> (RecordName, u64)| {
        let (record, token) = record();
        let target = RecordName { kind: GuestV1::NAME, key: [token, 0] };
        super::find(&state.guests, target.key).map(|_| ()).ok_or(GraphError::Dangling {
            record,
            field: "guest",
            target,
        })
    };
    for ioapic in &state.ioapics {
        of_guest(&|| (ioapic.name(), ioapic.guest))?;
    }
    for uart in &state.uarts {
        of_guest(&|| (uart.name(), uart.guest))?;
        value(uart.input_bytes <= UART_INPUT_MAX, uart, "bytes of input", uart.input_bytes.into())?;
        value(uart.port <= 0xffff, uart, "port", uart.port.into())?;
        value(uart.thr_pending <= 1 && uart.overrun <= 1, uart, "interrupt state", uart.thr_pending.into())?;
    }
    uart_input(state)?;
    for host in &state.pci_hosts {
        of_guest(&|| (host.name(), host.guest))?;
    }
    for legacy in &state.legacies {
        of_guest(&|| (legacy.name(), legacy.guest))?;
    }
    for clock in &state.guest_clocks {
        of_guest(&|| (clock.name(), clock.guest))?;
        value(clock.tsc_khz > 0, clock, "TSC frequency", 0)?;
    }
    Ok(())
}

/// The pieces of a UART's input stand together without gaps, those of the UARTs in the order of the UARTs.
fn uart_input(state: &State) -> Checked {
    let mut pieces = state.uart_inputs.iter();
    for uart in &state.uarts {
        let due = (uart.input_bytes as usize).div_ceil(UART_PIECE);
        for found in 0..due {
            let own = pieces.next().filter(|piece| (piece.guest, piece.port) == (uart.guest, uart.port));
            let Some(piece) = own else {
                return count(uart, "pieces of input", due as u64, found);
            };
            value(piece.offset as usize == found * UART_PIECE, piece, "offset", piece.offset.into())?;
        }
    }
    match pieces.next() {
        Some(piece) => Err(GraphError::Dangling {
            record: piece.name(),
            field: "UART",
            target: RecordName { kind: UartV1::NAME, key: [piece.guest, piece.port.into()] },
        }),
        None => Ok(()),
    }
}
