//! Fetching and decoding the instruction at RIP.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};
use machine::addr::{GuestPhys, PAGE_SIZE};

use super::super::bus::Bus;
use super::super::cpu::{Control, VirtualCpu};
use super::super::state::SegmentName;
use super::walk::{Access, Paging, walk};
use super::{InstructionBytes, MAX_INSTRUCTION, Stop};

/// Fetches up to 15 bytes at RIP. Fewer, if the next page cannot be read.
///
/// # Errors
/// The first byte cannot be fetched.
pub fn fetch<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &C, bus: &mut B) -> Result<InstructionBytes, Stop> {
    fetch_at(cpu, bus, linear_rip(cpu)).map(|(bytes, _)| bytes)
}

#[inline(always)]
fn linear_rip<C: VirtualCpu + ?Sized>(cpu: &C) -> u64 {
    if cpu.is_64bit() { cpu.rip() } else { cpu.segment(SegmentName::Cs).base.wrapping_add(cpu.rip()) & 0xffff_ffff }
}

/// Likewise, with the address of the first byte in the guest's memory.
fn fetch_at<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &C,
    bus: &mut B,
    linear: u64,
) -> Result<(InstructionBytes, GuestPhys), Stop> {
    let paging = Paging::of(cpu);
    let access = Access { write: false, fetch: true, user: cpu.cpl() == 3 };
    let mut out = InstructionBytes::default();
    let room = ((PAGE_SIZE - linear % PAGE_SIZE) as usize).min(MAX_INSTRUCTION);
    let first = walk(bus, paging, linear, access)?;
    let (head, tail) = out.bytes.split_at_mut(room);
    bus.read_memory(first, head).map_err(|_| Stop::NotRam(first))?;
    out.length = room;
    if !tail.is_empty()
        && let Ok(second) = walk(bus, paging, linear.wrapping_add(room as u64), access)
        && bus.read_memory(second, tail).is_ok()
    {
        out.length = MAX_INSTRUCTION;
    }
    Ok((out, first))
}

/// Fetches and decodes the instruction at RIP.
///
/// # Errors
/// It cannot be fetched, or is no instruction.
pub fn decode<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &C,
    bus: &mut B,
) -> Result<(Instruction, InstructionBytes), Stop> {
    let bytes = fetch(cpu, bus)?;
    let instruction = decode_bytes(&bytes, cpu.code_bits(), cpu.rip()).ok_or(Stop::NotEmulated(bytes))?;
    Ok((instruction, bytes))
}

fn decode_bytes(bytes: &InstructionBytes, bits: u32, rip: u64) -> Option<Instruction> {
    let mut decoder = Decoder::try_with_ip(bits, bytes.get(), rip, DecoderOptions::NONE).ok()?;
    let instruction = decoder.decode();
    (instruction.code() != Code::INVALID).then_some(instruction)
}

/// Where instructions that exit again and again lie in the guest's memory, so that their length is known without a walk of the guest's
/// page tables. Only for CPUs that don't tell the next RIP. An instruction counts as the one known while the bytes there are the same;
/// a guest that moves a page under RIP to a copy which differs in meaningless prefixes only could tell.
#[derive(Clone, Debug, Default)]
pub struct Lengths([Known; 8]);

#[derive(Clone, Copy, Debug)]
struct Known {
    linear: u64,
    cr3: u64,
    at: GuestPhys,
    /// Its bytes, and which of the four they are.
    bytes: u32,
    mask: u32,
    /// 0: none is known.
    length: u8,
}

impl Default for Known {
    fn default() -> Self {
        Self { linear: 0, cr3: 0, at: GuestPhys(0), bytes: 0, mask: 0, length: 0 }
    }
}

impl Lengths {
    #[inline(always)]
    fn place(&mut self, linear: u64) -> &mut Known {
        // Neighbours in a loop fall on different places.
        &mut self.0[(linear ^ linear >> 3) as usize % 8]
    }
}

/// Bytes read to see that a known instruction is still there.
const LOOK: usize = 4;

/// The length of the instruction at RIP, if it has exited before and is still there.
#[inline(always)]
pub fn known_length<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &C, bus: &mut B) -> Option<u8> {
    let linear = linear_rip(cpu);
    let known = *bus.lengths()?.place(linear);
    let mut bytes = [0; LOOK];
    let is_there = known.linear == linear
        && known.cr3 == cpu.control(Control::Cr3)
        && known.length != 0
        && bus.read_memory(known.at, &mut bytes).is_ok()
        && u32::from_le_bytes(bytes) & known.mask == known.bytes;
    is_there.then_some(known.length)
}

/// The length of the instruction at RIP.
///
/// # Errors
/// As for [`decode`].
#[inline(never)]
pub fn length<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &C, bus: &mut B) -> Result<u8, Stop> {
    let (linear, cr3) = (linear_rip(cpu), cpu.control(Control::Cr3));
    let (bytes, at) = fetch_at(cpu, bus, linear)?;
    if let Some(length) = common_length(bytes.get()) {
        // One look shall do: at the end of a page there would be two.
        let whole = linear % PAGE_SIZE + LOOK as u64 <= PAGE_SIZE;
        if let (Some(lengths), Some(first)) = (bus.lengths().filter(|_| whole), bytes.get().first_chunk::<LOOK>()) {
            let mask = u32::MAX >> (u32::BITS - 8 * u32::from(length));
            let bytes = u32::from_le_bytes(*first) & mask;
            *lengths.place(linear) = Known { linear, cr3, at, bytes, mask, length };
        }
        return Ok(length);
    }
    decode_bytes(&bytes, cpu.code_bits(), cpu.rip()).map(|i| i.len() as u8).ok_or(Stop::NotEmulated(bytes))
}

/// The lengths of what exits most, without prefixes, without the decoder.
fn common_length(bytes: &[u8]) -> Option<u8> {
    match bytes {
        // HLT
        [0xf4, ..] => Some(1),
        // CPUID, RDMSR, WRMSR, WBINVD, INVD
        [0x0f, 0xa2 | 0x32 | 0x30 | 0x09 | 0x08, ..] => Some(2),
        // VMMCALL, XSETBV
        [0x0f, 0x01, 0xd9 | 0xd1, ..] => Some(3),
        _ => None,
    }
}

/// Makes the decoder build its tables (it allocates, once), so that a later exit does not.
pub fn warm_up() {
    let nop = InstructionBytes { bytes: [0x90; MAX_INSTRUCTION], length: 1 };
    for bits in [16, 32, 64] {
        // Only the tables matter; a NOP decodes.
        let _ = decode_bytes(&nop, bits, 0);
    }
}

/// The linear address of memory operand `operand`.
pub fn linear_address<C: VirtualCpu + ?Sized>(cpu: &C, instruction: &Instruction, operand: u32) -> Option<u64> {
    let long = cpu.is_64bit();
    let address = instruction.virtual_address(operand, 0, |register, _, _| {
        let base = |name| Some(cpu.segment(name).base);
        match register {
            Register::FS => base(SegmentName::Fs),
            Register::GS => base(SegmentName::Gs),
            Register::ES | Register::CS | Register::SS | Register::DS if long => Some(0),
            Register::ES => base(SegmentName::Es),
            Register::CS => base(SegmentName::Cs),
            Register::SS => base(SegmentName::Ss),
            Register::DS => base(SegmentName::Ds),
            _ => super::registers::Gpr::from_iced(register).map(|gpr| gpr.read(cpu)),
        }
    })?;
    Some(if long { address } else { address & 0xffff_ffff })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{FakeCpu, RecorderBus};
    use super::*;

    /// As an exit asks.
    fn length(cpu: &FakeCpu, bus: &mut RecorderBus) -> Result<u8, Stop> {
        known_length(cpu, bus).map_or_else(|| super::length(cpu, bus), Ok)
    }

    #[test]
    fn lengths_with_and_without_prefix() {
        let mut bus = RecorderBus::with_ram(0x4000);
        let mut cpu = FakeCpu::long_mode_flat(&mut bus);
        for (bytes, length) in [
            (&[0x0f, 0xa2][..], 2),
            (&[0xf3, 0x48, 0x0f, 0xa2], 4), // rep rex.w cpuid
            (&[0x2e, 0x0f, 0x30], 3),       // cs wrmsr
            (&[0x0f, 0x01, 0xd9], 3),       // vmmcall
            (&[0xe6, 0x80], 2),             // out 80h, al
            (&[0x66, 0xef], 2),             // out dx, ax
            (&[0x44, 0x0f, 0x22, 0xc0], 4), // mov cr8, rax
        ] {
            cpu.state.rip = 0x1000;
            bus.put(0x1000, bytes);
            assert_eq!(self::length(&cpu, &mut bus), Ok(length), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_known_of_an_instruction_is_looked_at_again() {
        let mut bus = RecorderBus::with_ram(0x4000);
        let mut cpu = FakeCpu::long_mode_flat(&mut bus);
        cpu.state.rip = 0x1000;
        let looks = |bus: &mut RecorderBus, bytes: &[u8], length| {
            bus.put(0x1000, bytes);
            for _ in 0..2 {
                assert_eq!(self::length(&cpu, bus), Ok(length), "{bytes:x?}");
            }
        };
        looks(&mut bus, &[0x0f, 0xa2, 0x90], 2);
        // Other code in its place, with a prefix and without.
        looks(&mut bus, &[0x2e, 0x0f, 0xa2], 3);
        looks(&mut bus, &[0x0f, 0x01, 0xd9], 3);
        looks(&mut bus, &[0xf4, 0x90, 0x90], 1);
        // What follows an instruction is no part of it.
        looks(&mut bus, &[0xf4, 0x0f, 0xa2], 1);
        let reads = bus.reads;
        assert_eq!(length(&cpu, &mut bus), Ok(1));
        assert_eq!(bus.reads - reads, 1, "no walk");
        // The same place in another address space is another instruction.
        cpu.state.cr3 ^= 1 << 3;
        let reads = bus.reads;
        assert_eq!(length(&cpu, &mut bus), Ok(1));
        assert!(bus.reads - reads > 1, "a walk");
    }

    #[test]
    fn stops_at_the_end_of_memory() {
        let mut bus = RecorderBus::with_ram(0x4000);
        let mut cpu = FakeCpu::long_mode_flat(&mut bus);
        cpu.state.rip = 0x3fff;
        bus.put(0x3fff, &[0xf4]);
        assert_eq!(length(&cpu, &mut bus), Ok(1));
        bus.put(0x3fff, &[0x0f]);
        assert!(matches!(length(&cpu, &mut bus), Err(Stop::NotEmulated(_))));
        cpu.state.rip = 0x8000;
        assert!(matches!(length(&cpu, &mut bus), Err(Stop::NotRam(_))));
    }
}
