//! Release 0.1, format 1: what the vCPUs of a guest share.

use alloc::vec::Vec;

use guest_loader::layout::UART_PORT;
use handover::State;
use handover::record::Record;
use handover::state::guest::CpuidV1;
use handover::state::is_zero;
use handover::state::lapic::GuestClockV1;
use handover::state::platform::{IoapicV1, LegacyV1, PciHostV1, UART_INPUT_MAX, UART_PIECE, UartInputV1, UartV1};

use super::{ConvertError, Converted, find, flag, group, name_of, require};
use crate::guest::clock::ClockState;
use crate::guest::cpuid::CpuidEntry;
use crate::guest::ioapic::IoapicState;
use crate::guest::legacy::{LegacyState, PitChannelState};
use crate::guest::platform::PlatformState;
use crate::guest::uart::UartState;

/// Appends what of a guest's platform never changes: its CPUID table. Part of the plan.
pub fn save_plan(state: &mut State, guest: u64, cpuid: &[CpuidEntry]) {
    state.cpuids.extend(cpuid.iter().map(|entry| CpuidV1 {
        guest,
        leaf: entry.leaf,
        subleaf: entry.subleaf,
        values: entry.values,
    }));
}

/// Appends the rest of a guest's platform but for its functions, which are [`super::pci::save`]'s. The power event goes into
/// [`super::guest::save_rest`].
///
/// # Errors
/// The UART's input is longer than it can be.
pub fn save(state: &mut State, guest: u64, platform: &PlatformState) -> Converted<()> {
    let clock = &platform.clock;
    state.guest_clocks.push(GuestClockV1 {
        guest,
        base_tsc: clock.base_tsc,
        base_ns: clock.base_ns,
        wall_base_ns: clock.wall_base_ns,
        tsc_khz: clock.tsc_khz,
        reserved: [0; 4],
    });
    let ioapic = &platform.ioapic;
    state.ioapics.push(IoapicV1 {
        guest,
        redirection: ioapic.entries,
        id: ioapic.id,
        select: ioapic.select,
        levels: ioapic.lines,
        reserved: [0; 4],
    });
    uart(state, guest, &platform.uart)?;
    legacy(state, guest, &platform.legacy);
    state.pci_hosts.push(PciHostV1 { guest, address: platform.pci.latch, reserved: [0; 4] });
    Ok(())
}

/// A guest's platform, for `CpuidTable::restore`, `GuestClock::new` and `GuestPlatform::restore`, which check registers' bits.
///
/// # Errors
/// A record is missing, or holds what this image cannot take over.
pub fn load(state: &State, guest: u64) -> Converted<PlatformState> {
    let mut platform = PlatformState { cpuid: load_cpuid(state, guest), ..PlatformState::default() };
    super::pci::load(state, &super::pci::load_plan(state, guest)?, &mut platform.pci.functions, &mut Vec::new())?;
    load_into(state, guest, &mut platform)?;
    Ok(platform)
}

/// Likewise, into what an earlier call has filled: takes no memory but for more input than there was. The functions, which are
/// [`super::pci::load`]'s, and the CPUID table, which does not change, are left as they are.
///
/// # Errors
/// As [`load`].
pub fn load_into(state: &State, guest: u64, platform: &mut PlatformState) -> Converted<()> {
    let key = [guest, 0];
    let clock = find(&state.guest_clocks, key)?;
    require(clock.tsc_khz > 0, clock, "TSC frequency", clock.tsc_khz)?;
    let ioapic = match group(&state.ioapics, guest) {
        [one] => one,
        [_, second, ..] => {
            return Err(ConvertError::Unexpected { record: second.name() });
        }
        [] => {
            return Err(ConvertError::Missing { record: name_of::<IoapicV1>(key) });
        }
    };
    let host = find(&state.pci_hosts, key)?;
    platform.pci.latch = host.address;
    platform.ioapic =
        IoapicState { entries: ioapic.redirection, lines: ioapic.levels, id: ioapic.id, select: ioapic.select };
    load_uart(state, guest, &mut platform.uart)?;
    platform.legacy = load_legacy(find(&state.legacies, key)?)?;
    platform.clock = ClockState {
        base_tsc: clock.base_tsc,
        base_ns: clock.base_ns,
        wall_base_ns: clock.wall_base_ns,
        tsc_khz: clock.tsc_khz,
    };
    platform.power = super::guest::load_power(state, guest)?;
    Ok(())
}

/// A guest's CPUID table, known since the plan. `CpuidTable::restore` checks its order.
#[must_use]
pub fn load_cpuid(state: &State, guest: u64) -> Vec<CpuidEntry> {
    let entry = |record: &CpuidV1| CpuidEntry { leaf: record.leaf, subleaf: record.subleaf, values: record.values };
    group(&state.cpuids, guest).iter().map(entry).collect()
}

fn uart(state: &mut State, guest: u64, uart: &UartState) -> Converted<()> {
    let port = u32::from(UART_PORT);
    let input_bytes = match u32::try_from(uart.input.len()) {
        Ok(bytes) if bytes <= UART_INPUT_MAX => bytes,
        _ => {
            return Err(ConvertError::Unsaved {
                record: name_of::<UartV1>([guest, port.into()]),
                what: "input of length",
                value: uart.input.len() as u64,
            });
        }
    };
    for (offset, piece) in (0..).step_by(UART_PIECE).zip(uart.input.chunks(UART_PIECE)) {
        let mut bytes = [0; UART_PIECE];
        if let Some(place) = bytes.get_mut(..piece.len()) {
            place.copy_from_slice(piece);
        }
        state.uart_inputs.push(UartInputV1 { guest, port, offset, bytes });
    }
    let [dll, dlm] = uart.divisor.to_le_bytes();
    state.uarts.push(UartV1 {
        guest,
        port,
        input_bytes,
        ier: uart.interrupt_enable,
        lcr: uart.line_control,
        mcr: uart.modem_control,
        msr: uart.modem_status,
        scr: uart.scratch,
        dll,
        dlm,
        fcr: uart.fifo_control,
        thr_pending: uart.transmitter_pending,
        overrun: uart.overrun,
        reserved: [0; 6],
    });
    Ok(())
}

fn load_uart(state: &State, guest: u64, uart: &mut UartState) -> Converted<()> {
    let record = find(&state.uarts, [guest, UART_PORT.into()])?;
    if let Some(other) = group(&state.uarts, guest).iter().find(|uart| uart.port != record.port) {
        return Err(ConvertError::Unexpected { record: other.name() });
    }
    require(record.input_bytes <= UART_INPUT_MAX, record, "bytes of input", record.input_bytes)?;
    flag(record, "transmitter interrupt", record.thr_pending)?;
    flag(record, "overrun", record.overrun)?;
    let pieces = group(&state.uart_inputs, guest);
    let due = record.input_bytes.div_ceil(UART_PIECE as u32);
    if pieces.len() != due as usize {
        return Err(ConvertError::Count {
            record: record.name(),
            what: "pieces of input",
            stored: due.into(),
            found: pieces.len() as u64,
        });
    }
    uart.input.clear();
    for (offset, piece) in (0u32..).step_by(UART_PIECE).zip(pieces) {
        require(piece.port == record.port, piece, "port", piece.port)?;
        require(piece.offset == offset, piece, "offset", piece.offset)?;
        let left = (record.input_bytes - offset) as usize;
        let (bytes, beyond) = piece.bytes.split_at_checked(left.min(UART_PIECE)).unwrap_or_default();
        require(is_zero(beyond), piece, "bytes past the end", offset)?;
        uart.input.extend_from_slice(bytes);
    }
    uart.divisor = u16::from_le_bytes([record.dll, record.dlm]);
    uart.interrupt_enable = record.ier;
    uart.fifo_control = record.fcr;
    uart.line_control = record.lcr;
    uart.modem_control = record.mcr;
    uart.modem_status = record.msr;
    uart.scratch = record.scr;
    uart.transmitter_pending = record.thr_pending;
    uart.overrun = record.overrun;
    Ok(())
}

fn legacy(state: &mut State, guest: u64, legacy: &LegacyState) {
    let pit = &legacy.pit;
    state.legacies.push(LegacyV1 {
        guest,
        pit_loaded_ns: pit.map(|channel| channel.loaded_ns),
        pit_reload: pit.map(|channel| channel.reload),
        pit_latched: pit.map(|channel| channel.latched),
        pit_is_latched: pit.map(|channel| channel.is_latched),
        pit_access: pit.map(|channel| channel.access),
        pit_mode: pit.map(|channel| channel.mode),
        pit_high_next: pit.map(|channel| channel.high_next),
        pit_low: pit.map(|channel| channel.low),
        cmos_index: legacy.cmos_index,
        port_61: legacy.port_61,
        refresh: legacy.refresh,
        reserved: [0; 10],
    });
}

fn load_legacy(record: &LegacyV1) -> Converted<LegacyState> {
    let mut pit = [PitChannelState::default(); 3];
    let numbers = (record.pit_loaded_ns.iter().zip(&record.pit_reload)).zip(&record.pit_latched);
    for (channel, ((loaded_ns, reload), latched)) in pit.iter_mut().zip(numbers) {
        (channel.loaded_ns, channel.reload, channel.latched) = (*loaded_ns, *reload, *latched);
    }
    let bits = (record.pit_is_latched.iter().zip(&record.pit_access)).zip(&record.pit_mode);
    let bits = bits.zip(record.pit_high_next.iter().zip(&record.pit_low));
    for (channel, (((is_latched, access), mode), (high_next, low))) in pit.iter_mut().zip(bits) {
        flag(record, "latch of a timer channel", *is_latched)?;
        flag(record, "byte order of a timer channel", *high_next)?;
        require(*access <= 3, record, "access of a timer channel", *access)?;
        require(*mode <= 7, record, "mode of a timer channel", *mode)?;
        (channel.is_latched, channel.access, channel.mode) = (*is_latched, *access, *mode);
        (channel.high_next, channel.low) = (*high_next, *low);
    }
    require(record.cmos_index < 128, record, "CMOS address", record.cmos_index)?;
    require(record.port_61 & !3 == 0, record, "port 0x61", record.port_61)?;
    require(record.refresh & !0x10 == 0, record, "refresh bit", record.refresh)?;
    Ok(LegacyState { pit, cmos_index: record.cmos_index, port_61: record.port_61, refresh: record.refresh })
}
