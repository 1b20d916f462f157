//! The log of faults: bounded, each kind of trouble told at most once a second, each device counted.

use super::fault::Fault;
use alloc::vec::Vec;
use machine::access::Clock;
use machine::pci::Bdf;

/// Lines that the log keeps.
const LINES: usize = 64;
/// Devices that are counted.
const SOURCES: usize = 64;
/// Length of the rate limit's window, in milliseconds.
const WINDOW_MS: u64 = 1_000;

/// One kind of trouble, and how often it was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultLine {
    /// The latest one.
    pub fault: Fault,
    /// How many there were.
    pub count: u64,
    /// How many of them [`FaultLog::report`] has told of.
    pub reported: u64,
    /// When it last told, in ticks.
    pub reported_at: u64,
}

/// How often a device was blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceCount {
    /// Who asked: one line per requester id.
    pub device: Bdf,
    /// Faults in the running second.
    pub window: u64,
    /// Faults since this image has the units.
    pub total: u64,
}

/// The faults of all units. Bounded; what does not fit is counted.
#[derive(Clone, Debug, Default)]
pub struct FaultLog {
    pub(crate) lines: Vec<FaultLine>,
    sources: Vec<SourceCount>,
    /// Every fault ever seen.
    pub total: u64,
    /// Faults of kinds that found no room in the log.
    pub unlisted: u64,
    /// How often a unit ran out of recording registers and lost faults.
    pub overflows: u64,
    window_start: u64,
    /// Faults in the running second, of all units.
    pub(super) window_count: u64,
}

impl FaultLog {
    /// The kinds of trouble met, oldest first.
    #[must_use]
    pub fn lines(&self) -> &[FaultLine] {
        &self.lines
    }

    /// The devices that were blocked. One that is not in a full list takes the place of the one with the fewest faults.
    #[must_use]
    pub fn sources(&self) -> &[SourceCount] {
        &self.sources
    }

    /// Devices with more than `limit` faults in the running second; none when `limit` is 0. What the
    /// caller does with them is its decision: bus mastering off, `Iommu::quarantine`.
    pub fn suspects(&self, limit: u64) -> impl Iterator<Item = Bdf> + '_ {
        let beyond = move |source: &&SourceCount| limit > 0 && source.window > limit;
        self.sources.iter().filter(beyond).map(|source| source.device)
    }

    fn count(&mut self, device: Bdf) {
        let place = match self.sources.iter().position(|source| source.device == device) {
            Some(place) => place,
            None if self.sources.len() < SOURCES => {
                self.sources.push(SourceCount { device, window: 0, total: 0 });
                self.sources.len() - 1
            }
            None => {
                // Whoever hammers stays listed: it has more.
                let fewest = self.sources.iter().enumerate().min_by_key(|(_, source)| (source.window, source.total));
                let place = fewest.map_or(0, |(place, _)| place);
                if let Some(source) = self.sources.get_mut(place) {
                    *source = SourceCount { device, window: 0, total: 0 };
                }
                place
            }
        };
        if let Some(source) = self.sources.get_mut(place) {
            source.window = source.window.saturating_add(1);
            source.total = source.total.saturating_add(1);
        }
    }

    pub(super) fn record(&mut self, fault: Fault) {
        self.total = self.total.saturating_add(1);
        self.window_count = self.window_count.saturating_add(1);
        self.count(fault.device);
        if let Some(line) = self.lines.iter_mut().find(|line| line.fault.same_cause(&fault)) {
            line.fault = fault;
            line.count = line.count.saturating_add(1);
        } else if self.lines.len() < LINES {
            self.lines.push(FaultLine { fault, count: 1, reported: 0, reported_at: 0 });
        } else {
            self.unlisted = self.unlisted.saturating_add(1);
        }
    }

    /// Tells `tell` of lines with news, and how many faults are new in each; every line
    /// at most once a second.
    pub fn report(&mut self, clock: &dyn Clock, mut tell: impl FnMut(&FaultLine, u64)) {
        let now = clock.ticks();
        let pause = clock.ticks_per_ms().saturating_mul(WINDOW_MS);
        for line in &mut self.lines {
            let news = line.count.saturating_sub(line.reported);
            let due = line.reported == 0 || now.saturating_sub(line.reported_at) >= pause;
            if news > 0 && due {
                line.reported = line.count;
                line.reported_at = now;
                tell(line, news);
            }
        }
    }

    /// Takes the room of a full log, so that [`restore`](Self::restore) need not.
    pub(crate) fn reserve(&mut self) {
        self.lines.reserve(LINES);
    }

    /// Continues the log of the image before.
    pub(crate) fn restore(&mut self, lines: &[FaultLine]) {
        self.lines.clear();
        self.lines.extend(lines.iter().take(LINES));
        self.total = self.lines.iter().fold(0, |sum: u64, line| sum.saturating_add(line.count));
        for line in &mut self.lines {
            // Ticks of another image mean nothing.
            line.reported_at = 0;
            line.reported = line.reported.min(line.count);
        }
    }

    /// Starts a new window when the last is over. Returns whether it did.
    pub(crate) fn roll(&mut self, clock: &dyn Clock) -> bool {
        let now = clock.ticks();
        let over = now.saturating_sub(self.window_start) >= clock.ticks_per_ms().saturating_mul(WINDOW_MS);
        if over {
            self.window_start = now;
            self.window_count = 0;
            self.sources.iter_mut().for_each(|source| source.window = 0);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::faults::FaultRecord;
    use super::super::spec::tables::unpair;
    use super::*;
    use crate::model::ModelClock;
    use machine::addr::HostPhys;

    fn fault(source: u64, page: u64) -> Fault {
        let record = FaultRecord::from_bits(unpair([page << 12, 0x8000_0005_0000_0000 | source]));
        Fault::decode(HostPhys(0xfed9_0000), 0, record).unwrap()
    }

    #[test]
    fn the_log_is_bounded() {
        let mut log = FaultLog::default();
        for source in 0..100 {
            for page in 0..3 {
                log.record(fault(source, page));
            }
        }
        assert_eq!((log.lines().len(), log.total, log.unlisted), (64, 300, 108));
        assert_eq!((log.lines()[0].count, log.lines()[0].fault.address.0), (3, 0x2000));
        assert_eq!(log.sources().len(), 64);
    }

    /// A device that hammers is known by name, however many others fault now and then.
    #[test]
    fn suspects() {
        let (mut log, clock) = (FaultLog::default(), ModelClock::default());
        let _first = log.roll(&clock);
        for round in 0..101 {
            log.record(fault(0x0300, round));
            log.record(fault(0x1000 + round, 0));
        }
        let hammering = Bdf::from_requester_id(0, 0x0300);
        assert_eq!(log.suspects(100).collect::<Vec<_>>(), [hammering]);
        assert_eq!((log.suspects(101).count(), log.suspects(0).count()), (0, 0));
        assert_eq!(log.sources().iter().find(|source| source.device == hammering).unwrap().total, 101);
        clock.advance(2_000);
        assert!(log.roll(&clock));
        assert_eq!(log.suspects(1).count(), 0);
    }
}
