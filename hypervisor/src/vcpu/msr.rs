//! RDMSR and WRMSR of what the virtual CPU itself holds; the rest goes to the bus.

use super::bus::GeneralProtection;
use super::cpu::{Control, CpuMsr, VirtualCpu};
use super::limits::pat_is_valid;
use super::state::{CR0_PG, EFER_LMA, EFER_LME};

const TSC: u32 = x86::msr::IA32_TIME_STAMP_COUNTER;
const EFER: u32 = x86::msr::IA32_EFER;

fn held(msr: u32) -> Option<CpuMsr> {
    Some(match msr {
        x86::msr::IA32_PAT => CpuMsr::Pat,
        x86::msr::IA32_STAR => CpuMsr::Star,
        x86::msr::IA32_LSTAR => CpuMsr::Lstar,
        x86::msr::IA32_CSTAR => CpuMsr::Cstar,
        x86::msr::IA32_FMASK => CpuMsr::Sfmask,
        x86::msr::IA32_FS_BASE => CpuMsr::FsBase,
        x86::msr::IA32_GS_BASE => CpuMsr::GsBase,
        x86::msr::IA32_KERNEL_GSBASE => CpuMsr::KernelGsBase,
        x86::msr::IA32_SYSENTER_CS => CpuMsr::SysenterCs,
        x86::msr::IA32_SYSENTER_ESP => CpuMsr::SysenterEsp,
        x86::msr::IA32_SYSENTER_EIP => CpuMsr::SysenterEip,
        x86::msr::IA32_TSC_AUX => CpuMsr::TscAux,
        _ => return None,
    })
}

/// The value of `msr`, or `None` if it is not the virtual CPU's.
pub fn read<C: VirtualCpu + ?Sized>(cpu: &C, msr: u32) -> Option<u64> {
    match msr {
        TSC => Some(cpu.tsc()),
        EFER => Some(cpu.control(Control::Efer)),
        _ => held(msr).map(|which| cpu.msr(which)),
    }
}

/// Writes `msr`; `None` if it is not the virtual CPU's.
pub fn write<C: VirtualCpu + ?Sized>(cpu: &mut C, msr: u32, value: u64) -> Option<Result<(), GeneralProtection>> {
    match msr {
        TSC => {
            let host = cpu.tsc().wrapping_sub(cpu.tsc_offset());
            cpu.set_tsc_offset(value.wrapping_sub(host));
            return Some(Ok(()));
        }
        EFER => return Some(write_efer(cpu, value)),
        _ => {}
    }
    let which = held(msr)?;
    let cr4 = cpu.control(Control::Cr4);
    let acceptable = match which {
        CpuMsr::Pat => pat_is_valid(value),
        CpuMsr::Lstar
        | CpuMsr::Cstar
        | CpuMsr::FsBase
        | CpuMsr::GsBase
        | CpuMsr::KernelGsBase
        | CpuMsr::SysenterEsp
        | CpuMsr::SysenterEip => cpu.limits().is_canonical(value, cr4),
        CpuMsr::Sfmask | CpuMsr::TscAux => value >> 32 == 0,
        CpuMsr::Star | CpuMsr::SysenterCs => true,
    };
    Some(if acceptable {
        cpu.set_msr(which, value);
        Ok(())
    } else {
        Err(GeneralProtection)
    })
}

/// WRMSR of EFER (APM2 3.1.7): LMA is read-only here, LME changes only while paging is off.
fn write_efer<C: VirtualCpu + ?Sized>(cpu: &mut C, value: u64) -> Result<(), GeneralProtection> {
    let old = cpu.control(Control::Efer);
    let value = value & !EFER_LMA | old & EFER_LMA;
    if value & !cpu.limits().efer != 0 {
        return Err(GeneralProtection);
    }
    if (value ^ old) & EFER_LME != 0 && cpu.control(Control::Cr0) & CR0_PG != 0 {
        return Err(GeneralProtection);
    }
    cpu.set_control(Control::Efer, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeCpu;
    use super::*;

    #[test]
    fn efer_keeps_its_rules() {
        let mut cpu = FakeCpu::long_mode();
        let efer = read(&cpu, 0xc000_0080).unwrap();
        assert_eq!(efer, 0x500, "LME and LMA, no SVME");
        assert_eq!(write(&mut cpu, 0xc000_0080, 0x0), Some(Err(GeneralProtection)), "LME while paging");
        assert_eq!(write(&mut cpu, 0xc000_0080, 0x1500), Some(Err(GeneralProtection)), "SVME");
        assert_eq!(write(&mut cpu, 0xc000_0080, 0xd01), Some(Ok(())));
        assert_eq!(write(&mut cpu, 0xc000_0080, 0x901), Some(Ok(())), "LMA is ignored");
        assert_eq!(read(&cpu, 0xc000_0080), Some(0xd01));
    }

    #[test]
    fn values_are_checked() {
        let mut cpu = FakeCpu::long_mode();
        assert_eq!(write(&mut cpu, 0xc000_0082, 0x8000_0000_0000_0000), Some(Err(GeneralProtection)));
        assert_eq!(write(&mut cpu, 0x277, 0x0007_0406_0007_0402), Some(Err(GeneralProtection)), "type 2 is reserved");
        assert_eq!(write(&mut cpu, 0x277, 0x0007_0106_0007_0406), Some(Ok(())));
        assert_eq!(read(&cpu, 0x277), Some(0x0007_0106_0007_0406));
        assert_eq!(read(&cpu, 0x1b), None, "the APIC base is the bus's");
    }

    #[test]
    fn tsc_write_moves_the_offset() {
        let mut cpu = FakeCpu::long_mode();
        cpu.host_tsc = 1000;
        assert_eq!(write(&mut cpu, 0x10, 50), Some(Ok(())));
        assert_eq!(read(&cpu, 0x10), Some(50));
        cpu.host_tsc = 1100;
        assert_eq!(read(&cpu, 0x10), Some(150));
    }
}
