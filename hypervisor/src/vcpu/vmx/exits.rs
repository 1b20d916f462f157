//! Exit reasons of VMX (SDM 3D appendix C) in neutral words.

use machine::addr::GuestPhys;

use super::super::exit::{Exit, NestedFault, PortAccess};
use super::convert;

/// Basic exit reasons.
pub mod reason {
    #![allow(missing_docs, reason = "each constant is the event it names")]
    pub const EXCEPTION_OR_NMI: u32 = 0;
    pub const INTERRUPT: u32 = 1;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const INIT: u32 = 3;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const TASK_SWITCH: u32 = 9;
    pub const CPUID: u32 = 10;
    pub const GETSEC: u32 = 11;
    pub const HLT: u32 = 12;
    pub const INVD: u32 = 13;
    pub const RDPMC: u32 = 15;
    pub const VMCALL: u32 = 18;
    pub const VMCLEAR: u32 = 19;
    pub const VMXON: u32 = 27;
    pub const CR_ACCESS: u32 = 28;
    pub const IO: u32 = 30;
    pub const RDMSR: u32 = 31;
    pub const WRMSR: u32 = 32;
    pub const MWAIT: u32 = 36;
    pub const MONITOR: u32 = 39;
    pub const PAUSE: u32 = 40;
    pub const EPT_VIOLATION: u32 = 48;
    pub const INVEPT: u32 = 50;
    pub const INVVPID: u32 = 53;
    pub const WBINVD: u32 = 54;
    pub const XSETBV: u32 = 55;
    /// Bit 31: the entry failed.
    pub const ENTRY_FAILED: u32 = 1 << 31;
}

/// What hardware says about an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Information {
    /// Exit reason.
    pub reason: u32,
    /// Exit qualification.
    pub qualification: u64,
    /// Interruption information.
    pub interruption: u64,
    /// Its error code.
    pub error_code: u32,
    /// Guest-physical address.
    pub gpa: u64,
    /// Instruction information, where INS and OUTS have it.
    pub instruction: Option<u32>,
    /// Bits of the guest's default address size.
    pub code_bits: u32,
}

/// What an exit was.
#[must_use]
pub fn translate(info: &Information) -> Exit {
    match info.reason {
        failed if failed & reason::ENTRY_FAILED != 0 => Exit::Invalid,
        reason::EXCEPTION_OR_NMI if convert::kind(info.interruption) == convert::TYPE_NMI => Exit::Nmi,
        reason::EXCEPTION_OR_NMI => Exit::Exception { vector: info.interruption as u8, error_code: info.error_code },
        reason::INTERRUPT => Exit::ExternalInterrupt,
        reason::TRIPLE_FAULT => Exit::Shutdown,
        reason::INIT => Exit::Init,
        reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
        reason::NMI_WINDOW => Exit::NmiWindow,
        reason::TASK_SWITCH => Exit::TaskSwitch,
        reason::CPUID => Exit::Cpuid,
        reason::HLT => Exit::Halt,
        reason::INVD => Exit::Invd,
        reason::RDPMC => Exit::Rdpmc,
        reason::VMCALL => Exit::Hypercall,
        reason::GETSEC | reason::VMCLEAR..=reason::VMXON | reason::INVEPT | reason::INVVPID => Exit::VendorInstruction,
        reason::CR_ACCESS => control(info),
        reason::IO => port(info),
        reason::RDMSR => Exit::MsrRead,
        reason::WRMSR => Exit::MsrWrite,
        reason::MWAIT => Exit::Mwait,
        reason::MONITOR => Exit::Monitor,
        reason::PAUSE => Exit::Pause,
        reason::EPT_VIOLATION => {
            let bit = |number: u32| info.qualification >> number & 1 == 1;
            // SDM 3C table 28-7: 0 read, 1 write, 2 fetch; 5:3 what the tables allow; 7 a linear address, 8 of its final translation.
            Exit::NestedFault(NestedFault {
                gpa: GuestPhys(info.gpa),
                write: bit(1),
                fetch: bit(2),
                walk: bit(7) && !bit(8),
                present: info.qualification >> 3 & 7 != 0,
            })
        }
        reason::WBINVD => Exit::Wbinvd,
        reason::XSETBV => Exit::Xsetbv,
        other => Exit::Unknown { code: other.into() },
    }
}

/// A MOV to or from a control register (SDM 3C table 28-3); CLTS and LMSW touch no bit that is the host's.
fn control(info: &Information) -> Exit {
    let (register, gpr) = ((info.qualification & 0xf) as u8, Some((info.qualification >> 8 & 0xf) as u8));
    match info.qualification >> 4 & 3 {
        0 => Exit::ControlWrite { register, gpr },
        1 => Exit::ControlRead { register, gpr },
        _ => Exit::Unknown { code: info.reason.into() },
    }
}

/// SDM 3C table 28-5, and table 28-10 for the address size.
fn port(info: &Information) -> Exit {
    let q = info.qualification;
    let address_size = match info.instruction.map(|instruction| instruction >> 7 & 7) {
        Some(0) => 2,
        Some(1) => 4,
        Some(2) => 8,
        _ => (info.code_bits / 8) as u8,
    };
    Exit::Port(PortAccess {
        port: (q >> 16) as u16,
        width: (q & 7) as u8 + 1,
        write: q >> 3 & 1 == 0,
        string: q >> 4 & 1 == 1,
        rep: q >> 5 & 1 == 1,
        address_size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(reason: u32, qualification: u64) -> Exit {
        translate(&Information { reason, qualification, code_bits: 64, ..Information::default() })
    }

    #[test]
    fn ports() {
        // out dx, al with DX = 3F8h: size 0, direction 0.
        let access = PortAccess { port: 0x3f8, width: 1, write: true, string: false, rep: false, address_size: 8 };
        assert_eq!(exit(30, 0x03f8_0000), Exit::Port(access));
        // rep insd with 32-bit addresses from 1F0h: size 3, IN, string, REP.
        let info =
            Information { reason: 30, qualification: 0x01f0_003b, instruction: Some(1 << 7), ..Information::default() };
        let access = PortAccess { port: 0x1f0, width: 4, write: false, string: true, rep: true, address_size: 4 };
        assert_eq!(translate(&info), Exit::Port(access));
    }

    #[test]
    fn nested_faults() {
        let fault = |qualification| match translate(&Information {
            reason: 48,
            qualification,
            gpa: 0xfee0_0300,
            ..Information::default()
        }) {
            Exit::NestedFault(fault) => fault,
            other => panic!("{other:?}"),
        };
        let gpa = GuestPhys(0xfee0_0300);
        assert_eq!(fault(0x182), NestedFault { gpa, write: true, fetch: false, walk: false, present: false });
        // Read and fetch allowed, written to in a walk.
        assert_eq!(fault(0x0aa), NestedFault { gpa, write: true, fetch: false, walk: true, present: true });
        assert!(fault(0x184).fetch);
    }

    #[test]
    fn control_registers() {
        assert_eq!(exit(28, 0x308), Exit::ControlWrite { register: 8, gpr: Some(3) });
        assert_eq!(exit(28, 0xf18), Exit::ControlRead { register: 8, gpr: Some(15) });
    }

    #[test]
    fn reasons() {
        assert_eq!(exit(0x8000_0021, 0), Exit::Invalid, "an entry with a bad guest state");
        assert_eq!(exit(10, 0), Exit::Cpuid);
        assert_eq!(exit(18, 0), Exit::Hypercall);
        assert_eq!(exit(20, 0), Exit::VendorInstruction, "VMLAUNCH");
        assert_eq!(exit(49, 0), Exit::Unknown { code: 49 }, "an EPT misconfiguration");
        let nmi = Information { interruption: 0x8000_0202, ..Information::default() };
        assert_eq!(translate(&nmi), Exit::Nmi);
        let ac = Information { interruption: 0x8000_0b11, ..Information::default() };
        assert_eq!(translate(&ac), Exit::Exception { vector: 17, error_code: 0 });
    }
}
