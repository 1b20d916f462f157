use alloc::vec::Vec;

use machine::addr::GuestPhys;

use super::super::exit::{Exit, NestedFault};
use super::super::testing::{FakeCpu, RecorderBus, Seen};
use super::*;

const IF: u64 = 1 << 9;

fn machine(exits: &[Exit]) -> (FakeCpu, RecorderBus) {
    let mut bus = RecorderBus::with_ram(0x4000);
    let mut cpu = FakeCpu::long_mode_flat(&mut bus);
    bus.put(0x1000, &[0xf4]);
    cpu.script = exits.iter().copied().collect();
    (cpu, bus)
}

fn run(cpu: &mut FakeCpu, bus: &mut RecorderBus) -> (Why, RunStatistics) {
    let mut statistics = RunStatistics::default();
    let why = run_until_event(cpu, bus, &mut statistics);
    (why, statistics)
}

#[test]
fn an_interrupt_is_injected_when_it_can_be() {
    let (mut cpu, mut bus) = machine(&[]);
    cpu.state.rflags |= IF;
    bus.pending = [0x31, 0x41].into();
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::interrupt(0x41)], "the highest priority first");
    assert_eq!(bus.seen, [Seen::Accepted(0x41)]);
    assert_eq!(cpu.windows, [true], "the other one waits for a window");
}

#[test]
fn a_window_is_asked_for_and_given_back() {
    let (mut cpu, mut bus) = machine(&[Exit::ExternalInterrupt, Exit::InterruptWindow, Exit::ExternalInterrupt]);
    bus.pending = [0x31].into();
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert!(cpu.delivered.is_empty() && bus.seen.is_empty(), "interrupts are off");
    // The guest enables interrupts; hardware says so.
    assert_eq!(cpu.windows, [true]);
    cpu.state.rflags |= IF;
    cpu.state.interrupt_shadow = true;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt, "still in the shadow: asked again");
    assert_eq!(cpu.windows, [true, true, true]);
    cpu.state.interrupt_shadow = false;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::interrupt(0x31)]);
    assert_eq!(cpu.windows, [true, true, true, false]);
}

#[test]
fn an_event_on_its_way_goes_first() {
    let (mut cpu, mut bus) = machine(&[Exit::InterruptWindow]);
    cpu.state.rflags |= IF;
    cpu.state.pending = Some(Event::fault(14, 2));
    bus.pending = [0x31].into();
    bus.nmi = true;
    run(&mut cpu, &mut bus);
    assert_eq!(cpu.delivered, [Event::fault(14, 2), Event::nmi()], "then the NMI, before any interrupt");
    assert_eq!(cpu.windows, [true, true]);
}

const OUT: Exit = Exit::Port(crate::vcpu::exit::PortAccess {
    port: 0x80,
    width: 1,
    write: true,
    string: false,
    rep: false,
    address_size: 8,
});

#[test]
fn nobody_looks_twice_while_all_is_quiet() {
    let (mut cpu, mut bus) = machine(&[OUT; 10]);
    bus.put(0x1000, &[0xe6, 0x80].repeat(10));
    cpu.state.rflags |= IF;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!((cpu.windows.len(), bus.looks), (11, 1));
}

#[test]
fn what_an_exit_raises_is_delivered_by_the_next_entry() {
    let (mut cpu, mut bus) = machine(&[OUT, OUT, OUT]);
    bus.put(0x1000, &[0xe6, 0x80].repeat(3));
    cpu.state.rflags |= IF;
    bus.raised = Some([0x31, 0x41].into());
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::interrupt(0x41), Event::interrupt(0x31)]);
    assert_eq!(cpu.windows, [false, true, false, false], "the second one waits for a window");
}

#[test]
fn a_window_is_given_back_when_all_is_quiet_again() {
    let (mut cpu, mut bus) = machine(&[OUT, OUT]);
    bus.put(0x1000, &[0xe6, 0x80].repeat(2));
    bus.pending = [0x31].into();
    // The device takes its interrupt back before the guest could take it.
    bus.raised = Some(Vec::new());
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.windows, [true, false, false]);
}

#[test]
fn what_comes_after_the_last_look_comes_with_a_physical_interrupt() {
    let (mut cpu, mut bus) = machine(&[OUT, Exit::ExternalInterrupt]);
    bus.put(0x1000, &[0xe6, 0x80]);
    cpu.state.rflags |= IF;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    bus.pending = [0x31].into();
    bus.nmi = true;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::nmi()]);
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::nmi(), Event::interrupt(0x31)]);
}

#[test]
fn halt_sleeps_until_something_can_be_taken() {
    let (mut cpu, mut bus) = machine(&[Exit::Halt]);
    assert_eq!(run(&mut cpu, &mut bus).0, Why::Halted);
    assert_eq!(cpu.state.rip, 0x1001);
    bus.pending = [0x31].into();
    assert_eq!(run(&mut cpu, &mut bus).0, Why::Halted, "interrupts are off");
    cpu.state.rflags |= IF;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::interrupt(0x31)]);
    assert_eq!(cpu.state.activity, Activity::Active);
}

#[test]
fn halt_with_an_interrupt_pending_does_not_sleep() {
    let (mut cpu, mut bus) = machine(&[Exit::Halt]);
    cpu.state.rflags |= IF;
    cpu.state.interrupt_shadow = true; // sti; hlt
    bus.pending = [0x31].into();
    let (why, statistics) = run(&mut cpu, &mut bus);
    assert_eq!(why, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::interrupt(0x31)]);
    assert_eq!(statistics.exits.total(), 2);
}

#[test]
fn an_nmi_wakes() {
    let (mut cpu, mut bus) = machine(&[]);
    cpu.state.activity = Activity::Halted;
    bus.nmi = true;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::ExternalInterrupt);
    assert_eq!(cpu.delivered, [Event::nmi()]);
}

#[test]
fn a_parked_cpu_stays_parked() {
    let (mut cpu, mut bus) = machine(&[]);
    cpu.state.activity = Activity::WaitForSipi;
    bus.nmi = true;
    assert_eq!(run(&mut cpu, &mut bus).0, Why::WaitForSipi);
    assert!(cpu.windows.is_empty() && bus.nmi);
}

#[test]
fn task_priority_is_the_bus_s() {
    let (mut cpu, mut bus) = machine(&[]);
    cpu.state.rflags |= IF;
    bus.priority = 5;
    bus.pending = [0x51].into();
    run(&mut cpu, &mut bus);
    assert_eq!(cpu.state.cr8, 5);
    assert!(cpu.delivered.is_empty());
    assert_eq!(cpu.windows, [false], "masked by priority: no window");
}

#[test]
fn the_end() {
    for (exit, why) in [
        (Exit::Shutdown, Why::Shutdown),
        (Exit::Invalid, Why::Fatal(Reason::InvalidState)),
        (Exit::Unknown { code: 77 }, Why::Fatal(Reason::Unknown(77))),
        (Exit::Nmi, Why::ExternalInterrupt),
    ] {
        let (mut cpu, mut bus) = machine(&[exit]);
        assert_eq!(run(&mut cpu, &mut bus).0, why);
    }
}

#[test]
fn refused_instructions_are_counted() {
    let fault = NestedFault { gpa: GuestPhys(0), write: true, fetch: false, walk: false, present: false };
    let (mut cpu, mut bus) = machine(&[Exit::NestedFault(fault)]);
    bus.put(0x1000, &[0x0f, 0x11, 0x03]);
    let (_, statistics) = run(&mut cpu, &mut bus);
    assert_eq!(statistics.exits.iter().find(|(name, _)| *name == "not_emulated"), Some(("not_emulated", 1)));
    assert_eq!(statistics.last_refused.map(|(rip, b)| (rip, b.bytes[1])), Some((0x1000, 0x11)));
    assert_eq!(cpu.delivered, [Event::undefined()]);
}
