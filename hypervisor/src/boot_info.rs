//! What `boot/` found at the door, whatever the door was.

use core::fmt;

use machine::addr::HostPhys;

/// At most so many modules are taken from a loader.
pub const MAX_MODULES: usize = 32;
/// At most so many ranges are taken from a firmware memory map.
pub const MAX_MEMORY_RANGES: usize = 128;

/// Everything the hypervisor learns from the code that entered the image.
pub struct BootInfo {
    /// Where the running image lies.
    pub image: ImageLayout,
    /// How application processors are started.
    pub ap_trampoline: ApTrampoline,
    /// The image's own note, as it lies in the image.
    pub note: &'static [u8],
    /// The name people gave this build.
    pub build_name: &'static str,
    /// What was planted in this build for tests: kind and place, zero for nothing (`upgrade::fault`).
    pub fault: [u8; 2],
    /// Which way the image was entered.
    pub origin: Origin,
}

/// Which way the image was entered.
#[expect(clippy::large_enum_variant, reason = "there is one, on the boot stack, before there is a heap")]
pub enum Origin {
    /// Power-on, from a boot loader.
    Cold(ColdBoot),
    /// From the image before this one, in its sandbox; the address of the jump block.
    Upgrade(HostPhys),
}

/// Identity-mapped addresses of the running image's parts, each page aligned.
#[derive(Clone, Copy, Debug)]
pub struct ImageLayout {
    /// First byte: the start of the slot and of the text.
    pub base: u64,
    /// End of the text, start of the read-only data.
    pub text_end: u64,
    /// End of the read-only data, start of data and bss.
    pub rodata_end: u64,
    /// End of the image's memory.
    pub end: u64,
}

/// The real-mode code for application processors.
#[derive(Clone, Copy)]
pub struct ApTrampoline {
    /// Position-dependent code for [`AP_TRAMPOLINE`](crate::mem::layout::AP_TRAMPOLINE).
    pub code: &'static [u8],
    /// Offset of the mailbox: CR3, entry, table of stacks, counter, 8 bytes each.
    pub mailbox: usize,
}

/// What a boot loader handed over.
#[derive(Default)]
pub struct ColdBoot {
    /// The loader's name.
    pub loader: Text,
    /// The command line, image name first.
    pub command_line: Text,
    /// The firmware's memory map.
    pub memory: List<MemoryRange, MAX_MEMORY_RANGES>,
    /// Modules in the order given.
    pub modules: List<Module, MAX_MODULES>,
}

/// One range of the firmware's memory map.
#[derive(Clone, Copy, Default, Debug)]
pub struct MemoryRange {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// The firmware's type (ACPI 15, table 15.1): 1 is usable RAM.
    pub kind: u32,
}

impl MemoryRange {
    /// Usable RAM (ACPI 15).
    pub const USABLE: u32 = 1;
}

/// A file the loader put into memory.
#[derive(Clone, Copy, Default, Debug)]
pub struct Module {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// The loader's string for it: a path, then arguments.
    pub name: Text,
}

impl Module {
    /// The last component of the path, without arguments: how `baton.toml` names it.
    #[must_use]
    pub fn base_name(&self) -> &str {
        let path = self.name.as_str().split_ascii_whitespace().next().unwrap_or("");
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// A short text from a loader; what does not fit is cut.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Text {
    /// Bytes kept.
    pub const CAPACITY: usize = 192;

    /// Appends a byte; `false` when full. What is not printable ASCII is replaced.
    pub fn push(&mut self, byte: u8) -> bool {
        let Some(place) = self.bytes.get_mut(self.length) else {
            return false;
        };
        *place = if (0x20..0x7f).contains(&byte) { byte } else { b'?' };
        self.length += 1;
        true
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only printable ASCII was pushed.
        core::str::from_utf8(self.bytes.get(..self.length).unwrap_or(&[])).unwrap_or("")
    }
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; Self::CAPACITY], length: 0 }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A list of bounded length without a heap.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    items: [T; N],
    length: usize,
}

impl<T: Copy + Default, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self { items: [T::default(); N], length: 0 }
    }
}

impl<T, const N: usize> List<T, N> {
    /// Appends; `false` when full.
    pub fn push(&mut self, item: T) -> bool {
        let Some(place) = self.items.get_mut(self.length) else {
            return false;
        };
        *place = item;
        self.length += 1;
        true
    }

    /// What was pushed.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        self.items.get(..self.length).unwrap_or(&[])
    }
}
