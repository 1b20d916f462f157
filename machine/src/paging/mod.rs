//! One page-table core, several formats.
//!
//! - [`PageTable`] maps, unmaps, protects, replaces, splits, merges, reports dirty memory and translates;
//!   it knows nothing of bits.
//! - A [`Format`] says which bits mean what, as data: [`HOST`], [`NPT`], [`EPT`], [`VTD_SECOND_STAGE`],
//!   [`VTD_FIRST_STAGE`]. So there is one copy of the core in the image, and whoever holds a table need not
//!   know its format.
//! - Memory comes from outside, as an [`access::TableMemory`](crate::access::TableMemory).
//! - Every change returns a [`Flush`]: what the caller must invalidate, and the
//!   table frames that may be freed only after that.
//!
//! Hardware walks these tables while they change. Therefore:
//! - a table is complete (and written back, for walkers that do not snoop) before it is linked;
//! - a leaf is split by one store, which puts the finished lower table in its place;
//! - 512 leaves are merged by one store, which puts one leaf in the place of their table;
//! - an address that is mapped before and after a change is mapped at every moment between;
//! - whatever can fail (overlap, holes, memory) fails before the first store to a live table.

mod edit;
mod ept;
mod error;
mod fill;
mod flush;
mod format;
mod host;
mod kinds;
mod npt;
mod table;
#[cfg(test)]
mod tests;
mod vtd;
mod walk;

pub use ept::EPT;
pub use error::PagingError;
pub use flush::Flush;
pub use format::Format;
pub use host::HOST;
pub use kinds::{Caching, Holes, LeafSizes, Permissions};
pub use npt::NPT;
pub use table::PageTable;
pub use vtd::{VTD_FIRST_STAGE, VTD_SECOND_STAGE};
pub use walk::{Leaf, Met, Translation};
