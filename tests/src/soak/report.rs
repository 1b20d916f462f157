//! What a soak has done and found: `target/reports/soak.json`, and what it resumes from.

use std::collections::BTreeMap;

use batonctl::api;
use serde::{Deserialize, Serialize};

/// The whole. Field names are a contract with whoever reads it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// All upgrades were done and everything held.
    pub ok: bool,
    /// What the dice began with.
    pub seed: u64,
    /// Upgrades asked for.
    pub upgrades: u32,
    /// Upgrades committed as asked for; those of a cancel that came too late are not among them.
    pub committed: u32,
    /// Machines that were started: more than one when it was resumed.
    pub boots: u32,
    /// How long it took.
    pub seconds: u64,
    /// How often what was done.
    pub acts: BTreeMap<String, u32>,
    /// How often what came of it, by the reports' words.
    pub outcomes: BTreeMap<String, u32>,
    /// Pauses of committed upgrades.
    pub pause_ticks: Spread,
    /// Pauses of upgrades that were rolled back.
    pub rollback_pause_ticks: Spread,
    /// Device interrupts pending when their pCPUs changed images.
    pub interrupts_pending: u64,
    /// Of these, the ones handed to guests afterwards.
    pub interrupts_delivered: u64,
    /// What the guests did, on the last machine.
    pub guests: Guests,
    /// What was handed out, whenever it was looked at.
    pub resources: Vec<Look>,
    /// Why it ended early.
    pub failure: Option<String>,
}

/// What the guests did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guests {
    /// Disk I/Os completed and verified.
    pub disk_ops: u64,
    /// Frames that came back over the wire, each once and unchanged.
    pub frames: u64,
    /// The longest time without a completed disk I/O, in us of the guest's clock.
    pub longest_gap_us: u64,
}

/// What was handed out after so many upgrades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    /// Upgrades committed until then.
    pub after: u32,
    /// As `GET /v1/status` says.
    pub resources: api::Resources,
}

/// Numbers, sorted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spread {
    /// The middle one.
    pub median: u64,
    /// 99 of 100 are not above it.
    pub percent_99: u64,
    /// The largest.
    pub longest: u64,
    /// All of them.
    pub all: Vec<u64>,
}

impl Spread {
    /// One more.
    pub fn add(&mut self, value: u64) {
        let at = self.all.partition_point(|known| *known <= value);
        self.all.insert(at, value);
        let last = self.all.len() - 1;
        let part = |percent: usize| self.all.get((last * percent).div_ceil(100)).copied().unwrap_or(0);
        (self.median, self.percent_99, self.longest) = (part(50), part(99), part(100));
    }
}

impl Report {
    /// Counts an act, and what Baton says of it.
    pub fn note(&mut self, act: &str, report: Option<&api::Report>) {
        *self.acts.entry(act.into()).or_default() += 1;
        let Some(report) = report else { return };
        *self.outcomes.entry(report.outcome.clone()).or_default() += 1;
        match report.outcome.as_str() {
            "committed" => {
                self.pause_ticks.add(report.pause_ticks);
                self.interrupts_pending += report.interrupts_pending;
                self.interrupts_delivered += report.interrupts_delivered;
            }
            "rolled_back" => self.rollback_pause_ticks.add(report.pause_ticks),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_sorted() {
        let mut spread = Spread::default();
        [5, 1, 9, 3, 7].into_iter().for_each(|value| spread.add(value));
        assert_eq!((spread.median, spread.percent_99, spread.longest), (5, 9, 9));
        assert_eq!(spread.all, [1, 3, 5, 7, 9]);
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let mut report = Report { seed: u64::MAX, upgrades: 3, ..Report::default() };
        let ended = api::Report { outcome: "rolled_back".into(), pause_ticks: 5, ..api::Report::default() };
        report.note("fault", Some(&ended));
        let text = serde_json::to_string(&report).expect("plain data");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("the same"), report);
        assert_eq!((report.outcomes["rolled_back"], report.rollback_pause_ticks.longest), (1, 5));
    }
}
