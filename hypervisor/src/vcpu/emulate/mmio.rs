//! Accesses to device memory: MOV and its relatives, arithmetic with a memory operand, string moves.

use iced_x86::{Code, Instruction, OpKind};

use super::super::bus::Bus;
use super::super::cpu::VirtualCpu;
use super::super::state::{RFLAGS_DF, RFLAGS_TF};
use super::action::{self, Action, BitChange};
use super::alu::{CF, STATUS, apply};
use super::decode::{decode, linear_address};
use super::memory::{load, mask, probe_store, store};
use super::registers::Gpr;
use super::{InstructionBytes, STRING_BYTES_PER_EXIT, Stop};

/// An operand that is not the address arithmetic's business.
#[derive(Clone, Copy)]
enum Operand {
    Register(Gpr),
    Immediate(u64),
    /// Linear address and width.
    Memory(u64, u8),
}

/// Performs the instruction at RIP, which touched memory that the nested tables do not map, and moves RIP past it.
///
/// # Errors
/// Nothing has changed in the guest then, but for the elements a string move has completed.
pub fn emulate<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> Result<(), Stop> {
    let (instruction, bytes) = decode(cpu, bus)?;
    let length = instruction.len() as u8;
    if let Some(string) = StringMove::of(&instruction) {
        if string.run(cpu, bus, &instruction).map_err(|stop| attach(stop, bytes))? {
            cpu.advance(length);
        }
        return Ok(());
    }
    execute(cpu, bus, &instruction).map_err(|stop| attach(stop, bytes))?;
    cpu.advance(length);
    Ok(())
}

/// What is not emulated is reported with its bytes.
fn attach(stop: Stop, bytes: InstructionBytes) -> Stop {
    if let Stop::NotEmulated(_) = stop { Stop::NotEmulated(bytes) } else { stop }
}

fn not_emulated() -> Stop {
    Stop::NotEmulated(InstructionBytes::default())
}

/// Bytes of a register or immediate operand; `None` for one in memory, which has as many as the other one.
fn own_width(instruction: &Instruction, index: u32) -> Option<u8> {
    match instruction.try_op_kind(index).ok()? {
        OpKind::Register => Gpr::from_iced(instruction.op_register(index)).map(|gpr| gpr.width),
        kind => action::immediate_width(kind),
    }
}

/// Operand `index`, of `width` bytes where it is in memory.
fn operand<C: VirtualCpu + ?Sized>(cpu: &C, instruction: &Instruction, index: u32, width: u8) -> Result<Operand, Stop> {
    Ok(match instruction.try_op_kind(index).map_err(|_| not_emulated())? {
        OpKind::Register => Operand::Register(Gpr::from_iced(instruction.op_register(index)).ok_or_else(not_emulated)?),
        OpKind::Memory => Operand::Memory(linear_address(cpu, instruction, index).ok_or_else(not_emulated)?, width),
        _ => Operand::Immediate(instruction.try_immediate(index).map_err(|_| not_emulated())?),
    })
}

fn read<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &C, bus: &mut B, operand: Operand) -> Result<u64, Stop> {
    match operand {
        Operand::Register(gpr) => Ok(gpr.read(cpu)),
        Operand::Immediate(value) => Ok(value),
        Operand::Memory(linear, width) => load(cpu, bus, linear, width),
    }
}

fn write<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &mut C,
    bus: &mut B,
    operand: Operand,
    value: u64,
) -> Result<(), Stop> {
    match operand {
        Operand::Register(gpr) => {
            gpr.write(cpu, value);
            Ok(())
        }
        Operand::Memory(linear, width) => store(cpu, bus, linear, width, value),
        Operand::Immediate(_) => Err(not_emulated()),
    }
}

const fn width(operand: Operand) -> Option<u8> {
    match operand {
        Operand::Register(gpr) => Some(gpr.width),
        Operand::Memory(_, width) => Some(width),
        Operand::Immediate(_) => None,
    }
}

fn sign_extend(value: u64, width: u8) -> u64 {
    match width {
        1 => i64::from(value as u8 as i8) as u64,
        2 => i64::from(value as u16 as i16) as u64,
        4 => i64::from(value as u32 as i32) as u64,
        _ => value,
    }
}

fn execute<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &mut C,
    bus: &mut B,
    instruction: &Instruction,
) -> Result<(), Stop> {
    let action = action::of(instruction.code()).ok_or_else(not_emulated)?;
    let in_memory = match action {
        Action::Extend { from, .. } => Some(from),
        Action::Bit { change, width } => return bit(cpu, bus, instruction, change, width),
        _ => own_width(instruction, 0).or_else(|| own_width(instruction, 1)),
    };
    let in_memory = in_memory.ok_or_else(not_emulated)?;
    let (target, source) = (operand(cpu, instruction, 0, in_memory)?, operand(cpu, instruction, 1, in_memory)?);
    let (operation, keeps) = match action {
        Action::Move => {
            let value = read(cpu, bus, source)?;
            return write(cpu, bus, target, value);
        }
        Action::Extend { from, signed } => {
            let value = read(cpu, bus, source)?;
            return write(cpu, bus, target, if signed { sign_extend(value, from) } else { value });
        }
        Action::Exchange => {
            // The memory operand may come first or second; it is locked either way.
            let (memory, register) = if let Operand::Memory(..) = target { (target, source) } else { (source, target) };
            let new = read(cpu, bus, register)?;
            if let Operand::Memory(linear, width) = memory {
                probe_store(cpu, bus, linear, width)?;
            }
            let old = read(cpu, bus, memory)?;
            write(cpu, bus, memory, new)?;
            return write(cpu, bus, register, old);
        }
        Action::Change(operation) => (operation, true),
        Action::Compare(operation) => (operation, false),
        Action::Bit { .. } => return Err(not_emulated()),
    };
    if let (Operand::Memory(linear, width), true) = (target, keeps) {
        // A read may have side effects: it must not happen before a fault of the write.
        probe_store(cpu, bus, linear, width)?;
    }
    let width = width(target).ok_or_else(not_emulated)?;
    let (a, b) = (read(cpu, bus, target)?, read(cpu, bus, source)?);
    let (result, flags) = apply(operation, a, b, width);
    if keeps {
        write(cpu, bus, target, result)?;
    }
    cpu.set_rflags(cpu.rflags() & !STATUS | flags);
    Ok(())
}

/// A bit of `width` bytes in memory, by the number in the other operand. In a register it reaches over all memory, in an immediate over
/// the operand (APM3, BT).
fn bit<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &mut C,
    bus: &mut B,
    instruction: &Instruction,
    change: BitChange,
    width: u8,
) -> Result<(), Stop> {
    let Operand::Memory(linear, _) = operand(cpu, instruction, 0, width)? else { return Err(not_emulated()) };
    let (number, distance) = match operand(cpu, instruction, 1, width)? {
        Operand::Register(gpr) => {
            let number = sign_extend(gpr.read(cpu), width);
            (number, (number as i64 >> (width * 8).trailing_zeros()).wrapping_mul(width.into()))
        }
        Operand::Immediate(number) => (number, 0),
        Operand::Memory(..) => return Err(not_emulated()),
    };
    let linear = linear.wrapping_add_signed(distance);
    let linear = if cpu.is_64bit() { linear } else { linear & 0xffff_ffff };
    if change != BitChange::Keep {
        // A read may have side effects: it must not happen before a fault of the write.
        probe_store(cpu, bus, linear, width)?;
    }
    let old = load(cpu, bus, linear, width)?;
    let bit = 1u64 << (number % (u64::from(width) * 8));
    match change {
        BitChange::Keep => {}
        BitChange::Set => store(cpu, bus, linear, width, old | bit)?,
        BitChange::Reset => store(cpu, bus, linear, width, old & !bit)?,
        BitChange::Complement => store(cpu, bus, linear, width, old ^ bit)?,
    }
    cpu.set_rflags(cpu.rflags() & !CF | if old & bit != 0 { CF } else { 0 });
    Ok(())
}

/// MOVS, STOS or LODS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Movs,
    Stos,
    Lods,
}

struct StringMove {
    kind: Kind,
    width: u8,
    /// Bytes of RSI, RDI and RCX that count.
    address_width: u8,
}

impl StringMove {
    fn of(instruction: &Instruction) -> Option<Self> {
        let (kind, width) = match instruction.code() {
            Code::Movsb_m8_m8 => (Kind::Movs, 1),
            Code::Movsw_m16_m16 => (Kind::Movs, 2),
            Code::Movsd_m32_m32 => (Kind::Movs, 4),
            Code::Movsq_m64_m64 => (Kind::Movs, 8),
            Code::Stosb_m8_AL => (Kind::Stos, 1),
            Code::Stosw_m16_AX => (Kind::Stos, 2),
            Code::Stosd_m32_EAX => (Kind::Stos, 4),
            Code::Stosq_m64_RAX => (Kind::Stos, 8),
            Code::Lodsb_AL_m8 => (Kind::Lods, 1),
            Code::Lodsw_AX_m16 => (Kind::Lods, 2),
            Code::Lodsd_EAX_m32 => (Kind::Lods, 4),
            Code::Lodsq_RAX_m64 => (Kind::Lods, 8),
            _ => return None,
        };
        let address_width = address_width(instruction)?;
        Some(Self { kind, width, address_width })
    }

    /// One exit's worth of elements; whether the instruction is complete.
    fn run<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
        &self,
        cpu: &mut C,
        bus: &mut B,
        instruction: &Instruction,
    ) -> Result<bool, Stop> {
        let rep = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let count = Gpr::low(1, self.address_width);
        let limit = STRING_BYTES_PER_EXIT / u64::from(self.width);
        for _ in 0..limit {
            if rep && count.read(cpu) == 0 {
                return Ok(true);
            }
            self.element(cpu, bus, instruction)?;
            if !rep {
                return Ok(true);
            }
            count.write(cpu, count.read(cpu).wrapping_sub(1));
            if stepped(cpu, count.read(cpu)) {
                return Ok(false);
            }
        }
        Ok(count.read(cpu) == 0)
    }

    fn element<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
        &self,
        cpu: &mut C,
        bus: &mut B,
        instruction: &Instruction,
    ) -> Result<(), Stop> {
        let address = |cpu: &C, operand| linear_address(cpu, instruction, operand).ok_or_else(not_emulated);
        let accumulator = Gpr::low(0, self.width);
        match self.kind {
            Kind::Movs => {
                let (to, from) = (address(cpu, 0)?, address(cpu, 1)?);
                probe_store(cpu, bus, to, self.width)?;
                let value = load(cpu, bus, from, self.width)?;
                store(cpu, bus, to, self.width, value)?;
                step(cpu, 6, self.address_width, self.width);
                step(cpu, 7, self.address_width, self.width);
            }
            Kind::Stos => {
                let to = address(cpu, 0)?;
                store(cpu, bus, to, self.width, accumulator.read(cpu) & mask(self.width))?;
                step(cpu, 7, self.address_width, self.width);
            }
            Kind::Lods => {
                let from = address(cpu, 1)?;
                let value = load(cpu, bus, from, self.width)?;
                accumulator.write(cpu, value);
                step(cpu, 6, self.address_width, self.width);
            }
        }
        Ok(())
    }
}

/// Bytes of the effective addresses of a string instruction.
pub(super) fn address_width(instruction: &Instruction) -> Option<u8> {
    // Behind the last operand an instruction says "register": op_count() would bring a table along.
    (0..2).find_map(|operand| match instruction.try_op_kind(operand).ok()? {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    })
}

/// Whether the guest single-steps and `left` elements of a repeated instruction are to come: the trap is taken after each (SDM 3B 18.3.1.4).
pub(super) fn stepped<C: VirtualCpu + ?Sized>(cpu: &mut C, left: u64) -> bool {
    let stepping = left != 0 && cpu.rflags() & RFLAGS_TF != 0;
    if stepping {
        cpu.advance_to(cpu.rip());
    }
    stepping
}

/// Moves RSI or RDI by one element, in the direction of DF.
pub(super) fn step<C: VirtualCpu + ?Sized>(cpu: &mut C, index: u8, address_width: u8, width: u8) {
    let register = Gpr::low(index, address_width);
    let old = register.read(cpu);
    let new = if cpu.rflags() & RFLAGS_DF != 0 {
        old.wrapping_sub(u64::from(width))
    } else {
        old.wrapping_add(u64::from(width))
    };
    register.write(cpu, new);
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
