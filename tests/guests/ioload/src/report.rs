//! The lines on the console, in one format for the guest program and its readers: `ioload key=value ...`.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::kernel_log::KernelLog;

/// What the threads count.
#[derive(Default)]
pub struct Counters {
    /// I/Os completed.
    pub ops: AtomicU64,
    /// Bytes moved.
    pub bytes: AtomicU64,
    /// I/Os the kernel refused or cut short.
    pub errors: AtomicU64,
    /// Blocks read that were not what was written.
    pub mismatches: AtomicU64,
    /// Steps of the clock backwards.
    pub clock_back: AtomicU64,
    /// When the last I/O was completed.
    pub last_ns: AtomicU64,
    /// Longest time without a completed I/O since the last line.
    pub gap_ns: AtomicU64,
}

impl Counters {
    /// Counts one completed I/O.
    pub fn completed(&self, now_ns: u64, bytes: u64) {
        let gap = now_ns.saturating_sub(self.last_ns.fetch_max(now_ns, Ordering::Relaxed));
        self.gap_ns.fetch_max(gap, Ordering::Relaxed);
        self.ops.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn line(&self, now_ns: u64, complaints: Option<u64>) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // An I/O that is late right now counts as well.
        let open = now_ns.saturating_sub(get(&self.last_ns));
        let gap = self.gap_ns.swap(0, Ordering::Relaxed).max(open);
        format!(
            "ioload t={now_ns} ops={} bytes={} errors={} mismatches={} max_gap_us={} clock_back={} nvme_errors={}",
            get(&self.ops),
            get(&self.bytes),
            get(&self.errors),
            get(&self.mismatches),
            gap / 1000,
            get(&self.clock_back),
            complaints.map_or_else(|| "unknown".into(), |count| count.to_string()),
        )
    }
}

/// Prints a line per interval, for ever.
pub fn run(counters: &Counters, interval_ms: u64) -> anyhow::Result<()> {
    let mut kernel_log = KernelLog::open();
    let mut console = std::io::stdout();
    let mut last = 0;
    loop {
        thread::sleep(Duration::from_millis(interval_ms));
        let now = monotonic_ns();
        if now < last {
            counters.clock_back.fetch_add(1, Ordering::Relaxed);
        }
        last = now;
        let line = counters.line(now, kernel_log.complaints());
        writeln!(console, "{line}")?;
    }
}

/// The same without a disk.
pub fn idle(interval_ms: u64) -> anyhow::Result<()> {
    let counters = Counters::default();
    loop {
        thread::sleep(Duration::from_millis(interval_ms));
        let now = monotonic_ns();
        if now < counters.last_ns.swap(now, Ordering::Relaxed) {
            counters.clock_back.fetch_add(1, Ordering::Relaxed);
        }
        println!("{}", counters.line(now, Some(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_the_longest_gap_once() {
        let counters = Counters::default();
        counters.completed(1_000_000, 0);
        counters.gap_ns.store(0, Ordering::Relaxed);
        counters.completed(3_000_000, 4096);
        counters.completed(3_500_000, 4096);
        assert_eq!(
            counters.line(3_600_000, Some(0)),
            "ioload t=3600000 ops=3 bytes=8192 errors=0 mismatches=0 max_gap_us=2000 clock_back=0 nvme_errors=0"
        );
        assert!(counters.line(3_600_000, None).contains("max_gap_us=100 clock_back=0 nvme_errors=unknown"));
    }
}
