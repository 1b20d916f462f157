use super::super::event::{EventKind, PF};
use super::super::exit::NestedFault;
use super::super::testing::{FakeCpu, RecorderBus, Seen};
use super::*;
use proptest::prelude::*;

fn machine(code: &[u8]) -> (FakeCpu, RecorderBus) {
    let mut bus = RecorderBus::with_ram(0x4000);
    let cpu = FakeCpu::long_mode_flat(&mut bus);
    bus.put(0x1000, code);
    (cpu, bus)
}

const FAULT: NestedFault =
    NestedFault { gpa: GuestPhys(0xfeb0_0000), write: false, fetch: false, walk: false, present: false };

fn handle(cpu: &mut FakeCpu, bus: &mut RecorderBus, exit: Exit) -> Next {
    let mut counters = ExitCounters::default();
    let next = super::handle(cpu, bus, &mut counters, exit);
    let mut expected = ExitCounters::default();
    expected.count(&exit);
    assert_eq!(counters, expected, "counted once, as what it is");
    next
}

#[test]
fn cpuid_clears_upper_halves() {
    let (mut cpu, mut bus) = machine(&[0x0f, 0xa2]);
    cpu.state.gprs[0] = 0xffff_ffff_0000_0007;
    cpu.state.gprs[1] = 0xffff_ffff_0000_0002;
    assert_eq!(handle(&mut cpu, &mut bus, Exit::Cpuid), Next::Resume);
    assert_eq!(&cpu.state.gprs[..4], &[7, 2, 0xd, 0xb], "EAX, ECX, EDX, EBX");
    assert_eq!(cpu.state.rip, 0x1002);
}

#[test]
fn next_rip_of_the_hardware_is_preferred() {
    let (mut cpu, mut bus) = machine(&[0x0f, 0xa2]);
    cpu.next_rip = Some(0x1005);
    assert_eq!(handle(&mut cpu, &mut bus, Exit::Cpuid), Next::Resume);
    assert_eq!(cpu.state.rip, 0x1005);
}

#[test]
fn ports_merge_into_rax() {
    let access = PortAccess { port: 0x60, width: 1, write: false, string: false, rep: false, address_size: 8 };
    for (code, width, result) in [
        (&[0xe4, 0x60][..], 1, 0x1122_3344_5566_77dd),
        (&[0x66, 0xe5, 0x60], 2, 0x1122_3344_5566_ccdd),
        (&[0xe5, 0x60], 4, 0xaabb_ccdd),
    ] {
        let (mut cpu, mut bus) = machine(code);
        bus.port_value = 0xaabb_ccdd;
        cpu.state.gprs[0] = 0x1122_3344_5566_7788;
        assert_eq!(handle(&mut cpu, &mut bus, Exit::Port(PortAccess { width, ..access })), Next::Resume);
        assert_eq!(cpu.state.gprs[0], result);
        assert_eq!(bus.seen, [Seen::PortRead(0x60, width)]);
        assert_eq!(cpu.state.rip, 0x1000 + code.len() as u64);
    }
    let (mut cpu, mut bus) = machine(&[0x66, 0xef]);
    cpu.state.gprs[0] = 0x1234_5678;
    handle(&mut cpu, &mut bus, Exit::Port(PortAccess { width: 2, write: true, ..access }));
    assert_eq!(bus.seen, [Seen::PortWrite(0x60, 2, 0x5678)]);
}

#[test]
fn msrs_go_to_the_cpu_or_the_bus() {
    let (mut cpu, mut bus) = machine(&[0x0f, 0x32]);
    cpu.state.gprs[1] = 0x1b;
    handle(&mut cpu, &mut bus, Exit::MsrRead);
    assert_eq!((cpu.state.gprs[0], cpu.state.gprs[2]), (0xfee0_0900, 1));
    let (mut cpu, mut bus) = machine(&[0x0f, 0x32]);
    cpu.state.gprs[1] = 0xdead;
    handle(&mut cpu, &mut bus, Exit::MsrRead);
    assert_eq!(cpu.state.pending, Some(Event::general_protection()));
    assert_eq!(cpu.state.rip, 0x1000);
    let (mut cpu, mut bus) = machine(&[0x0f, 0x30]);
    cpu.state.gprs[1] = 0xffff_ffff_c000_0082; // LSTAR; the upper half of RCX is ignored
    cpu.state.gprs[0] = 0xffff_ffff_8100_0000;
    cpu.state.gprs[2] = 0x1_ffff_ffff;
    handle(&mut cpu, &mut bus, Exit::MsrWrite);
    assert_eq!(cpu.state.lstar, 0xffff_ffff_8100_0000);
    assert_eq!(cpu.state.rip, 0x1002);
}

#[test]
fn hypercalls_are_for_the_kernel() {
    let (mut cpu, mut bus) = machine(&[0x0f, 0x01, 0xd9]);
    cpu.state.gprs[..4].copy_from_slice(&[1, 20, 300, 4000]);
    cpu.state.gprs[6] = 50_000;
    handle(&mut cpu, &mut bus, Exit::Hypercall);
    assert_eq!((cpu.state.gprs[0], cpu.state.rip), (54_321, 0x1003));
    cpu.state.rip = 0x1000;
    cpu.state.segments[2].attributes |= 0x60;
    handle(&mut cpu, &mut bus, Exit::Hypercall);
    assert_eq!(cpu.state.gprs[0], u64::MAX, "KVM_EPERM");
}

#[test]
fn xsetbv_obeys_the_manual() {
    let code = [0x0f, 0x01, 0xd1];
    let attempt = |eax: u64, ecx: u64, cr4: u64, announced: u32| {
        let (mut cpu, mut bus) = machine(&code);
        cpu.state.gprs[0] = eax;
        cpu.state.gprs[1] = ecx;
        cpu.state.cr4 |= cr4;
        bus.xcr0_announced = announced;
        handle(&mut cpu, &mut bus, Exit::Xsetbv);
        (cpu.state.xcr0, cpu.state.pending)
    };
    let gp = Some(Event::general_protection());
    assert_eq!(attempt(7, 0, 1 << 18, 7), (7, None));
    assert_eq!(attempt(7, 0, 0, 7), (1, Some(Event::undefined())), "without OSXSAVE");
    assert_eq!(attempt(7, 1, 1 << 18, 7), (1, gp), "only XCR0 exists");
    assert_eq!(attempt(6, 0, 1 << 18, 7), (1, gp), "x87 cannot be off");
    assert_eq!(attempt(5, 0, 1 << 18, 7), (1, gp), "AVX needs SSE");
    assert_eq!(attempt(0xe7, 0, 1 << 18, 0xe7), (1, gp), "not on this machine");
    assert_eq!(attempt(7, 0, 1 << 18, 3), (1, gp), "not announced to this guest");
}

#[test]
fn task_priority_by_mov_cr8() {
    let (mut cpu, mut bus) = machine(&[0x44, 0x0f, 0x22, 0xc1]); // mov cr8, rcx
    cpu.state.gprs[1] = 3;
    let exit = Exit::ControlWrite { register: 8, gpr: None };
    handle(&mut cpu, &mut bus, exit);
    assert_eq!((cpu.state.cr8, cpu.state.rip), (3, 0x1004));
    assert_eq!(bus.seen, [Seen::Priority(3)]);
    cpu.state.rip = 0x1000;
    cpu.state.gprs[1] = 16;
    handle(&mut cpu, &mut bus, exit);
    assert_eq!((cpu.state.cr8, cpu.state.pending), (3, Some(Event::general_protection())));
    let (mut cpu, mut bus) = machine(&[0x44, 0x0f, 0x20, 0xc2]); // mov rdx, cr8
    cpu.state.cr8 = 9;
    handle(&mut cpu, &mut bus, Exit::ControlRead { register: 8, gpr: None });
    assert_eq!((cpu.state.gprs[2], cpu.state.rip), (9, 0x1004));
}

#[test]
fn what_guests_may_not_do() {
    for (exit, event) in [
        (Exit::VendorInstruction, Event::undefined()),
        (Exit::Monitor, Event::undefined()),
        (Exit::Mwait, Event::undefined()),
        (Exit::Rdpmc, Event::general_protection()),
        (Exit::TaskSwitch, Event::general_protection()),
        (Exit::Exception { vector: 17, error_code: 0 }, Event::fault(17, 0)),
        (Exit::Exception { vector: 1, error_code: 0 }, Event::exception(1)),
    ] {
        let (mut cpu, mut bus) = machine(&[0x90]);
        assert_eq!(handle(&mut cpu, &mut bus, exit), Next::Resume);
        assert_eq!(cpu.state.pending, Some(event));
        assert_eq!(cpu.state.rip, 0x1000);
    }
}

#[test]
fn device_memory() {
    let (mut cpu, mut bus) = machine(&[0x8b, 0x03]); // mov eax, [rbx]
    cpu.state.gprs[3] = 0xfeb0_0000;
    bus.mmio_value = 5;
    assert_eq!(handle(&mut cpu, &mut bus, Exit::NestedFault(FAULT)), Next::Resume);
    assert_eq!((cpu.state.gprs[0], cpu.state.rip), (5, 0x1002));
    // What is not emulated is #UD for the guest and a line for the log.
    let (mut cpu, mut bus) = machine(&[0x0f, 0x11, 0x03]);
    let Next::Refused(bytes) = handle(&mut cpu, &mut bus, Exit::NestedFault(FAULT)) else { panic!("emulated?") };
    assert_eq!(&bytes.get()[..3], &[0x0f, 0x11, 0x03]);
    assert_eq!(cpu.state.pending, Some(Event::undefined()));
    let fetch = NestedFault { fetch: true, ..FAULT };
    assert_eq!(handle(&mut cpu, &mut bus, Exit::NestedFault(fetch)), Next::Fatal(Reason::FetchFromDevice(FAULT.gpa)));
    let walk = NestedFault { walk: true, ..FAULT };
    assert_eq!(handle(&mut cpu, &mut bus, Exit::NestedFault(walk)), Next::Fatal(Reason::NotRam(FAULT.gpa)));
    // An interrupt whose frame goes to a device is not the instruction's doing.
    let (mut cpu, mut bus) = machine(&[0x8b, 0x03]);
    cpu.state.pending = Some(Event::interrupt(0x40));
    assert_eq!(handle(&mut cpu, &mut bus, Exit::NestedFault(FAULT)), Next::Fatal(Reason::Delivery(FAULT.gpa)));
    assert_eq!(cpu.state.rip, 0x1000);
}

#[test]
fn a_page_fault_sets_cr2() {
    let (mut cpu, mut bus) = machine(&[0x8b, 0x03]);
    cpu.state.gprs[3] = 1 << 40;
    handle(&mut cpu, &mut bus, Exit::NestedFault(FAULT));
    assert_eq!((cpu.state.cr2, cpu.state.pending), (1 << 40, Some(Event::fault(PF, 0))));
}

fn any_exit() -> impl Strategy<Value = Exit> {
    let access = (
        any::<u16>(),
        prop_oneof![Just(1u8), Just(2), Just(4)],
        any::<[bool; 3]>(),
        prop_oneof![Just(2u8), Just(4), Just(8)],
    )
        .prop_map(|(port, width, [write, string, rep], address_size)| {
            Exit::Port(PortAccess { port, width, write, string, rep, address_size })
        });
    let fault = (any::<u64>(), any::<[bool; 4]>()).prop_map(|(gpa, [write, fetch, walk, present])| {
        Exit::NestedFault(NestedFault { gpa: GuestPhys(gpa), write, fetch, walk, present })
    });
    prop_oneof![
        access,
        fault,
        (any::<u8>(), proptest::option::of(any::<u8>()))
            .prop_map(|(register, gpr)| Exit::ControlWrite { register, gpr }),
        (any::<u8>(), proptest::option::of(any::<u8>()))
            .prop_map(|(register, gpr)| Exit::ControlRead { register, gpr }),
        (any::<u8>(), any::<u32>()).prop_map(|(vector, error_code)| Exit::Exception { vector, error_code }),
        any::<u64>().prop_map(|code| Exit::Unknown { code }),
        proptest::sample::select(
            &[
                Exit::ExternalInterrupt,
                Exit::Nmi,
                Exit::Init,
                Exit::InterruptWindow,
                Exit::NmiWindow,
                Exit::Cpuid,
                Exit::Halt,
                Exit::Pause,
                Exit::Invd,
                Exit::Wbinvd,
                Exit::Rdpmc,
                Exit::Monitor,
                Exit::Mwait,
                Exit::Xsetbv,
                Exit::Hypercall,
                Exit::MsrRead,
                Exit::MsrWrite,
                Exit::TaskSwitch,
                Exit::VendorInstruction,
                Exit::Shutdown,
                Exit::Invalid,
            ][..]
        ),
    ]
}

proptest! {
    #[test]
    fn any_exit_on_any_state(
        exit in any_exit(),
        code in proptest::collection::vec(any::<u8>(), 15),
        gprs in any::<[u64; 16]>(),
        rip in prop_oneof![Just(0x1000u64), any::<u64>()],
        (cr0, cr3, cr4, efer, rflags) in any::<(u64, u64, u64, u64, u64)>(),
        wild in any::<bool>(),
        next_rip in proptest::option::of(any::<u64>()),
    ) {
        let (mut cpu, mut bus) = machine(&code);
        cpu.state.gprs = gprs;
        cpu.state.gprs[1] &= 0xffff;
        cpu.state.rip = rip;
        cpu.next_rip = next_rip;
        if wild {
            cpu.state.cr0 = cr0;
            cpu.state.cr3 = cr3;
            cpu.state.cr4 = cr4;
            cpu.state.efer = efer;
            cpu.state.rflags = rflags;
        }
        let next = handle(&mut cpu, &mut bus, exit);
        if let Some(event) = cpu.state.pending {
            prop_assert!(event.is_valid(), "{:?} after {:?}", event, exit);
            prop_assert_eq!(event.kind, EventKind::Exception);
            prop_assert!(matches!(next, Next::Resume | Next::Refused(_)));
        }
    }
}
