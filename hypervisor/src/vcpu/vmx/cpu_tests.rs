extern crate std;
use std::boxed::Box;

use super::super::super::event::{GP, PF};
use super::super::super::testing::LIMITS;
use super::super::capabilities::tests::haswell;
use super::super::enable::CR4_VMXE;
use super::*;

/// Frames that are never given back.
struct Leak;

#[repr(align(4096))]
struct Frame(#[expect(dead_code, reason = "reached by address only")] [u8; 4096]);

impl FrameSource for Leak {
    fn contiguous(&mut self, count: usize) -> Option<HostPhys> {
        let frames: std::vec::Vec<Frame> = (0..count).map(|_| Frame([0xa5; 4096])).collect();
        Some(HostPhys(Box::leak(frames.into_boxed_slice()).as_mut_ptr().expose_provenance() as u64))
    }
}

fn cpu() -> VmxCpu {
    let config = VmxConfig {
        info: VmxInfo::from_msrs(haswell, false).unwrap(),
        limits: LIMITS,
        xstate: XstateSupport { mask: 0, size: 576 },
        msr_bitmap: HostPhys(0x5000),
        nested_root: HostPhys(0x12_3000),
        tlb_generation: TlbGeneration::default(),
        read_pdptes: Box::new(|at| [at, at + 1, 0, 0]),
    };
    VmxCpu::new(config, &mut Leak).unwrap()
}

/// Loaded as far as memory goes: the registers and MSRs of the machine that runs the tests stay its own.
fn loaded(state: &ArchState) -> VmxCpu {
    let mut cpu = cpu();
    cpu.set_state(state).unwrap();
    setup::write_controls(&cpu.config.info, &cpu.controls());
    cpu.write_guest();
    cpu.loaded = true;
    cpu
}

fn linux() -> ArchState {
    ArchState::linux64(0x100_0200, 0x9_0000, 0x1_4000, 0x9000, 0x500, 0x1f)
}

/// Ends a run as hardware would.
fn exit(cpu: &mut VmxCpu, reason: u32, vectoring: u64) -> Exit {
    cpu.prepare();
    // An entry clears the valid bit (SDM 3C 27.8.3).
    vmcs::write(0x4016, vmcs::read(0x4016) & 0x7fff_ffff);
    vmcs::write(0x4402, reason.into());
    vmcs::write(0x4408, vectoring);
    cpu.collect()
}

/// Encodings of SDM 3D appendix B, values of Documentation/arch/x86/boot.rst.
#[test]
fn linux_entry_as_fields() {
    let cpu = loaded(&linux());
    for (field, value, what) in [
        (0x681e, 0x100_0200, "RIP"),
        (0x681c, 0x9_0000, "RSP"),
        (0x6800, 0x8000_0031, "CR0: PG NE ET PE"),
        (0x6802, 0x9000, "CR3"),
        (0x6804, 0x2020, "CR4: VMXE, which the guest does not see, and PAE"),
        (0x2806, 0x500, "EFER: LMA LME"),
        (0x4012, 0xd3ff, "entry controls, IA-32e mode among them"),
        (0x6820, 2, "RFLAGS: interrupts off"),
        (0x0802, 0x10, "CS"),
        (0x4816, 0xa09b, "CS access rights"),
        (0x4802, 0xffff_ffff, "CS limit"),
        (0x0806, 0x18, "DS"),
        (0x481a, 0xc093, "DS access rights"),
        (0x4822, 0x8b, "TR access rights: busy"),
        (0x6816, 0x500, "GDTR base"),
        (0x4810, 0x1f, "GDTR limit"),
        (0x2804, 0x0007_0406_0007_0406, "PAT"),
        (0x2800, u64::MAX, "VMCS link pointer"),
        (0x201a, 0x12_301e, "EPTP: 4 levels, write-back"),
        (0x2004, 0x5000, "MSR bitmap"),
        (0x0000, 1, "VPID"),
        (0x4004, 0x6_0002, "#DB, #AC and #MC exit"),
        (0x6000, 0x6000_0020, "CD, NW and NE are the host's"),
    ] {
        assert_eq!(vmcs::read(field), value, "{what}");
    }
    assert_eq!(cpu.control(Control::Cr4), 0x20);
    assert_ne!(vmcs::read(0x6002) & CR4_VMXE, 0);
    assert_eq!(vmcs::read(0x6002) & LIMITS.cr4, 0, "what a guest may set does not exit");
    assert!(cpu.is_64bit());
}

#[test]
fn real_mode_keeps_what_it_does_not_have() {
    let cpu = loaded(&ArchState::startup(0x9a));
    assert_eq!(vmcs::read(0x6800), 0x30, "CR0: ET, and NE for VMX; caches stay on");
    assert_eq!(cpu.control(Control::Cr0), 0x6000_0010, "CD, NW and ET as after INIT");
    assert_eq!((vmcs::read(0x6808), vmcs::read(0x4012) & 0x200), (0x9_a000, 0));
}

#[test]
fn pae_tables_come_along() {
    let state = ArchState { cr3: 0x12_3020, efer: 0, ..linux() };
    let _cpu = loaded(&state);
    assert_eq!([0x280a, 0x280c, 0x280e].map(vmcs::read), [0x12_3020, 0x12_3021, 0]);
}

#[test]
fn events_go_in_once() {
    let mut cpu = loaded(&ArchState { rflags: 0x202, ..linux() });
    cpu.inject(Event::interrupt(0x31));
    cpu.prepare();
    assert_eq!(vmcs::read(0x4016), 0x8000_0031);
    assert_eq!(exit(&mut cpu, 1, 0), Exit::ExternalInterrupt);
    assert_eq!(cpu.pending_event(), None);
    cpu.inject(Event::fault(PF, 6));
    cpu.prepare();
    assert_eq!((vmcs::read(0x4016), vmcs::read(0x4018)), (0x8000_0b0e, 6));
    // An EPT violation in the delivery: again.
    vmcs::write(0x440a, 6);
    assert!(matches!(exit(&mut cpu, 48, 0x8000_0b0e), Exit::NestedFault(_)));
    assert_eq!(cpu.pending_event(), Some(Event::fault(PF, 6)));
    // A general protection fault on top makes a double fault.
    cpu.inject(Event::fault(GP, 0));
    assert_eq!(cpu.pending_event(), Some(Event::fault(8, 0)));
}

#[test]
fn windows_open_when_they_are_wanted() {
    const WINDOWS: u64 = 1 << 2 | 1 << 22;
    let mut cpu = loaded(&linux());
    assert!(!cpu.can_take_interrupt());
    cpu.request_interrupt_window(true);
    cpu.prepare();
    assert_eq!(vmcs::read(0x4002) & WINDOWS, 1 << 2);
    assert_eq!(exit(&mut cpu, 7, 0), Exit::InterruptWindow);
    cpu.request_interrupt_window(false);
    vmcs::write(0x4824, 8);
    assert!(!cpu.can_take_nmi());
    cpu.prepare();
    assert_eq!(vmcs::read(0x4002) & WINDOWS, 1 << 22, "until IRET");
    vmcs::write(0x4824, 0);
    assert!(cpu.can_take_nmi());
    // An NMI that was not delivered yet blocks nothing.
    vmcs::write(0x4824, 8);
    exit(&mut cpu, 48, 0x8000_0202);
    assert_eq!((cpu.pending_event(), vmcs::read(0x4824)), (Some(Event::nmi()), 0));
}

#[test]
fn an_iret_that_faults_has_not_unblocked() {
    let mut cpu = loaded(&linux());
    vmcs::write(0x6400, 1 << 12 | 0x182);
    exit(&mut cpu, 48, 0);
    assert_eq!(vmcs::read(0x4824), 8);
}

#[test]
fn instructions_end_where_hardware_says() {
    let mut cpu = loaded(&linux());
    vmcs::write(0x440c, 2);
    exit(&mut cpu, 10, 0);
    assert_eq!(cpu.next_rip(), Some(0x100_0202));
    vmcs::write(0x4824, 1);
    cpu.advance_to(0x100_0202);
    assert_eq!((vmcs::read(0x681e), vmcs::read(0x4824)), (0x100_0202, 0), "the shadow of STI has ended");
    exit(&mut cpu, 48, 0);
    assert_eq!(cpu.next_rip(), None, "an EPT violation has no length");
}

#[test]
fn control_registers_that_are_the_hosts() {
    let mut cpu = loaded(&linux());
    let write = |cpu: &mut VmxCpu, register, value| {
        cpu.set_gpr(3, value);
        cpu.answer(Exit::ControlWrite { register, gpr: Some(3) })
    };
    assert!(write(&mut cpu, 0, 0xc000_0031), "caches off");
    assert_eq!((vmcs::read(0x6004), cpu.pending_event()), (0xc000_0031, None), "the instruction is executed again");
    assert!(write(&mut cpu, 0, 0xa000_0031), "NW without CD");
    assert_eq!(cpu.pending_event(), Some(Event::general_protection()));
    let mut cpu = loaded(&linux());
    assert!(write(&mut cpu, 4, 0x2020), "VMXE");
    assert_eq!(cpu.pending_event(), Some(Event::general_protection()));
    assert!(!cpu.answer(Exit::ControlWrite { register: 8, gpr: Some(0) }), "CR8 is for all vendors");
}

#[test]
fn a_state_comes_out_as_it_went_in() {
    let mut state = linux();
    state.gprs = core::array::from_fn(|index| 0x1000 + index as u64);
    (state.rflags, state.interrupt_shadow, state.nmi_blocked) = (0x202, true, true);
    (state.dr7, state.tsc_offset, state.sysenter_esp) = (0x455, 77, 0x8000);
    let cpu = loaded(&state);
    let mut read = ArchState { gprs: state.gprs, ..ArchState::reset() };
    save::read(&mut read, cpu.cr4_host());
    assert_eq!(read, state);
}

#[test]
fn the_resume_flag_ends_with_the_instruction() {
    let mut cpu = loaded(&linux());
    cpu.set_rflags(0x1_0002);
    exit(&mut cpu, 10, 0);
    cpu.advance_to(0x100_0202);
    assert_eq!(cpu.rflags(), 2, "else the next instruction's breakpoint is missed");
}

#[test]
fn an_exception_ends_the_shadow() {
    // SDM 3C 27.3.1.5: with TF and blocking by STI, an entry fails unless a single step is pending.
    let mut cpu = loaded(&linux());
    vmcs::write(0x4824, 1);
    cpu.inject(Event::exception(1));
    cpu.prepare();
    assert_eq!((vmcs::read(0x4824), vmcs::read(0x4016)), (0, 0x8000_0301));
}
