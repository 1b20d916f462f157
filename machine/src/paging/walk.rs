//! Reading a tree: one address, every leaf, every table.

use super::format::{ENTRIES, Format, shift, span};
use super::kinds::{Caching, Permissions};
use super::table::PageTable;
use crate::access::TableMemory;
use crate::addr::HostPhys;

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the byte asked for.
    pub to: HostPhys,
    /// Bytes from there to the end of the leaf: so many more lead on in a row.
    pub bytes_left: u64,
    /// Bytes that the whole leaf maps.
    pub leaf_bytes: u64,
    /// What every level on the way allows.
    pub permissions: Permissions,
    /// The leaf's memory type.
    pub caching: Caching,
}

/// One leaf of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The first address it translates.
    pub at: u64,
    /// Where that leads.
    pub to: HostPhys,
    /// Bytes mapped.
    pub bytes: u64,
    /// What every level on the way allows.
    pub permissions: Permissions,
    /// The memory type.
    pub caching: Caching,
}

/// What [`PageTable::inspect`] meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// A table, by its address as the entry above has it.
    Table(HostPhys),
    /// A leaf.
    Leaf(Leaf),
}

impl PageTable {
    /// Where `at` leads, or `None` if it is not mapped.
    #[must_use]
    pub fn translate(&self, mem: &dyn TableMemory, at: u64) -> Option<Translation> {
        if at >= self.limit() {
            return None;
        }
        let mut table = self.root;
        let mut permissions = Permissions::ALL;
        for level in (1..=self.levels).rev() {
            let index = (at >> shift(level)) % ENTRIES;
            let entry = mem.read(HostPhys(table.0 + index * 8));
            if !self.format.is_present(entry) {
                return None;
            }
            permissions = permissions.and(self.format.permissions(entry));
            if self.format.is_leaf(entry, level) {
                let offset = at % span(level);
                return Some(Translation {
                    to: HostPhys(self.format.leaf_address(entry, level).0 + offset),
                    bytes_left: span(level) - offset,
                    leaf_bytes: span(level),
                    permissions,
                    caching: self.format.caching(entry),
                });
            }
            table = self.format.table_address(entry);
        }
        None
    }

    /// Calls `visit` for every leaf, in ascending order of address.
    pub fn for_each_leaf(&self, mem: &dyn TableMemory, mut visit: impl FnMut(Leaf)) {
        let _whole = self.inspect(mem, &mut |met| {
            if let Met::Leaf(leaf) = met {
                visit(leaf);
            }
            true
        });
    }

    /// Walks a tree that may be anybody's work: `met` hears of every table before it is read, and of every leaf, in
    /// ascending order of address, and ends the walk by saying `false`. Returns whether the walk came to its end.
    ///
    /// No table is read that `met` did not allow; one that says no to a table it has met before has the walk end, whatever
    /// links to what.
    #[must_use]
    pub fn inspect(&self, mem: &dyn TableMemory, met: &mut dyn FnMut(Met) -> bool) -> bool {
        self.inspect_below(mem, self.root, self.levels, 0, Permissions::ALL, met)
    }

    /// Calls `visit` with the address of every table, the root first.
    pub fn for_each_table(&self, mem: &dyn TableMemory, mut visit: impl FnMut(HostPhys)) {
        tables_below(self.format, mem, self.root, self.levels, &mut visit);
    }

    /// How many tables the tree has, the root included.
    #[must_use]
    pub fn tables(&self, mem: &dyn TableMemory) -> u64 {
        let mut count = 0;
        self.for_each_table(mem, |_| count += 1);
        count
    }

    fn inspect_below(
        &self,
        mem: &dyn TableMemory,
        table: HostPhys,
        level: u8,
        base: u64,
        above: Permissions,
        met: &mut dyn FnMut(Met) -> bool,
    ) -> bool {
        if !met(Met::Table(table)) {
            return false;
        }
        for index in 0..ENTRIES {
            let entry = mem.read(HostPhys(table.0 + index * 8));
            if !self.format.is_present(entry) {
                continue;
            }
            let at = base + index * span(level);
            let permissions = above.and(self.format.permissions(entry));
            let go_on = if self.format.is_leaf(entry, level) {
                met(Met::Leaf(Leaf {
                    at,
                    to: self.format.leaf_address(entry, level),
                    bytes: span(level),
                    permissions,
                    caching: self.format.caching(entry),
                }))
            } else {
                self.inspect_below(mem, self.format.table_address(entry), level - 1, at, permissions, met)
            };
            if !go_on {
                return false;
            }
        }
        true
    }
}

/// Calls `visit` with `table`, at `level`, and every table below it.
pub(super) fn tables_below(
    format: &Format,
    mem: &dyn TableMemory,
    table: HostPhys,
    level: u8,
    visit: &mut dyn FnMut(HostPhys),
) {
    visit(table);
    if level == 1 {
        return;
    }
    for index in 0..ENTRIES {
        let entry = mem.read(HostPhys(table.0 + index * 8));
        if format.is_present(entry) && !format.is_leaf(entry, level) {
            tables_below(format, mem, format.table_address(entry), level - 1, visit);
        }
    }
}
