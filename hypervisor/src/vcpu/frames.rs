//! Where the memory of hardware structures (VMCB, bitmaps, save areas) comes from.

use machine::addr::HostPhys;

/// A source of 4 KiB frames that are mapped writable at their physical address
/// (virtual == physical), uncached by nobody, and not used by anyone else.
pub trait FrameSource {
    /// One 4 KiB frame; its contents are arbitrary. `None` when memory is exhausted.
    fn frame(&mut self) -> Option<HostPhys> {
        self.contiguous(1)
    }
    /// `count` physically contiguous 4 KiB frames, likewise; the address of the first.
    fn contiguous(&mut self, count: usize) -> Option<HostPhys>;
}

/// No frame was left for a structure of a virtual CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

impl core::fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no memory left for a virtual CPU's structures: give the guests less memory in baton.toml")
    }
}
