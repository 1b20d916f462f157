//! Running a virtual CPU until its pCPU has something else to do.

use super::bus::Bus;
use super::counters::ExitCounters;
use super::cpu::{Control, VirtualCpu};
use super::emulate::InstructionBytes;
use super::event::Event;
use super::handle::{Next, Reason, handle};
use super::state::{Activity, RFLAGS_IF};

/// Why [`run_until_event`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A physical interrupt is pending (or an NMI was taken): enable interrupts for a moment, then run on.
    ExternalInterrupt,
    /// The guest is in HLT and has nothing to wake it.
    Halted,
    /// The virtual CPU waits for a start-up IPI.
    WaitForSipi,
    /// A triple fault: the guest resets or stops.
    Shutdown,
    /// The bus asks for what only the caller can do.
    Attention,
    /// The guest cannot go on.
    Fatal(Reason),
}

/// What a virtual CPU did, for the API and the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStatistics {
    /// Exits by reason.
    pub exits: ExitCounters,
    /// RIP and bytes of the last of them; take it to log it once.
    pub last_refused: Option<(u64, InstructionBytes)>,
}

/// Runs `cpu`, which is loaded on this pCPU, until something concerns the caller.
///
/// To be called at CPL 0 with interrupts disabled, GIF = 1; returns likewise.
pub fn run_until_event<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(
    cpu: &mut C,
    bus: &mut B,
    statistics: &mut RunStatistics,
) -> Why {
    // Whether the last look for events left something behind: a window that was asked for. Nobody has looked yet.
    let mut waits = true;
    loop {
        let quiet = bus.is_quiet();
        if !quiet && bus.needs_attention() {
            return Why::Attention;
        }
        let priority = u64::from(bus.task_priority() & 0xf);
        if cpu.control(Control::Cr8) != priority {
            cpu.set_control(Control::Cr8, priority);
        }
        match cpu.activity() {
            Activity::Active => {}
            Activity::WaitForSipi => return Why::WaitForSipi,
            Activity::Halted => {
                if !wake(cpu, bus) {
                    return Why::Halted;
                }
                cpu.set_activity(Activity::Active);
            }
        }
        if waits || !quiet {
            waits = deliver(cpu, bus);
        }
        let exit = cpu.enter();
        let now = cpu.control(Control::Cr8);
        if now != priority {
            bus.set_task_priority(now as u8);
        }
        match handle(cpu, bus, &mut statistics.exits, exit) {
            Next::Resume | Next::Halted => {}
            Next::Refused(bytes) => {
                statistics.exits.count_refused();
                statistics.last_refused = Some((cpu.rip(), bytes));
            }
            Next::ExternalInterrupt => return Why::ExternalInterrupt,
            Next::Shutdown => return Why::Shutdown,
            Next::Fatal(reason) => return Why::Fatal(reason),
        }
    }
}

/// Whether a virtual CPU in HLT goes on.
fn wake<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> bool {
    if cpu.pending_event().is_some() {
        return true;
    }
    if cpu.can_take_nmi() && bus.take_nmi() {
        cpu.inject(Event::nmi());
        return true;
    }
    cpu.rflags() & RFLAGS_IF != 0 && bus.pending_interrupt().is_some()
}

/// Injects the most urgent event that can be, and asks for a window for what must wait; whether an interrupt does.
#[inline(never)]
fn deliver<C: VirtualCpu + ?Sized, B: Bus + ?Sized>(cpu: &mut C, bus: &mut B) -> bool {
    if cpu.can_take_nmi() && bus.take_nmi() {
        cpu.inject(Event::nmi());
    }
    let mut waiting = bus.pending_interrupt();
    if let Some(vector) = waiting
        && cpu.can_take_interrupt()
    {
        // Vectors 0 to 15 are illegal for a LAPIC, and cannot be injected.
        if Event::interrupt(vector).is_valid() {
            cpu.inject(Event::interrupt(vector));
        }
        bus.interrupt_accepted(vector);
        waiting = if bus.is_quiet() { None } else { bus.pending_interrupt() };
    }
    cpu.request_interrupt_window(waiting.is_some());
    waiting.is_some()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
