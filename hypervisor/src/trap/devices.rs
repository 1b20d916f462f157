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
    /// Vectors that waited in the LAPIC when this image took the pCPU over, and have not been delivered since.
    awaited: Vectors,
}

/// A set of vectors, 64 in a word.
pub type Vectors = [u64; 4];

static TABLES: InterruptTicketMutex<Vec<Table>> = InterruptTicketMutex::new(Vec::new());
/// Interrupts that waited when this image took their pCPUs over, and those of them that were handed to guests.
static WAITED: AtomicU64 = AtomicU64::new(0);
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// Makes room for the vectors of pCPU `pcpu`, if there is none yet.
pub fn prepare(pcpu: u32) {
    let mut tables = TABLES.lock();
    if tables.iter().all(|table| table.pcpu != pcpu) {
        tables.push(Table::new(pcpu));
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

/// Vectors bound, over all pCPUs.
pub fn bound() -> u64 {
    let tables = TABLES.lock();
    tables.iter().flat_map(|table| &table.targets).filter(|target| target.is_some()).count() as u64
}

impl Table {
    fn new(pcpu: u32) -> Self {
        let mut targets = Vec::new();
        targets.resize_with(256, || None);
        Self { pcpu, targets, awaited: [0; 4] }
    }

    /// An interrupt has arrived: whom it belongs to, and whether it was awaited.
    fn take(&mut self, number: u8) -> (Option<&Target>, bool) {
        let (word, bit) = (usize::from(number / 64), 1 << (number % 64));
        let awaited = self.awaited[word] & bit != 0;
        self.awaited[word] &= !bit;
        (self.targets[usize::from(number)].as_ref(), awaited)
    }
}

/// A device's interrupt has arrived on pCPU `pcpu`. One that nobody waits for is dropped: its device was taken from a guest meanwhile.
pub fn deliver(pcpu: u32, number: u8) {
    let mut tables = TABLES.lock();
    let taken = tables.iter_mut().find(|table| table.pcpu == pcpu).map(|table| table.take(number));
    if let Some((Some(target), awaited)) = taken {
        target.fabric.deliver(target.message);
        ANSWERED.fetch_add(u64::from(awaited), Ordering::Relaxed);
    }
}

/// These vectors wait in the LAPIC of pCPU `pcpu`, which this image takes over, interrupts off: each is counted when it is delivered.
pub fn await_waiting(pcpu: u32, waiting: Vectors) {
    let mut tables = TABLES.lock();
    if let Some(table) = tables.iter_mut().find(|table| table.pcpu == pcpu) {
        table.awaited = waiting;
    }
    let count: u32 = waiting.iter().map(|word| word.count_ones()).sum();
    WAITED.fetch_add(count.into(), Ordering::Relaxed);
}

/// Of the interrupts that waited: how many there were, how many were handed to guests, and whether one of them still waits.
pub fn awaited() -> (u64, u64, bool) {
    let left = TABLES.lock().iter().any(|table| table.awaited != [0; 4]);
    (WAITED.load(Ordering::Relaxed), ANSWERED.load(Ordering::Relaxed), left)
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use super::*;
    use crate::guest::message::{IpiSink, MsiMessage};

    struct Nobody;

    impl IpiSink for Nobody {
        fn kick(&self, _: u32) {}
    }

    /// HANDOVER.md, behaviour 23: what waited is counted one by one, when a guest gets it.
    #[test]
    fn law_23_interrupts_that_waited_are_counted_once_each() {
        let message = InterruptMessage::from_msi(MsiMessage { address: 0xfee0_0000, data: 0x41 }).expect("a message");
        let mut table = Table::new(1);
        let fabric = Arc::new(InterruptFabric::new(1, Box::new(Nobody)));
        table.targets[0x31] = Some(Target { fabric, message });
        table.awaited = [1 << 0x31 | 1 << 0x32, 0, 0, 1];
        let seen = |table: &mut Table, number| {
            let (target, awaited) = table.take(number);
            (target.is_some(), awaited)
        };
        assert_eq!(seen(&mut table, 0x31), (true, true));
        assert_eq!(seen(&mut table, 0x31), (true, false), "the second time is another interrupt");
        assert_eq!(seen(&mut table, 0x32), (false, true), "nobody gets it");
        assert_eq!(seen(&mut table, 0x33), (false, false));
        assert_eq!(table.awaited, [0, 0, 0, 1]);
        assert_eq!(seen(&mut table, 0xc0), (false, true));
        assert_eq!(table.awaited, [0; 4]);
    }
}
