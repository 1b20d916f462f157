//! A window of 4 KiB pages in the guest's page tables, low enough for every way to address: right behind its memory.
#![expect(unsafe_code, reason = "the guest's own page tables")]

use machine::cpu::{control, tlb};

use crate::memory::{Frames, PAGE};

/// Where the window begins: no program lies there, whatever memory the guest has.
pub const WINDOW: u64 = 0x4000_0000;
/// Its pages.
pub const PAGES: u64 = 512;
/// Present, writable.
pub const KERNEL: u64 = 3;
/// Present, writable, for ring 3 too.
pub const USER: u64 = 7;
/// Bits of an address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A leaf of 2 MiB.
const LARGE: u64 = 1 << 7;

/// The window. There is one, whoever has made it.
pub struct Window {
    table: u64,
}

/// The entry `index` of the table at `table`.
fn entry(table: u64, index: u64) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut::<u64>(table as usize).wrapping_add(index as usize)
}

/// The tables on the way to `address`: the entries of levels 4, 3 and 2.
fn path(address: u64) -> [*mut u64; 3] {
    let fourth = entry(control::cr3() & ADDRESS, address >> 39 & 511);
    // SAFETY: the tables are the kit's, in memory that is mapped one to one.
    let third = entry(unsafe { fourth.read_volatile() } & ADDRESS, address >> 30 & 511);
    // SAFETY: likewise.
    let second = entry(unsafe { third.read_volatile() } & ADDRESS, address >> 21 & 511);
    [fourth, third, second]
}

impl Window {
    /// Makes it, unless it is there. At first all pages are missing, and are reached by ring 3 where their entries allow it.
    #[must_use]
    pub fn new() -> Self {
        let [fourth, third, second] = path(WINDOW);
        // SAFETY: the tables are the kit's.
        let there = unsafe { second.read_volatile() };
        if there & LARGE == 0 {
            return Self { table: there & ADDRESS };
        }
        let table = Frames::take(1).address();
        // SAFETY: the new table has no page; ring 3 reaches what else is here by no leaf.
        unsafe {
            fourth.write_volatile(fourth.read_volatile() | USER);
            third.write_volatile(third.read_volatile() | USER);
            second.write_volatile(table | USER);
        }
        tlb::flush();
        Self { table }
    }

    /// The entry of page `page`.
    #[must_use]
    pub fn get(&self, page: u64) -> u64 {
        // SAFETY: an entry of the window's table.
        unsafe { entry(self.table, page % PAGES).read_volatile() }
    }

    /// Sets the entry of page `page`: an address and its bits, or 0 for none.
    pub fn set(&self, page: u64, entry: u64) {
        // SAFETY: an entry of the window's table; nothing of the program is reached through the window.
        unsafe { self::entry(self.table, page % PAGES).write_volatile(entry) };
        tlb::invalidate(Self::address(page));
    }

    /// The linear address of page `page`.
    #[must_use]
    pub const fn address(page: u64) -> u64 {
        WINDOW + page * PAGE as u64
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets ring 3 reach the guest's own memory too: the leaf that maps the program.
pub fn open_to_users(address: u64) {
    for at in path(address) {
        // SAFETY: nothing but trials runs in ring 3.
        unsafe { at.write_volatile(at.read_volatile() | USER) };
    }
    tlb::flush();
}
