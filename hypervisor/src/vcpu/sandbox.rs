//! A virtual CPU without a platform, in which the next image gets ready (`upgrade::warm`), whatever the vendor: it runs in 64-bit mode on nested tables
//! that decide what it reaches; every exception, port, hypercall and MSR but a few ends it.
#![expect(unsafe_code, reason = "a virtual CPU is entered, MSRs are read")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use machine::access::TableMemory;
use machine::addr::HostPhys;

use super::event::PF;
use super::exit::Exit;
use super::hw;
use crate::trap::{dispatch, probe};

/// General registers by their number in instructions.
const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RBX: u8 = 3;
/// RDI likewise: it holds the argument at the start.
pub const RDI: usize = 7;
/// RDMSR, WRMSR and CPUID have two bytes.
const BYTES: u64 = 2;

/// Where the next image begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// RIP.
    pub rip: u64,
    /// RDI.
    pub argument: u64,
    /// CR3: tables in memory that the nested ones show as writable.
    pub tables: u64,
    /// Root of the nested tables.
    pub nested_root: HostPhys,
}

/// Why the sandbox stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An interrupt of the machine: it may go on later.
    Interrupted,
    /// It made a hypercall: RAX and RBX.
    Call {
        /// What it wants.
        number: u64,
        /// With what.
        argument: u64,
    },
    /// It did what it must not, and can't go on: what, and where.
    Fault {
        /// What, for a report.
        what: String,
        /// RIP.
        rip: u64,
    },
}

/// A sandbox's virtual CPU, as a vendor has it.
pub trait SandboxCpu {
    /// Enters it until the next exit.
    ///
    /// # Safety
    /// As for [`run`].
    unsafe fn enter(&mut self) -> Exit;
    /// A general register by its number in instructions, 0 to 3.
    fn gpr(&mut self, index: u8) -> u64;
    /// Sets it.
    fn set_gpr(&mut self, index: u8, value: u64);
    /// RIP.
    fn rip(&mut self) -> u64;
    /// Skips an instruction of so many bytes.
    fn skip(&mut self, bytes: u64);
    /// EFER as it sees it.
    fn efer(&mut self) -> u64;
    /// The address of the page fault that ended the last run.
    fn fault_address(&mut self) -> u64;
    /// The vendor's code of the last exit.
    fn exit_code(&mut self) -> u64;
    /// Gives its frames back.
    fn free(self: Box<Self>, frames: &mut dyn TableMemory);
}

/// Whether an MSR may be read: IA32_APIC_BASE, the x2APIC id, IA32_PAT, what VMX can do. Reading changes nothing.
fn is_readable(msr: u32) -> bool {
    matches!(msr, 0x1b | 0x802 | x86::msr::IA32_PAT | x86::msr::IA32_VMX_BASIC..=x86::msr::IA32_VMX_VMFUNC)
}

/// Runs it until something happens that is not its own business. No guest is loaded on this pCPU.
///
/// # Safety
/// CPL is 0, interrupts are off, virtualization is on here; the nested tables are alive and show nothing but what the sandbox may
/// touch.
pub unsafe fn run(cpu: &mut dyn SandboxCpu) -> Stop {
    loop {
        // SAFETY: by contract.
        let exit = unsafe { cpu.enter() };
        let what = match exit {
            Exit::ExternalInterrupt | Exit::Nmi => return Stop::Interrupted,
            Exit::Hypercall => return Stop::Call { number: cpu.gpr(RAX), argument: cpu.gpr(RBX) },
            Exit::Cpuid => {
                let result = hw::cpuid(cpu.gpr(RAX) as u32, cpu.gpr(RCX) as u32);
                [RAX, RBX, RCX, RDX].into_iter().zip(result).for_each(|(gpr, value)| cpu.set_gpr(gpr, value.into()));
                cpu.skip(BYTES);
                continue;
            }
            Exit::MsrRead if read_msr(cpu) => continue,
            Exit::MsrWrite if write_msr(cpu) => continue,
            Exit::MsrRead => format!("read MSR {:#x}", cpu.gpr(RCX)),
            Exit::MsrWrite => format!("wrote MSR {:#x}", cpu.gpr(RCX)),
            Exit::Exception { vector, error_code } => {
                let address = if vector == PF { cpu.fault_address() } else { 0 };
                format!("{}, error {error_code:#x}, address {address:#x}", dispatch::name(vector))
            }
            Exit::NestedFault(fault) => {
                let verb = if fault.write {
                    "wrote to"
                } else if fault.fetch {
                    "ran code at"
                } else {
                    "read"
                };
                format!("{verb} {}, which is not its own", fault.gpa)
            }
            Exit::Shutdown => String::from("triple fault"),
            Exit::Halt => String::from("halted"),
            Exit::Port(access) => format!("used port {:#x}", access.port),
            Exit::Invalid => String::from("its virtual CPU's state is refused by the CPU"),
            _ => format!("an instruction that it may not use (exit code {:#x})", cpu.exit_code()),
        };
        return Stop::Fault { what, rip: cpu.rip() };
    }
}

fn read_msr(cpu: &mut dyn SandboxCpu) -> bool {
    let value = match cpu.gpr(RCX) as u32 {
        x86::msr::IA32_EFER => Some(cpu.efer()),
        // SAFETY: reading them has no side effect.
        msr if is_readable(msr) => unsafe { probe::read_msr(msr) },
        _ => None,
    };
    let Some(value) = value else { return false };
    cpu.set_gpr(RDX, value >> 32);
    cpu.set_gpr(RAX, value & 0xffff_ffff);
    cpu.skip(BYTES);
    true
}

/// EFER may be written with what is in it.
fn write_msr(cpu: &mut dyn SandboxCpu) -> bool {
    let value = cpu.gpr(RDX) << 32 | cpu.gpr(RAX) & 0xffff_ffff;
    let same = cpu.gpr(RCX) as u32 == x86::msr::IA32_EFER && value == cpu.efer();
    if same {
        cpu.skip(BYTES);
    }
    same
}
