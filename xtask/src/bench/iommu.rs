//! The IOMMU driver: in the emulator on a real unit's registers, and its page tables alone on the host.

use anyhow::{Context, Result, ensure};
use baton_tests::machine::Machine;
use baton_tests::paths;
use baton_tests::spec::Spec;

use serde_json::Value;

use super::{Figure, INSTRUCTIONS, TICKS};
use crate::{image, tool};

/// Linux's iommufd and vfio-pci in the same emulator, from the table of baselines.
mod baseline {
    /// Per 4 KiB page with 4 KiB pages, ...
    pub const MAP_4K: u64 = 358;
    pub const UNMAP_4K: u64 = 715;
    /// ... and with 2 MiB pages, of which 512 make the leaf that is counted here.
    pub const MAP_2M: u64 = 42 * 512;
    pub const UNMAP_2M: u64 = 466 * 512;
    /// Binding a device to an address space.
    pub const ATTACH: u64 = 17_473;
    /// Not measured alone: what unmapping a page takes, in which it is the least part.
    pub const INVALIDATE: u64 = UNMAP_4K;
    /// 1 GiB with 2 MiB pages.
    pub const SPACE_1G: u64 = 512 * MAP_2M;
}

/// What Baton must not exceed, from the same table.
mod aim {
    pub const PAGE: u64 = 20;
    pub const LARGE_LEAF: u64 = 100;
    pub const ATTACH: u64 = 5_000;
}

/// Pages of 4 KiB, and leaves of 2 MiB, in 1 GiB.
const PAGES: u64 = 1 << 18;
const LARGE_LEAVES: u64 = 1 << 9;

/// All figures of the driver.
pub fn measure() -> Result<Vec<Figure>> {
    let mut figures = in_the_emulator().context("the IOMMU driver in the emulator")?;
    figures.extend(on_the_host().context("the page tables on the host")?);
    Ok(figures)
}

/// By an image of its own, after power-on: per 4 KiB page and per 2 MiB leaf in a range of 1 GiB, for an attached device,
/// the invalidation included.
fn in_the_emulator() -> Result<Vec<Figure>> {
    image::build_bench()?;
    let spec = Spec {
        image: paths::image(image::BENCH.name),
        cpus: 1,
        deterministic: true,
        // Without guests: it measures before it would start one.
        ..Spec::bare(&[], &[])
    };
    let machine = Machine::start(&spec, &paths::target("runs").join("bench-iommu"))?;
    machine.wait_baton("bench done", 300)?;
    let measured = |name: &'static str, baseline: u64| -> Result<Figure> {
        let line = machine.wait_baton(&format!("bench {name} "), 1)?;
        let ticks = line.split_whitespace().next_back().and_then(|word| word.parse().ok());
        Ok(Figure::new(name, ticks.with_context(|| format!("no figure in {line:?}"))?, TICKS, baseline))
    };
    Ok(vec![
        measured("iommu.map_4k", baseline::MAP_4K)?.aim(aim::PAGE),
        measured("iommu.unmap_4k", baseline::UNMAP_4K)?.aim(aim::PAGE),
        measured("iommu.map_2m", baseline::MAP_2M)?.aim(aim::LARGE_LEAF),
        measured("iommu.unmap_2m", baseline::UNMAP_2M)?.aim(aim::LARGE_LEAF),
        measured("iommu.attach", baseline::ATTACH)?.aim(aim::ATTACH),
        measured("iommu.invalidate", baseline::INVALIDATE)?,
        measured("iommu.space_1g", baseline::SPACE_1G)?,
    ])
}

/// By callgrind, without a unit and its invalidation (machine/benches/paging.rs).
fn on_the_host() -> Result<Vec<Figure>> {
    let runner = paths::target("tools/bin/gungraun-runner");
    ensure!(runner.is_file(), "{} is missing: measure by ./x bench, which installs it", runner.display());
    let mut cargo = tool::cargo();
    cargo.args(["bench", "--quiet", "--package", "machine", "--bench", "paging", "--", "--output-format=json"]);
    cargo.env("GUNGRAUN_RUNNER", &runner);
    let output = tool::run(&mut cargo)?;
    let results: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let counted = |id: &str, name, units: u64, baseline| -> Result<Figure> {
        let found = results.iter().find(|result| result["id"] == id);
        let parts = found.and_then(|found| found.pointer("/profiles/0/data/parts/0/metrics/Ir/values/new"));
        let count = parts.and_then(Value::as_u64).with_context(|| format!("callgrind told no instructions of {id}"))?;
        Ok(Figure::new(name, count.div_ceil(units), INSTRUCTIONS, baseline))
    };
    Ok(vec![
        counted("map_4k", "paging.map_4k", PAGES, baseline::MAP_4K)?.aim(aim::PAGE),
        counted("unmap_4k", "paging.unmap_4k", PAGES, baseline::UNMAP_4K)?.aim(aim::PAGE),
        counted("map_2m", "paging.map_2m", LARGE_LEAVES, baseline::MAP_2M)?.aim(aim::LARGE_LEAF),
        counted("unmap_2m", "paging.unmap_2m", LARGE_LEAVES, baseline::UNMAP_2M)?.aim(aim::LARGE_LEAF),
        counted("space_1g", "paging.space_1g", 1, baseline::SPACE_1G)?,
    ])
}
