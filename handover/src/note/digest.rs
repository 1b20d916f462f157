//! The digest of an image: SHA-256 of the file, with digest, signature and key id taken as zero.

use sha2::{Digest, Sha256};

use super::{HOLE_BYTES, HOLE_OFFSET, Note, NoteError};

/// Zeros that stand in for a hole.
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// Verifies the digest of an image as its bytes arrive.
///
/// The note must be known first: keep the bytes in the slot until [`super::parse_note`] finds it, then
/// update with all of them and with each further chunk.
#[derive(Clone)]
pub struct DigestStream {
    hash: Sha256,
    at: u64,
    note: Note,
}

impl DigestStream {
    /// For the image with that note.
    #[must_use]
    pub fn new(note: &Note) -> Self {
        Self { hash: Sha256::new(), at: 0, note: *note }
    }

    /// Takes the next bytes of the file. Refused as soon as there are too many.
    pub fn update(&mut self, chunk: &[u8]) -> Result<(), NoteError> {
        let end = self.at.saturating_add(chunk.len() as u64);
        if end > self.note.file_bytes {
            return Err(NoteError::Oversized { received: end, due: self.note.file_bytes });
        }
        let hole = u64::from(self.note.note_offset) + HOLE_OFFSET as u64;
        hash_with_hole(&mut self.hash, self.at, chunk, hole, HOLE_BYTES);
        self.at = end;
        Ok(())
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.at
    }

    /// Compares size and digest with the note.
    pub fn finish(self) -> Result<(), NoteError> {
        self.note.check_received(self.at)?;
        if self.hash.finalize().as_slice() == self.note.digest { Ok(()) } else { Err(NoteError::Digest) }
    }
}

/// Verifies note, size and digest of a whole image.
pub fn verify_digest(image: &[u8]) -> Result<Note, NoteError> {
    let note = super::parse_note(image)?;
    note.check_received(image.len() as u64)?;
    let mut stream = DigestStream::new(&note);
    stream.update(image)?;
    stream.finish()?;
    Ok(note)
}

/// Hashes `chunk`, which stands at `at` in the file, with the part of it zeroed that lies in the `bytes`
/// (at most [`HOLE_BYTES`]) from `hole` on.
pub(super) fn hash_with_hole(hash: &mut Sha256, at: u64, chunk: &[u8], hole: u64, bytes: usize) {
    let place = |offset: u64| usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(chunk.len());
    let (start, end) = (place(hole), place(hole.saturating_add(bytes as u64)));
    hash.update(chunk.get(..start).unwrap_or_default());
    hash.update(ZEROS.get(..end - start).unwrap_or_default());
    hash.update(chunk.get(end..).unwrap_or_default());
}
