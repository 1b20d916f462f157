//! Flat images that begin as a boot sector does: real mode, at 0000:7C00, with the BIOS calls of [`bios`](crate::bios).

use core::ops::Range;

use machine::addr::GuestPhys;

use crate::bios;
use crate::entry::{Entry, put};
use crate::error::{LoadError, Problem};
use crate::image::{Module, Plan};
use crate::memory::GuestMemory;

/// Where the signature lies, and what it is.
const SIGNATURE_AT: Range<usize> = 510..512;
const SIGNATURE: &[u8] = &[0x55, 0xAA];
/// Where a BIOS puts a boot sector.
const LOAD_AT: GuestPhys = GuestPhys(0x7C00);
/// The image ends below this: the rest of conventional memory is for its stack and data.
const END: u64 = 0x8_0000;
/// What it is called in messages.
const KIND: &str = "a boot sector";

/// Whether the bytes begin as a boot sector.
#[must_use]
pub fn detect(bytes: &[u8]) -> bool {
    bytes.get(SIGNATURE_AT) == Some(SIGNATURE)
}

/// Loads the whole image to where its first sector belongs.
///
/// # Errors
/// It is too large, or the plan has what nothing could be told of: an initrd, modules, a command line.
pub(crate) fn load(plan: &Plan<'_>, memory: &mut dyn GuestMemory) -> Result<Entry, LoadError> {
    let Module { name, bytes } = plan.kernel;
    let extra = [
        ("initrd", plan.initrd.is_some()),
        ("modules", !plan.modules.is_empty()),
        ("command_line", !plan.command_line.is_empty()),
    ];
    if let Some((key, _)) = extra.into_iter().find(|(_, given)| *given) {
        return Err(LoadError::new(name, Problem::NotTaken { kind: KIND, key }));
    }
    let room = END - LOAD_AT.get();
    if bytes.len() as u64 > room {
        return Err(LoadError::new(name, Problem::ImageTooLarge { bytes: bytes.len() as u64, room }));
    }
    bios::install(name, plan.map, memory)?;
    put(memory, name, LOAD_AT, bytes)?;
    Ok(Entry::real16(0, LOAD_AT.get() as u16, 0, LOAD_AT.get() as u16))
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::image::{detect, load};
    use crate::layout::GuestMap;
    use crate::testing::{Ram, assemble};
    use crate::{Kind, LoadError, Mode, Start};

    fn image() -> Vec<u8> {
        let source = ".code16\n.global _start\n_start: hlt\n.org 510\n.word 0xAA55\n.ascii \"second sector\"";
        assemble(source, &["-Ttext=0x7c00", "--oformat=binary"])
    }

    fn run(bytes: &[u8], command_line: &str, start: Start) -> Result<(Entry, Ram), LoadError> {
        let map = GuestMap::new(2 << 20).unwrap();
        let mut ram = Ram::new(map);
        let kernel = Module { name: "boot.bin", bytes };
        let plan =
            Plan { map: &map, kernel, initrd: None, modules: &[], start, command_line, seed: None, apic_ids: &[0] };
        load(&plan, &mut ram).map(|entry| (entry, ram))
    }

    fn refusal(bytes: &[u8], command_line: &str, start: Start) -> LoadError {
        run(bytes, command_line, start).map(|(entry, _)| entry).unwrap_err()
    }

    #[test]
    fn it_lies_where_a_bios_puts_it() {
        let image = image();
        assert_eq!(detect(&image), Ok(Kind::BootSector));
        for start in [Start::Auto, Start::Bits16] {
            let (entry, ram) = run(&image, "", start).unwrap();
            assert_eq!(entry.mode, Mode::Real16 { code: 0, data: 0 });
            assert_eq!((entry.rip.get(), entry.rsp.get()), (0x7C00, 0x7C00));
            assert_eq!(ram.read(0x7C00, image.len()), image);
            assert_eq!(ram.u16(0x10 * 4 + 2), 0xF000);
            assert_eq!(ram.read(0xE_0000, 8), b"RSD PTR ");
        }
    }

    #[test]
    fn each_refusal_names_its_cause() {
        let image = image();
        assert_eq!(refusal(&image, "a", Start::Auto).problem, Problem::NotTaken { kind: KIND, key: "command_line" });
        let error = refusal(&image, "", Start::Bits32);
        assert!(error.to_string().contains("set entry = \"16-bit\""), "{error}");
        let mut disk = image.clone();
        disk.resize(1 << 20, 0);
        assert_eq!(refusal(&disk, "", Start::Auto).problem, Problem::ImageTooLarge { bytes: 1 << 20, room: 0x7_8400 });
        let mut unsigned = image;
        unsigned[511] = 0;
        assert!(detect(&unsigned).is_err() && detect(&vec![0; 511]).is_err());
    }
}
