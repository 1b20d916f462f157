//! A guest whose disk interrupts it at a steady rate, and which counts: one read under way on each of several queues, each with an
//! interrupt of its own, so that every interrupt stands for one completion and none can hide behind another. How fast the disk
//! answers is the machine's affair (`throttling.iops-total` of QEMU's drive).
//!
//! A line now and then: `pulse t=<ns> interrupts=<n> completions=<n> lost=<n> extra=<n> ...`; after the word `stop` on its console
//! the last one: `pulse stopped ...`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;

use bareguest::console::Input;
use bareguest::memory::Frames;
use bareguest::nvme::{Direction, Nvme};
use bareguest::{clock, guest, interrupts, println};

guest!(run);

/// I/O queues, from 1.
const QUEUES: u16 = 4;
/// Between two lines.
const INTERVAL_NS: u64 = 250_000_000;
/// An interrupt that has not come then is lost.
const PATIENCE_NS: u64 = 10_000_000_000;
/// How long the guest sleeps when nothing comes.
const PAUSE_MS: u64 = 20;

struct Pulse {
    queue: u16,
    vector: u8,
    page: Frames,
    /// Interrupts that have been answered for.
    seen: u32,
    /// When the read under way was started; none is when the guest was told to stop.
    started: Option<u64>,
}

#[derive(Default)]
struct Counters {
    interrupts: u64,
    completions: u64,
    lost: u64,
    extra: u64,
    errors: u64,
    longest_ns: u64,
}

impl Pulse {
    fn start(&mut self, disk: &mut Nvme, now: u64) {
        self.started = Some(now);
        disk.submit_on(self.queue, self.queue, Direction::Read, self.page.address(), u64::from(self.queue), 1);
    }

    /// Answers for the interrupts that have come: each stands for one completion.
    fn look(&mut self, disk: &mut Nvme, counters: &mut Counters, go_on: bool) {
        let told = interrupts::count(self.vector).wrapping_sub(self.seen);
        self.seen = self.seen.wrapping_add(told);
        counters.interrupts += u64::from(told);
        let now = clock::now_ns();
        let waited = self.started.map_or(0, |started| now.saturating_sub(started));
        if told == 0 && waited < PATIENCE_NS {
            return;
        }
        let completion = disk.completed_on(self.queue);
        let answered = u32::from(completion.is_some());
        counters.extra += u64::from(told.saturating_sub(answered));
        counters.lost += u64::from(answered.saturating_sub(told));
        let Some(completion) = completion else { return };
        counters.completions += 1;
        counters.errors += u64::from(completion.status != 0);
        counters.longest_ns = counters.longest_ns.max(waited);
        self.started = None;
        if go_on {
            self.start(disk, now);
        }
    }
}

fn run(_: &str) {
    let Some(mut disk) = Nvme::with_queues(QUEUES) else {
        println!("guest failed: there is no NVMe disk");
        return;
    };
    let mut input = Input::default();
    let mut counters = Counters::default();
    let mut printed = clock::now_ns();
    let one = |queue| Pulse { queue, vector: disk.vector(queue), page: Frames::take(1), seen: 0, started: None };
    let mut pulses: Vec<Pulse> = (1..=QUEUES).map(one).collect();
    pulses.iter_mut().for_each(|pulse| pulse.start(&mut disk, printed));
    let mut go_on = true;
    while go_on || pulses.iter().any(|pulse| pulse.started.is_some()) {
        let news = |pulses: &[Pulse]| pulses.iter().any(|pulse| interrupts::count(pulse.vector) != pulse.seen);
        if !news(&pulses) {
            interrupts::sleep_unless(PAUSE_MS, || news(&pulses));
        }
        for pulse in &mut pulses {
            pulse.look(&mut disk, &mut counters, go_on);
        }
        let now = clock::now_ns();
        if now.saturating_sub(printed) >= INTERVAL_NS {
            printed = now;
            print("", now, &counters);
            go_on &= input.poll().is_none_or(|line| line != "stop");
        }
    }
    // One that comes now is one too many.
    interrupts::sleep_ms(200);
    pulses.iter_mut().for_each(|pulse| pulse.look(&mut disk, &mut counters, false));
    print("stopped ", clock::now_ns(), &counters);
}

fn print(word: &str, now: u64, counters: &Counters) {
    let Counters { interrupts, completions, lost, extra, errors, longest_ns } = counters;
    println!(
        "pulse {word}t={now} interrupts={interrupts} completions={completions} lost={lost} extra={extra} errors={errors} \
         longest_us={}",
        longest_ns / 1000
    );
}
