//! Modules that arrive as one cpio archive (newc, as initramfs has it: several
//! archives may follow one another, with zeros between and behind them).
//!
//! `cpio_reader` reads the entries; since it stops in silence at the first one that
//! it does not understand, the walk here keeps count and names the place.

use alloc::vec::Vec;
use core::fmt;

use crate::image::Module;

/// A newc header in bytes.
const HEADER_BYTES: usize = 110;
/// `c_magic` of newc, and of newc with checksums.
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
/// The name of the entry that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!\0";

/// The archive is damaged or no cpio archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpioError {
    /// No cpio magic at this offset.
    NoMagic {
        /// The offset in bytes.
        offset: usize,
    },
    /// The entry at this offset is cut off, has a broken header or a wrong checksum.
    BadEntry {
        /// The offset in bytes.
        offset: usize,
    },
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMagic { offset } => write!(
                f,
                "the modules are no cpio archive (no newc magic at byte {offset}); pack them with 'cpio -o -H newc', uncompressed"
            ),
            Self::BadEntry { offset } => {
                write!(f, "the cpio archive of the modules is damaged at byte {offset}; pack or copy it again")
            }
        }
    }
}

impl core::error::Error for CpioError {}

/// The regular files of the archive in its order, under their names without a
/// leading `./` or `/`. An empty archive has no modules.
///
/// # Errors
/// [`CpioError`] with the offset of what is wrong; nothing is skipped in silence.
pub fn modules(archive: &[u8]) -> Result<Vec<Module<'_>>, CpioError> {
    let mut modules = Vec::new();
    let mut offset = 0;
    loop {
        offset = skip_zeros(archive, offset);
        let rest = archive.get(offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(modules);
        }
        offset = read_archive(archive, offset, &mut modules)?;
    }
}

/// Reads one archive up to and including its trailer; returns the offset behind it.
fn read_archive<'a>(archive: &'a [u8], start: usize, modules: &mut Vec<Module<'a>>) -> Result<usize, CpioError> {
    let rest = archive.get(start..).unwrap_or_default();
    check_magic(archive, start)?;
    let mut offset = start;
    for entry in cpio_reader::iter_files(rest) {
        // The reader knows other formats, too: their sizes would be counted wrongly.
        check_magic(archive, offset)?;
        let regular = entry.mode().bits() & FORMAT_MASK == FORMAT_REGULAR;
        if regular {
            let name = entry.name();
            let name = name.strip_prefix("./").unwrap_or(name).trim_start_matches('/');
            modules.push(Module { name, bytes: entry.file() });
        }
        let bytes = (HEADER_BYTES + entry.name().len() + 1).next_multiple_of(4) + entry.file().len();
        offset += bytes.next_multiple_of(4);
    }
    // The reader stopped: at the trailer, or at something broken?
    check_magic(archive, offset)?;
    let name = archive.get(offset..).and_then(|entry| entry.get(HEADER_BYTES..)?.get(..TRAILER.len()));
    if name == Some(TRAILER) {
        return Ok((offset + HEADER_BYTES + TRAILER.len()).next_multiple_of(4).min(archive.len()));
    }
    Err(CpioError::BadEntry { offset })
}

/// The file type within a mode, and a regular file's.
const FORMAT_MASK: u32 = 0o170_000;
const FORMAT_REGULAR: u32 = 0o100_000;

fn check_magic(archive: &[u8], offset: usize) -> Result<(), CpioError> {
    match archive.get(offset..) {
        None | Some([]) => Err(CpioError::BadEntry { offset }),
        Some(rest) if MAGICS.iter().any(|magic| rest.starts_with(magic)) => Ok(()),
        Some(_) => Err(CpioError::NoMagic { offset }),
    }
}

fn skip_zeros(archive: &[u8], offset: usize) -> usize {
    let zeros = archive.get(offset..).unwrap_or_default().iter().take_while(|byte| **byte == 0).count();
    offset.saturating_add(zeros)
}

#[cfg(test)]
mod tests;
