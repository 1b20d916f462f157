//! Loads and stores by guest linear address: RAM where there is RAM, devices elsewhere.

use machine::addr::{GuestPhys, PAGE_SIZE};

use super::super::bus::Bus;
use super::super::cpu::VirtualCpu;
use super::Stop;
use super::walk::{Access, Paging, walk};

/// The mask of a value of `width` bytes.
#[must_use]
pub const fn mask(width: u8) -> u64 {
    match width {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// The pieces of an access: at most two pages, whose addresses may have nothing in common.
struct Span {
    first: GuestPhys,
    /// Bytes on the first page.
    split: usize,
    second: Option<GuestPhys>,
}

fn span<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &C,
    bus: &mut B,
    linear: u64,
    width: u8,
    write: bool,
) -> Result<Span, Stop> {
    let paging = Paging::of(cpu);
    let access = Access { write, fetch: false, user: cpu.cpl() == 3 };
    let first = walk(bus, paging, linear, access)?;
    let room = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
    if usize::from(width) <= room {
        return Ok(Span { first, split: usize::from(width), second: None });
    }
    let second = walk(bus, paging, linear.wrapping_add(room as u64), access)?;
    Ok(Span { first, split: room, second: Some(second) })
}

fn load_piece<B: Bus + ?Sized>(bus: &mut B, at: GuestPhys, buffer: &mut [u8]) {
    if bus.read_memory(at, buffer).is_ok() {
        return;
    }
    if let width @ (1 | 2 | 4 | 8) = buffer.len() {
        let value = bus.mmio_read(at, width as u8).to_le_bytes();
        for (target, byte) in buffer.iter_mut().zip(value) {
            *target = byte;
        }
        return;
    }
    for (offset, byte) in buffer.iter_mut().enumerate() {
        *byte = bus.mmio_read(GuestPhys(at.get().wrapping_add(offset as u64)), 1) as u8;
    }
}

fn store_piece<B: Bus + ?Sized>(bus: &mut B, at: GuestPhys, bytes: &[u8]) {
    if bus.write_memory(at, bytes).is_ok() {
        return;
    }
    if let width @ (1 | 2 | 4 | 8) = bytes.len() {
        let mut value = [0u8; 8];
        for (target, byte) in value.iter_mut().zip(bytes) {
            *target = *byte;
        }
        bus.mmio_write(at, width as u8, u64::from_le_bytes(value));
        return;
    }
    for (offset, byte) in bytes.iter().enumerate() {
        bus.mmio_write(GuestPhys(at.get().wrapping_add(offset as u64)), 1, u64::from(*byte));
    }
}

/// Loads `width` bytes (1, 2, 4 or 8), zero-extended.
///
/// # Errors
/// The guest's own page fault, or page tables outside RAM.
pub fn load<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &C,
    bus: &mut B,
    linear: u64,
    width: u8,
) -> Result<u64, Stop> {
    let span = span(cpu, bus, linear, width, false)?;
    let mut bytes = [0u8; 8];
    let (first, rest) = bytes.split_at_mut(span.split.min(8));
    load_piece(bus, span.first, first);
    if let Some(second) = span.second {
        let left = usize::from(width).saturating_sub(span.split);
        if let Some(rest) = rest.get_mut(..left) {
            load_piece(bus, second, rest);
        }
    }
    Ok(u64::from_le_bytes(bytes) & mask(width))
}

/// Stores the low `width` bytes (1, 2, 4 or 8) of `value`.
///
/// # Errors
/// The guest's own page fault, or page tables outside RAM; nothing is stored then.
pub fn store<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &C,
    bus: &mut B,
    linear: u64,
    width: u8,
    value: u64,
) -> Result<(), Stop> {
    let span = span(cpu, bus, linear, width, true)?;
    let bytes = value.to_le_bytes();
    let (first, rest) = bytes.split_at(span.split.min(8));
    store_piece(bus, span.first, first);
    if let Some(second) = span.second {
        let left = usize::from(width).saturating_sub(span.split);
        if let Some(rest) = rest.get(..left) {
            store_piece(bus, second, rest);
        }
    }
    Ok(())
}

/// Checks that a store would not fault, so that what precedes it can be done for good.
///
/// # Errors
/// As for [`store`].
pub fn probe_store<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &C,
    bus: &mut B,
    linear: u64,
    width: u8,
) -> Result<(), Stop> {
    span(cpu, bus, linear, width, true).map(|_| ())
}
