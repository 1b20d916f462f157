//! GET /metrics: the figures of the API in Prometheus' text format, version 0.0.4.

use alloc::string::String;
use core::fmt::{self, Write};

use super::control::Control;
use super::response::Response;
use super::types::GuestState;

/// The response to a scrape.
pub(super) fn response(control: &dyn Control) -> Response {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _written = write(&mut text, control);
    Response::new(200, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

/// A label value: backslash, quote and line feed are escaped.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

fn write(out: &mut String, control: &dyn Control) -> fmt::Result {
    let status = control.status();
    head(out, "baton_info", "gauge", "The running image.")?;
    writeln!(out, "baton_info{{version=\"{}\",build_id=\"{}\"}} 1", Label(&status.version), Label(&status.build_id))?;
    head(out, "baton_uptime_seconds", "gauge", "Time since the running image took over.")?;
    writeln!(out, "baton_uptime_seconds {}.{:03}", status.uptime_ms / 1000, status.uptime_ms % 1000)?;
    head(out, "baton_generation", "counter", "Upgrades since power-on.")?;
    writeln!(out, "baton_generation {}", status.generation)?;
    head(out, "baton_memory_bytes", "gauge", "The machine's memory by owner.")?;
    let memory = status.memory;
    for (owner, bytes) in
        [("hypervisor", memory.hypervisor_bytes), ("guest", memory.guest_bytes), ("free", memory.free_bytes)]
    {
        writeln!(out, "baton_memory_bytes{{owner=\"{owner}\"}} {bytes}")?;
    }

    head(out, "baton_resources", "gauge", "What is handed out: frames of the arena, domain ids, remapping entries.")?;
    let resources = status.resources;
    for (kind, count) in [
        ("arena_frame", resources.arena_frames),
        ("arena_frame_unclaimed", resources.arena_unclaimed),
        ("domain_id", resources.domain_ids),
        ("interrupt_entry", resources.interrupt_entries),
        ("vector", resources.vectors),
        ("heap_byte", resources.heap_bytes),
    ] {
        writeln!(out, "baton_resources{{kind=\"{kind}\"}} {count}")?;
    }

    let outcomes = control.outcomes();
    head(out, "baton_upgrades_total", "counter", "Upgrades since power-on by outcome.")?;
    for (outcome, count) in [
        ("committed", outcomes.committed),
        ("rolled_back", outcomes.rolled_back),
        ("refused", outcomes.refused),
        ("cancelled", outcomes.cancelled),
    ] {
        writeln!(out, "baton_upgrades_total{{outcome=\"{outcome}\"}} {count}")?;
    }
    if let Some(report) = control.upgrade_progress().last {
        head(out, "baton_upgrade_last_pause_ticks", "gauge", "Guest pause of the last upgrade in TSC ticks.")?;
        writeln!(out, "baton_upgrade_last_pause_ticks {}", report.pause_ticks)?;
    }

    head(out, "baton_iommu_faults_total", "counter", "IOMMU faults since power-on.")?;
    let iommu = control.iommu();
    for unit in &iommu.units {
        writeln!(out, "baton_iommu_faults_total{{unit=\"{:#x}\"}} {}", unit.base.0, unit.faults_total)?;
    }

    head(out, "baton_iommu_device_faults_total", "counter", "IOMMU faults by device, access and reason (VT-d 7.1).")?;
    for fault in &iommu.faults {
        writeln!(
            out,
            "baton_iommu_device_faults_total{{unit=\"{:#x}\",device=\"{}\",access=\"{}\",reason=\"{:#x}\"}} {}",
            fault.unit.0, fault.source, fault.kind, fault.reason.0, fault.count
        )?;
    }
    head(out, "baton_iommu_faults_lost_total", "counter", "Times a unit had no register left for a fault.")?;
    writeln!(out, "baton_iommu_faults_lost_total {}", iommu.faults_lost)?;

    let guests = control.guests().guests;
    head(out, "baton_guest_running", "gauge", "1 while the guest runs.")?;
    for guest in &guests {
        let running = u8::from(guest.state == GuestState::Running);
        writeln!(out, "baton_guest_running{{guest=\"{}\"}} {running}", Label(&guest.name))?;
    }
    head(out, "baton_guest_exits_total", "counter", "Exits to the hypervisor since the running image took over.")?;
    for guest in &guests {
        for vcpu in &guest.vcpus {
            for (reason, count) in &vcpu.exits.0 {
                writeln!(
                    out,
                    "baton_guest_exits_total{{guest=\"{}\",vcpu=\"{}\",reason=\"{}\"}} {count}",
                    Label(&guest.name),
                    vcpu.index,
                    Label(reason)
                )?;
            }
        }
    }
    Ok(())
}
