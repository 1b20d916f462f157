//! CPUID policy: a table made once from the host's CPUID and kept for the guest's life, so that
//! an upgrade changes nothing under a running guest. Features are passed by allow-lists:
//! what is not known here is hidden.

mod features;
pub mod offer;
mod table;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use crate::vcpu::bus::{CpuView, CpuidResult};

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;
const LEAF1_OSXSAVE: u32 = 1 << 27;
const LEAF7_OSPKE: u32 = 1 << 4;
/// Legacy region and header of an XSAVE area in bytes (SDM 1 13.4).
const XSAVE_HEADER_END: u32 = 576;
/// Leaf 0xD sub-leaf ECX: in compacted format the component starts at a multiple of 64.
const XSAVE_ALIGNED: u32 = 1 << 1;

/// What the operator's configuration and the vCPU module decide about CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidConfig {
    /// vCPUs of the guest; APIC ids are 0 to n-1.
    pub vcpus: u32,
    /// Bits of a guest physical address.
    pub physical_bits: u8,
    /// Extended states (bits of XCR0) that the vCPU module saves; fewer if the host has fewer.
    pub xcr0: u64,
    /// TSC ticks per millisecond, told in leaf 0x4000_0010; also the LAPIC timer's rate.
    pub tsc_khz: u32,
    /// The speculation control MSRs are given to the guest.
    pub speculation_control: bool,
    /// Hides XSAVEC and with it the compacted format (Bochs 2.7 has it broken).
    pub hide_xsavec: bool,
}

/// One answer of the table. Numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidEntry {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question; 0 where it does not matter.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX.
    pub values: CpuidResult,
}

/// A saved table is not in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidStateError {
    /// The first leaf that is out of order.
    pub leaf: u32,
}

impl core::fmt::Display for CpuidStateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "CPUID record is out of order at leaf {:#x}; the record is damaged", self.leaf)
    }
}

/// What CPUID answers in one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidTable {
    /// Ascending by leaf and sub-leaf.
    entries: Vec<CpuidEntry>,
    /// What the first basic leaves say, sub-leaf 0.
    first: [Option<CpuidResult>; FIRST],
}

/// How many basic leaves are found without a search.
const FIRST: usize = 32;
/// Those of them whose answer depends on the sub-leaf or on the CPU that asks.
const DEPENDENT: u32 = 1 << 1 | 1 << 4 | 1 << 7 | 1 << 0xB | 1 << 0xD;

impl CpuidTable {
    /// The table for a new guest. `host` is CPUID of this machine: leaf and sub-leaf.
    #[must_use]
    pub fn new(config: &CpuidConfig, host: &dyn Fn(u32, u32) -> CpuidResult) -> Self {
        Self::of(table::build(config, host))
    }

    /// The table of a guest from an earlier image.
    ///
    /// # Errors
    /// The entries are not as [`entries`](Self::entries) gave them.
    pub fn restore(entries: Vec<CpuidEntry>) -> Result<Self, CpuidStateError> {
        match entries.windows(2).find(|pair| matches!(pair, [a, b] if key(a) >= key(b))) {
            Some(pair) => Err(CpuidStateError { leaf: pair.last().map_or(0, |entry| entry.leaf) }),
            None => Ok(Self::of(entries)),
        }
    }

    fn of(entries: Vec<CpuidEntry>) -> Self {
        let mut first = [None; FIRST];
        for entry in entries.iter().filter(|entry| entry.subleaf == 0) {
            if let Some(known) = first.get_mut(entry.leaf as usize) {
                *known = Some(entry.values);
            }
        }
        Self { entries, first }
    }

    /// All entries, for saving.
    #[must_use]
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries
    }

    fn get(&self, leaf: u32, subleaf: u32) -> Option<CpuidResult> {
        if subleaf == 0
            && let Some(known) = self.first.get(leaf as usize)
        {
            return *known;
        }
        let at = self.entries.binary_search_by_key(&(leaf, subleaf), key).ok()?;
        self.entries.get(at).map(|entry| entry.values)
    }

    /// CPUID on the vCPU with APIC id `id`. What the table does not know is zero.
    #[must_use]
    #[inline(always)]
    pub fn query(&self, leaf: u32, subleaf: u32, id: u32, cpu: CpuView) -> CpuidResult {
        if let Some(known) = self.first.get(leaf as usize)
            && DEPENDENT >> leaf & 1 == 0
        {
            return known.unwrap_or_default();
        }
        self.query_dependent(leaf, subleaf, id, cpu)
    }

    #[inline(never)]
    fn query_dependent(&self, leaf: u32, subleaf: u32, id: u32, cpu: CpuView) -> CpuidResult {
        let indexed = matches!(leaf, 4 | 7 | 0xB | 0xD | 0x8000_001D);
        let Some([mut eax, mut ebx, mut ecx, mut edx]) = self.get(leaf, if indexed { subleaf } else { 0 }) else {
            // SDM 2A CPUID: sub-leaves of 0xB beyond the last give back ECX[7:0] and the id.
            return if leaf == 0xB { [0, 0, subleaf & 0xFF, id] } else { [0; 4] };
        };
        match (leaf, subleaf) {
            (1, _) => {
                ebx |= id << 24;
                if cpu.cr4 & CR4_OSXSAVE != 0 {
                    ecx |= LEAF1_OSXSAVE;
                }
            }
            (7, 0) if cpu.cr4 & CR4_PKE != 0 && ecx & 1 << 3 != 0 => ecx |= LEAF7_OSPKE,
            (0xB, _) => edx = id,
            (0xD, 0) => ebx = self.standard_size(cpu.xcr0),
            (0xD, 1) if eax & features::XSAVEC != 0 => ebx = self.compacted_size(cpu.xcr0),
            (0x8000_001E, _) => {
                eax = id;
                ebx |= id & 0xFF;
            }
            _ => {}
        }
        [eax, ebx, ecx, edx]
    }

    /// Components 2 and up that are set in `xcr0`: size, offset, flags.
    fn components(&self, xcr0: u64) -> impl Iterator<Item = CpuidResult> {
        (2..63).filter(move |n| xcr0 & 1 << n != 0).filter_map(|n| self.get(0xD, n))
    }

    /// Bytes of an XSAVE area in standard format (SDM 1 13.4.3).
    fn standard_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0).map(|[size, offset, ..]| offset.saturating_add(size)).fold(XSAVE_HEADER_END, u32::max)
    }

    /// Bytes of an XSAVE area in compacted format.
    fn compacted_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0).fold(XSAVE_HEADER_END, |end, [size, _, flags, _]| {
            let start = if flags & XSAVE_ALIGNED != 0 { end.saturating_add(63) & !63 } else { end };
            start.saturating_add(size)
        })
    }
}

const fn key(entry: &CpuidEntry) -> (u32, u32) {
    (entry.leaf, entry.subleaf)
}
