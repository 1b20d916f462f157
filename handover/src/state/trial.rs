//! What a release after this one might add, written by images that are built with the feature `next`, so that the present
//! reader is seen to live with it: a record that has grown by an optional field, a kind that is not critical, and with
//! `next-critical` a kind that is.

use crate::record::{CRITICAL, Record};
use crate::state::machine::MachineV1;
use crate::writer::{WriteError, Writer};

/// The format that such an image writes.
const FORMAT: u16 = 3;
/// A kind that a reader may skip.
pub const OPTIONAL: u32 = 0x7f01;
/// A kind that a reader must know.
pub const NEEDED: u32 = 0x7f02;
/// What its records and its field hold.
const CONTENT: [u8; 8] = *b"a trial!";

/// Whether this build knows the kind, without a use for it.
#[must_use]
pub const fn is_known(kind: u32) -> bool {
    cfg!(feature = "next") && kind == OPTIONAL || cfg!(feature = "next-critical") && kind == NEEDED
}

/// The field by which a type has grown.
pub(crate) const fn tail(kind: u32, format: u16) -> &'static [u8] {
    if cfg!(feature = "next") && format >= FORMAT && kind == MachineV1::KIND { &CONTENT } else { &[] }
}

/// Appends the records of kinds that came later. Part of the plan.
pub(crate) fn write(writer: &mut Writer<'_>) -> Result<(), WriteError> {
    if writer.version() < FORMAT {
        return Ok(());
    }
    if cfg!(feature = "next") {
        writer.put_raw(OPTIONAL, 1, 0, &CONTENT)?;
    }
    if cfg!(feature = "next-critical") {
        writer.put_raw(NEEDED, 1, CRITICAL, &CONTENT)?;
    }
    Ok(())
}
