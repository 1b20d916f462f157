//! What the IOMMU driver costs on this machine, in ticks of the TSC: in the image that is built for measuring only
//! (feature `bench`).
//!
//! After power-on and before any guest, an existing and silenced function is attached to a domain of this module's, so that
//! every change is invalidated as a guest's would be. Nothing does DMA; at the end all is taken back.

use iommu::{Bdf, Error, Platform, Token};
use machine::addr::{HostPhys, Iova, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use machine::paging::{Holes, Permissions};

use crate::cpu;
use crate::passthrough::inventory;
use crate::passthrough::units::{self, Units};

/// Domains of no guest's: tokens of guests and of the management NIC are small.
const FIRST: Token = Token(u64::MAX);
const SECOND: Token = Token(u64::MAX - 1);
/// What the ranges lead to: nothing does DMA, so any address will do.
const TO: u64 = 64 * PAGE_SIZE_1G;

/// How many single pages are taken away.
const ROUNDS: u64 = 64;

/// Measures, and prints a line `bench NAME TICKS` for each.
pub fn run() {
    let Some(device) = inventory::endpoints().into_iter().find(|device| units::unit_of(*device).is_some()) else {
        log::error!("bench: no unit translates for any function of this machine");
        return;
    };
    match units::with(|units, platform| measure(units, platform, device)) {
        Some(Ok(())) => log::info!("bench done"),
        Some(Err(error)) => log::error!("bench: {error}"),
        None => log::error!("bench: this machine has no IOMMU"),
    }
}

fn ticks(work: impl FnOnce() -> Result<(), Error>) -> Result<u64, Error> {
    let start = cpu::tsc();
    work()?;
    Ok(cpu::tsc().wrapping_sub(start))
}

fn tell(name: &str, ticks: u64, units: u64) {
    // Rounded up: a figure below the aim is below it.
    log::info!("bench {name} {}", ticks.div_ceil(units));
}

fn measure(units: &mut Units, platform: &mut Platform<'_>, device: Bdf) -> Result<(), Error> {
    let rw = Permissions::READ_WRITE;
    // The first attachment on a bus makes the bus's tables; any other finds them.
    for token in [FIRST, SECOND] {
        units.create_domain(platform, token)?;
    }
    units.attach(platform, device, &[], FIRST, None)?;
    units.detach(platform, device)?;
    tell("iommu.attach", ticks(|| units.attach(platform, device, &[], SECOND, None))?, 1);

    // 1 GiB that leads one page beside a large leaf's boundary, then one large leaf beside a huge one's.
    for (size, map, unmap) in
        [(PAGE_SIZE, "iommu.map_4k", "iommu.unmap_4k"), (PAGE_SIZE_2M, "iommu.map_2m", "iommu.unmap_2m")]
    {
        let to = HostPhys(TO + size);
        let leaves = PAGE_SIZE_1G / size;
        tell(map, ticks(|| units.map(platform, SECOND, Iova(0), to, PAGE_SIZE_1G, rw))?, leaves);
        tell(unmap, ticks(|| units.unmap(platform, SECOND, Iova(0), PAGE_SIZE_1G, Holes::Refuse))?, leaves);
    }

    // Pages that are taken away one by one beside one that stays: one store and one invalidation each.
    units.map(platform, SECOND, Iova(0), HostPhys(TO), (ROUNDS + 1) * PAGE_SIZE, rw)?;
    let mut pages = (0..ROUNDS).map(|page| Iova(page * PAGE_SIZE));
    let each = ticks(|| pages.try_for_each(|page| units.unmap(platform, SECOND, page, PAGE_SIZE, Holes::Refuse)))?;
    tell("iommu.invalidate", each, ROUNDS);

    units.detach(platform, device)?;
    units.destroy_domain(platform, FIRST)?;
    units.destroy_domain(platform, SECOND)?;
    // A guest's memory, in leaves as large as its place allows: not on a boundary of 1 GiB.
    let build = ticks(|| {
        units.create_domain(platform, FIRST)?;
        units.map(platform, FIRST, Iova(0), HostPhys(TO + PAGE_SIZE_2M), PAGE_SIZE_1G, rw)
    })?;
    tell("iommu.space_1g", build, 1);
    units.destroy_domain(platform, FIRST)
}
