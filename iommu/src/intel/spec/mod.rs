//! The VT-d manual as data: layouts, offsets, constants, and nothing that decides.
//!
//! - [`registers`]: the register file (VT-d 11.4); [`capabilities`]: two of them, CAP and ECAP
//! - [`tables`]: root and context entries (VT-d 9.1, 9.3)
//! - [`scalable`]: likewise in scalable mode, PASID directory and PASID entries (VT-d 9.2, 9.4 to 9.6)
//! - [`invalidation`]: descriptors of the invalidation queue (VT-d 6.5.2)
//! - [`interrupts`]: remapping table entries and remappable messages (VT-d 9.10, 9.11, 5.1)
//! - [`posted`]: posted interrupt descriptors (VT-d 9.12)
//! - [`faults`]: fault records and their reasons in words (VT-d 11.4.15, 7.1)
//!
//! Second-stage page tables (VT-d 9.8) are [`machine::paging::VTD_SECOND_STAGE`].
//! Section numbers are those of the specification's revision 4.1.

pub mod capabilities;
pub mod faults;
pub mod interrupts;
pub mod invalidation;
pub mod posted;
pub mod registers;
pub mod scalable;
pub mod tables;
