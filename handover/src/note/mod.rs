//! The image note: what a flat image file says about itself.
//!
//! The note is [`NOTE_BYTES`] long and stands at a multiple of [`NOTE_ALIGN`] within the first [`SEARCH_BYTES`]
//! of the file. It knows its own offset, so that a copy of the magic elsewhere (in the code that
//! looks for it, say) is not taken for it. It grows at its end only; its length is in it.
//!
//! The linker places an unsealed note: the magic, [`NOTE_BYTES`] as `u32` at offset 192, zeros elsewhere (or
//! [`Note::unsealed`]); [`seal`](seal::seal) fills in the rest when the file is complete.
//!
//! - [`seal`]: filling in and searching
//! - [`digest`]: the digest, whole or as the file arrives
//! - [`signature`]: who made it
//! - [`compatible`]: who can follow whom

pub mod digest;
pub mod seal;
pub mod signature;

use core::fmt;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::version;
pub use digest::{DigestStream, verify_digest};
pub use seal::{locate_unsealed, seal, seal_with};

/// First bytes of a note.
pub const MAGIC: [u8; 16] = *b"BATON.IMAGE.NOTE";
/// Bytes of a note of this release.
pub const NOTE_BYTES: usize = 256;
/// A note starts at a multiple of this.
pub const NOTE_ALIGN: usize = 16;
/// A note ends within so many bytes from the start of the file.
pub const SEARCH_BYTES: usize = 64 << 10;
/// The longest file that is looked at.
pub const FILE_MAX: u64 = 256 << 20;
/// Where the part that the digest leaves out starts in the note: digest, signature, key id.
pub const HOLE_OFFSET: usize = 48;
/// Bytes of that part.
pub const HOLE_BYTES: usize = 104;

/// A note as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Note {
    /// [`MAGIC`].
    pub magic: [u8; 16],
    /// SHA-256 of the file with this field, digest, signature and key id zero: names the build.
    pub build_id: [u8; 32],
    /// SHA-256 of the file with this field, signature and key id zero: what is verified and signed.
    pub digest: [u8; 32],
    /// Ed25519 signature of [`Note::digest`]; zero when unsigned.
    pub signature: [u8; 64],
    /// First 8 bytes of the SHA-256 of the signer's public key; zero when unsigned.
    pub key_id: [u8; 8],
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of file and zeroed memory behind it.
    pub memory_bytes: u64,
    /// Bytes of the slot it needs, memory, stacks and early heap included.
    pub slot_bytes: u64,
    /// Offset in the file of the multiboot entry, 32-bit; zero for none.
    pub entry_multiboot: u32,
    /// Offset of the EFI entry; zero for none.
    pub entry_efi: u32,
    /// Offset of the upgrade entry, 64-bit; see [`crate::jump`].
    pub entry_upgrade: u32,
    /// Offset of the entry of further pCPUs, 16-bit start page; zero for none.
    pub entry_ap: u32,
    /// Offset 192: bytes of the note as this image's release knows it, [`NOTE_BYTES`] or more.
    pub note_bytes: u32,
    /// Offset in the file of the note itself; zero while unsealed.
    pub note_offset: u32,
    /// Number of the build, rising.
    pub build_number: u32,
    /// Zero; bits that a reader does not know refuse the image.
    pub flags: u32,
    /// Version: incompatible changes.
    pub major: u16,
    /// Version: features.
    pub minor: u16,
    /// Version: repairs.
    pub patch: u16,
    /// Oldest handover format it reads.
    pub reads_min: u16,
    /// Newest handover format it reads.
    pub reads_max: u16,
    /// Oldest handover format it can write.
    pub writes_min: u16,
    /// Newest handover format it can write.
    pub writes_max: u16,
    /// Version of the jump contract, [`crate::jump::VERSION`].
    pub jump: u16,
    /// Zero: kept free for the entry of an image that is warmed up.
    pub reserved_entry: u32,
    /// Oldest build that may follow this one, by [`Note::build_number`]; zero for any.
    pub minimum_build: u32,
    /// Zero.
    pub reserved: [u8; 24],
}

const _: () = assert!(size_of::<Note>() == NOTE_BYTES);
const _: () = assert!(core::mem::offset_of!(Note, digest) == HOLE_OFFSET);
const _: () = assert!(core::mem::offset_of!(Note, file_bytes) == HOLE_OFFSET + HOLE_BYTES);
const _: () = assert!(core::mem::offset_of!(Note, note_bytes) == 192);

/// Why an image is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteError {
    /// There is no note.
    Magic,
    /// There are several places that look like an unsealed note.
    Ambiguous {
        /// Offset of the second.
        offset: usize,
    },
    /// A field cannot be so.
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The file is shorter than its note says.
    Truncated {
        /// Bytes received.
        received: u64,
        /// Bytes due.
        due: u64,
    },
    /// The file is longer than its note says, or than any image may be.
    Oversized {
        /// Bytes received, or announced.
        received: u64,
        /// Bytes due, or allowed.
        due: u64,
    },
    /// The image needs a larger slot.
    Slot {
        /// Bytes it needs.
        needs: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The file is not the one that was sealed.
    Digest,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic => {
                write!(f, "not a Baton image: no image note in its first 64 KiB; send the file that ./x image made")
            }
            Self::Ambiguous { offset } => {
                write!(f, "a second unsealed image note at {offset:#x}; the build is at fault")
            }
            Self::Field { field, value } => write!(
                f,
                "image note: {field} cannot be {value:#x}; the image is damaged, or of a release too far from this one"
            ),
            Self::Truncated { received, due } => {
                write!(f, "image is truncated: {received} of {due} bytes; send it again")
            }
            Self::Oversized { received, due } => {
                write!(f, "image is oversized: {received} bytes where {due} are due; send the file that ./x image made")
            }
            Self::Slot { needs, room } => write!(
                f,
                "image needs a slot of {needs} bytes, this machine set aside {room}; it takes a cold boot to change that"
            ),
            Self::Digest => {
                write!(f, "image digest does not match its contents: the file was damaged on its way; send it again")
            }
        }
    }
}

impl core::error::Error for NoteError {}

impl Note {
    /// A note for the linker to place, or for tests to start from.
    #[must_use]
    pub fn unsealed() -> Self {
        Self {
            magic: MAGIC,
            note_bytes: NOTE_BYTES as u32,
            reads_min: version::READS_MIN,
            reads_max: version::READS_MAX,
            writes_min: version::WRITES_MIN,
            writes_max: version::WRITES_MAX,
            jump: crate::jump::VERSION as u16,
            ..Self::new_zeroed()
        }
    }

    /// Compares the number of bytes received, all of them, with the note.
    pub const fn check_received(&self, received: u64) -> Result<(), NoteError> {
        if received < self.file_bytes {
            return Err(NoteError::Truncated { received, due: self.file_bytes });
        }
        if received > self.file_bytes {
            return Err(NoteError::Oversized { received, due: self.file_bytes });
        }
        Ok(())
    }

    /// Whether the image fits a slot of `room` bytes.
    pub const fn check_slot(&self, room: u64) -> Result<(), NoteError> {
        if self.slot_bytes > room { Err(NoteError::Slot { needs: self.slot_bytes, room }) } else { Ok(()) }
    }

    /// Whether every field can be so. Not the digest.
    fn check(&self) -> Result<(), NoteError> {
        let field = |fine: bool, field, value| {
            if fine { Ok(()) } else { Err(NoteError::Field { field, value }) }
        };
        if self.file_bytes > FILE_MAX {
            return Err(NoteError::Oversized { received: self.file_bytes, due: FILE_MAX });
        }
        let note_end = u64::from(self.note_offset) + u64::from(self.note_bytes);
        field(note_end <= self.file_bytes && note_end <= SEARCH_BYTES as u64, "note length", self.note_bytes.into())?;
        field(self.memory_bytes >= self.file_bytes, "memory size", self.memory_bytes)?;
        field(self.slot_bytes >= self.memory_bytes && self.slot_bytes <= 1 << 32, "slot size", self.slot_bytes)?;
        let inside = |entry: u32| u64::from(entry) < self.file_bytes;
        field(inside(self.entry_multiboot), "multiboot entry", self.entry_multiboot.into())?;
        field(inside(self.entry_efi), "EFI entry", self.entry_efi.into())?;
        field(inside(self.entry_ap), "AP entry", self.entry_ap.into())?;
        field(inside(self.entry_upgrade) && self.entry_upgrade != 0, "upgrade entry", self.entry_upgrade.into())?;
        field(self.flags == 0, "flags", self.flags.into())?;
        field(
            self.reads_min > 0 && self.reads_min <= self.reads_max,
            "range of formats it reads",
            self.reads_min.into(),
        )?;
        field(
            self.writes_min > 0 && self.writes_min <= self.writes_max,
            "range of formats it writes",
            self.writes_min.into(),
        )?;
        // A release that knows a longer note may have given the reserved bytes a meaning.
        let known = self.note_bytes as usize == NOTE_BYTES;
        field(!known || self.reserved == [0; 24] && self.reserved_entry == 0, "reserved bytes", 0)
    }
}

/// Finds and checks the note of an image, of which at least the first [`SEARCH_BYTES`] (or the whole file, when
/// shorter) are there. Size and digest are for [`Note::check_received`] and [`verify_digest`].
pub fn parse_note(image: &[u8]) -> Result<Note, NoteError> {
    let note = seal::candidates(image)
        .find(|(offset, note)| note.note_offset as usize == *offset && *offset != 0)
        .map(|(_, note)| note)
        .ok_or(NoteError::Magic)?;
    note.check()?;
    Ok(note)
}

/// Why one image cannot be followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The other reads only newer formats than this one writes.
    TooNew {
        /// Newest format this image writes.
        writes: u16,
        /// Oldest format the other reads.
        reads: u16,
    },
    /// The other reads only older formats than this one writes.
    TooOld {
        /// Oldest format this image writes.
        writes: u16,
        /// Newest format the other reads.
        reads: u16,
    },
    /// The other expects another machine state at its entry.
    Jump {
        /// This image's contract.
        ours: u16,
        /// The other's.
        theirs: u16,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooNew { writes, reads } => write!(
                f,
                "image reads handover formats from {reads} on, the running one writes up to {writes}; upgrade by way of a release between the two"
            ),
            Self::TooOld { writes, reads } => write!(
                f,
                "image reads handover formats up to {reads}, the running one writes from {writes} on; downgrade by way of a release between the two"
            ),
            Self::Jump { ours, theirs } => write!(
                f,
                "image expects jump contract {theirs}, the running one follows {ours}; upgrade by way of a release between the two"
            ),
        }
    }
}

impl core::error::Error for Refusal {}

/// The format in which the running image `ours` can hand over to the image `theirs`: the newest that it writes and the
/// other reads, or that the other may read although it came later ([`version::minimum_reader`]).
pub const fn compatible(ours: &Note, theirs: &Note) -> Result<u16, Refusal> {
    if ours.jump != theirs.jump {
        return Err(Refusal::Jump { ours: ours.jump, theirs: theirs.jump });
    }
    if theirs.reads_min > ours.writes_max {
        return Err(Refusal::TooNew { writes: ours.writes_max, reads: theirs.reads_min });
    }
    let mut format = ours.writes_max;
    while format >= ours.writes_min && format >= theirs.reads_min && format > 0 {
        if version::minimum_reader(format) <= theirs.reads_max {
            return Ok(format);
        }
        format -= 1;
    }
    Err(Refusal::TooOld { writes: ours.writes_min, reads: theirs.reads_max })
}
