//! Why a guest cannot be loaded: the module to blame, the cause and the remedy in one line.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

use crate::memory::OutOfGuestMemory;

/// Why a guest cannot be loaded. Its text is one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The name of the module to blame.
    pub module: String,
    /// What is wrong with it.
    pub problem: Problem,
}

impl LoadError {
    pub(crate) fn new(module: &str, problem: Problem) -> Self {
        Self { module: module.to_owned(), problem }
    }
}

/// What is wrong with a module, or with its guest's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is something else; `found` names it.
    NotAKernel {
        /// What the module looks like.
        found: &'static str,
    },
    /// It ends before something that it says it contains.
    Truncated {
        /// Bytes it would have if it were whole, at least.
        needs: u64,
        /// Bytes it has.
        has: u64,
    },
    /// A bzImage of a boot protocol before 2.12.
    TooOld {
        /// Its boot protocol version, major in the high byte.
        version: u16,
    },
    /// A bzImage without the 64-bit entry point.
    No64BitEntry,
    /// A kernel whose format does not have the entry that was asked for.
    WrongEntry {
        /// What it is.
        kind: &'static str,
        /// What was asked for.
        wanted: &'static str,
        /// What it has.
        only: &'static str,
    },
    /// The guest has something that kernels of this format can't be told of.
    NotTaken {
        /// What the kernel is.
        kind: &'static str,
        /// The key of `baton.toml`.
        key: &'static str,
    },
    /// A multiboot header wants what this loader does not have.
    MultibootFlags {
        /// The bits of its `flags` that are not understood or can't be done.
        unknown: u32,
    },
    /// A flat image is larger than its place.
    ImageTooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The room there is, in bytes.
        room: u64,
    },
    /// The texts, or the lists, of a multiboot guest are longer than their place.
    ModulesTooMany {
        /// How many modules there are.
        modules: usize,
    },
    /// An ELF without the note that gives the PVH entry point.
    NoPvhNote,
    /// A field of its header makes no sense.
    Malformed {
        /// The field, as its specification names it.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// It wants to be loaded where the boot structures and ACPI tables lie.
    TooLow {
        /// Where it wants to be.
        address: u64,
    },
    /// The guest's memory below 3 GiB does not hold it.
    TooLittleMemory {
        /// What it takes, in bytes.
        needs: u64,
        /// What there is below 3 GiB, in bytes.
        has: u64,
    },
    /// It lies or needs memory above what a guest can ever have below 3 GiB.
    TooHigh {
        /// The end of what it needs.
        end: u64,
    },
    /// The initrd does not fit between the kernel and the highest address the kernel takes.
    InitrdTooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The room there is, in bytes.
        room: u64,
    },
    /// The command line is longer than the kernel takes.
    CommandLineTooLong {
        /// Its length in bytes.
        bytes: u64,
        /// What the kernel takes.
        limit: u64,
    },
    /// The command line has a zero byte, which would end it.
    CommandLineHasZero,
    /// The ACPI tables for so many virtual CPUs do not fit their area.
    TooManyCpus {
        /// How many there are.
        cpus: usize,
    },
    /// The memory does not match the map it was loaded by: an error of ours.
    Memory(OutOfGuestMemory),
}

/// Bytes as MiB, rounded up.
const fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.module;
        match &self.problem {
            Problem::NotAKernel { found } => write!(
                f,
                "module '{name}' is no kernel: it is {found}; name a bzImage (vmlinuz), a PVH or multiboot kernel or a boot sector as the guest's kernel"
            ),
            Problem::Truncated { needs, has } => {
                write!(f, "module '{name}' is cut off: it has {has} of at least {needs} bytes; copy it again")
            }
            Problem::TooOld { version } => write!(
                f,
                "kernel '{name}' is too old: boot protocol {}.{:02}; use one with 2.12 or newer (Linux 3.8)",
                version >> 8,
                version & 0xFF
            ),
            Problem::No64BitEntry => {
                write!(
                    f,
                    "kernel '{name}' has no 64-bit entry point; use one built for x86-64, or set entry = \"32-bit\""
                )
            }
            Problem::WrongEntry { kind, wanted, only } => write!(
                f,
                "kernel '{name}' is {kind}, which has no {wanted} entry; set entry = \"{only}\", or leave it out"
            ),
            Problem::NotTaken { kind, key } => {
                write!(f, "kernel '{name}' is {kind}, which can't be given {key}; remove {key} from the guest")
            }
            Problem::MultibootFlags { unknown } => write!(
                f,
                "kernel '{name}' wants {unknown:#x} of its multiboot loader (flags), a video mode or what nobody has \
                 defined; build it without"
            ),
            Problem::ImageTooLarge { bytes, room } => write!(
                f,
                "module '{name}' has {bytes} bytes, a flat image can have {room}; make it smaller, or name a kernel"
            ),
            Problem::ModulesTooMany { modules } => {
                write!(f, "{modules} modules with their texts are too many for kernel '{name}'; shorten modules")
            }
            Problem::NoPvhNote => write!(
                f,
                "module '{name}' is an ELF without a PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); use the bzImage, or build the kernel with PVH or a multiboot header"
            ),
            Problem::Malformed { field, value } => {
                write!(f, "module '{name}' is damaged: {field} is {value:#x}; copy or build it again")
            }
            Problem::TooLow { address } => write!(
                f,
                "kernel '{name}' wants guest physical {address:#x}, where boot structures lie; link it at 0x100000 or above"
            ),
            Problem::TooLittleMemory { needs, has } => write!(
                f,
                "module '{name}' does not fit: it takes {} MiB below 3 GiB and the guest has {} MiB there; raise memory_mib to at least {}",
                mib(*needs),
                mib(*has),
                mib(*needs)
            ),
            Problem::TooHigh { end } => write!(
                f,
                "kernel '{name}' needs memory up to guest physical {end:#x}, guests are loaded below 0xc0000000; link it lower"
            ),
            Problem::InitrdTooLarge { bytes, room } => write!(
                f,
                "initrd '{name}' is too large: {} MiB, and the kernel leaves {} MiB for it; raise memory_mib or make it smaller",
                mib(*bytes),
                room >> 20
            ),
            Problem::CommandLineTooLong { bytes, limit } => write!(
                f,
                "command line of {bytes} bytes is too long for kernel '{name}', which takes {limit}; shorten command_line"
            ),
            Problem::CommandLineHasZero => {
                write!(f, "command line for kernel '{name}' has a zero byte; remove it from command_line")
            }
            Problem::TooManyCpus { cpus } => {
                write!(f, "{cpus} virtual CPUs for kernel '{name}' do not fit the ACPI tables; lower vcpus")
            }
            Problem::Memory(error) => write!(f, "loading module '{name}' failed: {error}; this is an error of Baton"),
        }
    }
}

impl core::error::Error for LoadError {}
