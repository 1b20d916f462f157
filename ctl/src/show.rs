//! Tables for people.

use std::fmt::Write;

use crate::api::{Devices, Fault, Guests, Iommu, PciDevice, Plan, PlanMemory, Report, Status};

/// The phases in the order they happen.
pub const PHASES: [&str; 9] = ["stage", "plan", "warm", "freeze", "switch", "verify", "commit", "run", "retire"];

/// Rows under a header, columns as wide as they need.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([header[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A count with separators: 12,345,678.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        _ = writeln!(text, "{name:<width$}  {value}");
        text
    })
}

/// GET /v1/status.
#[must_use]
pub fn status(status: &Status) -> String {
    let seconds = status.uptime_ms / 1000;
    pairs(&[
        ("image", format!("{} {} ({})", status.build_name, status.version, short(&status.build_id))),
        ("generation", status.generation.to_string()),
        ("running for", format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)),
        ("started by", status.boot.via.clone()),
        ("to the guest", format!("{} ticks", grouped(status.boot.ticks_to_guest))),
        ("CPUs", format!("{}, TSC {} kHz", status.pcpus, grouped(status.tsc_khz))),
        (
            "memory",
            format!(
                "{}: Baton {}, guests {}, free {}",
                mib(status.memory.total_bytes),
                mib(status.memory.hypervisor_bytes),
                mib(status.memory.guest_bytes),
                mib(status.memory.free_bytes)
            ),
        ),
        (
            "in use",
            format!(
                "{} arena frames ({} unclaimed), {} domain ids, {} interrupt entries, {} vectors, heap {}",
                status.resources.arena_frames,
                status.resources.arena_unclaimed,
                status.resources.domain_ids,
                status.resources.interrupt_entries,
                status.resources.vectors,
                mib(status.resources.heap_bytes)
            ),
        ),
    ])
}

/// The first digits of a build id.
#[must_use]
pub fn short(build_id: &str) -> &str {
    build_id.get(..12).unwrap_or(build_id)
}

/// GET /v1/guests.
#[must_use]
pub fn guests(guests: &Guests) -> String {
    let rows: Vec<_> = guests
        .guests
        .iter()
        .map(|guest| {
            let cpus: Vec<_> = guest.vcpus.iter().map(|vcpu| format!("{}@{}", vcpu.index, vcpu.pcpu)).collect();
            let exits: u64 = guest.vcpus.iter().flat_map(|vcpu| vcpu.exits.values()).sum();
            vec![
                guest.name.clone(),
                guest
                    .reason
                    .as_ref()
                    .map_or_else(|| guest.state.clone(), |reason| format!("{}: {reason}", guest.state)),
                format!("{} MiB", guest.memory_mib),
                cpus.join(" "),
                grouped(exits),
                guest.devices.join(" "),
                guest.kernel.clone(),
            ]
        })
        .collect();
    table(&["GUEST", "STATE", "MEMORY", "VCPU@PCPU", "EXITS", "DEVICES", "KERNEL"], &rows)
}

/// GET /v1/iommu.
#[must_use]
pub fn iommu(iommu: &Iommu) -> String {
    let on = |on| if on { "on" } else { "OFF" }.to_string();
    let units: Vec<_> = iommu
        .units
        .iter()
        .map(|unit| {
            vec![
                unit.base.clone(),
                unit.version.clone(),
                on(unit.translation_enabled),
                on(unit.interrupt_remapping_enabled),
                unit.root_table.clone(),
                unit.interrupt_table.clone(),
                unit.faults_total.to_string(),
            ]
        })
        .collect();
    let devices: Vec<_> = iommu
        .devices
        .iter()
        .map(|device| {
            let table = iommu.domains.iter().find(|domain| domain.token == device.domain);
            vec![
                device.bdf.clone(),
                device.owner.clone(),
                device.did.to_string(),
                table.map_or_else(String::new, |domain| format!("{}, {} levels", domain.table_root, domain.levels)),
            ]
        })
        .collect();
    format!(
        "{}\n{}\n{} remapped interrupts, {} faults kept\n",
        table(&["UNIT", "VERSION", "TRANSLATION", "REMAPPING", "ROOT", "INTERRUPTS", "FAULTS"], &units),
        table(&["DEVICE", "OWNER", "DID", "TABLE"], &devices),
        iommu.interrupts.len(),
        iommu.faults.len(),
    )
}

/// GET /v1/devices.
#[must_use]
pub fn devices(devices: &Devices) -> String {
    let row = |device: &PciDevice| {
        let of = device.physical.as_ref().map_or_else(String::new, |physical| format!(" of {physical}"));
        vec![
            format!("{}{of}", device.bdf),
            device.id.clone(),
            device.class.clone(),
            device.state.clone(),
            device.owner.clone(),
            device.group.clone(),
            device.unit.clone().unwrap_or_default(),
            device.reset.clone(),
            device.ats.clone(),
            device.refused.clone(),
        ]
    };
    let rows: Vec<_> = devices.devices.iter().map(row).collect();
    let header = ["DEVICE", "ID", "CLASS", "STATE", "OWNER", "GROUP", "UNIT", "RESET", "ATS", "REFUSED"];
    let mut text = table(&header, &rows);
    for group in &devices.groups {
        _ = writeln!(text, "group {}: {}: {}", group.id, group.members.join(" "), group.why.join(", "));
    }
    text
}

/// The faults of GET /v1/iommu.
#[must_use]
pub fn faults(iommu: &Iommu) -> String {
    let row = |fault: &Fault| {
        let pasid = fault.pasid.map_or_else(String::new, |pasid| format!(" (PASID {pasid:#x})"));
        vec![
            fault.source.clone(),
            fault.owner.clone(),
            format!("{}{pasid}", fault.kind),
            fault.address.clone(),
            grouped(fault.count),
            format!("{} ({})", fault.words, fault.reason),
            fault.unit.clone(),
        ]
    };
    let rows: Vec<_> = iommu.faults.iter().map(row).collect();
    let header = ["DEVICE", "OWNER", "ACCESS", "ADDRESS", "TIMES", "REASON", "UNIT"];
    let total: u64 = iommu.units.iter().map(|unit| unit.faults_total).sum();
    format!("{}\n{total} faults since power-on, {} times some were lost\n", table(&header, &rows), iommu.faults_lost)
}

/// One report.
#[must_use]
pub fn report(report: &Report) -> String {
    let phases: Vec<_> = PHASES
        .iter()
        .filter_map(|name| report.phases.get(*name).map(|ticks| format!("{name} {}", grouped(*ticks))))
        .collect();
    let mut lines = vec![
        ("upgrade", format!("{}: {}", report.id, report.outcome)),
        ("from", format!("{} ({})", report.from_version, short(&report.from))),
        ("to", format!("{} ({})", report.to_version, short(&report.to))),
        ("generation", report.generation.to_string()),
    ];
    if !report.reason.is_empty() {
        let blame = report.blame.as_deref().map_or_else(String::new, |blame| format!(" (to be mended by: {blame})"));
        lines.push(("reason", format!("{}{blame}", report.reason)));
    }
    lines.extend([
        ("pause", format!("{} ticks", grouped(report.pause_ticks))),
        ("phases", phases.join(", ")),
        ("faults", report.iommu_faults.to_string()),
        ("interrupts", format!("{} pending, {} delivered", report.interrupts_pending, report.interrupts_delivered)),
    ]);
    if !report.stopped.is_empty() {
        lines.push(("stopped", report.stopped.join(", ")));
    }
    lines.extend(report.notes.iter().map(|note| ("note", note.clone())));
    pairs(&lines)
}

/// What a dry run found.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let rows: Vec<_> = plan
        .objects
        .iter()
        .map(|object| {
            let verdict = if object.preserved { "preserved".into() } else { format!("NO: {}", object.reason) };
            vec![object.kind.clone(), object.name.clone(), verdict]
        })
        .collect();
    let piece = |piece: &PlanMemory| vec![piece.what.clone(), mib(piece.needed_bytes), mib(piece.available_bytes)];
    let memory: Vec<_> = plan.memory.iter().map(piece).collect();
    let from = match plan.estimated_from.as_str() {
        "last_upgrade" => ", as the last one's",
        "dry_run" => ", by what was tried now",
        _ => "",
    };
    format!(
        "{}\n{}\nthe upgrade {}, the pause would be some {} ticks{from}, memory needed {}\n",
        table(&["KIND", "NAME", "VERDICT"], &rows),
        table(&["MEMORY FOR", "NEEDED", "THERE IS"], &memory),
        if plan.ok { "can be done" } else { "would be refused" },
        grouped(plan.estimated_pause_ticks),
        mib(plan.memory_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "longer".into()], vec!["bbbb".into(), "x".into()]];
        assert_eq!(table(&["N", "VALUE"], &rows), "N     VALUE\na     longer\nbbbb  x\n");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_refusal_names_its_reason() {
        let refused = Report {
            outcome: "refused".into(),
            reason: "checksum".into(),
            blame: Some("operator".into()),
            ..Report::default()
        };
        assert!(report(&refused).contains("reason      checksum (to be mended by: operator)"));
    }
}
