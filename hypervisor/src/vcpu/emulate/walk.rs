//! A walk of the guest's page tables (APM2 5.2 to 5.4): every mode, a bounded number of
//! steps, and no trust in what the tables say.

use machine::addr::GuestPhys;

use super::super::bus::Bus;
use super::super::cpu::{Control, VirtualCpu};
use super::super::event::{Event, PF};
use super::super::state::{CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA, EFER_NXE};
use super::Stop;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// Physical address bits of an 8-byte entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The registers that a walk depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

impl Paging {
    /// Of a virtual CPU.
    pub fn of<C: VirtualCpu + ?Sized>(cpu: &C) -> Self {
        Self {
            cr0: cpu.control(Control::Cr0),
            cr3: cpu.control(Control::Cr3),
            cr4: cpu.control(Control::Cr4),
            efer: cpu.control(Control::Efer),
        }
    }

    const fn levels(&self) -> u32 {
        match (self.cr0 & CR0_PG != 0, self.cr4 & CR4_PAE != 0, self.efer & EFER_LMA != 0, self.cr4 & CR4_LA57 != 0) {
            (false, ..) => 0,
            (true, false, ..) => 2,
            (true, true, false, _) => 3,
            (true, true, true, false) => 4,
            (true, true, true, true) => 5,
        }
    }
}

/// What the address is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Access {
    /// A store.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// At CPL 3.
    pub user: bool,
}

/// Translates `linear`, sets accessed and dirty bits, and answers with the page fault that hardware would raise.
///
/// NX, SMEP, SMAP and protection keys are not looked at: the instruction has passed them in hardware already.
///
/// # Errors
/// [`Stop::Event`] with #PF, or [`Stop::NotRam`] when a table is not in the guest's RAM.
pub fn walk<B: Bus + ?Sized>(bus: &mut B, paging: Paging, linear: u64, access: Access) -> Result<GuestPhys, Stop> {
    let levels = paging.levels();
    if levels == 0 {
        return Ok(GuestPhys(linear & 0xffff_ffff));
    }
    let long = levels >= 4;
    if long {
        let unused = if levels == 5 { 7 } else { 16 };
        if ((linear << unused) as i64 >> unused) as u64 != linear {
            return Err(Stop::Event { event: Event::general_protection(), cr2: None });
        }
    }
    let linear = if long { linear } else { linear & 0xffff_ffff };
    let (entry_bytes, index_bits) = if levels == 2 { (4u64, 10u32) } else { (8, 9) };
    let mut table = match levels {
        2 => paging.cr3 & 0xffff_f000,
        3 => paging.cr3 & 0xffff_ffe0,
        _ => paging.cr3 & ADDRESS,
    };
    let mut rights = WRITABLE | USER;
    let mut level = levels;
    loop {
        let shift = 12 + (level - 1) * index_bits;
        // The top level of PAE has four entries, which two bits select.
        let mask = if levels == 3 && level == 3 { 3 } else { (1 << index_bits) - 1 };
        let at = GuestPhys(table + (linear >> shift & mask) * entry_bytes);
        let entry = read_entry(bus, at, entry_bytes)?;
        let pdpte = levels == 3 && level == 3;
        if entry & PRESENT == 0 {
            return Err(page_fault(paging, linear, access, false));
        }
        if !pdpte {
            rights &= entry;
        }
        let large = level > 1
            && entry & LARGE != 0
            && match levels {
                2 => paging.cr4 & CR4_PSE != 0,
                3 => level == 2,
                _ => level <= 3,
            };
        if level > 1 && !large {
            if !pdpte {
                mark(bus, at, entry, ACCESSED)?;
            }
            table = if entry_bytes == 4 { entry & 0xffff_f000 } else { entry & ADDRESS };
            level -= 1;
            continue;
        }
        let denied = (access.user && rights & USER == 0)
            || (access.write && rights & WRITABLE == 0 && (access.user || paging.cr0 & CR0_WP != 0));
        if denied {
            return Err(page_fault(paging, linear, access, true));
        }
        mark(bus, at, entry, if access.write { ACCESSED | DIRTY } else { ACCESSED })?;
        let offset = (1u64 << shift) - 1;
        let base = if large && levels == 2 {
            // PSE-36: bits 20:13 are bits 39:32 of the address.
            entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
        } else if entry_bytes == 4 {
            entry & 0xffff_f000
        } else {
            entry & ADDRESS & !offset
        };
        return Ok(GuestPhys(base | linear & offset));
    }
}

fn page_fault(paging: Paging, linear: u64, access: Access, present: bool) -> Stop {
    let fetch = access.fetch && paging.efer & EFER_NXE != 0;
    let code = u32::from(present) | u32::from(access.write) << 1 | u32::from(access.user) << 2 | u32::from(fetch) << 4;
    Stop::Event { event: Event::fault(PF, code), cr2: Some(linear) }
}

fn read_entry<B: Bus + ?Sized>(bus: &mut B, at: GuestPhys, bytes: u64) -> Result<u64, Stop> {
    let mut entry = [0u8; 8];
    let target = if bytes == 4 { &mut entry[..4] } else { &mut entry[..] };
    bus.read_memory(at, target).map_err(|_| Stop::NotRam(at))?;
    Ok(u64::from_le_bytes(entry))
}

/// Sets accessed and dirty bits. They are in the entry's first byte, and only that is written, so that a
/// concurrent change of the address by another virtual CPU is never undone.
fn mark<B: Bus + ?Sized>(bus: &mut B, at: GuestPhys, entry: u64, bits: u64) -> Result<(), Stop> {
    if entry & bits == bits {
        return Ok(());
    }
    bus.write_memory(at, &[(entry | bits) as u8]).map_err(|_| Stop::NotRam(at))
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
