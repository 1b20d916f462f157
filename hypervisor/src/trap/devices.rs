//! Whom a device's vector belongs to, per pCPU. The handler takes no lock but its own
//! table's, so that an interrupt costs the same whatever else runs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hermit_sync::InterruptTicketMutex;

use crate::guest::message::{InterruptFabric, InterruptMessage};
use crate::smp::lapic::vector;

/// A guest's interrupt behind a host vector.
#[derive(Clone)]
pub struct Target {
    /// The guest's LAPICs.
    pub fabric: Arc<InterruptFabric>,
    /// What the guest programmed.
    pub message: InterruptMessage,
}

struct Table {
    pcpu: u32,
    targets: Vec<Option<Target>>,
}

static TABLES: InterruptTicketMutex<Vec<Table>> = InterruptTicketMutex::new(Vec::new());
static DELIVERED: AtomicU64 = AtomicU64::new(0);
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// Makes room for the vectors of pCPU `pcpu`, if there is none yet.
pub fn prepare(pcpu: u32) {
    let mut tables = TABLES.lock();
    if tables.iter().all(|table| table.pcpu != pcpu) {
        let mut targets = Vec::new();
        targets.resize_with(256, || None);
        tables.push(Table { pcpu, targets });
    }
}

/// Binds a free vector of pCPU `pcpu`; `None` when all are taken.
pub fn bind(pcpu: u32, target: Target) -> Option<u8> {
    let mut tables = TABLES.lock();
    let table = tables.iter_mut().find(|table| table.pcpu == pcpu)?;
    let free =
        (vector::DEVICE_FIRST..=vector::DEVICE_LAST).find(|number| table.targets[usize::from(*number)].is_none())?;
    table.targets[usize::from(free)] = Some(target);
    Some(free)
}

/// Binds the vector `number`, which the records name; `false` when it is taken or not for devices.
#[must_use]
pub fn bind_exactly(pcpu: u32, number: u8, target: Target) -> bool {
    if !(vector::DEVICE_FIRST..=vector::DEVICE_LAST).contains(&number) {
        return false;
    }
    let mut tables = TABLES.lock();
    let Some(table) = tables.iter_mut().find(|table| table.pcpu == pcpu) else {
        return false;
    };
    let place = &mut table.targets[usize::from(number)];
    if place.is_some() {
        return false;
    }
    *place = Some(target);
    true
}

/// Changes what a bound vector delivers.
pub fn rebind(pcpu: u32, number: u8, message: InterruptMessage) {
    let mut tables = TABLES.lock();
    if let Some(Some(target)) =
        tables.iter_mut().find(|table| table.pcpu == pcpu).and_then(|table| table.targets.get_mut(usize::from(number)))
    {
        target.message = message;
    }
}

/// Frees a vector.
pub fn unbind(pcpu: u32, number: u8) {
    let mut tables = TABLES.lock();
    if let Some(place) =
        tables.iter_mut().find(|table| table.pcpu == pcpu).and_then(|table| table.targets.get_mut(usize::from(number)))
    {
        *place = None;
    }
}

/// A device's interrupt has arrived on pCPU `pcpu`.
pub fn deliver(pcpu: u32, number: u8) {
    let tables = TABLES.lock();
    let target = tables
        .iter()
        .find(|table| table.pcpu == pcpu)
        .and_then(|table| table.targets.get(usize::from(number)))
        .and_then(Option::as_ref);
    match target {
        Some(target) => {
            target.fabric.deliver(target.message);
            DELIVERED.fetch_add(1, Ordering::Relaxed);
        }
        None => {
            UNEXPECTED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Device interrupts handed to guests, and those that nobody waited for, since this image started.
pub fn counts() -> (u64, u64) {
    (DELIVERED.load(Ordering::Relaxed), UNEXPECTED.load(Ordering::Relaxed))
}
