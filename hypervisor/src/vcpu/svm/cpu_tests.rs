extern crate std;
use std::boxed::Box;

use super::super::super::state::CR4_PAE;
use super::super::super::testing::LIMITS;
use super::super::vmcb::event;
use super::*;
use machine::addr::PAGE_SIZE;
use proptest::prelude::*;

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

fn cpu_with(features: SvmFeatures) -> SvmCpu {
    let config = SvmConfig {
        info: SvmInfo { features, asids: 16, invlpgb: false, tsc_aux: false },
        limits: LIMITS,
        xstate: XstateSupport { mask: 7, size: 832 },
        permissions: Permissions::new(&mut Leak).unwrap(),
        nested_root: HostPhys(0x12_3000),
        tlb_generation: TlbGeneration::default(),
    };
    SvmCpu::new(config, &mut Leak).unwrap()
}

fn cpu() -> SvmCpu {
    cpu_with(SvmFeatures::NESTED_PAGING)
}

fn u64_at(cpu: &SvmCpu, offset: usize) -> u64 {
    assert!(offset + 8 <= PAGE_SIZE as usize);
    // SAFETY: inside the frame, which is initialized and not written to meanwhile.
    unsafe { cpu.vmcb.as_ptr().cast::<u8>().add(offset).cast::<u64>().read_unaligned() }
}

fn linux() -> ArchState {
    ArchState::linux64(0x100_0200, 0x9_0000, 0x1_4000, 0x9000, 0x500, 0x1f)
}

/// Ends a run as hardware would.
fn exit(cpu: &mut SvmCpu, code: u64, int_info: u64) -> Exit {
    cpu.prepare();
    leave(cpu, code, int_info)
}

/// The exit from an entry that was prepared.
fn leave(cpu: &mut SvmCpu, code: u64, int_info: u64) -> Exit {
    let control = &mut cpu.vmcb_mut().control;
    control.exit_code = code;
    control.exit_int_info = int_info;
    cpu.collect()
}

#[test]
fn linux_entry_as_bytes() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    // Offsets of APM2 appendix B, values of Documentation/arch/x86/boot.rst.
    assert_eq!(u64_at(&cpu, 0x578), 0x100_0200, "RIP");
    assert_eq!(u64_at(&cpu, 0x5d8), 0x9_0000, "RSP");
    assert_eq!(u64_at(&cpu, 0x558), 0x8000_0031, "CR0: PG NE ET PE");
    assert_eq!(u64_at(&cpu, 0x550), 0x9000, "CR3");
    assert_eq!(u64_at(&cpu, 0x548), 0x20, "CR4: PAE");
    assert_eq!(u64_at(&cpu, 0x4d0), 0x1500, "EFER: SVME LMA LME");
    assert_eq!(u64_at(&cpu, 0x570), 2, "RFLAGS: interrupts off");
    assert_eq!(u64_at(&cpu, 0x410), 0xffff_ffff_0a9b_0010, "CS");
    assert_eq!(u64_at(&cpu, 0x430), 0xffff_ffff_0c93_0018, "DS");
    assert_eq!(u64_at(&cpu, 0x420), 0xffff_ffff_0c93_0018, "SS");
    assert_eq!(u64_at(&cpu, 0x468), 0x500, "GDTR base");
    assert_eq!(u64_at(&cpu, 0x668), 0x0007_0406_0007_0406, "G_PAT");
    assert_eq!(cpu.gpr(6), 0x1_4000, "RSI: the boot parameters");
    assert_eq!(cpu.cpl(), 0);
    assert!(cpu.is_64bit());
}

#[test]
fn what_protects_the_host() {
    let cpu = cpu();
    // INTR, NMI, INIT, RDPMC, CPUID, INVD, HLT, INVLPGA, IOIO, MSR, task switch, SHUTDOWN.
    assert_eq!(u64_at(&cpu, 0x08) >> 32, 0xbd44_800b);
    // VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, WBINVD, MONITOR, MWAIT, XSETBV.
    assert_eq!(u64_at(&cpu, 0x10), 0x2e7f);
    assert_eq!(u64_at(&cpu, 0x60), 1 << 24, "V_INTR_MASKING");
    assert_eq!(u64_at(&cpu, 0x90), 1, "nested paging");
    assert_eq!(u64_at(&cpu, 0xb0), 0x12_3000, "nested root");
    assert_eq!(u64_at(&cpu, 0x58) as u32, 1, "ASID 0 is the host's");
    assert_eq!((u64_at(&cpu, 0x40) | u64_at(&cpu, 0x48)) % 0x1000, 0);
    assert_ne!(u64_at(&cpu, 0x40), u64_at(&cpu, 0x48));
}

#[test]
fn every_register_comes_back() {
    let mut state = linux();
    for (i, gpr) in state.gprs.iter_mut().enumerate() {
        *gpr = 0x1111_1111_1111_1111 * i as u64;
    }
    state.cr2 = 0xdead_b000;
    state.cr8 = 7;
    state.xcr0 = 7;
    state.dr = [1, 2, 3, 4];
    state.dr6 = 0xffff_0ff1;
    state.dr7 = 0x455;
    state.star = 0x23_0010_0000_0000;
    state.lstar = 0xffff_ffff_8100_0000;
    state.cstar = 0xffff_ffff_8100_1000;
    state.sfmask = 0x4_7700;
    state.kernel_gs_base = 0xffff_8880_0000_0000;
    state.sysenter_cs = 0x10;
    state.sysenter_esp = 0x1234;
    state.sysenter_eip = 0x5678;
    state.tsc_offset = u64::MAX - 5;
    state.tsc_aux = 3;
    state.segments[4].base = 0x7fff_0000_0000;
    state.segments[0] = Segment::NULL;
    state.segments[6] = Segment { selector: 0x28, attributes: 0x82, limit: 0xf, base: 0xffff_8880_0000_1000 };
    state.rflags = 0x246;
    state.interrupt_shadow = true;
    state.nmi_blocked = true;
    state.pending = Some(Event::fault(14, 7));
    state.activity = Activity::Halted;
    for mut original in
        [state, ArchState::reset(), ArchState::startup(0x9a), ArchState::pvh32(0x100_0000, 0x6000, 0, 0x1f)]
    {
        let mut cpu = cpu();
        assert_eq!(cpu.set_state(&original), Ok(()));
        let back = cpu.state();
        assert_eq!(back, original);
        // User mode: CPL is the DPL of SS.
        original.segments[2].attributes |= 0x60;
        cpu.set_state(&original).unwrap();
        assert_eq!(cpu.cpl(), 3);
    }
}

#[test]
fn an_interrupt_goes_in_as_a_virtual_one() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    cpu.inject(Event::interrupt(0x31));
    // Its delivery was interrupted by a nested fault: it comes again.
    assert_eq!(exit(&mut cpu, 0x400, 0x8000_0031), Exit::NestedFault(exits_fault()));
    assert_eq!(cpu.pending_event(), Some(Event::interrupt(0x31)));
    assert!(!cpu.can_take_interrupt() && !cpu.can_take_nmi());
    // V_IRQ, priority 15, ignoring V_TPR, the vector in bits 39:32 (APM2 15.21.4); nothing is injected.
    let request = 1 << 8 | 0xf << 16 | 1 << 20 | 0x31 << 32;
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0xa8), 0);
    assert_eq!(u64_at(&cpu, 0x60) & !(1 << 24 | 0xff), request);
    // A physical interrupt came first: the request still stands, and is made again.
    assert_eq!(leave(&mut cpu, 0x60, 0), Exit::ExternalInterrupt);
    assert_eq!(cpu.pending_event(), Some(Event::interrupt(0x31)));
    assert_eq!(u64_at(&cpu, 0x60) & !(1 << 24 | 0xff), 0);
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0x60) & !(1 << 24 | 0xff), request);
    // The CPU clears V_IRQ when it takes the interrupt. Once delivered, it is gone.
    cpu.vmcb_mut().control.int_ctl &= !(1 << 8);
    assert_eq!(leave(&mut cpu, 0x60, 0), Exit::ExternalInterrupt);
    assert_eq!(cpu.pending_event(), None);
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0xa8), 0);
    assert_eq!(u64_at(&cpu, 0x60) & !(1 << 24 | 0xff), 0);
    // INT 80h runs again from its own RIP.
    exit(&mut cpu, 0x400, event::VALID | 4 << 8 | 0x80);
    assert_eq!(cpu.pending_event(), None);
}

#[test]
fn an_interrupt_comes_before_the_window_of_another_one() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    cpu.inject(Event::interrupt(0x31));
    cpu.request_interrupt_window(true);
    cpu.prepare();
    // Never by EVENTINJ, which QEMU delivers twice: the vector goes in as a virtual interrupt, and nothing intercepts it.
    assert_eq!(u64_at(&cpu, 0xa8), 0);
    assert_eq!(u64_at(&cpu, 0x60) & !(1 << 24 | 0xff), 1 << 8 | 0xf << 16 | 1 << 20 | 0x31 << 32);
    assert_eq!(cpu.vmcb().control.intercept_misc1 & misc1::VINTR, 0);
    // The CPU has taken it. After the exit the window is asked for again.
    cpu.vmcb_mut().control.int_ctl &= !(1 << 8);
    assert_eq!(leave(&mut cpu, 0x60, 0), Exit::ExternalInterrupt);
    assert_eq!(cpu.pending_event(), None);
    cpu.request_interrupt_window(true);
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0x60) & !(1 << 24 | 0xff), 1 << 8 | 0xf << 16 | 1 << 20);
    assert_ne!(cpu.vmcb().control.intercept_misc1 & misc1::VINTR, 0);
}

fn exits_fault() -> super::super::super::exit::NestedFault {
    super::super::super::exit::NestedFault {
        gpa: machine::addr::GuestPhys(0),
        write: false,
        fetch: false,
        walk: false,
        present: false,
    }
}

#[test]
fn a_fault_while_a_fault_is_delivered() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    exit(&mut cpu, 0x400, 0x8000_0b0d); // #GP was on its way
    cpu.inject(Event::general_protection());
    assert_eq!(cpu.pending_event(), Some(Event::fault(8, 0)), "double fault");
    cpu.inject(Event::general_protection());
    assert_eq!(cpu.pending_event(), None);
    assert!(cpu.shutdown, "triple fault");
}

#[test]
fn the_interrupt_window() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    assert!(!cpu.can_take_interrupt(), "IF is clear");
    cpu.request_interrupt_window(true);
    // V_IRQ, priority 15, ignoring V_TPR; VINTR is intercepted.
    assert_eq!(u64_at(&cpu, 0x60), 0x011f_0100);
    assert_eq!(u64_at(&cpu, 0x08) >> 32 & 1 << 4, 1 << 4);
    cpu.request_interrupt_window(false);
    assert_eq!(u64_at(&cpu, 0x60), 0x0100_0000);
    assert_eq!(u64_at(&cpu, 0x08) >> 32 & 1 << 4, 0);
    cpu.set_rflags(0x202);
    assert!(cpu.can_take_interrupt());
    cpu.vmcb_mut().control.interrupt_shadow = 1;
    assert!(!cpu.can_take_interrupt() && !cpu.can_take_nmi());
    cpu.advance(1);
    assert!(cpu.can_take_interrupt(), "the shadow ends with the instruction");
}

#[test]
fn a_single_step_traps_after_an_emulated_instruction() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    cpu.advance(2);
    assert_eq!(cpu.pending_event(), None);
    cpu.set_rflags(0x102);
    cpu.advance(2);
    assert_eq!(cpu.pending_event(), Some(Event::exception(1)));
    assert_eq!(u64_at(&cpu, 0x568), 0xffff_4ff0, "DR6.BS");
}

#[test]
fn nmis_are_blocked_until_iret_is_done() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    let iret = |cpu: &SvmCpu| u64_at(cpu, 0x08) >> 32 & 1 << 20 != 0;
    cpu.inject(Event::nmi());
    exit(&mut cpu, 0x60, 0);
    assert!(!cpu.can_take_nmi());
    cpu.prepare();
    assert!(iret(&cpu), "IRET is watched");
    assert_eq!(exit(&mut cpu, 0x74, 0), Exit::NmiWindow);
    assert!(!cpu.can_take_nmi(), "IRET has not run yet");
    cpu.prepare();
    assert!(!iret(&cpu), "IRET must run now");
    exit(&mut cpu, 0x60, 0);
    assert!(!cpu.can_take_nmi(), "still the same RIP");
    cpu.vmcb_mut().save.rip += 2;
    exit(&mut cpu, 0x60, 0);
    assert!(cpu.can_take_nmi());
}

#[test]
fn an_nmi_whose_delivery_was_interrupted_blocks_nothing_yet() {
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    cpu.inject(Event::nmi());
    exit(&mut cpu, 0x400, 0x8000_0202);
    assert_eq!(cpu.pending_event(), Some(Event::nmi()));
    assert!(!cpu.state().nmi_blocked);
    exit(&mut cpu, 0x60, 0);
    assert!(cpu.state().nmi_blocked);
}

#[test]
fn task_priority_is_watched_only_when_raised() {
    let mut cpu = cpu();
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0) as u32, 0);
    cpu.set_control(Control::Cr8, 3);
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0) as u32, 1 << 24, "writes of CR8");
    assert_eq!(u64_at(&cpu, 0x60) & 0xff, 3, "V_TPR");
}

#[test]
fn the_tlb_is_flushed_when_it_must_be() {
    let mut cpu = cpu();
    let control = |cpu: &SvmCpu| u64_at(cpu, 0x58) >> 32;
    cpu.prepare();
    assert_eq!(control(&cpu), 1, "first entry; this CPU can flush everything only");
    cpu.prepare();
    assert_eq!(control(&cpu), 0);
    cpu.config.tlb_generation.fetch_add(1, Ordering::Release);
    cpu.prepare();
    assert_eq!(control(&cpu), 1, "someone unmapped");
    cpu.prepare();
    assert_eq!(control(&cpu), 0);
    cpu.flush_guest_tlb();
    cpu.prepare();
    assert_eq!(control(&cpu), 1);
    let mut cpu = cpu_with(SvmFeatures::FLUSH_BY_ASID);
    cpu.prepare();
    assert_eq!(control(&cpu), 3);
}

#[test]
fn clean_bits_only_where_there_are_some() {
    let mut plain = cpu();
    plain.prepare();
    plain.prepare();
    assert_eq!(u64_at(&plain, 0xc0), 0);
    let mut cpu = cpu_with(SvmFeatures::CLEAN_BITS);
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0xc0), 0, "nothing is cached yet");
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0xc0), 0x7ff);
    cpu.set_control(Control::Cr2, 1);
    cpu.set_control(Control::Cr8, 2);
    cpu.prepare();
    // CR2 (9), TPR (3), and the intercepts (0), because CR8 is watched now.
    assert_eq!(u64_at(&cpu, 0xc0), 0x7ff & !(1 << 9 | 1 << 3 | 1));
    cpu.set_state(&linux()).unwrap();
    cpu.prepare();
    assert_eq!(u64_at(&cpu, 0xc0), 0);
}

#[test]
fn next_rip_only_where_hardware_says_it() {
    let mut cpu = cpu();
    cpu.vmcb_mut().control.next_rip = 0x77;
    cpu.vmcb_mut().control.exit_info2 = 0x88;
    exit(&mut cpu, 0x72, 0);
    assert_eq!(cpu.next_rip(), None);
    exit(&mut cpu, 0x7b, 0);
    assert_eq!(cpu.next_rip(), Some(0x88), "IOIO always does");
    let mut cpu = cpu_with(SvmFeatures::NEXT_RIP);
    cpu.vmcb_mut().control.next_rip = 0x77;
    exit(&mut cpu, 0x72, 0);
    assert_eq!(cpu.next_rip(), Some(0x77));
}

#[test]
fn hostile_states_are_refused_by_name() {
    type Spoil = fn(&mut ArchState);
    let cases: [(&str, Spoil); 22] = [
        ("CR0", |s| s.cr0 |= 1 << 32),
        ("CR0", |s| s.cr0 |= 1 << 29), // NW without CD
        ("CR0", |s| s.cr0 &= !1),      // PG without PE
        ("CR3", |s| s.cr3 = 1 << 40),
        ("CR4", |s| s.cr4 |= 1 << 13), // VMXE
        ("CR4", |s| s.cr4 &= !CR4_PAE),
        ("CR8", |s| s.cr8 = 16),
        ("EFER", |s| s.efer |= 1 << 12), // SVME
        ("EFER", |s| s.efer &= !(1 << 10)),
        ("XCR0", |s| s.xcr0 = 0),
        ("XCR0", |s| s.xcr0 = 5),
        ("DR6", |s| s.dr6 |= 1 << 32),
        ("DR7", |s| s.dr7 |= 1 << 63),
        ("RFLAGS", |s| s.rflags = 0),
        ("RFLAGS", |s| s.rflags |= 1 << 17), // VM in long mode
        ("PAT", |s| s.pat = 2),
        ("CS", |s| s.segments[1].attributes |= Segment::DEFAULT_BIG),
        ("FS", |s| s.segments[4].base = 1 << 63),
        ("TR", |s| s.segments[7].attributes = u32::MAX),
        ("LSTAR", |s| s.lstar = 1 << 62),
        ("pending event", |s| s.pending = Some(Event::exception(2))),
        ("pending event", |s| s.pending = Some(Event::exception(13))),
    ];
    let mut cpu = cpu();
    cpu.set_state(&linux()).unwrap();
    let before = cpu.state();
    for (register, spoil) in cases {
        let mut state = linux();
        spoil(&mut state);
        assert_eq!(cpu.set_state(&state).unwrap_err().register, register);
        assert_eq!(cpu.state(), before, "nothing has changed");
    }
}

proptest! {
    /// What passes the check passes VMRUN: the list of APM2 15.5.1, spelled out a second time.
    #[test]
    fn an_accepted_state_can_be_entered(
        (cr0, cr3, cr4, efer) in any::<(u64, u64, u64, u64)>(),
        bits in any::<[bool; 6]>(),
        (dr6, dr7, pat, rflags) in any::<(u64, u64, u64, u64)>(),
        attributes in any::<u32>(),
    ) {
        let mut s = linux();
        if bits[0] { s.cr0 = cr0 & 0xe005_003f; }
        if bits[1] { s.cr3 = cr3 & 0x1ff_ffff_ffff; }
        if bits[2] { s.cr4 = cr4 & 0xff_ffff; }
        if bits[3] { s.efer = efer & 0x1d01; }
        if bits[4] { (s.dr6, s.dr7, s.pat, s.rflags) = (dr6 >> 31, dr7 >> 31, pat & 0x0707_0707_0707_0707, rflags & 0x3f_7fff); }
        if bits[5] { s.segments[1].attributes = attributes & 0x1_f0ff; }
        let mut cpu = cpu();
        if cpu.set_state(&s).is_ok() {
            let v = &cpu.vmcb().save;
            prop_assert!(v.efer & 1 << 12 != 0 && v.efer & !0x1d01 == 0);
            prop_assert!(v.cr0 & 1 << 30 != 0 || v.cr0 & 1 << 29 == 0);
            prop_assert!(v.cr0 >> 32 == 0 && v.dr6 >> 32 == 0 && v.dr7 >> 32 == 0);
            prop_assert!(v.cr3 >> 40 == 0 && v.cr4 & !LIMITS.cr4 == 0);
            if v.efer & 1 << 8 != 0 && v.cr0 & 1 << 31 != 0 {
                prop_assert!(v.cr4 & 1 << 5 != 0 && v.cr0 & 1 != 0);
                prop_assert!(v.cs.attributes & 0x600 != 0x600);
            }
            prop_assert!(v.g_pat.to_le_bytes().iter().all(|t| ![2, 3].contains(t) && *t < 8));
            prop_assert!(v.rflags & 2 != 0);
        }
    }

    /// Whatever hardware leaves behind, what is injected next is something VMRUN accepts.
    #[test]
    fn any_exit_information(code in any::<u16>(), info in any::<[u64; 3]>(), inject in any::<bool>()) {
        let mut cpu = cpu();
        cpu.vmcb_mut().control.exit_info1 = info[0];
        cpu.vmcb_mut().control.exit_info2 = info[1];
        exit(&mut cpu, u64::from(code), info[2]);
        if inject {
            cpu.inject(Event::undefined());
        }
        cpu.prepare();
        let injected = u64_at(&cpu, 0xa8);
        if injected & event::VALID != 0 {
            let (kind, vector) = (injected >> 8 & 7, injected & 0xff);
            prop_assert!(matches!(kind, 0 | 2 | 3));
            prop_assert!(kind != 3 || (vector < 32 && vector != 2));
        }
    }
}

#[test]
fn the_resume_flag_ends_with_the_instruction() {
    let mut cpu = cpu();
    cpu.set_rflags(0x1_0002);
    exit(&mut cpu, code::CPUID, 0);
    cpu.advance_to(0x2000);
    assert_eq!(cpu.rflags(), 2, "else the next instruction's breakpoint is missed");
}
