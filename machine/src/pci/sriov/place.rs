//! Room for the memory of virtual functions.

use crate::pci::{Bar, BarKind, Bdf, ConfigSpace};
use alloc::vec::Vec;
use core::ops::Range;

/// The memory that a bridge forwards to what is behind it: PCIe 7.5.1.3.8 to 7.5.1.3.10.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Below 4 GiB; empty if there is none.
    pub memory: Range<u64>,
    /// Anywhere, for memory without side effects of reads; empty if there is none.
    pub prefetchable: Range<u64>,
}

impl Windows {
    /// Those of `bridge`.
    #[must_use]
    pub fn read(config: &(impl ConfigSpace + ?Sized), bridge: Bdf) -> Self {
        let window = |base: u64, limit: u64| if base <= limit { base..limit + 1 } else { 0..0 };
        // Bits 15:4 are address bits 31:20; the limit's lower bits are ones.
        let address = |offset| u64::from(config.read16(bridge, offset) & 0xfff0) << 16;
        let upper = |offset| u64::from(config.read32(bridge, offset)) << 32;
        // Bits 3:0 of the prefetchable base: 1, there are upper halves.
        let wide = config.read16(bridge, 0x24) & 0xf == 1;
        let high = |offset| if wide { upper(offset) } else { 0 };
        let memory = window(address(0x20), address(0x22) | 0xf_ffff);
        // A base beyond any address is no window.
        let base = high(0x28) | address(0x24);
        let prefetchable = if base >> 52 == 0 { window(base, high(0x2c) | address(0x26) | 0xf_ffff) } else { 0..0 };
        Self { memory, prefetchable }
    }
}

/// Memory that may be given out, and what of it is taken.
#[derive(Clone, Debug, Default)]
pub struct Room {
    windows: Windows,
    taken: Vec<Range<u64>>,
}

impl Room {
    /// The windows of the bridge above, and the memory that functions behind it use there.
    #[must_use]
    pub fn new(windows: Windows, taken: Vec<Range<u64>>) -> Self {
        Self { windows, taken }
    }

    /// Finds and takes `bytes` for what `bar` describes, aligned to its size; where it is already, if that is in a window
    /// and free.
    pub fn take(&mut self, bar: &Bar, bytes: u64) -> Option<u64> {
        // 64-bit memory without side effects may be in either window, other memory only in one.
        let either = matches!(bar.kind, BarKind::Memory64 { prefetchable: true });
        let windows = [(either, self.windows.prefetchable.clone()), (true, self.windows.memory.clone())];
        let found =
            windows.into_iter().filter(|(fits, _)| *fits && bar.kind != BarKind::Io).find_map(|(_, window)| {
                let here = bar.address.get();
                if window.contains(&here) && self.is_free(&window, here, bytes) {
                    return Some(here);
                }
                // Free memory begins where the window does, or where something ends.
                let starts = self.taken.iter().map(|taken| taken.end).chain([window.start]);
                let starts = starts.filter_map(|start| start.checked_next_multiple_of(bar.bytes.max(0x1000)));
                starts.filter(|start| self.is_free(&window, *start, bytes)).min()
            })?;
        self.taken.push(found..found + bytes);
        Some(found)
    }

    fn is_free(&self, window: &Range<u64>, start: u64, bytes: u64) -> bool {
        let inside = |end: u64| window.start <= start && end <= window.end;
        let clear = |end: u64| self.taken.iter().all(|taken| taken.end <= start || end <= taken.start);
        bytes > 0 && start.checked_add(bytes).is_some_and(|end| inside(end) && clear(end))
    }
}
