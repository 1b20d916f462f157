//! Where everything lies in the work tree. All that is built is under `target/`.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the work tree: the directory with `x` in it, upwards from the running crate or the current directory.
///
/// # Panics
/// When run outside a work tree.
#[must_use]
pub fn root() -> PathBuf {
    let from = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env::current_dir().unwrap_or_default(), PathBuf::from);
    let found =
        from.ancestors().find(|directory| directory.join("x").is_file() && directory.join("Cargo.toml").is_file());
    found.map(Path::to_path_buf).expect("run this in the work tree, by ./x")
}

/// A path under `target/`.
#[must_use]
pub fn target(path: &str) -> PathBuf {
    root().join("target").join(path)
}

/// The image with a name: `baton`, `baton-next1`.
#[must_use]
pub fn image(name: &str) -> PathBuf {
    target("image").join(format!("{name}.img"))
}

/// Name of the module with the public key of the tests.
pub const PUBLIC_KEY: &str = "test.pub";

/// The secret key that the tests' images are signed by.
#[must_use]
pub fn test_key() -> PathBuf {
    target("keys/test.key")
}

/// The guest's kernel.
#[must_use]
pub fn kernel() -> PathBuf {
    target("guest/vmlinuz")
}

/// The kernel of Debian's backports.
#[must_use]
pub fn backports_kernel() -> PathBuf {
    target("guest/vmlinuz-backports")
}

/// The newest kernel that Debian's mirror has.
#[must_use]
pub fn newest_kernel() -> PathBuf {
    target("guest/vmlinuz-newest")
}

/// The guest's initramfs.
#[must_use]
pub fn initrd() -> PathBuf {
    target("guest/initrd.cpio")
}

/// The guests of our own, by the names of their programs.
pub const BARE_GUESTS: [&str; 12] =
    ["disk", "attacker", "functions", "wire", "pulse", "still", "watch", "exits", "beat", "ipi", "platform", "matrix"];

/// A guest of our own.
#[must_use]
pub fn bare_guest(name: &str) -> PathBuf {
    target("guest").join(format!("{name}.elf"))
}

/// Guests of our own that start as older kernels do: their files.
pub const LEGACY_GUESTS: [&str; 3] = ["multiboot.elf", "multiboot.bin", "sector.bin"];

/// Such a guest.
#[must_use]
pub fn legacy_guest(file: &str) -> PathBuf {
    target("guest").join(file)
}
