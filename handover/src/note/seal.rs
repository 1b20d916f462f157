//! Filling in the note of a complete file. For the build; a running image only parses.

use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, IntoBytes};

use super::digest::hash_with_hole;
use super::{HOLE_BYTES, HOLE_OFFSET, MAGIC, NOTE_ALIGN, NOTE_BYTES, Note, NoteError, SEARCH_BYTES};

/// Where the build id starts in the note.
const BUILD_ID_OFFSET: usize = core::mem::offset_of!(Note, build_id);

/// Every place that starts like a note of this release or a later one, with its offset.
pub(super) fn candidates(image: &[u8]) -> impl Iterator<Item = (usize, Note)> {
    let searched = image.get(..image.len().min(SEARCH_BYTES)).unwrap_or_default();
    (0..searched.len()).step_by(NOTE_ALIGN).filter_map(move |offset| {
        let rest = searched.get(offset..)?;
        if !rest.starts_with(&MAGIC) {
            return None;
        }
        let (note, _) = Note::read_from_prefix(rest).ok()?;
        (note.note_bytes as usize >= NOTE_BYTES).then_some((offset, note))
    })
}

/// The offset of the one note that awaits its sealing, or was sealed before.
pub fn locate_unsealed(image: &[u8]) -> Result<usize, NoteError> {
    let awaits = |(offset, note): &(usize, Note)| {
        let place = note.note_offset as usize;
        *offset != 0 && (place == 0 || place == *offset) && note.note_bytes as usize == NOTE_BYTES
    };
    let mut found = candidates(image).filter(awaits);
    let (offset, _) = found.next().ok_or(NoteError::Magic)?;
    match found.next() {
        Some((offset, _)) => Err(NoteError::Ambiguous { offset }),
        None => Ok(offset),
    }
}

/// Fills in file size, offset, build id and digest; signature and key id become zero. Sealing again
/// gives the same file.
pub fn seal(image: &mut [u8]) -> Result<Note, NoteError> {
    seal_with(image, |_| {})
}

/// Likewise, after `edit` has set what only the build knows: version, sizes, entries.
pub fn seal_with(image: &mut [u8], edit: impl FnOnce(&mut Note)) -> Result<Note, NoteError> {
    let offset = locate_unsealed(image)?;
    let file_bytes = image.len() as u64;
    let place = image.get_mut(offset..offset + NOTE_BYTES).ok_or(NoteError::Magic)?;
    let mut note = Note::read_from_bytes(place).map_err(|_| NoteError::Magic)?;
    edit(&mut note);
    let note = Note {
        magic: MAGIC,
        note_bytes: NOTE_BYTES as u32,
        note_offset: u32::try_from(offset).map_err(|_| NoteError::Magic)?,
        file_bytes,
        build_id: [0; 32],
        digest: [0; 32],
        signature: [0; 64],
        key_id: [0; 8],
        ..note
    };
    note.check()?;
    place.copy_from_slice(note.as_bytes());

    // Build id, digest, signature and key id are zero in the file by now; the holes say so once more.
    let mut hash = Sha256::new();
    hash_with_hole(&mut hash, 0, image, (offset + HOLE_OFFSET) as u64, HOLE_BYTES);
    let build_id = <[u8; 32]>::from(hash.finalize());
    put(image, offset + BUILD_ID_OFFSET, &build_id);
    let mut hash = Sha256::new();
    hash_with_hole(&mut hash, 0, image, (offset + HOLE_OFFSET) as u64, HOLE_BYTES);
    let digest = <[u8; 32]>::from(hash.finalize());
    put(image, offset + HOLE_OFFSET, &digest);
    super::parse_note(image)
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8; 32]) {
    if let Some(place) = image.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
