//! Fetching and decoding the instruction at RIP.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};
use machine::addr::PAGE_SIZE;

use super::super::bus::Bus;
use super::super::cpu::VirtualCpu;
use super::super::state::SegmentName;
use super::walk::{Access, Paging, walk};
use super::{InstructionBytes, MAX_INSTRUCTION, Stop};

/// Fetches up to 15 bytes at RIP. Fewer, if the next page cannot be read.
///
/// # Errors
/// The first byte cannot be fetched.
pub fn fetch<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &C, bus: &mut B) -> Result<InstructionBytes, Stop> {
    let paging = Paging::of(cpu);
    let access = Access { write: false, fetch: true, user: cpu.cpl() == 3 };
    let linear = if cpu.is_64bit() {
        cpu.rip()
    } else {
        cpu.segment(SegmentName::Cs).base.wrapping_add(cpu.rip()) & 0xffff_ffff
    };
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
    Ok(out)
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

/// The length of the instruction at RIP.
///
/// # Errors
/// As for [`decode`].
pub fn length<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &C, bus: &mut B) -> Result<u8, Stop> {
    let bytes = fetch(cpu, bus)?;
    if let Some(length) = common_length(bytes.get()) {
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
            assert_eq!(super::length(&cpu, &mut bus), Ok(length), "{bytes:x?}");
        }
    }

    #[test]
    fn stops_at_the_end_of_memory() {
        let mut bus = RecorderBus::with_ram(0x4000);
        let mut cpu = FakeCpu::long_mode_flat(&mut bus);
        cpu.state.rip = 0x3fff;
        bus.put(0x3fff, &[0xf4]);
        assert_eq!(super::length(&cpu, &mut bus), Ok(1));
        bus.put(0x3fff, &[0x0f]);
        assert!(matches!(super::length(&cpu, &mut bus), Err(Stop::NotEmulated(_))));
        cpu.state.rip = 0x8000;
        assert!(matches!(super::length(&cpu, &mut bus), Err(Stop::NotRam(_))));
    }
}
