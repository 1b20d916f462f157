//! Builds the bare image: cargo makes an ELF, which is flattened (file offset = address), sealed, and signed by the tests' key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use baton_tests::{images, paths};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, elf};

use crate::tool;

const TARGET: &str = "x86_64-unknown-none";
/// A flat file larger than this comes from a linker script that went wrong.
const FLAT_LIMIT: u64 = 16 << 20;

/// One build, different from the others by its name and number.
pub struct Variant {
    /// The file's name, without extension, and what GET /v1/status says.
    pub name: &'static str,
    /// Rises.
    pub number: u32,
}

/// The image that is booted.
pub const BATON: Variant = Variant { name: "baton", number: 1 };
/// The images that it is upgraded to, one after the other.
pub const NEXT: [Variant; 3] = [
    Variant { name: "baton-next1", number: 2 },
    Variant { name: "baton-next2", number: 3 },
    Variant { name: "baton-next3", number: 4 },
];

/// The image with a place for faults.
const FAULT: Variant = Variant { name: "baton-fault", number: 5 };

/// Images as other releases would build them, by features of `handover` (docs/handover.md, releases).
const RELEASES: [(Variant, &str); 3] = [
    (Variant { name: "baton-previous", number: 6 }, "handover/previous"),
    (Variant { name: "baton-later", number: 7 }, "handover/next"),
    (Variant { name: "baton-critical", number: 8 }, "handover/next-critical"),
];

/// What an image is made of.
const SOURCES: [&str; 9] =
    ["machine", "iommu", "handover", "guest-loader", "hypervisor", "boot", "Cargo.toml", "Cargo.lock", ".cargo"];

/// When the sources were changed last.
fn changed() -> Result<SystemTime> {
    let sources = SOURCES.map(|source| newest(&paths::root().join(source)));
    let changed = sources.into_iter().collect::<Result<Vec<_>>>()?;
    changed.into_iter().max().context("no sources")
}

/// Whether an image is newer than its sources.
fn is_fresh(variant: &Variant, changed: SystemTime) -> bool {
    let built = fs::metadata(paths::image(variant.name)).and_then(|image| image.modified());
    built.is_ok_and(|built| built > changed)
}

/// Builds the images of other releases, where they are older than their sources.
pub fn build_releases() -> Result<()> {
    let changed = changed()?;
    for (variant, feature) in &RELEASES {
        if !is_fresh(variant, changed) {
            finish(compile(&["--features", feature])?, variant)?;
        }
    }
    Ok(())
}

/// Builds the image and those that it is upgraded to, where they are older than their sources.
pub fn build_all() -> Result<()> {
    let changed = changed()?;
    let all = || [&BATON].into_iter().chain(&NEXT);
    if all().all(|variant| is_fresh(variant, changed)) {
        return Ok(());
    }
    let flat = compile(&[])?;
    all().try_for_each(|variant| finish(flat.clone(), variant))
}

/// When a file, or anything in a directory, was changed last.
fn newest(path: &Path) -> Result<SystemTime> {
    let data = fs::metadata(path).with_context(|| format!("{} is missing", path.display()))?;
    let mut newest = data.modified()?;
    if data.is_dir() {
        for entry in fs::read_dir(path)? {
            newest = newest.max(self::newest(&entry?.path())?);
        }
    }
    Ok(newest)
}

/// Builds the image in which the tests plant faults.
pub fn build_fault() -> Result<()> {
    finish(compile(&["--features", "fault"])?, &FAULT)
}

/// Builds one image.
pub fn build(variant: &Variant) -> Result<()> {
    finish(compile(&[])?, variant)
}

/// The image that measures the IOMMU driver on itself; never released.
pub const BENCH: Variant = Variant { name: "baton-bench", number: 1 };

/// Builds it.
pub fn build_bench() -> Result<()> {
    finish(compile(&["--features", "bench"])?, &BENCH)
}

/// Names and seals a flat image.
fn finish(mut image: Vec<u8>, variant: &Variant) -> Result<()> {
    images::set_name(&mut image, variant.name, variant.number)?;
    let path = paths::image(variant.name);
    fs::create_dir_all(paths::target("image"))?;
    fs::write(&path, &image)?;
    eprintln!("x: {}.img, {} KiB", variant.name, image.len() >> 10);
    Ok(())
}

/// Where cargo leaves a program for the bare target.
pub fn bare_program(name: &str) -> PathBuf {
    paths::target("bare").join(TARGET).join("release").join(name)
}

/// Cargo that builds a package for the bare target: rustup's, where it has the target, else Debian's, which builds `core` from source.
pub fn bare_cargo(package: &str) -> Result<Command> {
    let sysroot = tool::run(Command::new("rustc").args(["--print", "sysroot"]))?;
    let mut command = if PathBuf::from(sysroot.trim()).join("lib/rustlib").join(TARGET).is_dir() {
        let mut command = tool::cargo();
        command.arg("build");
        command
    } else {
        let mut command = tool::debian_cargo();
        command.env("RUSTC_BOOTSTRAP", "1");
        command.args([
            "build",
            "-Zbuild-std=core,alloc,compiler_builtins",
            "-Zbuild-std-features=compiler-builtins-mem,optimize_for_size",
        ]);
        command
    };
    command.args(["--quiet", "--release", "--package", package, "--target", TARGET, "--target-dir"]);
    command.arg(paths::target("bare"));
    Ok(command)
}

/// The flat image, without a name and not sealed.
fn compile(features: &[&str]) -> Result<Vec<u8>> {
    tool::run(bare_cargo("boot")?.args(features))?;
    let elf = bare_program("boot");
    let file = fs::read(&elf).with_context(|| format!("{} was not built", elf.display()))?;
    flatten(&file)
}

/// Lays the loadable segments out as in memory, up to the last byte that comes from the file, and leaves the rest zero.
fn flatten(file: &[u8]) -> Result<Vec<u8>> {
    let parsed = ElfFile64::<Endianness>::parse(file).context("the linker's output is no ELF")?;
    let endian = parsed.endian();
    let segments: Vec<_> = parsed
        .elf_program_headers()
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD && segment.p_filesz(endian) > 0)
        .map(|segment| (segment.p_vaddr(endian), segment))
        .collect();
    let ends = segments.iter().map(|(at, segment)| at.saturating_add(segment.p_filesz(endian)));
    let end = ends.max().unwrap_or(0);
    ensure!((1..=FLAT_LIMIT).contains(&end), "the ELF's segments end at {end:#x}: look at boot/link.ld");
    let mut image = vec![0; usize::try_from(end)?];
    for (at, segment) in &segments {
        let data = segment.data(endian, file).ok().context("a segment lies outside the ELF")?;
        let at = usize::try_from(*at)?;
        image[at..at + data.len()].copy_from_slice(data);
    }
    Ok(image)
}

/// Builds everything that a test in the emulator needs, side by side where that doesn't compete.
pub fn build_with_guest() -> Result<()> {
    let guest = thread::spawn(crate::guest::build);
    build_all()?;
    // The same target directory and the same `core`: one after the other.
    crate::guest::build_bare()?;
    guest.join().ok().context("the guest's build failed")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_elf_is_refused() {
        assert!(flatten(b"not an ELF").is_err());
    }
}
