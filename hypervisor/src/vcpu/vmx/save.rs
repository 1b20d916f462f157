//! Between the fields of a VMCS and the neutral state. What the VMCS does not hold (general registers but RSP, CR2, CR8, XCR0, DR0 to DR3,
//! DR6, the MSRs of SYSCALL, TSC_AUX, events) is the virtual CPU's own business.

use x86::vmx::vmcs::{control, guest};

use super::super::state::{
    ArchState, CR0_CD, CR0_NE, CR0_NW, CR0_PG, CR4_PAE, EFER_LMA, RFLAGS_FIXED, Segment, TableRegister,
};
use super::vmcs::{self, STEP};

/// Bits of CR0 that the guest does not have for itself: VMX wants NE set; CD and NW would reach the host's caches.
pub const CR0_HOST: u64 = CR0_NE | CR0_CD | CR0_NW;
/// Interruptibility state (SDM 3C table 25-3): blocking by STI, by MOV SS, by NMI.
pub const SHADOW: u64 = 3;
const BLOCKED_BY_STI: u64 = 1;
/// NMIs are blocked until IRET.
pub const NMI_BLOCKED: u64 = 1 << 3;
/// VM-entry control: the guest is in IA-32e mode.
pub const IA32E_MODE: u64 = 1 << 9;

/// CR0 as the guest sees it.
pub fn cr0() -> u64 {
    vmcs::read(guest::CR0) & !CR0_HOST | vmcs::read(control::CR0_READ_SHADOW) & CR0_HOST
}

/// Sets it.
pub fn set_cr0(value: u64) {
    vmcs::write(guest::CR0, value & !CR0_HOST | CR0_NE);
    vmcs::write(control::CR0_READ_SHADOW, value);
}

/// Sets EFER, and the mode that follows.
pub fn set_efer(value: u64) {
    vmcs::write(guest::IA32_EFER_FULL, value);
    let entry = vmcs::read(control::VMENTRY_CONTROLS) & !IA32E_MODE;
    vmcs::write(control::VMENTRY_CONTROLS, entry | if value & EFER_LMA != 0 { IA32E_MODE } else { 0 });
}

/// A segment register by its number in [`ArchState::segments`].
pub fn segment(index: u32) -> Segment {
    let at = index * STEP;
    Segment {
        selector: vmcs::read(guest::ES_SELECTOR + at) as u16,
        attributes: vmcs::read(guest::ES_ACCESS_RIGHTS + at) as u32,
        limit: vmcs::read(guest::ES_LIMIT + at) as u32,
        base: vmcs::read(guest::ES_BASE + at),
    }
}

/// Fills the current VMCS from a state that was checked. `cr4_host`: what VMX wants set.
pub fn write(s: &ArchState, cr4_host: u64) {
    for (at, segment) in (0..).step_by(STEP as usize).zip(&s.segments) {
        vmcs::write(guest::ES_SELECTOR + at, segment.selector.into());
        vmcs::write(guest::ES_ACCESS_RIGHTS + at, segment.attributes.into());
        vmcs::write(guest::ES_LIMIT + at, segment.limit.into());
        vmcs::write(guest::ES_BASE + at, segment.base);
    }
    set_cr0(s.cr0);
    set_efer(s.efer);
    vmcs::write(control::CR4_READ_SHADOW, 0);
    let interruptibility =
        if s.interrupt_shadow { BLOCKED_BY_STI } else { 0 } | if s.nmi_blocked { NMI_BLOCKED } else { 0 };
    for (field, value) in [
        (guest::CR3, s.cr3),
        (guest::CR4, s.cr4 | cr4_host),
        (guest::GDTR_LIMIT, s.gdtr.limit.into()),
        (guest::GDTR_BASE, s.gdtr.base),
        (guest::IDTR_LIMIT, s.idtr.limit.into()),
        (guest::IDTR_BASE, s.idtr.base),
        (guest::DR7, s.dr7),
        (guest::RSP, s.gprs[4]),
        (guest::RIP, s.rip),
        (guest::RFLAGS, s.rflags | RFLAGS_FIXED),
        (guest::IA32_PAT_FULL, s.pat),
        (guest::IA32_SYSENTER_CS, s.sysenter_cs),
        (guest::IA32_SYSENTER_ESP, s.sysenter_esp),
        (guest::IA32_SYSENTER_EIP, s.sysenter_eip),
        (control::TSC_OFFSET_FULL, s.tsc_offset),
        (guest::INTERRUPTIBILITY_STATE, interruptibility),
        (guest::ACTIVITY_STATE, 0),
        (guest::PENDING_DBG_EXCEPTIONS, 0),
        (guest::IA32_DEBUGCTL_FULL, 0),
        (guest::LINK_PTR_FULL, u64::MAX),
    ] {
        vmcs::write(field, value);
    }
}

/// Takes over what the current VMCS holds.
pub fn read(s: &mut ArchState, cr4_host: u64) {
    for (index, segment) in (0..).zip(&mut s.segments) {
        *segment = self::segment(index);
    }
    let table = |limit, base| TableRegister { limit: vmcs::read(limit) as u16, base: vmcs::read(base) };
    let interruptibility = vmcs::read(guest::INTERRUPTIBILITY_STATE);
    s.gprs[4] = vmcs::read(guest::RSP);
    s.rip = vmcs::read(guest::RIP);
    s.rflags = vmcs::read(guest::RFLAGS);
    s.cr0 = cr0();
    s.cr3 = vmcs::read(guest::CR3);
    s.cr4 = vmcs::read(guest::CR4) & !cr4_host;
    s.efer = vmcs::read(guest::IA32_EFER_FULL);
    s.dr7 = vmcs::read(guest::DR7);
    s.gdtr = table(guest::GDTR_LIMIT, guest::GDTR_BASE);
    s.idtr = table(guest::IDTR_LIMIT, guest::IDTR_BASE);
    s.pat = vmcs::read(guest::IA32_PAT_FULL);
    s.sysenter_cs = vmcs::read(guest::IA32_SYSENTER_CS);
    s.sysenter_esp = vmcs::read(guest::IA32_SYSENTER_ESP);
    s.sysenter_eip = vmcs::read(guest::IA32_SYSENTER_EIP);
    s.tsc_offset = vmcs::read(control::TSC_OFFSET_FULL);
    s.interrupt_shadow = interruptibility & SHADOW != 0;
    s.nmi_blocked = interruptibility & NMI_BLOCKED != 0;
}

/// Whether a guest in this state pages with PAE outside long mode: then the CPU wants the four entries at CR3 in the VMCS.
pub fn has_pdptes(s: &ArchState) -> bool {
    s.cr0 & CR0_PG != 0 && s.cr4 & CR4_PAE != 0 && s.efer & EFER_LMA == 0
}
