//! The guests of the tests: an unmodified Debian kernel with an initramfs of busybox and our load program, and
//! guests of our own.

mod initramfs;
pub mod kernels;
mod legacy;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use baton_tests::paths;

use crate::{image, tool};

const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Kernel and initramfs.
pub fn build() -> Result<()> {
    fetch_kernel()?;
    let program = compile()?;
    let busybox = busybox()?;
    let init = paths::root().join("tests/guests/debian/init");
    let archive = initramfs::archive(&[
        ("init", fs::read(&init).context("the guest's init")?),
        ("bin/busybox", fs::read(busybox)?),
        ("bin/ioload", fs::read(program)?),
    ])?;
    fs::write(paths::initrd(), archive)?;
    Ok(())
}

/// The guests of our own: `tests/guests/bare`.
pub fn build_bare() -> Result<()> {
    tool::run(&mut image::bare_cargo("bareguest")?)?;
    fs::create_dir_all(paths::target("guest"))?;
    for name in paths::BARE_GUESTS {
        fs::copy(image::bare_program(name), paths::bare_guest(name))
            .with_context(|| format!("{name} was not built"))?;
    }
    legacy::build()
}

/// Downloads and unpacks Debian's kernel for virtual machines; once, then no network is needed.
pub fn fetch_kernel() -> Result<()> {
    if paths::kernel().is_file() {
        return Ok(());
    }
    let directory = paths::target("guest/package");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let package = real_package(&tool::run(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?)?;
    eprintln!("x: downloading {package}");
    tool::run(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(&directory))?;
    let archive = only_file(&directory, "deb")?;
    tool::run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&directory))?;
    // The guest's only disk is NVMe; a kernel with the driver as a module would need modules in the initramfs.
    let modules = only_directory(&directory.join("lib/modules"))?;
    let built_in = fs::read_to_string(modules.join("modules.builtin"))?;
    ensure!(built_in.contains("/nvme.ko"), "{package} has the NVMe driver as a module: the initramfs has none");
    let kernel = fs::read_dir(directory.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .with_context(|| format!("{package} has no kernel in it"))?;
    let release = kernel.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    fs::write(paths::target("guest/release"), release.trim_start_matches("vmlinuz-"))?;
    fs::copy(kernel, paths::kernel())?;
    fs::remove_dir_all(directory)?;
    Ok(())
}

/// The package that a metapackage depends on.
fn real_package(depends: &str) -> Result<String> {
    let found = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"));
    found.map(str::to_owned).with_context(|| format!("apt doesn't know {KERNEL_PACKAGE}: run apt-get update"))
}

fn only_file(directory: &Path, extension: &str) -> Result<PathBuf> {
    let mut found = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    found
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("no .{extension} file in {}", directory.display()))
}

fn only_directory(directory: &Path) -> Result<PathBuf> {
    let mut found = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    found.find(|path| path.is_dir()).with_context(|| format!("nothing in {}", directory.display()))
}

/// The load program, linked statically: the initramfs has no libraries.
fn compile() -> Result<PathBuf> {
    let directory = paths::target("guest/build");
    let mut command = tool::cargo();
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    command
        .args(["build", "--quiet", "--release", "--package", "ioload", "--target", HOST, "--target-dir"])
        .arg(&directory);
    tool::run(&mut command)?;
    Ok(directory.join(HOST).join("release/ioload"))
}

fn busybox() -> Result<&'static Path> {
    for path in ["/bin/busybox", "/usr/bin/busybox"].map(Path::new) {
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("there is no busybox: install busybox-static, as ./x does")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_behind_the_metapackage_is_found() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(real_package(answer).expect("found"), "linux-image-6.1.0-56-cloud-amd64");
        assert!(real_package("").is_err());
    }
}
