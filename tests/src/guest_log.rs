//! What the guest's load program prints: `ioload t=<ns> ops=<n> ...`, a line per interval.

use crate::log::Log;

/// One line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The guest's monotonic clock in ns.
    pub t: u64,
    /// I/Os completed.
    pub ops: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// I/Os the kernel refused.
    pub errors: u64,
    /// Blocks read that were not what was written.
    pub mismatches: u64,
    /// Longest time without a completed I/O in the interval, in us.
    pub max_gap_us: u64,
    /// Steps of the clock backwards.
    pub clock_back: u64,
    /// Complaints of the guest's NVMe driver.
    pub nvme_errors: u64,
}

impl Sample {
    /// Takes a line apart; `None` when it is another one, or one cut by the kernel's own messages.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields = line.trim().strip_prefix("ioload ")?;
        let value = |name: &str| value(fields, name);
        Some(Self {
            t: value("t")?,
            ops: value("ops")?,
            bytes: value("bytes")?,
            errors: value("errors")?,
            mismatches: value("mismatches")?,
            max_gap_us: value("max_gap_us")?,
            clock_back: value("clock_back")?,
            nvme_errors: value("nvme_errors")?,
        })
    }
}

/// A number among fields like `ops=3`.
fn value(fields: &str, name: &str) -> Option<u64> {
    let mut found = fields.split_whitespace().filter_map(|field| field.split_once('=')).filter(|(key, _)| *key == name);
    found.next()?.1.parse().ok()
}

/// One line of the guest that sends frames (`tests/guests/bare/src/bin/wire.rs`), on whichever console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// The guest's clock in ns.
    pub t: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames that came back, each once, in order, unchanged.
    pub returned: u64,
    /// Everything that should not be: lost, doubled, wrong, found without an interrupt, steps of the clock backwards.
    pub trouble: [u64; 5],
}

impl Frames {
    /// Takes a line apart; `None` when it is another one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields = &line[line.find("wire t=")? + 5..];
        let value = |name: &str| value(fields, name);
        let trouble = [value("lost")?, value("doubled")?, value("wrong")?, value("silent")?, value("clock_back")?];
        Some(Self { t: value("t")?, sent: value("sent")?, returned: value("returned")?, trouble })
    }

    /// What is wrong with this line after that one.
    #[must_use]
    pub fn complaint(&self, before: &Self) -> Option<String> {
        let fine = self.t > before.t && self.returned >= before.returned && self.trouble == [0; 5];
        (!fine).then(|| format!("the wire: {self:?} after {before:?}"))
    }
}

/// One line of the guest that counts its disk's interrupts (`tests/guests/bare/src/bin/pulse.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulses {
    /// The guest's clock in ns.
    pub t: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Completions found, each by its interrupt.
    pub completions: u64,
    /// Completions without an interrupt, interrupts without a completion, failed reads.
    pub trouble: [u64; 3],
    /// The longest wait for an answer, in us.
    pub longest_us: u64,
    /// Whether it is the last line.
    pub stopped: bool,
}

impl Pulses {
    /// Takes a line apart; `None` when it is another one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields = line.trim().strip_prefix("pulse ")?;
        let value = |name: &str| value(fields, name);
        Some(Self {
            t: value("t")?,
            interrupts: value("interrupts")?,
            completions: value("completions")?,
            trouble: [value("lost")?, value("extra")?, value("errors")?],
            longest_us: value("longest_us")?,
            stopped: fields.starts_with("stopped "),
        })
    }
}

/// One line of a guest whose processors work in rounds: `ipi`, `timers`, `shootdown` (`tests/guests/bare/src/bin/`), on whichever
/// console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// The guest's clock in ns.
    pub t: u64,
    /// Its processors.
    pub cpus: u64,
    /// Rounds that each of them has done: the fewest.
    pub rounds: u64,
}

impl Rounds {
    /// Takes a line of `guest` apart; `None` when it is another one.
    #[must_use]
    pub fn parse(line: &str, guest: &str) -> Option<Self> {
        let fields = &line[line.find(&format!("{guest} t="))?..];
        let value = |name: &str| value(fields, name);
        Some(Self { t: value("t")?, cpus: value("cpus")?, rounds: value("rounds")? })
    }
}

/// One line of the guest that watches its clock (`tests/guests/bare/src/bin/watch.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The guest's clock, in ticks of its TSC.
    pub t: u64,
    /// The longest gap between two looks since the line before, likewise.
    pub longest: u64,
}

/// All lines of the guest that watches its clock.
#[must_use]
pub fn looks(console: &Log) -> Vec<Look> {
    let look = |line: &String| {
        let fields = line.trim().strip_prefix("watch ")?;
        Some(Look { t: value(fields, "t")?, longest: value(fields, "longest")? })
    };
    console.lines().iter().filter_map(look).collect()
}

/// All lines of a console so far.
#[must_use]
pub fn samples(console: &Log) -> Vec<Sample> {
    console.lines().iter().filter_map(|line| Sample::parse(line)).collect()
}

/// All lines so far of the guest whose console is Baton's log: there its name stands before them.
#[must_use]
pub fn samples_in_log(log: &Log) -> Vec<Sample> {
    let lines = log.lines();
    lines.iter().filter_map(|line| Sample::parse(&line[line.find(": ioload t=")? + 2..])).collect()
}

/// What is wrong with a guest that should have worked without pause; empty when nothing is.
#[must_use]
pub fn complaints(samples: &[Sample]) -> Vec<String> {
    let mut found = Vec::new();
    for pair in samples.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        if after.t <= before.t {
            found.push(format!("the guest's clock went from {} ns to {} ns", before.t, after.t));
        }
        if after.ops <= before.ops {
            found.push(format!(
                "no I/O was completed between {} ms and {} ms",
                before.t / 1_000_000,
                after.t / 1_000_000
            ));
        }
    }
    match samples.last() {
        None => found.push("the guest has reported nothing".into()),
        Some(last) => {
            let counts = [
                (last.errors, "I/O errors"),
                (last.mismatches, "blocks that were not what was written"),
                (last.clock_back, "steps of the clock backwards"),
                (last.nvme_errors, "complaints of the NVMe driver"),
            ];
            found.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "ioload t=3600000 ops=3 bytes=8192 errors=0 mismatches=0 max_gap_us=2000 clock_back=0 nvme_errors=0";

    #[test]
    fn lines_are_read_and_others_are_not() {
        let sample = Sample::parse(LINE).expect("a whole line");
        assert_eq!(sample, Sample { t: 3_600_000, ops: 3, bytes: 8192, max_gap_us: 2000, ..Sample::default() });
        assert_eq!(Sample::parse("[    1.0] nvme nvme0: 1/0/0 default/read/poll queues"), None);
        assert_eq!(Sample::parse(&LINE[..LINE.len() - 14]), None, "a line without all its fields");
        assert_eq!(Sample::parse(&LINE.replace("nvme_errors=0", "nvme_errors=unknown")), None);
    }

    #[test]
    fn frames_and_pulses_are_read() {
        let line = "[ 1.0] guest wire: wire t=9 sent=7 returned=5 lost=0 doubled=0 wrong=0 silent=0 clock_back=0";
        let frames = Frames::parse(line).expect("a whole line");
        assert_eq!(frames, Frames { t: 9, sent: 7, returned: 5, trouble: [0; 5] });
        assert_eq!(Frames::parse("wire t=9 sent=7"), None);
        let later = Frames { t: 10, returned: 6, ..frames };
        assert_eq!(later.complaint(&frames), None);
        for bad in [frames, Frames { trouble: [0, 0, 1, 0, 0], ..later }, Frames { returned: 4, ..later }] {
            assert!(bad.complaint(&frames).is_some(), "{bad:?}");
        }
        let line = "pulse stopped t=3 interrupts=4 completions=5 lost=1 extra=0 errors=0 longest_us=8";
        let pulses = Pulses::parse(line).expect("a whole line");
        assert!(pulses.stopped && pulses.trouble == [1, 0, 0] && (pulses.interrupts, pulses.longest_us) == (4, 8));
        assert!(!Pulses::parse(&line.replace("stopped ", "")).expect("a whole line").stopped);
    }

    #[test]
    fn rounds_are_read() {
        let line = "[ 1.0] guest timers: timers t=7 cpus=4 rounds=3 late_us=9";
        assert_eq!(Rounds::parse(line, "timers"), Some(Rounds { t: 7, cpus: 4, rounds: 3 }));
        assert_eq!(Rounds::parse(line, "ipi"), None);
        assert_eq!(Rounds::parse("timers t=7 cpus=4", "timers"), None);
    }

    #[test]
    fn every_kind_of_trouble_is_seen() {
        let good = Sample { t: 1, ops: 1, ..Sample::default() };
        let later = Sample { t: 2, ops: 2, ..Sample::default() };
        assert!(complaints(&[good, later]).is_empty());
        for bad in [
            Sample { t: 1, ..later },
            Sample { ops: 1, ..later },
            Sample { errors: 1, ..later },
            Sample { mismatches: 1, ..later },
            Sample { clock_back: 1, ..later },
            Sample { nvme_errors: 1, ..later },
        ] {
            assert_eq!(complaints(&[good, bad]).len(), 1, "{bad:?}");
        }
        assert_eq!(complaints(&[]).len(), 1, "silence is no success");
    }
}
