//! The invalidation queue: VT-d 6.5.2.
//!
//! Every submission is a batch that ends in one wait descriptor, and is waited for.
//! So the queue is empty between submissions and its last descriptor is a wait,
//! which is what a handover needs.

use super::spec::invalidation::{DESCRIPTOR_BYTES, Descriptor};
use super::spec::registers::FaultStatus;
use super::window::Window;
use crate::error::Error;
use crate::platform::Platform;
use machine::access::Registers;
use machine::addr::HostPhys;

/// Descriptors in the queue's one frame.
const LENGTH: u16 = 256;
/// Descriptors in one submission, the wait not counted.
const BATCH: usize = 128;
/// How long a batch may take, in milliseconds.
const BATCH_MS: u64 = 1_000;
/// How often a batch may meet a queue error before it is given up.
const ROUNDS: usize = BATCH + 8;
/// Where recovered descriptors write their status: next to the real word.
const SPARE_STATUS: u64 = 8;

/// The queue of one unit.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The frame of descriptors.
    pub(crate) ring: HostPhys,
    /// The frame that wait descriptors write to.
    pub(crate) status: HostPhys,
    /// The next free descriptor.
    pub(crate) tail: u16,
    /// What the last wait descriptor wrote.
    pub(crate) sequence: u32,
    /// The unit snoops.
    pub(crate) coherent: bool,
}

/// How a submission ended that did not fail for good.
enum Outcome {
    Done,
    Rejected([u64; 2]),
    DeviceTimeout,
}

impl Queue {
    /// Has `batch` done. When this returns `Ok`, hardware holds nothing of what the
    /// batch named. A batch that hits an error is submitted once more as a whole.
    pub(crate) fn submit<R: Registers>(
        &mut self,
        window: &Window<R>,
        platform: &mut Platform<'_>,
        batch: &[Descriptor],
    ) -> Result<(), Error> {
        if batch.is_empty() {
            return self.submit_chunk(window, platform, batch);
        }
        batch.chunks(BATCH).try_for_each(|chunk| self.submit_chunk(window, platform, chunk))
    }

    fn submit_chunk<R: Registers>(
        &mut self,
        window: &Window<R>,
        platform: &mut Platform<'_>,
        chunk: &[Descriptor],
    ) -> Result<(), Error> {
        let unit = window.base;
        if let Outcome::Done = self.attempt(window, platform, chunk)? {
            return Ok(());
        }
        match self.attempt(window, platform, chunk)? {
            Outcome::Done => Ok(()),
            Outcome::Rejected(descriptor) => Err(Error::DescriptorRejected { unit, descriptor }),
            Outcome::DeviceTimeout => Err(Error::DeviceTlbTimeout { unit }),
        }
    }

    fn attempt<R: Registers>(
        &mut self,
        window: &Window<R>,
        platform: &mut Platform<'_>,
        chunk: &[Descriptor],
    ) -> Result<Outcome, Error> {
        // Left over from a batch that timed out: let it finish, or give up.
        if !window.wait_idle(platform.clock, BATCH_MS) {
            return Err(window.timeout("the invalidation queue running empty (IQH = IQT)"));
        }
        self.sequence = self.sequence.wrapping_add(1);
        let wait = Descriptor::wait(self.status, self.sequence);
        for descriptor in chunk.iter().chain(core::iter::once(&wait)) {
            self.put(platform, self.tail, *descriptor);
            self.tail = (self.tail + 1) % LENGTH;
        }
        window.set_tail(self.tail);
        self.finish(window, platform)
    }

    /// Waits for the batch before the tail.
    fn finish<R: Registers>(&self, window: &Window<R>, platform: &mut Platform<'_>) -> Result<Outcome, Error> {
        let mut outcome = Outcome::Done;
        for _ in 0..ROUNDS {
            let mem = &*platform.mem;
            let mut trouble = FaultStatus::empty();
            let settled = platform.clock.wait_for(BATCH_MS, &mut || {
                trouble = window.fault_status() & FaultStatus::QUEUE;
                !trouble.is_empty() || mem.read(self.status) as u32 == self.sequence
            });
            if !settled {
                return Err(window.timeout("an invalidation (its wait descriptor's status write)"));
            }
            if trouble.is_empty() {
                return Ok(outcome);
            }
            if trouble.contains(FaultStatus::IQE) {
                let head = window.head() % LENGTH;
                let at = self.place(head);
                outcome = Outcome::Rejected([mem.read(at), mem.read(HostPhys(at.0 + 8))]);
                // The unit stays at the bad descriptor until it is another and IQE is clear.
                let spare = Descriptor::wait(HostPhys(self.status.0 + SPARE_STATUS), self.sequence);
                self.put(platform, head, spare);
            }
            window.clear_fault_status(trouble);
            if trouble.contains(FaultStatus::ITE) {
                outcome = Outcome::DeviceTimeout;
            }
            if trouble.intersects(FaultStatus::IQE | FaultStatus::ITE) {
                // Some units look at the queue again only when the tail is written.
                window.set_tail(self.tail);
                // The wait itself may be lost (IQE on it, or aborted by ITE): then the
                // queue runs empty without a status write, and the batch is repeated.
                let stopped = platform.clock.wait_for(BATCH_MS, &mut || {
                    window.head() == self.tail || window.fault_status().intersects(FaultStatus::QUEUE)
                });
                if !stopped {
                    return Err(window.timeout("the invalidation queue going on after an error"));
                }
                if window.head() == self.tail {
                    return Ok(outcome);
                }
            }
        }
        Err(window.timeout("the invalidation queue getting past its errors"))
    }

    /// Makes sure that the queue is empty and that its last descriptor is a wait, which
    /// is when a unit may be handed over or its queue turned off.
    pub(crate) fn drain<R: Registers>(&mut self, window: &Window<R>, platform: &mut Platform<'_>) -> Result<(), Error> {
        self.submit(window, platform, &[])?;
        if !window.wait_idle(platform.clock, BATCH_MS) {
            return Err(window.timeout("the invalidation queue running empty (IQH = IQT)"));
        }
        Ok(())
    }

    fn place(&self, index: u16) -> HostPhys {
        HostPhys(self.ring.0 + u64::from(index) * DESCRIPTOR_BYTES)
    }

    fn put(&self, platform: &mut Platform<'_>, index: u16, descriptor: Descriptor) {
        let at = self.place(index);
        platform.mem.write_pair(at, descriptor.bits());
        if !self.coherent {
            platform.mem.flush(at, DESCRIPTOR_BYTES);
        }
    }
}
