//! Puts a guest into its memory: the kernel (Linux bzImage, PVH ELF, multiboot
//! or a boot sector), its initrd and command line, the tables its firmware would have left (ACPI, e820)
//! and the state in which its first virtual CPU starts.
//!
//! Principles of this crate:
//! - every image is an allegation: each field is checked before it is used, no
//!   input panics, and a refusal names the module, what is wrong and the remedy;
//! - [`layout`] is the only place that knows where something lies in a guest;
//! - it writes through [`GuestMemory`] and so needs neither the hypervisor nor
//!   unsafe code: everything here is tested on the host.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
mod bios;
pub mod boot_sector;
pub mod bzimage;
pub mod cpio;
mod elf_image;
pub mod entry;
pub mod error;
pub mod image;
pub mod layout;
pub mod memory;
pub mod multiboot;
pub mod pvh;

pub use entry::{Entry, Mode};
pub use error::{LoadError, Problem};
pub use image::{Kind, Module, Plan, SEED_BYTES, Start, detect, load};
pub use memory::{GuestMemory, OutOfGuestMemory};

#[cfg(test)]
mod testing;
