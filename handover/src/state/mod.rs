//! The record types, and the decoded set.
//!
//! - [`stream`]: mark and end, the stream's own records
//! - [`machine`]: processors, clock, memory map, arena, bridges
//! - [`unit`]: IOMMU units, domains and their ids
//! - [`memory`]: guest address spaces and what backs them
//! - [`device`]: functions, aliases, BARs, configuration space
//! - [`interrupt`]: MSI-X entries and interrupt remapping entries
//! - [`guest`]: guests and what they have done
//! - [`vcpu`]: registers, emulated MSRs, extended state
//! - [`lapic`]: virtual local APIC and clocks
//! - [`page`]: where all of that of a vCPU is in the pause
//! - [`platform`]: the guest's I/O APIC, UART, PCI host, legacy ports
//! - [`management`]: address, fault log
//! - [`report`]: what became of upgrades
//! - [`trust`]: whose images may be staged
//! - [`trial`]: what a later release might add, for tests of upgrades between releases
//! - [`set`]: all of them together, [`State`]
//!
//! Rules, kept by the `record!` macro and the compiler: little-endian, `repr(C)`, largest field
//! first, explicit padding named `reserved` that is zero; sizes asserted; no bool, enum, usize or
//! reference. Values that look like enums are constants beside the type; [`crate::graph`] refuses others.
//! A PCI function is a `u32`, see [`crate::record::Bdf`]. A token is a `u64`, zero for none.
//! Kind numbers are `0xSSNN`, subject and number, and are never used twice.

/// Declares a record type with its layouts asserted.
///
/// `Name [kind number, "name in errors", part, critical?, {format: bytes, ...}] key |record| key; { fields } late { fields }`
///
/// Each pair of the layouts is one version of the type: since which format of the stream, and how many bytes it has. A single
/// number stands for `{1: bytes}`. Fields that came after the first version stand in `late`.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident [$kind:literal, $label:literal, $part:ident, $critical:literal, $bytes:literal]
        $($rest:tt)*
    ) => {
        record! {
            $(#[$doc])*
            $name [$kind, $label, $part, $critical, {1: $bytes}]
            $($rest)*
        }
    };
    (
        $(#[$doc:meta])*
        $name:ident [$kind:literal, $label:literal, $part:ident, $critical:literal, {$($format:literal: $bytes:literal),+}]
        key |$record:ident| $key:expr;
        {
            $( $(#[$field_doc:meta])* pub $field:ident: $type:ty, )*
            $( reserved: [u8; $pad:literal], )?
        }
        $( late {
            $( $(#[$late_doc:meta])* pub $late:ident: $late_type:ty, )*
            $( reserved_late: [u8; $late_pad:literal], )?
        } )?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(C)]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $type, )*
            $(
                /// Padding; zero.
                pub reserved: [u8; $pad],
            )?
            $(
                $( $(#[$late_doc])* pub $late: $late_type, )*
                $(
                    /// Padding; zero.
                    pub reserved_late: [u8; $late_pad],
                )?
            )?
        }

        const _: () = {
            use $crate::record::{Record, newest};
            assert!(newest(<$name as Record>::LAYOUTS).bytes == size_of::<$name>(), concat!("size of ", stringify!($name)));
            assert!(align_of::<$name>() <= $crate::header::ALIGNMENT);
        };

        impl $crate::record::Record for $name {
            const KIND: u32 = $kind;
            const LAYOUTS: &'static [$crate::record::Layout] =
                &[$( $crate::record::Layout { format: $format, bytes: $bytes } ),+];
            const CRITICAL: bool = $critical;
            const PART: $crate::record::Part = $crate::record::Part::$part;
            const NAME: &'static str = $label;
            const FIELDS: &'static [(&'static str, &'static str, usize)] = &[
                $( (stringify!($field), stringify!($type), core::mem::offset_of!($name, $field)), )*
                $( ("reserved", concat!("[u8; ", $pad, "]"), core::mem::offset_of!($name, reserved)), )?
                $(
                    $( (stringify!($late), stringify!($late_type), core::mem::offset_of!($name, $late)), )*
                    $( ("reserved_late", concat!("[u8; ", $late_pad, "]"), core::mem::offset_of!($name, reserved_late)), )?
                )?
            ];

            fn key(&self) -> [u64; 2] {
                let $record = self;
                $key
            }

            fn padding_is_zero(&self) -> bool {
                $( if self.reserved != [0; $pad] { return false; } )?
                $( $( if self.reserved_late != [0; $late_pad] { return false; } )? )?
                true
            }
        }
    };
}

pub mod device;
pub mod guest;
pub mod interrupt;
pub mod lapic;
pub mod machine;
pub mod management;
pub mod memory;
pub mod page;
pub mod platform;
pub mod report;
pub mod set;
pub mod stream;
pub mod trial;
pub mod trust;
pub mod unit;
pub mod vcpu;

pub use set::{RefreshError, Skipped, State};

/// Bytes of a name: UTF-8, padded with zeros.
pub const NAME_BYTES: usize = 32;
/// Bytes of a longer text: a module's name, a reason. UTF-8, padded with zeros.
pub const TEXT_BYTES: usize = 192;

/// A name as records hold it; `None` when it is too long or contains a zero.
#[must_use]
pub fn name_field(name: &str) -> Option<[u8; NAME_BYTES]> {
    let mut field = [0; NAME_BYTES];
    if name.bytes().any(|byte| byte == 0) {
        return None;
    }
    field.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    Some(field)
}

/// The text in a zero-padded field; `None` when it is not UTF-8 or continues after a zero.
#[must_use]
pub fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (used, rest) = field.split_at_checked(end)?;
    if !is_zero(rest) {
        return None;
    }
    core::str::from_utf8(used).ok()
}

/// Whether all of `bytes` are zero; eight at a time, for whole records are looked at in the pause.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word));
    let rest = rest.iter().fold(0, |all, byte| all | *byte);
    words | u64::from(rest) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_that_is_not_zero_is_seen_wherever_it_is() {
        for length in 0..40 {
            let mut bytes = alloc::vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "byte {at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn names() {
        let field = name_field("debian").unwrap();
        assert_eq!(&field[..8], b"debian\0\0");
        assert_eq!(text(&field), Some("debian"));
        assert_eq!(name_field("a name that is longer than thirty-two bytes"), None);
        assert_eq!(name_field("a\0b"), None);
        assert_eq!(text(b"a\0b"), None);
        assert_eq!(text(&[0xff, 0]), None);
        assert_eq!(text(b"full"), Some("full"));
    }
}
