//! The summary for people.

use batonctl::show::{PHASES, grouped, short, table};

use super::story::Demo;

/// Tables of upgrades, I/O and checks; of a check that failed, what was seen.
pub fn summary(demo: &Demo) -> String {
    let report = &demo.report;
    let upgrades: Vec<_> = report
        .upgrades
        .iter()
        .map(|upgrade| {
            let reason = if upgrade.reason.is_empty() { String::new() } else { format!(": {}", upgrade.reason) };
            vec![
                format!("{} -> {}", short(&upgrade.from), short(&upgrade.to)),
                upgrade.generation.to_string(),
                grouped(upgrade.pause_ticks),
                if demo.tsc_khz == 0 {
                    String::new()
                } else {
                    format!("{:.2}", upgrade.pause_ticks as f64 / demo.tsc_khz as f64)
                },
                upgrade.iommu_faults.to_string(),
                format!("{}/{}", upgrade.interrupts_delivered, upgrade.interrupts_pending),
                format!("{}{reason}", upgrade.outcome),
            ]
        })
        .collect();
    let phases: Vec<_> = report
        .upgrades
        .iter()
        .filter(|upgrade| upgrade.outcome == "committed")
        .map(|upgrade| {
            let ticks = |name: &&str| upgrade.phases.get(*name).map_or_else(|| "-".into(), |ticks| grouped(*ticks));
            std::iter::once(short(&upgrade.to).to_owned()).chain(PHASES.iter().map(ticks)).collect()
        })
        .collect();
    let mut phase_header = vec!["TICKS OF"];
    phase_header.extend(PHASES);
    let io = &report.io;
    let held = report.checks.iter().filter(|check| check.ok).count();
    let mut text = format!(
        "\nbooted by {}, {} ticks to the guest: Linux {}, {} MiB, {} driven by {}\n\n{}\n{}\n\
         guest I/O: {} operations, {} MiB, {} errors, {} checksum mismatches, longest gap {:.1} ms\n{held} of {} checks held\n",
        report.boot.via,
        grouped(report.boot.ticks_to_guest),
        report.guest.kernel,
        report.guest.memory_mib,
        report.device.bdf,
        report.device.driver,
        table(&["UPGRADE", "GENERATION", "PAUSE (TICKS)", "PAUSE (MS)", "FAULTS", "INTERRUPTS", "OUTCOME"], &upgrades),
        table(&phase_header, &phases),
        grouped(io.ops),
        io.bytes >> 20,
        io.errors,
        io.checksum_mismatches,
        io.max_gap_ms,
        report.checks.len(),
    );
    for check in demo.checks.iter().filter(|check| !check.ok) {
        text += &format!("did not hold: {}: {}\n", check.name, check.seen);
    }
    text
}
