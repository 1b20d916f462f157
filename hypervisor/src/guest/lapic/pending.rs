//! The part of a LAPIC that others write: a mailbox without locks.

use core::sync::atomic::{AtomicU32, Ordering};

use super::vectors::VectorSet;

const NMI: u32 = 1 << 0;
const INIT: u32 = 1 << 1;
const ILLEGAL_VECTOR: u32 = 1 << 2;
/// A startup message is pending, its page in bits 31:24.
const STARTUP: u32 = 1 << 3;
/// Something is in `requests`, or an illegal vector. Set after it, cleared before it is looked at.
const POSTED: u32 = 1 << 4;
const PAGE_SHIFT: u32 = 24;
const ANYTHING: u32 = NMI | INIT | ILLEGAL_VECTOR | STARTUP | POSTED;

/// What happened to a CPU that was told to start or to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupEvent {
    /// Reset the CPU and let it wait for a startup message (SDM 3A 8.4.3).
    Init,
    /// Start in real mode at `page << 12`, if the CPU waits; otherwise ignore it.
    Startup {
        /// CS selector is `page << 8`, IP is 0.
        page: u8,
    },
}

/// Interrupts posted for one vCPU from any context, interrupt handlers included.
/// The owner collects them into its LAPIC before it enters the guest.
#[derive(Debug, Default)]
pub struct PendingVectors {
    requests: [AtomicU32; 8],
    level: [AtomicU32; 8],
    /// One word for all: zero only if nothing was posted that the owner has not taken.
    events: AtomicU32,
}

/// What was collected from a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    pub requests: VectorSet,
    pub level: VectorSet,
    pub illegal_vector: bool,
}

impl PendingVectors {
    /// An empty mailbox.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            requests: [const { AtomicU32::new(0) }; 8],
            level: [const { AtomicU32::new(0) }; 8],
            events: AtomicU32::new(0),
        }
    }

    /// Posts an edge-triggered `vector`. Vectors below 16 are an error of the sender (SDM 3A 11.5.2).
    pub fn post(&self, vector: u8) {
        let illegal = if vector < 16 { ILLEGAL_VECTOR } else { 0 };
        if illegal == 0
            && let Some(word) = self.requests.get(usize::from(vector >> 5))
        {
            word.fetch_or(1 << (vector & 31), Ordering::AcqRel);
        }
        self.events.fetch_or(POSTED | illegal, Ordering::AcqRel);
    }

    /// Posts a level-triggered `vector`: its EOI goes to the IOAPIC.
    pub fn post_level(&self, vector: u8) {
        if vector >= 16
            && let Some(word) = self.level.get(usize::from(vector >> 5))
        {
            word.fetch_or(1 << (vector & 31), Ordering::AcqRel);
        }
        self.post(vector);
    }

    /// Posts an NMI.
    pub fn post_nmi(&self) {
        self.events.fetch_or(NMI, Ordering::AcqRel);
    }

    /// Posts an INIT. It overtakes a startup message sent before it.
    pub fn post_init(&self) {
        let _previous = self
            .events
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |events| Some(events & !startup_mask() | INIT));
    }

    /// Posts a startup message for `page`.
    pub fn post_startup(&self, page: u8) {
        let _previous = self.events.fetch_update(Ordering::AcqRel, Ordering::Acquire, |events| {
            Some(events & !startup_mask() | STARTUP | u32::from(page) << PAGE_SHIFT)
        });
    }

    /// Whether an NMI waits; does not take it.
    #[must_use]
    pub fn nmi_waits(&self) -> bool {
        self.events.load(Ordering::Acquire) & NMI != 0
    }

    /// Whether an INIT or startup message waits; does not take it.
    #[must_use]
    pub fn startup_waits(&self) -> bool {
        self.events.load(Ordering::Acquire) & (INIT | STARTUP) != 0
    }

    /// Takes a pending NMI.
    pub fn take_nmi(&self) -> bool {
        self.nmi_waits() && self.events.fetch_and(!NMI, Ordering::AcqRel) & NMI != 0
    }

    /// Takes the next INIT or startup message, INIT first.
    pub fn take_startup(&self) -> Option<StartupEvent> {
        if !self.startup_waits() {
            return None;
        }
        if self.events.fetch_and(!INIT, Ordering::AcqRel) & INIT != 0 {
            return Some(StartupEvent::Init);
        }
        let events = self.events.fetch_and(!startup_mask(), Ordering::AcqRel);
        (events & STARTUP != 0).then_some(StartupEvent::Startup { page: (events >> PAGE_SHIFT) as u8 })
    }

    /// Whether anything is posted that the owner has not collected. A cheap test for
    /// the moment before an entry or a halt; false only if nothing was posted before the call.
    #[must_use]
    #[inline]
    pub fn is_anything_posted(&self) -> bool {
        self.events.load(Ordering::Acquire) & ANYTHING != 0
    }

    /// Takes all posted vectors.
    pub(super) fn collect(&self) -> Option<Collected> {
        if self.events.load(Ordering::Acquire) & POSTED == 0 {
            return None;
        }
        let events = self.events.fetch_and(!(POSTED | ILLEGAL_VECTOR), Ordering::AcqRel);
        let mut collected = Collected::default();
        for (index, (requests, level)) in self.requests.iter().zip(&self.level).enumerate() {
            if requests.load(Ordering::Acquire) == 0 {
                continue;
            }
            let taken = requests.swap(0, Ordering::AcqRel);
            // The poster sets the level bit before the request: a bit seen here belongs to
            // a request that was taken, one set later stays for the request that follows it.
            let levels = level.fetch_and(!taken, Ordering::AcqRel) & taken;
            collected.requests.set_word(index, taken);
            collected.level.set_word(index, levels);
        }
        collected.illegal_vector = events & ILLEGAL_VECTOR != 0;
        Some(collected)
    }

    /// The NMI, INIT and startup bits, for saving.
    pub(super) fn events(&self) -> u32 {
        self.events.load(Ordering::Acquire) & (NMI | INIT | startup_mask())
    }

    /// Adds saved bits.
    pub(super) fn add_events(&self, events: u32) {
        self.events.fetch_or(events & (NMI | INIT | startup_mask()), Ordering::AcqRel);
    }
}

const fn startup_mask() -> u32 {
    STARTUP | 0xFF << PAGE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_post_is_collected_once() {
        let mailbox = PendingVectors::new();
        assert_eq!(mailbox.collect(), None);
        mailbox.post(0x31);
        mailbox.post_level(0xFE);
        assert!(mailbox.is_anything_posted());
        let collected = mailbox.collect().expect("posted");
        assert!(collected.requests.contains(0x31) && collected.requests.contains(0xFE));
        assert!(!collected.level.contains(0x31) && collected.level.contains(0xFE));
        assert_eq!(mailbox.collect(), None);
        assert!(!mailbox.is_anything_posted());
    }

    #[test]
    fn low_vectors_are_errors() {
        let mailbox = PendingVectors::new();
        mailbox.post(15);
        let collected = mailbox.collect().expect("posted");
        assert!(collected.illegal_vector);
        assert_eq!(collected.requests, VectorSet::default());
    }

    #[test]
    fn init_comes_before_startup() {
        let mailbox = PendingVectors::new();
        mailbox.post_startup(0x55);
        mailbox.post_init();
        mailbox.post_startup(0x9A);
        mailbox.post_nmi();
        assert_eq!(mailbox.take_startup(), Some(StartupEvent::Init));
        assert_eq!(mailbox.take_startup(), Some(StartupEvent::Startup { page: 0x9A }));
        assert_eq!(mailbox.take_startup(), None);
        assert!(mailbox.take_nmi());
        assert!(!mailbox.take_nmi());
    }

    /// A poster and an owner that asks nothing but whether anything is posted: no post is missed, none comes twice.
    #[test]
    fn one_word_tells_of_every_post() {
        extern crate std;
        use core::sync::atomic::AtomicUsize;
        const POSTS: usize = 20_000;
        let (mailbox, taken) = (PendingVectors::new(), AtomicUsize::new(0));
        let vector = |post: usize| (0x20 + post * 37 % 0xC0) as u8;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for post in 0..POSTS {
                    // At most two at once, so that each is one of its own.
                    while taken.load(Ordering::Acquire) + 1 < post {
                        std::thread::yield_now();
                    }
                    mailbox.post(vector(post));
                }
            });
            while taken.load(Ordering::Acquire) < POSTS {
                if !mailbox.is_anything_posted() {
                    std::thread::yield_now();
                    continue;
                }
                let Some(collected) = mailbox.collect() else { continue };
                let mut left = collected.requests;
                let first = taken.load(Ordering::Acquire);
                let mut found = first;
                while found < POSTS && left.contains(vector(found)) {
                    left.remove(vector(found));
                    found += 1;
                }
                assert_eq!(left, VectorSet::default(), "after {found}");
                taken.store(found, Ordering::Release);
            }
        });
    }
}
