//! What the `acpi` crate gets to see: vetted copies, padded so that no structure the
//! crate lays over them can end outside.
#![expect(unsafe_code, reason = "the acpi crate asks for pointers")]

use super::error::Signature;
use acpi::{AcpiHandler, PhysicalMapping};
use alloc::vec::Vec;
use core::ptr::NonNull;

/// More than the largest structure that the crate lays over a table (FADT, 276 bytes),
/// or over an entry that begins before its end (GICC, 82 bytes).
const PADDING: usize = 512;

/// What answers for an address without a vetted table. Its signature fits none.
static NOTHING: [u8; PADDING] = [0; PADDING];

/// A vetted table.
pub(super) struct Copy {
    address: usize,
    signature: Signature,
    bytes: usize,
    padded: Vec<u8>,
}

impl Copy {
    /// Keeps `table`, which was read at `address`.
    pub(super) fn new(address: usize, signature: Signature, mut table: Vec<u8>) -> Self {
        let bytes = table.len();
        table.resize(bytes.saturating_add(PADDING), 0);
        Self { address, signature, bytes, padded: table }
    }

    pub(super) fn address(&self) -> usize {
        self.address
    }

    pub(super) fn signature(&self) -> Signature {
        self.signature
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.padded.get(..self.bytes).unwrap_or_default()
    }
}

/// Hands the copies to the crate.
#[derive(Clone)]
pub(super) struct Handler<'a>(pub(super) &'a [Copy]);

impl AcpiHandler for Handler<'_> {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        const { assert!(size_of::<T>() <= PADDING && align_of::<T>() == 1) }
        let found = self.0.iter().find(|copy| copy.address == address);
        // A copy is as long as its own header says, so a longer request is one for something else.
        let found = found.filter(|copy| size <= copy.padded.len());
        let (start, bytes) = match found {
            Some(copy) => (copy.padded.as_slice(), size),
            None => (NOTHING.as_slice(), size_of::<T>()),
        };
        let pointer = NonNull::from(start).cast::<T>();
        // SAFETY: `T` fits the padding and has no alignment; the copies and `NOTHING`
        // outlive the handler inside the mapping. The crate only reads through it, and so do we.
        unsafe { PhysicalMapping::new(address, pointer, bytes, start.len(), self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}
