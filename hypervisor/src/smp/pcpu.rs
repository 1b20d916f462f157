//! What each physical CPU has of its own, found through its GS base.
#![expect(unsafe_code, reason = "GS base points to the pCPU's own structure")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use hermit_sync::InterruptTicketMutex;

use super::lapic;
use crate::cpu;
use crate::mem::host_map;
use crate::trap::{devices, dispatch, tables::Tables};
use crate::upgrade::block::Block;
use crate::upgrade::rescue::{self, Rescue};

const IA32_GS_BASE: u32 = 0xc000_0101;

/// A physical CPU. Lives for ever.
#[repr(C)]
pub struct Pcpu {
    /// GS:0 points here, so that one load finds the structure.
    own: AtomicU64,
    /// Counted from 0, the boot CPU.
    pub index: u32,
    /// Its x2APIC id.
    pub apic_id: u32,
    tables: AtomicPtr<Tables>,
    /// What is in force while the next image tries to take over.
    pub rescue: &'static Rescue,
}

impl Pcpu {
    fn point_gs(&self) {
        // SAFETY: the MSR exists in long mode; nothing but `this` uses GS.
        unsafe { cpu::msr::write(IA32_GS_BASE, self.own.load(Ordering::Relaxed)) };
    }

    /// Makes ready for the way to another image and back: `block`, and until when NMIs are the watchdog's ticks.
    pub fn prepare_rescue(&self, scratch: u64, block: Block, deadline: u64) {
        // SAFETY: `enlist` built the tables, which are never freed; the two words are read by the pCPU only when the rescue table
        // is in force, which it is not.
        unsafe { (*self.tables.load(Ordering::Acquire)).set_rescue_stacks(rescue::stacks(scratch, self.index)) };
        self.rescue.prepare(block, deadline);
    }

    /// Takes this pCPU over again after another image had it: control registers, descriptor tables, GS base, LAPIC. Handles the
    /// interrupt that the other image took, if there is one.
    pub fn reclaim(&self) {
        host_map::adopt_control_registers();
        // SAFETY: `enlist` built the tables for this pCPU, which executes this; they are never freed.
        unsafe { (*self.tables.load(Ordering::Acquire)).load() };
        self.point_gs();
        lapic::enable();
        if let Some(vector) = self.rescue.take_interrupt() {
            dispatch::interrupt(vector);
        }
    }
}

static ENLISTED: AtomicBool = AtomicBool::new(false);
static ALL: InterruptTicketMutex<Vec<&'static Pcpu>> = InterruptTicketMutex::new(Vec::new());

/// Pcpus that were prepared, by index.
static PREPARED: InterruptTicketMutex<Vec<&'static Pcpu>> = InterruptTicketMutex::new(Vec::new());

/// Makes everything that pCPU `index` with x2APIC id `apic_id` will need, so that [`enlist`] takes no memory.
pub fn prepare(index: u32, apic_id: u32) {
    let pcpu: &'static Pcpu = Box::leak(Box::new(Pcpu {
        own: AtomicU64::new(0),
        index,
        apic_id,
        tables: AtomicPtr::new(Tables::leak()),
        rescue: Rescue::leak(index),
    }));
    pcpu.own.store(core::ptr::from_ref(pcpu) as u64, Ordering::Relaxed);
    devices::prepare(index);
    let mut prepared = PREPARED.lock();
    prepared.push(pcpu);
    let room = prepared.len();
    // All of them will be there.
    ALL.lock().reserve(room);
}

/// Makes this CPU a pCPU: descriptor tables, GS base, interrupt vectors, LAPIC. Interrupts stay off.
pub fn enlist(index: u32) -> &'static Pcpu {
    lapic::enable();
    let find = || PREPARED.lock().iter().find(|pcpu| pcpu.index == index).copied();
    let pcpu = match find() {
        Some(pcpu) => pcpu,
        None => {
            prepare(index, lapic::id());
            match find() {
                Some(pcpu) => pcpu,
                None => panic!("a pCPU that was just prepared is not there"),
            }
        }
    };
    // SAFETY: `prepare` built the tables for this pCPU; they are never freed.
    unsafe { (*pcpu.tables.load(Ordering::Acquire)).load() };
    pcpu.point_gs();
    ALL.lock().push(pcpu);
    ENLISTED.store(true, Ordering::Release);
    pcpu
}

/// The number of the pCPU that executes this: 0 before the boot CPU is enlisted in this image, when it is alone.
pub fn index() -> u32 {
    if ENLISTED.load(Ordering::Acquire) { this().index } else { 0 }
}

/// The pCPU that executes this. Only after [`enlist`].
pub fn this() -> &'static Pcpu {
    let address: u64;
    // SAFETY: `enlist` has set GS base to a Pcpu whose first word is its own address; it is never moved or freed.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) address, options(nostack, readonly, preserves_flags));
        &*(address as usize as *const Pcpu)
    }
}

/// All pCPUs, in no particular order.
pub fn all() -> Vec<&'static Pcpu> {
    ALL.lock().clone()
}

/// Likewise, one after the other, without a list of them.
pub fn each() -> impl Iterator<Item = &'static Pcpu> {
    (0..).map_while(|place| ALL.lock().get(place).copied())
}

/// How many pCPUs there are.
pub fn count() -> usize {
    ALL.lock().len()
}

/// Makes pCPU `index` look at its work; nothing happens when it is this one.
pub fn kick(index: u32) {
    // Before this image has enlisted its boot CPU nobody else runs in it.
    if !ENLISTED.load(Ordering::Acquire) || index == this().index {
        return;
    }
    let target = ALL.lock().iter().find(|pcpu| pcpu.index == index).map(|pcpu| pcpu.apic_id);
    if let Some(apic_id) = target {
        lapic::send(apic_id, lapic::vector::KICK);
    }
}
