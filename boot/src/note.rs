//! What the image says about itself to the one that stages it.

/// The image's own note.
pub fn bytes() -> &'static [u8] {
    &[]
}
