//! Guests that start as older kernels do (`tests/guests/legacy`): assembly, by the C compiler and its linker.

use std::fs;
use std::process::Command;

use anyhow::Result;
use baton_tests::paths;

use crate::tool;

/// A file of [`paths::LEGACY_GUESTS`].
struct Guest {
    file: &'static str,
    source: &'static str,
    /// What the preprocessor is told.
    define: Option<&'static str>,
    /// Where it is linked.
    base: &'static str,
    flat: bool,
}

const MULTIBOOT: Guest =
    Guest { file: "multiboot.elf", source: "multiboot.S", define: None, base: "0x100000", flat: false };

const ALL: [Guest; paths::LEGACY_GUESTS.len()] = [
    MULTIBOOT,
    Guest { file: "multiboot.bin", define: Some("-DFLAT"), flat: true, ..MULTIBOOT },
    Guest { file: "sector.bin", source: "sector.S", define: None, base: "0x7c00", flat: true },
];

/// Assembles and links them.
pub fn build() -> Result<()> {
    let sources = paths::root().join("tests/guests/legacy");
    let directory = paths::target("guest/legacy");
    fs::create_dir_all(&directory)?;
    for Guest { file, source, define, base, flat } in ALL {
        let object = directory.join(file).with_extension("o");
        let mut compiler = Command::new("cc");
        compiler.args(["-m32", "-c"]).args(define).arg(sources.join(source)).arg("-o").arg(&object);
        tool::run(&mut compiler)?;
        let mut linker = Command::new("ld");
        linker.args(["-m", "elf_i386", "-N", "-z", "noexecstack", &format!("-Ttext={base}")]);
        if flat {
            linker.arg("--oformat=binary");
        }
        tool::run(linker.arg("-o").arg(paths::legacy_guest(file)).arg(&object))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_the_cases_name_is_built() {
        assert!(paths::LEGACY_GUESTS.iter().all(|name| ALL.iter().any(|guest| guest.file == *name)));
    }
}
