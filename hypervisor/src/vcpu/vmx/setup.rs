//! The parts of a VMCS that are the same for a guest's virtual CPU and for the sandbox: its controls, and the host's state.
#![expect(unsafe_code, reason = "bitmaps that hardware reads, MSRs of the host")]

use machine::addr::{HostPhys, PAGE_SIZE};
use machine::cpu::{control as registers, tables};
use x86::msr;
use x86::vmx::vmcs::{control, host};

use super::super::frames::{FrameSource, OutOfFrames};
use super::super::hw;
use super::capabilities::VmxInfo;
use super::{entry, vmcs};

/// Every virtual CPU has this id: whoever is loaded flushes what another one left behind.
const VPID: u64 = 1;
/// EPTP: write-back, 4 levels (SDM 3C table 25-9).
const EPTP_FLAGS: u64 = 6 | 3 << 3;

/// MSRs that the guest reads and writes in the CPU itself: the VMCS switches them, or load and unload do.
const SWITCHED: [u32; 10] = [
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
    msr::IA32_FS_BASE,
    msr::IA32_GS_BASE,
    msr::IA32_KERNEL_GSBASE,
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
];

/// The MSR bitmap (SDM 3C 25.6.9): reads of 0 to 1FFFh, reads of C000_0000h to C000_1FFFh, the writes of both, a bit each.
fn msr_map() -> [u8; PAGE_SIZE as usize] {
    let mut map = [0xff; PAGE_SIZE as usize];
    for msr in SWITCHED {
        let start = if msr < 0x2000 { 0 } else { 0x400 };
        let byte = start + (msr & 0x1fff) as usize / 8;
        for at in [byte, byte + 0x800] {
            if let Some(byte) = map.get_mut(at) {
                *byte &= !(1 << (msr % 8));
            }
        }
    }
    map
}

/// Makes the MSR bitmap that serves all guests.
///
/// # Errors
/// No memory.
pub fn msr_bitmap(frames: &mut dyn FrameSource) -> Result<HostPhys, OutOfFrames> {
    let frame = frames.frame().ok_or(OutOfFrames)?;
    // SAFETY: the frame is ours alone and mapped writable at its address (contract of FrameSource).
    unsafe { core::ptr::with_exposed_provenance_mut::<[u8; 4096]>(frame.get() as usize).write(msr_map()) };
    Ok(frame)
}

/// What differs between virtual CPUs.
pub struct Controls {
    /// Exceptions that exit, a bit each.
    pub exceptions: u32,
    /// Primary controls besides the usual.
    pub primary: u32,
    /// Where MSR accesses go through; without, none does.
    pub msr_bitmap: Option<HostPhys>,
    /// Root of the EPT.
    pub nested_root: HostPhys,
    /// Bits of CR0 and CR4 that are the host's.
    pub host_bits: [u64; 2],
}

/// Fills the controls of the current VMCS.
pub fn write_controls(info: &VmxInfo, controls: &Controls) {
    let bitmaps = control::PrimaryControls::USE_MSR_BITMAPS.bits();
    let primary = if controls.msr_bitmap.is_some() { info.primary } else { info.primary & !bitmaps };
    for (field, value) in [
        (control::PINBASED_EXEC_CONTROLS, info.pin.into()),
        (control::PRIMARY_PROCBASED_EXEC_CONTROLS, (primary | controls.primary).into()),
        (control::SECONDARY_PROCBASED_EXEC_CONTROLS, info.secondary.into()),
        (control::VMEXIT_CONTROLS, info.exit.into()),
        (control::VMENTRY_CONTROLS, info.entry.into()),
        (control::EXCEPTION_BITMAP, controls.exceptions.into()),
        // With mask and match 0, the bitmap alone decides about #PF.
        (control::PAGE_FAULT_ERR_CODE_MASK, 0),
        (control::PAGE_FAULT_ERR_CODE_MATCH, 0),
        (control::CR3_TARGET_COUNT, 0),
        (control::VMEXIT_MSR_STORE_COUNT, 0),
        (control::VMEXIT_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_INTERRUPTION_INFO_FIELD, 0),
        (control::MSR_BITMAPS_ADDR_FULL, controls.msr_bitmap.map_or(0, HostPhys::get)),
        (control::VPID, VPID),
        (control::EPTP_FULL, controls.nested_root.get() | EPTP_FLAGS),
        (control::CR0_GUEST_HOST_MASK, controls.host_bits[0]),
        (control::CR4_GUEST_HOST_MASK, controls.host_bits[1]),
    ] {
        vmcs::write(field, value);
    }
}

/// Where the TSS of this pCPU lies, from its descriptor (SDM 3A 8.2.3).
fn task_base() -> u64 {
    let (gdt, selector) = (tables::gdt(), tables::task() & !7);
    let at = (gdt.base + u64::from(selector)) as usize as *const u64;
    // SAFETY: the task register holds a selector of the GDT in force, where a 64-bit TSS has two entries.
    let (low, high) = unsafe { (at.read(), at.add(1).read()) };
    low >> 16 & 0xff_ffff | (low >> 56) << 24 | high << 32
}

/// Fills the host's part of the current VMCS with this pCPU as it is: exits bring it back to this (SDM 3C 28.5).
pub fn write_host() {
    // SAFETY: every x86-64 CPU has these MSRs.
    let read = |number| unsafe { hw::rdmsr(number) };
    let base = |table: tables::TablePointer| table.base;
    for (field, value) in [
        (host::CS_SELECTOR, handover::jump::CODE_SELECTOR.into()),
        (host::SS_SELECTOR, handover::jump::DATA_SELECTOR.into()),
        (host::DS_SELECTOR, handover::jump::DATA_SELECTOR.into()),
        (host::ES_SELECTOR, handover::jump::DATA_SELECTOR.into()),
        (host::FS_SELECTOR, 0),
        (host::GS_SELECTOR, 0),
        (host::TR_SELECTOR, tables::task().into()),
        (host::TR_BASE, task_base()),
        (host::GDTR_BASE, base(tables::gdt())),
        (host::IDTR_BASE, base(tables::idt())),
        (host::FS_BASE, read(msr::IA32_FS_BASE)),
        (host::GS_BASE, read(msr::IA32_GS_BASE)),
        (host::CR0, registers::cr0()),
        (host::CR3, registers::cr3()),
        (host::CR4, registers::cr4()),
        (host::IA32_EFER_FULL, read(msr::IA32_EFER)),
        (host::IA32_PAT_FULL, read(msr::IA32_PAT)),
        (host::IA32_SYSENTER_CS, 0),
        (host::IA32_SYSENTER_ESP, 0),
        (host::IA32_SYSENTER_EIP, 0),
        (host::RIP, entry::exit_address()),
    ] {
        vmcs::write(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_the_msr_map() {
        let map = msr_map();
        // SYSENTER_CS, ESP, EIP: 174h to 176h, bits 4 to 6 of byte 2Eh; writes 800h further on.
        assert_eq!((map[0x2e], map[0x82e]), (0x8f, 0x8f));
        // STAR, LSTAR, CSTAR, SFMASK: C000_0081h to C000_0084h, bits 1 to 4 of byte 410h; EFER (C000_0080h) exits.
        assert_eq!((map[0x410], map[0xc10]), (0xe1, 0xe1));
        // FS_BASE, GS_BASE, KERNEL_GS_BASE: C000_0100h to C000_0102h; TSC_AUX (C000_0103h) exits.
        assert_eq!((map[0x420], map[0xc20]), (0xf8, 0xf8));
        assert_eq!(map.iter().filter(|byte| **byte != 0xff).count(), 6, "all else exits");
    }
}
