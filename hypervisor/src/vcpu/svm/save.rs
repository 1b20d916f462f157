//! Between the VMCB and the neutral state. What the VMCB does not hold (general registers but RAX and
//! RSP, XCR0, DR0 to DR3, TSC_AUX, events) is the virtual CPU's own business.

use super::super::state::{ArchState, EFER_SVME, RFLAGS_FIXED, SegmentName, TableRegister};
use super::convert::{segment_from_vmcb, segment_to_vmcb};
use super::vmcb::{INTERRUPT_SHADOW, Vmcb, VmcbSegment, int_ctl, misc1};

/// Fills the VMCB from a state that was checked.
pub fn write(vmcb: &mut Vmcb, s: &ArchState) {
    let c = &mut vmcb.control;
    c.tsc_offset = s.tsc_offset;
    c.interrupt_shadow = u64::from(s.interrupt_shadow);
    c.int_ctl = int_ctl::V_INTR_MASKING | s.cr8 & 0xf;
    c.intercept_misc1 &= !(misc1::VINTR | misc1::IRET);
    c.event_inj = 0;
    let table = |t: &TableRegister| VmcbSegment { limit: u32::from(t.limit), base: t.base, ..VmcbSegment::default() };
    let v = &mut vmcb.save;
    let [es, cs, ss, ds, fs, gs, ldtr, tr] = &s.segments;
    v.es = segment_to_vmcb(es);
    v.cs = segment_to_vmcb(cs);
    v.ss = segment_to_vmcb(ss);
    v.ds = segment_to_vmcb(ds);
    v.fs = segment_to_vmcb(fs);
    v.gs = segment_to_vmcb(gs);
    v.ldtr = segment_to_vmcb(ldtr);
    v.tr = segment_to_vmcb(tr);
    v.gdtr = table(&s.gdtr);
    v.idtr = table(&s.idtr);
    v.cpl = ss.dpl();
    v.efer = s.efer | EFER_SVME;
    v.cr0 = s.cr0;
    v.cr2 = s.cr2;
    v.cr3 = s.cr3;
    v.cr4 = s.cr4;
    v.dr6 = s.dr6;
    v.dr7 = s.dr7;
    v.rflags = s.rflags | RFLAGS_FIXED;
    v.rip = s.rip;
    v.rax = s.gprs[0];
    v.rsp = s.gprs[4];
    v.star = s.star;
    v.lstar = s.lstar;
    v.cstar = s.cstar;
    v.sfmask = s.sfmask;
    v.kernel_gs_base = s.kernel_gs_base;
    v.sysenter_cs = s.sysenter_cs;
    v.sysenter_esp = s.sysenter_esp;
    v.sysenter_eip = s.sysenter_eip;
    v.g_pat = s.pat;
}

/// The state as far as the VMCB holds it; the rest is as after reset.
pub fn read(vmcb: &Vmcb) -> ArchState {
    let c = &vmcb.control;
    let v = &vmcb.save;
    let table = |t: &VmcbSegment| TableRegister { limit: t.limit as u16, base: t.base };
    let mut segments = [&v.es, &v.cs, &v.ss, &v.ds, &v.fs, &v.gs, &v.ldtr, &v.tr].map(segment_from_vmcb);
    // CPL is what counts, and hardware may leave a stale DPL in SS (APM2 15.5.1).
    let ss = &mut segments[SegmentName::Ss as usize];
    ss.attributes = ss.attributes & !0x60 | u32::from(v.cpl & 3) << 5;
    ArchState {
        rip: v.rip,
        rflags: v.rflags,
        cr0: v.cr0,
        cr2: v.cr2,
        cr3: v.cr3,
        cr4: v.cr4,
        cr8: c.int_ctl & 0xf,
        efer: v.efer & !EFER_SVME,
        dr6: v.dr6,
        dr7: v.dr7,
        segments,
        gdtr: table(&v.gdtr),
        idtr: table(&v.idtr),
        pat: v.g_pat,
        star: v.star,
        lstar: v.lstar,
        cstar: v.cstar,
        sfmask: v.sfmask,
        kernel_gs_base: v.kernel_gs_base,
        sysenter_cs: v.sysenter_cs,
        sysenter_esp: v.sysenter_esp,
        sysenter_eip: v.sysenter_eip,
        tsc_offset: c.tsc_offset,
        interrupt_shadow: c.interrupt_shadow & INTERRUPT_SHADOW != 0,
        ..ArchState::reset()
    }
}
