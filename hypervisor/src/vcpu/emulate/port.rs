//! INS and OUTS.

use iced_x86::OpKind;

use super::super::bus::Bus;
use super::super::cpu::VirtualCpu;
use super::super::exit::PortAccess;
use super::decode::{decode, linear_address};
use super::memory::{load, probe_store, store};
use super::mmio::{address_width, step, stepped};
use super::registers::Gpr;
use super::{STRING_BYTES_PER_EXIT, Stop};

/// Performs one exit's worth of the string instruction at RIP, and moves RIP past it when it is complete.
///
/// # Errors
/// The elements before are done, and the registers say so.
pub fn emulate<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &mut C,
    bus: &mut B,
    access: PortAccess,
) -> Result<(), Stop> {
    let (instruction, bytes) = decode(cpu, bus)?;
    let memory = (0..2)
        .find(|i| instruction.try_op_kind(*i).is_ok_and(|kind| kind != OpKind::Register))
        .ok_or(Stop::NotEmulated(bytes))?;
    let address_width = address_width(&instruction).ok_or(Stop::NotEmulated(bytes))?;
    let width = access.width;
    let count = Gpr::low(1, address_width);
    let limit = STRING_BYTES_PER_EXIT / u64::from(width.max(1));
    let mut complete = !access.rep;
    for _ in 0..limit {
        if access.rep && count.read(cpu) == 0 {
            complete = true;
            break;
        }
        let linear = linear_address(cpu, &instruction, memory).ok_or(Stop::NotEmulated(bytes))?;
        if access.write {
            let value = load(cpu, bus, linear, width)?;
            bus.port_write(access.port, width, value as u32);
            step(cpu, 6, address_width, width);
        } else {
            // The port is not read before it is clear that its value can be kept.
            probe_store(cpu, bus, linear, width)?;
            let value = bus.port_read(access.port, width);
            store(cpu, bus, linear, width, u64::from(value))?;
            step(cpu, 7, address_width, width);
        }
        if !access.rep {
            break;
        }
        count.write(cpu, count.read(cpu).wrapping_sub(1));
        if stepped(cpu, count.read(cpu)) {
            return Ok(());
        }
    }
    if complete || count.read(cpu) == 0 {
        cpu.advance(instruction.len() as u8);
    }
    Ok(())
}
