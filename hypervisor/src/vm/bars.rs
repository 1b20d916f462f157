//! The nested page tables follow the guest's BARs.

use machine::addr::{GuestPhys, HostPhys, PAGE_SIZE};

use core::sync::atomic::Ordering;

use super::Vm;
use crate::guest::pci::{BarChange, BarMapping};
use crate::smp::pcpu;

impl Vm {
    /// Lets the nested page tables follow what happened to BARs outside the guest, and its virtual CPUs forget what they knew.
    pub fn follow_bars(&self) {
        for change in self.platform.take_bar_changes() {
            self.move_bar(&change);
        }
        for vcpu in &self.vcpus {
            pcpu::kick(vcpu.pcpu);
        }
    }

    /// Lets the nested page tables follow.
    pub fn move_bar(&self, change: &BarChange) {
        let mut space = self.space.lock();
        let generation = &self.space_generation;
        let forget = || {
            generation.fetch_add(1, Ordering::AcqRel);
        };
        let result = match change {
            BarChange::Unmap(mapping) => direct_pages(mapping)
                .try_for_each(|(offset, bytes)| space.unmap(GuestPhys(mapping.guest.get() + offset), bytes, forget)),
            BarChange::Map(mapping) => direct_pages(mapping).try_for_each(|(offset, bytes)| {
                space.map_device(GuestPhys(mapping.guest.get() + offset), HostPhys(mapping.host.get() + offset), bytes)
            }),
        };
        if let Err(error) = result {
            log::error!("guest {}: a BAR can't follow the guest: {error}", self.name);
        }
    }
}

/// The parts of a BAR that the guest reaches by itself: offset and bytes, whole pages around what is trapped.
fn direct_pages(mapping: &BarMapping) -> impl Iterator<Item = (u64, u64)> {
    let trapped = mapping.trapped.clone();
    let parts = if trapped.is_empty() {
        [(0, mapping.bytes), (0, 0)]
    } else {
        [(0, trapped.start), (trapped.end, mapping.bytes)]
    };
    parts.into_iter().filter_map(|(start, end)| {
        let (start, end) = (start.next_multiple_of(PAGE_SIZE), end & !(PAGE_SIZE - 1));
        (start < end).then(|| (start, end - start))
    })
}
