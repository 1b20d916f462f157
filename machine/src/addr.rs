//! Address spaces as types. A [`HostPhys`] is never a [`GuestPhys`] by accident.

use core::fmt;

/// Bytes in a page frame.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes mapped by a leaf at level 2 (2 MiB).
pub const PAGE_SIZE_2M: u64 = 2 << 20;
/// Bytes mapped by a leaf at level 3 (1 GiB).
pub const PAGE_SIZE_1G: u64 = 1 << 30;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The raw address in bytes.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// This address plus `bytes`, or `None` on overflow.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `align` (a power of two, in bytes).
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The address rounded down to a multiple of `align` (a power of two, in bytes).
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// The number of the page frame that holds this address.
            #[must_use]
            pub const fn pfn(self) -> Pfn {
                Pfn(self.0 / PAGE_SIZE)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A physical address of the machine.
    HostPhys
}
address! {
    /// A physical address as a guest sees it.
    GuestPhys
}
address! {
    /// An address as a device sees it, before the IOMMU translates it.
    Iova
}

/// A page frame number: a host physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The first byte of the frame.
    #[must_use]
    pub const fn base(self) -> HostPhys {
        HostPhys(self.0 * PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment() {
        assert_eq!(HostPhys(0x1fff).align_down(PAGE_SIZE), HostPhys(0x1000));
        assert!(!GuestPhys(0x1001).is_aligned(PAGE_SIZE));
        assert_eq!(Iova(u64::MAX).checked_add(1), None);
        assert_eq!(HostPhys(0x5abc).pfn().base(), HostPhys(0x5000));
    }
}
