//! What each exit means, once for all vendors.

use core::fmt;

use machine::addr::GuestPhys;

use super::bus::{Bus, CpuView};
use super::counters::ExitCounters;
use super::cpu::{Control, VirtualCpu};
use super::emulate::registers::Gpr;
use super::emulate::{InstructionBytes, Stop, decode, mmio, port};
use super::event::{DB, Event, MC, has_error_code};
use super::exit::{Exit, PortAccess};
use super::msr;
use super::state::{Activity, CR4_OSXSAVE};

/// What to do after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest again.
    Resume,
    /// The guest executed HLT.
    Halted,
    /// The pCPU has an interrupt to take.
    ExternalInterrupt,
    /// The guest shut down: a triple fault.
    Shutdown,
    /// The guest executed something that is not emulated, and got #UD. Worth a line in the log.
    Refused(InstructionBytes),
    /// The guest cannot go on.
    Fatal(Reason),
}

/// Why a guest cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Hardware refused its state.
    InvalidState,
    /// Its page tables or the instruction at RIP are not in its RAM.
    NotRam(GuestPhys),
    /// An interrupt or exception was delivered through what is not RAM.
    Delivery(GuestPhys),
    /// It executes from where no RAM is.
    FetchFromDevice(GuestPhys),
    /// The machine reported a hardware error while it ran.
    MachineCheck,
    /// A control register exit that nobody asked for.
    Control(u8),
    /// An exit that nobody asked for.
    Unknown(u64),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidState => {
                f.write_str("the CPU refused the virtual CPU's state (a bug of the hypervisor: report it)")
            }
            Self::NotRam(gpa) => {
                write!(f, "the guest's page tables or code point outside its RAM, at {gpa} (a bug of the guest)")
            }
            Self::Delivery(gpa) => {
                write!(f, "the guest's IDT, GDT, TSS or stack lies outside its RAM, at {gpa} (a bug of the guest)")
            }
            Self::FetchFromDevice(gpa) => {
                write!(f, "the guest executes device memory or nothing at {gpa} (a bug of the guest)")
            }
            Self::MachineCheck => f.write_str(
                "machine check: the hardware reported an error while the guest ran; see the machine's event log",
            ),
            Self::Control(register) => {
                write!(f, "unexpected exit for CR{register} (a bug of the hypervisor: report it)")
            }
            Self::Unknown(code) => write!(f, "unknown exit code {code:#x} (a bug of the hypervisor: report it)"),
        }
    }
}

/// Counts and answers `exit`. Those that come most are told apart here, in the run loop itself: an exit that is handed on is put together
/// in memory first.
#[inline(always)]
pub fn handle<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &mut C,
    bus: &mut B,
    counters: &mut ExitCounters,
    exit: Exit,
) -> Next {
    let result = match exit {
        Exit::ExternalInterrupt => {
            counters.count(&Exit::ExternalInterrupt);
            return Next::ExternalInterrupt;
        }
        Exit::Cpuid => {
            counters.count(&Exit::Cpuid);
            cpuid(cpu, bus)
        }
        Exit::Hypercall => {
            counters.count(&Exit::Hypercall);
            hypercall(cpu, bus)
        }
        Exit::MsrRead => {
            counters.count(&Exit::MsrRead);
            msr_read(cpu, bus)
        }
        Exit::MsrWrite => {
            counters.count(&Exit::MsrWrite);
            msr_write(cpu, bus)
        }
        Exit::Port(access) if !access.string => {
            counters.count(&Exit::Port(access));
            port_access(cpu, bus, access)
        }
        other => {
            counters.count(&other);
            return handle_rare(cpu, bus, other);
        }
    };
    match result {
        Ok(()) => Next::Resume,
        Err(stop) => stopped(cpu, stop),
    }
}

#[inline(never)]
fn handle_rare<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B, exit: Exit) -> Next {
    match try_handle(cpu, bus, exit) {
        Ok(next) => next,
        Err(stop) => stopped(cpu, stop),
    }
}

/// The instruction that exited was not completed.
#[inline(never)]
fn stopped<C: VirtualCpu + ?Sized>(cpu: &mut C, stop: Stop) -> Next {
    match stop {
        Stop::Event { event, cr2 } => {
            if let Some(address) = cr2 {
                cpu.set_control(Control::Cr2, address);
            }
            cpu.inject(event);
            Next::Resume
        }
        Stop::NotEmulated(bytes) => {
            cpu.inject(Event::undefined());
            Next::Refused(bytes)
        }
        Stop::NotRam(gpa) => Next::Fatal(Reason::NotRam(gpa)),
    }
}

fn try_handle<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B, exit: Exit) -> Result<Next, Stop> {
    match exit {
        Exit::ExternalInterrupt | Exit::Nmi | Exit::Init => return Ok(Next::ExternalInterrupt),
        Exit::InterruptWindow | Exit::NmiWindow => {}
        // `handle` has answered these.
        Exit::Cpuid | Exit::Hypercall | Exit::MsrRead | Exit::MsrWrite => {}
        Exit::Halt => {
            skip(cpu, bus)?;
            cpu.set_activity(Activity::Halted);
            return Ok(Next::Halted);
        }
        // The caches are coherent and guests own no memory type that needs them written back: nothing to do.
        Exit::Pause | Exit::Invd | Exit::Wbinvd => skip(cpu, bus)?,
        Exit::Rdpmc | Exit::TaskSwitch => cpu.inject(Event::general_protection()),
        Exit::Monitor | Exit::Mwait | Exit::VendorInstruction => cpu.inject(Event::undefined()),
        Exit::Xsetbv => xsetbv(cpu, bus)?,
        Exit::Port(access) => port::emulate(cpu, bus, access)?,
        Exit::ControlRead { register: 8, gpr } => {
            let (gpr, length) = control_operand(cpu, bus, gpr, 1)?;
            gpr.write(cpu, cpu.control(Control::Cr8));
            cpu.advance(length);
        }
        Exit::ControlWrite { register: 8, gpr } => {
            let (gpr, length) = control_operand(cpu, bus, gpr, 0)?;
            let value = gpr.read(cpu);
            if value > 15 {
                cpu.inject(Event::general_protection());
            } else {
                cpu.set_control(Control::Cr8, value);
                bus.set_task_priority(value as u8);
                cpu.advance(length);
            }
        }
        Exit::ControlRead { register, .. } | Exit::ControlWrite { register, .. } => {
            return Ok(Next::Fatal(Reason::Control(register)));
        }
        Exit::NestedFault(fault) if fault.fetch => {
            return Ok(Next::Fatal(Reason::FetchFromDevice(fault.gpa)));
        }
        Exit::NestedFault(fault) if fault.walk => {
            return Ok(Next::Fatal(Reason::NotRam(fault.gpa)));
        }
        // Not the instruction at RIP but an event on its way to it reached there.
        Exit::NestedFault(fault) if cpu.pending_event().is_some() => {
            return Ok(Next::Fatal(Reason::Delivery(fault.gpa)));
        }
        Exit::NestedFault(_) => mmio::emulate(cpu, bus)?,
        Exit::Exception { vector: MC, .. } => return Ok(Next::Fatal(Reason::MachineCheck)),
        // Intercepted only because their delivery may recurse without end (CVE-2015-5307, CVE-2015-8104).
        Exit::Exception { vector: DB, .. } => cpu.inject(Event::exception(DB)),
        Exit::Exception { vector, error_code } => {
            let event =
                if has_error_code(vector) { Event::fault(vector, error_code) } else { Event::exception(vector) };
            if !event.is_valid() {
                return Ok(Next::Fatal(Reason::Unknown(u64::from(vector))));
            }
            cpu.inject(event);
        }
        Exit::Shutdown => return Ok(Next::Shutdown),
        Exit::Invalid => return Ok(Next::Fatal(Reason::InvalidState)),
        Exit::Unknown { code } => return Ok(Next::Fatal(Reason::Unknown(code))),
    }
    Ok(Next::Resume)
}

/// Where the instruction that exited ends.
#[inline(always)]
fn next_rip<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &C, bus: &mut B) -> Result<u64, Stop> {
    if let Some(next) = cpu.next_rip() {
        return Ok(next);
    }
    let length = match decode::known_length(cpu, bus) {
        Some(known) => known,
        None => decode::length(cpu, bus)?,
    };
    let next = cpu.rip().wrapping_add(u64::from(length));
    Ok(if cpu.is_64bit() { next } else { next & 0xffff_ffff })
}

fn skip<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> Result<(), Stop> {
    let next = next_rip(cpu, bus)?;
    cpu.advance_to(next);
    Ok(())
}

fn low32<C: VirtualCpu + ?Sized>(cpu: &C, index: u8) -> u32 {
    cpu.gpr(index) as u32
}

/// EDX:EAX.
fn pair<C: VirtualCpu + ?Sized>(cpu: &C) -> u64 {
    u64::from(low32(cpu, 0)) | u64::from(low32(cpu, 2)) << 32
}

fn view<C: VirtualCpu + ?Sized>(cpu: &C) -> CpuView {
    CpuView { cr4: cpu.control(Control::Cr4), xcr0: cpu.control(Control::Xcr0) }
}

#[inline(always)]
fn cpuid<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> Result<(), Stop> {
    let next = next_rip(cpu, bus)?;
    let leaf = low32(cpu, 0);
    let view = if matches!(leaf, 1 | 7 | 0xd) { view(cpu) } else { CpuView::default() };
    let [eax, ebx, ecx, edx] = bus.cpuid(leaf, low32(cpu, 1), view);
    cpu.set_gpr(0, u64::from(eax));
    cpu.set_gpr(3, u64::from(ebx));
    cpu.set_gpr(1, u64::from(ecx));
    cpu.set_gpr(2, u64::from(edx));
    cpu.advance_to(next);
    Ok(())
}

#[inline(always)]
fn port_access<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &mut C,
    bus: &mut B,
    access: PortAccess,
) -> Result<(), Stop> {
    let next = next_rip(cpu, bus)?;
    let accumulator = Gpr::low(0, access.width);
    if access.write {
        bus.port_write(access.port, access.width, accumulator.read(cpu) as u32);
    } else {
        let value = bus.port_read(access.port, access.width);
        accumulator.write(cpu, u64::from(value));
    }
    cpu.advance_to(next);
    Ok(())
}

#[inline(always)]
fn msr_read<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> Result<(), Stop> {
    let next = next_rip(cpu, bus)?;
    let number = low32(cpu, 1);
    match msr::read(cpu, number).map_or_else(|| bus.msr_read(number), Ok) {
        Ok(value) => {
            cpu.set_gpr(0, value & 0xffff_ffff);
            cpu.set_gpr(2, value >> 32);
            cpu.advance_to(next);
        }
        Err(_) => cpu.inject(Event::general_protection()),
    }
    Ok(())
}

#[inline(always)]
fn msr_write<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> Result<(), Stop> {
    let next = next_rip(cpu, bus)?;
    let (number, value) = (low32(cpu, 1), pair(cpu));
    let result = match msr::write(cpu, number, value) {
        Some(result) => result,
        None => bus.msr_write(number, value),
    };
    match result {
        Ok(()) => cpu.advance_to(next),
        Err(_) => cpu.inject(Event::general_protection()),
    }
    Ok(())
}

#[inline(always)]
fn hypercall<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> Result<(), Stop> {
    /// KVM_EPERM: the convention's answer to user space.
    const DENIED: u64 = (-1i64) as u64;
    let next = next_rip(cpu, bus)?;
    let mask = if cpu.is_64bit() { u64::MAX } else { 0xffff_ffff };
    let argument = |index| cpu.gpr(index) & mask;
    let (number, arguments) = (argument(0), [argument(3), argument(1), argument(2), argument(6)]);
    let result = if cpu.cpl() == 0 { bus.hypercall(number, arguments) } else { DENIED };
    cpu.set_gpr(0, result & mask);
    cpu.advance_to(next);
    Ok(())
}

/// XSETBV (SDM 2C): #UD without OSXSAVE, #GP for everything that is not a legal XCR0 of this guest.
fn xsetbv<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> Result<(), Stop> {
    if cpu.control(Control::Cr4) & CR4_OSXSAVE == 0 {
        cpu.inject(Event::undefined());
        return Ok(());
    }
    let next = next_rip(cpu, bus)?;
    let value = pair(cpu);
    let [low, _, _, high] = bus.cpuid(0xd, 0, view(cpu));
    let announced = u64::from(low) | u64::from(high) << 32;
    if cpu.cpl() != 0 || low32(cpu, 1) != 0 || !cpu.limits().xcr0_is_valid(value) || value & !announced != 0 {
        cpu.inject(Event::general_protection());
        return Ok(());
    }
    cpu.set_control(Control::Xcr0, value);
    cpu.advance_to(next);
    Ok(())
}

/// The general register of the MOV CR at RIP, and the instruction's length.
fn control_operand<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &C,
    bus: &mut B,
    known: Option<u8>,
    control: u32,
) -> Result<(Gpr, u8), Stop> {
    let width = if cpu.is_64bit() { 8 } else { 4 };
    if let (Some(index), Some(next)) = (known, cpu.next_rip()) {
        return Ok((Gpr::low(index, width), next.wrapping_sub(cpu.rip()) as u8));
    }
    let (instruction, bytes) = decode::decode(cpu, bus)?;
    // MOV CRn, reg has the control register as operand 0, MOV reg, CRn as operand 1.
    let operand = 1 - control.min(1);
    let register = instruction.try_op_register(operand).map_err(|_| Stop::NotEmulated(bytes))?;
    let gpr = Gpr::from_iced(register).ok_or(Stop::NotEmulated(bytes))?;
    Ok((Gpr::low(gpr.index, width), instruction.len() as u8))
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
