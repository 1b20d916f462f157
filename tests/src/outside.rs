//! The IOMMU and the disk as QEMU sees them: what Baton says of itself is not taken on trust.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::log::Log;
use crate::qmp::Qmp;

/// Registers of QEMU's only unit (VT-d 11.4).
pub const UNIT: u64 = 0xfed9_0000;
const GSTS: u64 = UNIT + 0x1c;
/// Root table address, invalidation queue address, interrupt remapping table address.
pub(crate) const RTADDR: u64 = UNIT + 0x20;
pub(crate) const IQA: u64 = UNIT + 0x90;
pub(crate) const IRTA: u64 = UNIT + 0xb8;
/// Global status: translation enabled, interrupt remapping enabled (VT-d 11.4.4.2).
pub const TES: u32 = 1 << 31;
const IRES: u32 = 1 << 25;

/// The registers at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Global status.
    pub status: u32,
    /// Root table address.
    pub root_table: u64,
    /// Interrupt remapping table address.
    pub interrupt_table: u64,
}

impl Registers {
    /// Reads them by the monitor, while the machine runs.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn read(qmp: &Qmp) -> Result<Self> {
        Ok(Self {
            status: qmp.read_words(GSTS, 1)?[0],
            root_table: qmp.read_u64(RTADDR)?,
            interrupt_table: qmp.read_u64(IRTA)?,
        })
    }

    /// Translation and interrupt remapping are on.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.status & TES != 0 && self.status & IRES != 0
    }
}

/// Reads the registers again and again in a thread of its own.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Registers>>>>,
}

impl Sampler {
    /// Begins.
    #[must_use]
    pub fn start(qmp: &Arc<Qmp>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, qmp) = (Arc::clone(&stop), Arc::clone(qmp));
        let thread = thread::spawn(move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                samples.push(Registers::read(&qmp)?);
                thread::sleep(Duration::from_millis(50));
            }
            Ok(samples)
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends, with what was seen.
    ///
    /// # Errors
    /// When QEMU stopped answering on the way.
    pub fn finish(mut self) -> Result<Vec<Registers>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("the sampler has no thread"))?;
        thread.join().map_err(|_| anyhow!("the sampler failed"))?
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What QEMU's trace says. A trace misses nothing between two samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// How often translation was switched on and off.
    pub translation: (usize, usize),
    /// How often interrupt remapping was switched on and off.
    pub remapping: (usize, usize),
    /// How often a root table was set.
    pub root_tables: usize,
    /// How often an interrupt table was set.
    pub interrupt_tables: usize,
    /// Faults, as QEMU words them.
    pub faults: Vec<String>,
    /// How often the disk's controller was enabled and disabled (NVMe CC.EN).
    pub disk_enabled: (usize, usize),
    /// Function level resets and shutdowns of the disk.
    pub disk_resets: usize,
    /// Whether the disk's controller is enabled.
    disk_on: bool,
}

impl Trace {
    /// Counts the events of a trace.
    #[must_use]
    pub fn read(log: &Log) -> Self {
        let mut trace = Self::default();
        trace.add(&log.lines());
        trace
    }

    /// Counts further events.
    pub fn add(&mut self, lines: &[String]) {
        let trace = self;
        for line in lines {
            // With or without a timestamp before the event's name.
            let mut names = line.split_whitespace().map(|word| word.rsplit(':').next().unwrap_or(word));
            let Some(event) = names.find(|name| name.starts_with("vtd_") || name.starts_with("pci_nvme_")) else {
                continue;
            };
            let last = line.split_whitespace().next_back().unwrap_or_default();
            let count = |pair: &mut (usize, usize), on: bool| if on { pair.0 += 1 } else { pair.1 += 1 };
            match event {
                "vtd_dmar_enable" => count(&mut trace.translation, last == "1"),
                "vtd_ir_enable" => count(&mut trace.remapping, last == "1"),
                "vtd_reg_dmar_root" => trace.root_tables += 1,
                "vtd_reg_ir_root" => trace.interrupt_tables += 1,
                "vtd_dmar_fault" => trace.faults.push(line.clone()),
                "pci_nvme_mmio_cfg" => {
                    let value = last
                        .rsplit('=')
                        .next()
                        .and_then(|value| u64::from_str_radix(value.trim_start_matches("0x"), 16).ok());
                    let on = value.is_some_and(|value| value & 1 != 0);
                    if on != trace.disk_on {
                        count(&mut trace.disk_enabled, on);
                        trace.disk_on = on;
                    }
                }
                "pci_nvme_mmio_shutdown_set" | "pci_nvme_pci_reset" => trace.disk_resets += 1,
                _ => {}
            }
        }
    }

    /// Nothing of the IOMMU was switched or set, nothing faulted, and the disk was left alone.
    #[must_use]
    pub fn quiet(&self) -> bool {
        *self == Self { disk_on: self.disk_on, ..Self::default() }
    }

    /// What happened after an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let minus = |a: (usize, usize), b: (usize, usize)| (a.0 - b.0, a.1 - b.1);
        Self {
            translation: minus(self.translation, earlier.translation),
            remapping: minus(self.remapping, earlier.remapping),
            root_tables: self.root_tables - earlier.root_tables,
            interrupt_tables: self.interrupt_tables - earlier.interrupt_tables,
            faults: self.faults[earlier.faults.len()..].to_vec(),
            disk_enabled: minus(self.disk_enabled, earlier.disk_enabled),
            disk_resets: self.disk_resets - earlier.disk_resets,
            disk_on: self.disk_on,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As QEMU 10.0.2 words them (hw/i386/trace-events, hw/nvme/trace-events).
    const LINES: [&str; 9] = [
        "vtd_reg_write_gcmd status 0x0 value 0x40000000",
        "vtd_reg_dmar_root addr 0x2400000 scalable 0",
        "vtd_reg_ir_root addr 0x2500000 size 0x10000",
        "vtd_dmar_enable enable 1",
        "vtd_ir_enable enable 1",
        "pci_nvme_mmio_cfg wrote MMIO, config controller config=0x460000",
        "pci_nvme_mmio_cfg wrote MMIO, config controller config=0x460001",
        "vtd_dmar_fault sid 0x100 fault 2 addr 0x1000 write 1",
        "4242@1700000000.123456:vtd_dmar_enable enable 0",
    ];

    fn trace(lines: &[&str]) -> Trace {
        let mut trace = Trace::default();
        // One after the other: a trace grows.
        lines.iter().for_each(|line| trace.add(&[(*line).to_owned()]));
        trace
    }

    #[test]
    fn events_are_counted() {
        let trace = trace(&LINES);
        assert_eq!(trace.translation, (1, 1));
        assert_eq!(trace.remapping, (1, 0));
        assert_eq!((trace.root_tables, trace.interrupt_tables), (1, 1));
        assert_eq!(trace.disk_enabled, (1, 0), "a write that leaves CC.EN alone is no event");
        assert_eq!(trace.faults.len(), 1);
    }

    #[test]
    fn a_later_look_shows_only_what_is_new() {
        let earlier = trace(&LINES[..7]);
        let new = trace(&LINES).since(&earlier);
        assert_eq!(new.translation, (0, 1));
        assert_eq!((new.root_tables, new.disk_enabled), (0, (0, 0)));
        assert_eq!(new.faults.len(), 1);
        assert!(!new.quiet() && trace(&LINES).since(&trace(&LINES)).quiet());
    }
}
