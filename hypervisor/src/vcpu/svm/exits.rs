//! Exit codes of SVM (APM2 appendix C) in neutral words.

use machine::addr::GuestPhys;

use super::super::exit::{Exit, NestedFault, PortAccess};
use super::features::SvmFeatures;
use super::vmcb::{Control, code};

/// What an exit was.
#[must_use]
#[inline(always)]
pub fn translate(control: &Control, features: SvmFeatures) -> Exit {
    let exit = control.exit_code;
    if exit as u32 == code::INVALID_LOW {
        return Exit::Invalid;
    }
    let info1 = control.exit_info1;
    match exit {
        code::CR_READ..=code::CR_WRITE_LAST => {
            // APM2 15.33.1: bit 63 says MOV, and then bits 3:0 the register.
            let gpr =
                (features.contains(SvmFeatures::DECODE_ASSISTS) && info1 >> 63 == 1).then_some((info1 & 0xf) as u8);
            let register = (exit & 0xf) as u8;
            if exit < code::CR_WRITE {
                Exit::ControlRead { register, gpr }
            } else {
                Exit::ControlWrite { register, gpr }
            }
        }
        code::EXCEPTION..=code::EXCEPTION_LAST => {
            Exit::Exception { vector: (exit - code::EXCEPTION) as u8, error_code: info1 as u32 }
        }
        code::INTR => Exit::ExternalInterrupt,
        code::NMI => Exit::Nmi,
        code::INIT => Exit::Init,
        code::VINTR => Exit::InterruptWindow,
        code::IRET => Exit::NmiWindow,
        code::RDPMC => Exit::Rdpmc,
        code::CPUID => Exit::Cpuid,
        code::INVD => Exit::Invd,
        code::PAUSE => Exit::Pause,
        code::HLT => Exit::Halt,
        code::IOIO => port(info1),
        code::MSR if info1 & 1 == 0 => Exit::MsrRead,
        code::MSR => Exit::MsrWrite,
        code::TASK_SWITCH => Exit::TaskSwitch,
        code::SHUTDOWN => Exit::Shutdown,
        code::VMMCALL => Exit::Hypercall,
        code::VMRUN
        | code::VMLOAD..=code::SKINIT
        | code::INVLPGA
        | code::INVLPGB
        | code::INVLPGB_ILLEGAL
        | code::TLBSYNC => Exit::VendorInstruction,
        code::WBINVD => Exit::Wbinvd,
        code::MONITOR => Exit::Monitor,
        code::MWAIT | code::MWAIT_CONDITIONAL => Exit::Mwait,
        code::XSETBV => Exit::Xsetbv,
        code::NPF => Exit::NestedFault(NestedFault {
            gpa: GuestPhys(control.exit_info2),
            present: info1 & 1 != 0,
            write: info1 & 1 << 1 != 0,
            fetch: info1 & 1 << 4 != 0,
            // APM2 15.25.6: bit 32 the final address, bit 33 the walk of the guest's tables.
            walk: info1 >> 33 & 1 != 0,
        }),
        code => Exit::Unknown { code },
    }
}

/// EXITINFO1 of IOIO (APM2 15.10.2).
fn port(info: u64) -> Exit {
    Exit::Port(PortAccess {
        port: (info >> 16) as u16,
        width: if info & 1 << 4 != 0 {
            1
        } else if info & 1 << 5 != 0 {
            2
        } else {
            4
        },
        write: info & 1 == 0,
        string: info & 1 << 2 != 0,
        rep: info & 1 << 3 != 0,
        address_size: if info & 1 << 7 != 0 {
            2
        } else if info & 1 << 8 != 0 {
            4
        } else {
            8
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::vmcb::Vmcb;
    use super::*;

    fn exit(code: u64, info1: u64, info2: u64) -> Exit {
        let mut vmcb = Vmcb::zeroed();
        vmcb.control.exit_code = code;
        vmcb.control.exit_info1 = info1;
        vmcb.control.exit_info2 = info2;
        translate(&vmcb.control, SvmFeatures::empty())
    }

    #[test]
    fn ports() {
        // out 0x3f8, al from 64-bit code: port 3F8h, A64, SZ8, OUT.
        let access = PortAccess { port: 0x3f8, width: 1, write: true, string: false, rep: false, address_size: 8 };
        assert_eq!(exit(0x7b, 0x03f8_0210, 0), Exit::Port(access));
        // rep insd with 32-bit addresses from 1F0h.
        let access = PortAccess { port: 0x1f0, width: 4, write: false, string: true, rep: true, address_size: 4 };
        assert_eq!(exit(0x7b, 0x01f0_014d, 0), Exit::Port(access));
    }

    #[test]
    fn nested_faults() {
        let Exit::NestedFault(fault) = exit(0x400, 0x1_0000_0006, 0xfee0_0300) else { panic!("not a nested fault") };
        assert_eq!(
            fault,
            NestedFault { gpa: GuestPhys(0xfee0_0300), write: true, fetch: false, walk: false, present: false }
        );
        let Exit::NestedFault(fault) = exit(0x400, 0x2_0000_0014, 0x1000) else { panic!("not a nested fault") };
        assert!(fault.walk && fault.fetch && !fault.write);
    }

    #[test]
    fn invalid_in_both_widths() {
        assert_eq!(exit(0xffff_ffff, 0, 0), Exit::Invalid, "QEMU");
        assert_eq!(exit(u64::MAX, 0, 0), Exit::Invalid, "the manual, Bochs");
        assert_eq!(exit(0x402, 0, 0), Exit::Unknown { code: 0x402 });
    }

    #[test]
    fn codes() {
        assert_eq!(exit(0x72, 0, 0), Exit::Cpuid);
        assert_eq!(exit(0x7c, 1, 0), Exit::MsrWrite);
        assert_eq!(exit(0x80, 0, 0), Exit::VendorInstruction);
        assert_eq!(exit(0x81, 0, 0), Exit::Hypercall);
        assert_eq!(exit(0x86, 0, 0), Exit::VendorInstruction);
        assert_eq!(exit(0x18, 0, 0), Exit::ControlWrite { register: 8, gpr: None });
        assert_eq!(exit(0x51, 0, 0), Exit::Exception { vector: 17, error_code: 0 });
    }
}
