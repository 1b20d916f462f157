//! What each pCPU does all day: run its virtual CPUs, sleep when none can run, and on
//! pCPU 0 look after management. One thread per pCPU, interrupts off but where it says so.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hermit_sync::SpinMutex;

use crate::cpu;
use crate::machine_cpus;
use crate::manage;
use crate::smp::lapic;
use crate::smp::pcpu::{self, Pcpu};
use crate::time;
use crate::upgrade::warm::Warming;
use crate::upgrade::{freeze, retire};
use crate::vcpu::run::Why;
use crate::vm::runner::Runner;

/// How long a virtual CPU runs while another one wants the pCPU, in milliseconds.
const SLICE_MS: u64 = 5;
/// The longest time without a look at everything that a pCPU can have to do, in milliseconds, where interrupts come at all.
const LOOK_MS: u64 = 1;

/// Virtual CPUs on their way to pCPUs, by the number of the pCPU.
static INBOXES: SpinMutex<Vec<Vec<Runner>>> = SpinMutex::new(Vec::new());
static MAIL: AtomicBool = AtomicBool::new(false);

fn inbox(inboxes: &mut Vec<Vec<Runner>>, pcpu: u32) -> &mut Vec<Runner> {
    let place = pcpu as usize;
    if inboxes.len() <= place {
        inboxes.resize_with(place + 1, Vec::new);
    }
    &mut inboxes[place]
}

/// Takes the memory for `more` virtual CPUs on pCPU `pcpu` now.
pub fn reserve(pcpu: u32, more: usize) {
    let mut inboxes = INBOXES.lock();
    let inbox = inbox(&mut inboxes, pcpu);
    let room = inbox.capacity() + more;
    inbox.reserve_exact(room);
}

/// Gives virtual CPUs to pCPUs, all at once: none of them is fetched before the last is there, so that the room of [`reserve`] will do.
pub fn assign(runners: impl Iterator<Item = (u32, Runner)>) {
    let mut inboxes = INBOXES.lock();
    runners.for_each(|(pcpu, runner)| inbox(&mut inboxes, pcpu).push(runner));
    let targets = inboxes.len() as u32;
    drop(inboxes);
    MAIL.store(true, Ordering::Release);
    (0..targets).for_each(pcpu::kick);
}

/// A pCPU and the virtual CPUs that live on it.
pub struct Core {
    own: &'static Pcpu,
    runners: Vec<Runner>,
    /// Whose registers are in this pCPU.
    loaded: Option<usize>,
    turn: usize,
    /// SVM is on.
    virtualizing: bool,
    /// The next image, getting ready; on pCPU 0 only.
    pub warming: Option<Box<Warming>>,
    /// Whether the last slice was the sandbox's.
    warmed: bool,
    /// Until when nothing but the one virtual CPU that runs here wants this pCPU, unless somebody leaves a mark; by the TSC.
    alone_until: u64,
    /// When management has something to do, by the TSC.
    management_due: Option<u64>,
}

impl Core {
    fn take_mail(&mut self) {
        if !MAIL.load(Ordering::Acquire) {
            return;
        }
        let mut inboxes = INBOXES.lock();
        if let Some(inbox) = inboxes.get_mut(self.own.index as usize) {
            if self.runners.is_empty() {
                // With the room that was taken for them.
                core::mem::swap(&mut self.runners, inbox);
            } else {
                self.runners.append(inbox);
            }
        }
        MAIL.store(inboxes.iter().any(|inbox| !inbox.is_empty()), Ordering::Release);
    }

    /// Takes the registers of whoever is loaded out of this pCPU.
    pub fn unload(&mut self) {
        if let Some(runner) = self.loaded.take().and_then(|index| self.runners.get_mut(index)) {
            runner.unload();
        }
    }

    /// The virtual CPUs that live here.
    pub fn runners(&mut self) -> &mut [Runner] {
        &mut self.runners
    }

    /// Switches virtualization on, once.
    ///
    /// # Errors
    /// Why it can't be.
    pub fn virtualize(&mut self) -> Result<(), String> {
        if !self.virtualizing {
            machine_cpus::enable_here()?;
            self.virtualizing = true;
        }
        Ok(())
    }

    /// Whether the sandbox is next: it takes turns with the virtual CPUs that can run.
    fn is_sandbox_next(&mut self, guest: bool) -> bool {
        self.warmed = self.warming.is_some() && !(self.warmed && guest);
        self.warmed
    }

    /// This pCPU.
    pub fn pcpu(&self) -> &'static Pcpu {
        self.own
    }

    /// The next virtual CPU that can run, in turn.
    fn pick(&mut self) -> Option<usize> {
        let count = self.runners.len();
        let first = self.turn;
        (0..count).map(|step| (first + step) % count).find(|index| self.runners[*index].wants_to_run())
    }

    fn alarm(&mut self, management: Option<u64>, running: bool) -> Option<u64> {
        let is_alone = self.runners.len() == 1 && self.warming.is_none();
        let look = cpu::tsc() + time::ms_to_ticks(LOOK_MS);
        self.alone_until = if is_alone { management.map_or(look, |due| due.min(look)) } else { 0 };
        self.management_due = management;
        let others = running && (self.runners.len() > 1 || self.warming.is_some());
        let timers = self.runners.iter_mut().filter_map(Runner::arm);
        let slice = others.then(|| cpu::tsc() + time::ms_to_ticks(SLICE_MS));
        timers.chain(management).chain(slice).min()
    }

    /// No guest can run on this pCPU.
    fn give_up(&mut self, reason: &str) {
        for runner in &mut self.runners {
            runner.vm.stop(format!("pCPU {} can't run it: {reason}", self.own.index));
        }
    }

    fn run(&mut self, index: usize) {
        if self.loaded != Some(index) {
            self.unload();
            self.runners[index].load();
            self.loaded = Some(index);
        }
        self.turn = index + 1;
        let runner = &mut self.runners[index];
        loop {
            match runner.run() {
                Why::ExternalInterrupt | Why::Attention => {
                    cpu::take_interrupts();
                    if !is_disturbed(self.own, self.alone_until) && runner.wants_to_run() {
                        lapic::set_deadline(runner.arm().into_iter().chain(self.management_due).min());
                        continue;
                    }
                }
                Why::Halted | Why::WaitForSipi => {}
                Why::Shutdown => runner.stopped("triple fault"),
                Why::Fatal(reason) => runner.failed(&reason),
            }
            break;
        }
        runner.publish();
    }
}

/// Whether pCPU `own` has anything to do but to go on with its one virtual CPU: the short way back into the guest asks this instead of
/// walking through everything.
fn is_disturbed(own: &Pcpu, alone_until: u64) -> bool {
    let marked = MAIL.load(Ordering::Acquire) || freeze::requested();
    let managing = own.index == 0 && (retire::waits() || manage::is_told());
    marked || managing || cpu::tsc() >= alone_until
}

/// The loop of pCPU `own`.
pub fn run(own: &'static Pcpu) -> ! {
    let mut core = Core {
        own,
        runners: Vec::new(),
        loaded: None,
        turn: 0,
        virtualizing: false,
        warming: None,
        warmed: false,
        alone_until: 0,
        management_due: None,
    };
    loop {
        cpu::interrupts_off();
        core.take_mail();
        if !core.runners.is_empty()
            && let Err(error) = core.virtualize()
        {
            core.give_up(&error);
        }
        if freeze::requested() {
            freeze::park(&mut core);
            continue;
        }
        if own.index == 0 && retire::is_due() {
            retire::run();
        }
        let management = if own.index == 0 { manage::tend(&mut core) } else { None };
        let next = core.pick();
        let sandbox = core.is_sandbox_next(next.is_some());
        lapic::set_deadline(core.alarm(management, sandbox || next.is_some()));
        match next {
            _ if sandbox => {
                core.unload();
                manage::warm(&mut core);
                cpu::take_interrupts();
            }
            Some(index) => {
                core.run(index);
                cpu::take_interrupts();
            }
            None => cpu::wait_for_interrupt(),
        }
    }
}
