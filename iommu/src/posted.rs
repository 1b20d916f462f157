//! Posted interrupt descriptors: where units with CAP.PI note interrupts for a virtual CPU (VT-d 5.2).
//!
//! They lie in frames of `Platform::mem`, 64 to a frame, and stay where they are across images:
//! units write to them at any time, so each word is changed in one atomic step.

use crate::error::Error;
use crate::fleet::Iommu;
use crate::intel::remap::destination;
use crate::intel::spec::interrupts::PostedEntry;
use crate::intel::spec::posted::{CONTROL_OFFSET, DESCRIPTOR_BYTES, PostedControl, REQUEST_WORDS};
use crate::ledger::Ledger;
use crate::platform::Platform;
use crate::state::PostedState;
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::{HostPhys, PAGE_SIZE};

/// A descriptor that [`Iommu::create_posted`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PostedDescriptor(HostPhys);

impl PostedDescriptor {
    /// The descriptor's address: for a virtual machine control structure, or a record.
    #[must_use]
    pub const fn place(self) -> HostPhys {
        self.0
    }

    /// Takes the vectors requested since the last time, as a bitmap, and lets the next
    /// request notify again.
    pub fn take(self, mem: &mut dyn TableMemory) -> [u64; REQUEST_WORDS as usize] {
        // ON first: a request between the two notifies once more, which costs nothing but time.
        self.update(mem, PostedControl::new().with_outstanding(true), PostedControl::new());
        core::array::from_fn(|word| mem.update(HostPhys(self.0.0 + word as u64 * 8), u64::MAX, 0))
    }

    /// Whether only urgent interrupts notify (SN): while the virtual CPU does not run.
    pub fn suppress(self, mem: &mut dyn TableMemory, suppressed: bool) {
        let bit = PostedControl::new().with_suppress(true);
        match suppressed {
            true => self.update(mem, PostedControl::new(), bit),
            false => self.update(mem, bit, PostedControl::new()),
        };
    }

    fn update(self, mem: &mut dyn TableMemory, clear: PostedControl, set: PostedControl) -> PostedControl {
        let at = HostPhys(self.0.0 + CONTROL_OFFSET);
        PostedControl::from_bits(mem.update(at, clear.into_bits(), set.into_bits()))
    }
}

/// The frames of descriptors, and which places in them are given out.
#[derive(Debug, Default)]
pub(crate) struct PostedFrames {
    pub(crate) frames: Vec<(HostPhys, u64)>,
}

impl PostedFrames {
    /// As recorded; every frame is the IOMMU's own.
    pub(crate) fn adopt(recorded: &[PostedState], ledger: &mut Ledger<'_>) -> Result<Self, Error> {
        let mut frames = Vec::with_capacity(recorded.len());
        for state in recorded {
            ledger.claim("posted interrupt descriptors", HostPhys(state.frame))?;
            frames.push((HostPhys(state.frame), state.used));
        }
        Ok(Self { frames })
    }

    /// Whether both have the same descriptors.
    pub(crate) fn agrees(&self, recorded: &[PostedState]) -> bool {
        let same = |(ours, state): (&(HostPhys, u64), &PostedState)| (ours.0.0, ours.1) == (state.frame, state.used);
        self.frames.len() == recorded.len() && self.frames.iter().zip(recorded).all(same)
    }

    /// Whether a descriptor was given out at `place`.
    pub(crate) fn check(&self, place: HostPhys) -> Result<(), Error> {
        let slot = (place.0 % PAGE_SIZE) / DESCRIPTOR_BYTES;
        let known = place.is_aligned(DESCRIPTOR_BYTES)
            && self
                .frames
                .iter()
                .any(|(frame, used)| frame.0 == place.0 - place.0 % PAGE_SIZE && used & 1 << slot != 0);
        if known { Ok(()) } else { Err(Error::NoSuchDescriptor { place }) }
    }

    fn mark(&mut self, place: HostPhys, used: bool) {
        let (frame, bit) = (place.0 - place.0 % PAGE_SIZE, 1 << ((place.0 % PAGE_SIZE) / DESCRIPTOR_BYTES));
        for (_, slots) in self.frames.iter_mut().filter(|(at, _)| at.0 == frame) {
            *slots = if used { *slots | bit } else { *slots & !bit };
        }
    }

    fn free_place(&self) -> Option<HostPhys> {
        let (frame, used) = self.frames.iter().find(|(_, used)| *used != u64::MAX)?;
        Some(HostPhys(frame.0 + u64::from(used.trailing_ones()) * DESCRIPTOR_BYTES))
    }
}

impl<R: Registers> Iommu<R> {
    /// A descriptor whose notifications go to `vector` of the processor `apic_id`. Nothing is
    /// requested in it yet.
    pub fn create_posted(
        &mut self,
        platform: &mut Platform<'_>,
        vector: u8,
        apic_id: u32,
    ) -> Result<PostedDescriptor, Error> {
        self.must_be_live()?;
        let control = self.posted_control(vector, apic_id)?;
        let place = match self.posted.free_place() {
            Some(place) => place,
            None => {
                let what = "posted interrupt descriptors";
                let frame = platform.mem.allocate().ok_or(Error::OutOfMemory { what })?;
                self.posted.frames.push((frame, 0));
                frame
            }
        };
        self.posted.mark(place, true);
        for word in 0..REQUEST_WORDS {
            platform.mem.write(HostPhys(place.0 + word * 8), 0);
        }
        platform.mem.write(HostPhys(place.0 + CONTROL_OFFSET), control.into_bits());
        // Units access descriptors coherently, whatever ECAP.C says (VT-d 5.2.3).
        Ok(PostedDescriptor(place))
    }

    /// Sends a descriptor's notifications elsewhere: the virtual CPU runs on another processor.
    pub fn retarget_posted(
        &mut self,
        platform: &mut Platform<'_>,
        descriptor: PostedDescriptor,
        vector: u8,
        apic_id: u32,
    ) -> Result<(), Error> {
        self.posted.check(descriptor.0)?;
        let new = self.posted_control(vector, apic_id)?;
        let all = PostedControl::new().with_vector(u8::MAX).with_destination(u32::MAX);
        descriptor.update(platform.mem, all, new);
        Ok(())
    }

    /// Takes a descriptor back. Refused while an entry leads to it.
    pub fn destroy_posted(&mut self, descriptor: PostedDescriptor) -> Result<(), Error> {
        self.must_be_live()?;
        self.posted.check(descriptor.0)?;
        for unit in &self.units {
            let entries = unit.interrupts.iter().flat_map(|table| &table.entries);
            let mut leading =
                entries.filter(|(_, allocated)| posted_at(allocated.entry.into_bits()) == Some(descriptor.0));
            if let Some((index, _)) = leading.next() {
                return Err(Error::DescriptorInUse { unit: unit.base(), index: *index });
            }
        }
        self.posted.mark(descriptor.0, false);
        Ok(())
    }

    /// All units are in one interrupt mode; a destination is as they have it.
    fn posted_control(&self, vector: u8, apic_id: u32) -> Result<PostedControl, Error> {
        let mut control = PostedControl::new().with_vector(vector).with_destination(apic_id);
        for unit in &self.units {
            if let Some(table) = &unit.interrupts {
                let narrow = Error::Destination { unit: unit.base(), apic_id };
                control = control.with_destination(destination(table.x2apic, apic_id).ok_or(narrow)?);
            }
        }
        Ok(control)
    }
}

/// The descriptor of a present entry in posted format.
pub(crate) fn posted_at(entry: u128) -> Option<HostPhys> {
    let entry = PostedEntry::from_bits(entry);
    (entry.present() && entry.posted()).then(|| entry.descriptor())
}
