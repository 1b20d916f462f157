//! A guest whose processors send each other messages without end, by every way there is, and count what they get: a message lost
//! or doubled ends it with `guest failed: ...`. Every sender has vectors of its own, and sends the next one when the last has been
//! counted, so that none can hide behind another.
//!
//! A line now and then: `ipi t=<ns> cpus=<n> rounds=<fewest of any processor> sent=<n> nmis=<n>`. With `rounds=<n>` on its command
//! line each processor stops after so many, and the last line is `ipi done ...`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bareguest::apic::{self, Message, To};
use bareguest::interrupts::{self, Frame, count_of};
use bareguest::{clock, guest, println, smp};

guest!(run);

/// The first of each sender's vectors: for fixed messages, for those to one of many, to itself.
const FIXED: u8 = 0x40;
const LOWEST: u8 = 0x80;
const OWN: u8 = 0xc0;
const NMI: u8 = 2;
/// A message that has not come then is lost: an upgrade may be under way.
const PATIENCE_MS: u64 = 60_000;
/// Between two lines.
const INTERVAL_NS: u64 = 250_000_000;
/// Members of a cluster (SDM 3A 11.12.10.2).
const CLUSTER: usize = 16;

static ROUNDS: [AtomicU32; smp::MOST] = [const { AtomicU32::new(0) }; smp::MOST];
static SENT: AtomicU64 = AtomicU64::new(0);
static LIMIT: AtomicU32 = AtomicU32::new(0);
/// NMIs have no vector: one sender at a time.
static NMI_BUSY: AtomicBool = AtomicBool::new(false);
static NMIS: [AtomicU32; smp::MOST] = [const { AtomicU32::new(0) }; smp::MOST];

fn hook(frame: &mut Frame) -> bool {
    frame.vector == NMI.into()
}

/// One processor as a sender: what every other one must have counted of its messages.
struct Sender {
    own: usize,
    cpus: usize,
    fixed: Vec<u32>,
    lowest: u32,
    to_itself: u32,
}

impl Sender {
    fn new(own: usize) -> Self {
        let cpus = smp::count();
        Self { own, cpus, fixed: alloc::vec![0; cpus], lowest: 0, to_itself: 0 }
    }

    fn everyone(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.cpus
    }

    fn vector(&self, first: u8) -> u8 {
        first + self.own as u8
    }

    /// Sends a fixed message to those in `targets`, by `to`; all of them count it, once, and nobody else does.
    fn fixed(&mut self, to: To, targets: impl Iterator<Item = usize>) {
        targets.for_each(|target| self.fixed[target] += 1);
        let vector = self.vector(FIXED);
        send(Message::Fixed(vector), to);
        let come = || (0..self.cpus).all(|target| count_of(target, vector) >= self.fixed[target]);
        if !smp::wait(come, PATIENCE_MS) {
            self.complain("lost", to);
        }
        self.check(to);
    }

    /// Nobody has counted more than was sent.
    fn check(&self, to: To) {
        let vector = self.vector(FIXED);
        if !self.everyone().all(|target| count_of(target, vector) == self.fixed[target]) {
            self.complain("doubled", to);
        }
        let lowest = self.lowest_counted();
        assert!(lowest == self.lowest, "CPU {}: {lowest} messages to one of many came of {}", self.own, self.lowest);
        let own = self.vector(OWN);
        let come = count_of(self.own, own);
        assert!(come == self.to_itself, "CPU {}: {come} messages to itself came of {}", self.own, self.to_itself);
    }

    fn complain(&self, what: &str, to: To) {
        let counts: Vec<u32> = self.everyone().map(|target| count_of(target, self.vector(FIXED))).collect();
        panic!("CPU {}: a message {to:?} was {what}: {counts:?} have come of {:?}", self.own, self.fixed);
    }

    fn lowest_counted(&self) -> u32 {
        self.everyone().map(|target| count_of(target, self.vector(LOWEST))).sum()
    }

    /// The members of a cluster that there are: which, and how they are addressed.
    fn cluster(&self, cluster: usize) -> (core::ops::Range<usize>, To) {
        let first = cluster * CLUSTER;
        let last = self.cpus.min(first + CLUSTER);
        let mask = (1u32 << (last - first)) - 1;
        (first..last, To::Logical((cluster as u32) << 16 | mask))
    }

    fn round(&mut self) {
        let clusters = self.cpus.div_ceil(CLUSTER);
        for target in self.everyone() {
            self.fixed(To::Physical(target as u32), target..=target);
        }
        for cluster in 0..clusters {
            let (members, to) = self.cluster(cluster);
            self.fixed(to, members);
        }
        self.fixed(To::All, self.everyone());
        let own = self.own;
        self.fixed(To::Others, self.everyone().filter(|target| *target != own));
        self.fixed(To::Physical(u32::MAX), self.everyone());
        self.fixed(To::Own, own..=own);
        for cluster in 0..clusters {
            self.lowest += 1;
            send(Message::Lowest(self.vector(LOWEST)), self.cluster(cluster).1);
            assert!(
                smp::wait(|| self.lowest_counted() >= self.lowest, PATIENCE_MS),
                "CPU {own}: a message to one of many was lost"
            );
        }
        self.to_itself += 1;
        apic::send_self(self.vector(OWN));
        SENT.fetch_add(1, Ordering::Relaxed);
        assert!(
            smp::wait(|| count_of(own, self.vector(OWN)) >= self.to_itself, PATIENCE_MS),
            "CPU {own}: a message to itself was lost"
        );
        self.nmis();
        self.check(To::All);
    }

    /// One to each of the others, then one to all of them at once.
    fn nmis(&self) {
        while NMI_BUSY.swap(true, Ordering::Acquire) {
            let free = || !NMI_BUSY.load(Ordering::Relaxed);
            assert!(smp::wait(free, PATIENCE_MS), "CPU {}: another one's NMIs take too long", self.own);
        }
        let others = || self.everyone().filter(|target| *target != self.own);
        for target in others() {
            NMIS[target].fetch_add(1, Ordering::Relaxed);
            self.nmi(To::Physical(target as u32));
        }
        others().for_each(|target| _ = NMIS[target].fetch_add(1, Ordering::Relaxed));
        self.nmi(To::Others);
        NMI_BUSY.store(false, Ordering::Release);
    }

    fn nmi(&self, to: To) {
        send(Message::Nmi, to);
        let wanted = |target: usize| NMIS[target].load(Ordering::Relaxed);
        let come = || self.everyone().all(|target| count_of(target, NMI) >= wanted(target));
        assert!(smp::wait(come, PATIENCE_MS), "CPU {}: an NMI {to:?} was lost", self.own);
        let exact = self.everyone().all(|target| count_of(target, NMI) == wanted(target));
        assert!(exact, "CPU {}: an NMI {to:?} was doubled", self.own);
    }
}

fn send(message: Message, to: To) {
    SENT.fetch_add(1, Ordering::Relaxed);
    apic::send(message, to);
}

fn work(own: usize) {
    let mut sender = Sender::new(own);
    let limit = LIMIT.load(Ordering::Relaxed);
    let mut printed = clock::now_ns();
    while limit == 0 || ROUNDS[own].load(Ordering::Relaxed) < limit {
        sender.round();
        ROUNDS[own].fetch_add(1, Ordering::Relaxed);
        let now = clock::now_ns();
        if own == 0 && now.saturating_sub(printed) >= INTERVAL_NS {
            printed = now;
            tell("");
        }
    }
    let over = || fewest() >= limit;
    while own == 0 && !smp::wait(over, 1_000) {
        tell("");
    }
    if own == 0 {
        tell("done ");
    }
    // It still gets what others send.
    let _never = smp::wait(|| false, u64::MAX / clock::khz());
}

fn fewest() -> u32 {
    ROUNDS.iter().take(smp::count()).map(|rounds| rounds.load(Ordering::Relaxed)).min().unwrap_or(0)
}

fn tell(word: &str) {
    let nmis: u32 = NMIS.iter().map(|nmis| nmis.load(Ordering::Relaxed)).sum();
    let (now, cpus, sent) = (clock::now_ns(), smp::count(), SENT.load(Ordering::Relaxed));
    println!("ipi {word}t={now} cpus={cpus} rounds={} sent={sent} nmis={nmis}", fewest());
}

fn run(command_line: &str) {
    let limit = command_line.split_whitespace().find_map(|word| word.strip_prefix("rounds=")?.parse().ok());
    LIMIT.store(limit.unwrap_or(0), Ordering::Relaxed);
    interrupts::set_hook(hook);
    smp::start(work);
    println!("ipi cpus={}", smp::count());
    work(0);
}
