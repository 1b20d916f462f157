//! The invalidation queue: VT-d 6.5.2.
//!
//! Every submission is a batch that ends in one wait descriptor, and is waited for.
//! So the queue is empty between submissions and its last descriptor is a wait,
//! which is what a handover needs.
//!
//! A batch that went well costs one register write: its end is seen in memory.

use super::spec::invalidation::{DESCRIPTOR_BYTES, Descriptor};
use super::spec::registers::{Capability, ExtendedCapability, FaultStatus, QueueAddress, QueueErrorInfo};
use super::window::Window;
use crate::error::Error;
use crate::platform::Platform;
use machine::access::Registers;
use machine::addr::{HostPhys, PAGE_SIZE};

/// Descriptors in one submission, the wait not counted.
pub(crate) const BATCH: usize = 64;
/// How long a batch may take, in milliseconds.
const BATCH_MS: u64 = 1_000;
/// How often a batch may meet a queue error before it is given up.
const ROUNDS: usize = BATCH + 8;
/// Where recovered descriptors write their status: next to the real word.
const SPARE_STATUS: u64 = 8;
/// The status word is looked at so often before FSTS is: a register costs more than memory.
const LOOKS: u32 = 16;

/// What a queue has met and got over, since this image has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QueueErrors {
    /// Descriptors rejected (FSTS.IQE).
    pub rejected: u64,
    /// Device-TLB invalidations that timed out (FSTS.ITE).
    pub timeouts: u64,
    /// Completions that nobody had asked for (FSTS.ICE).
    pub unasked: u64,
    /// Who sent the last of these, where the unit says.
    pub unasked_source: u16,
}

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
    /// Stores stay in a buffer until it is flushed (CAP.RWBF).
    pub(crate) write_buffer: bool,
    /// Descriptors have 256 bits (IQA.DW), as scalable mode needs.
    pub(crate) wide: bool,
    /// The last submission did not end as it should: hardware may still be at it.
    pub(crate) unsettled: bool,
    pub(crate) errors: QueueErrors,
}

/// How a submission ended that did not fail for good.
enum Outcome {
    Done,
    Rejected([u64; 2], QueueErrorInfo),
    DeviceTimeout(u16),
}

impl Queue {
    /// An empty queue over two zeroed frames.
    pub(crate) fn new(ring: HostPhys, status: HostPhys, cap: Capability, ecap: ExtendedCapability, wide: bool) -> Self {
        Self {
            ring,
            status,
            tail: 0,
            sequence: 0,
            coherent: ecap.coherent(),
            write_buffer: cap.write_buffer(),
            wide,
            unsettled: false,
            errors: QueueErrors::default(),
        }
    }

    /// IQA.
    pub(crate) fn register(&self) -> QueueAddress {
        QueueAddress::new(self.ring, self.wide)
    }

    /// IQT, and IQH while the queue is empty.
    pub(crate) fn position(&self) -> u64 {
        u64::from(self.tail) * self.stride()
    }

    /// The index at a value of IQT, if that is a place in the queue.
    pub(crate) fn index_at(&self, position: u64) -> Option<u16> {
        let sound = position < PAGE_SIZE && position.is_multiple_of(self.stride());
        u16::try_from(position / self.stride()).ok().filter(|_| sound)
    }

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
            Outcome::Rejected(descriptor, info) => Err(Error::DescriptorRejected { unit, descriptor, info }),
            Outcome::DeviceTimeout(source) => Err(Error::DeviceTlbTimeout { unit, source }),
        }
    }

    fn attempt<R: Registers>(
        &mut self,
        window: &Window<R>,
        platform: &mut Platform<'_>,
        chunk: &[Descriptor],
    ) -> Result<Outcome, Error> {
        if self.unsettled {
            self.settle(window, platform)?;
        }
        self.unsettled = true;
        self.sequence = self.sequence.wrapping_add(1);
        let wait = Descriptor::wait(self.status, self.sequence);
        for descriptor in chunk.iter().chain(core::iter::once(&wait)) {
            self.put(platform, self.tail, *descriptor);
            self.tail = (self.tail + 1) % self.length();
        }
        if self.write_buffer {
            // The descriptors, and before them what the invalidation is about: VT-d 6.8.
            window.flush_write_buffer(platform.clock)?;
        }
        window.set_tail(self.position());
        let outcome = self.finish(window, platform)?;
        self.unsettled = !matches!(outcome, Outcome::Done);
        Ok(outcome)
    }

    /// Before a submission after one that failed: the queue may stand still at an error
    /// that nobody waited for, or be busy still. It is empty afterwards.
    fn settle<R: Registers>(&mut self, window: &Window<R>, platform: &mut Platform<'_>) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let trouble = window.fault_status() & FaultStatus::QUEUE;
            if !trouble.is_empty() {
                self.recover(window, platform, trouble);
            }
            let stopped = platform.clock.wait_for(BATCH_MS, &mut || {
                self.is_empty(window) || window.fault_status().intersects(FaultStatus::QUEUE)
            });
            if !stopped {
                return Err(window.timeout("the invalidation queue running empty (IQH = IQT)"));
            }
            if self.is_empty(window) && !window.fault_status().intersects(FaultStatus::QUEUE) {
                self.unsettled = false;
                return Ok(());
            }
        }
        Err(window.timeout("the invalidation queue getting past its errors"))
    }

    /// Waits for the batch before the tail.
    fn finish<R: Registers>(&mut self, window: &Window<R>, platform: &mut Platform<'_>) -> Result<Outcome, Error> {
        let mut outcome = Outcome::Done;
        for _ in 0..ROUNDS {
            let mem = &*platform.mem;
            let mut trouble = FaultStatus::empty();
            let mut looks = 0;
            let settled = platform.clock.wait_for(BATCH_MS, &mut || {
                if mem.read(self.status) as u32 == self.sequence {
                    return true;
                }
                looks += 1;
                if looks % LOOKS == 1 {
                    trouble = window.fault_status() & FaultStatus::QUEUE;
                }
                !trouble.is_empty()
            });
            if !settled {
                return Err(window.timeout("an invalidation (its wait descriptor's status write)"));
            }
            if trouble.is_empty() {
                return Ok(outcome);
            }
            match self.recover(window, platform, trouble) {
                Outcome::Done => continue,
                error => outcome = error,
            }
            // The wait itself may be lost (IQE on it, or aborted by ITE): then the
            // queue runs empty without a status write, and the batch is repeated.
            let stopped = platform.clock.wait_for(BATCH_MS, &mut || {
                self.is_empty(window) || window.fault_status().intersects(FaultStatus::QUEUE)
            });
            if !stopped {
                return Err(window.timeout("the invalidation queue going on after an error"));
            }
            if self.is_empty(window) {
                return Ok(outcome);
            }
        }
        Err(window.timeout("the invalidation queue getting past its errors"))
    }

    /// Gets the queue going again after `trouble`; what stopped it, if it was stopped. VT-d 6.5.2.10.
    fn recover<R: Registers>(
        &mut self,
        window: &Window<R>,
        platform: &mut Platform<'_>,
        trouble: FaultStatus,
    ) -> Outcome {
        let detail = window.queue_error();
        let mut outcome = Outcome::Done;
        if trouble.contains(FaultStatus::ICE) {
            self.errors.unasked += 1;
            self.errors.unasked_source = detail.completion_source();
        }
        if trouble.contains(FaultStatus::IQE) {
            self.errors.rejected += 1;
            // Behind the last descriptor of the frame the head is at the first again.
            let head = (window.head() / self.stride()) as u16 % self.length();
            let at = self.place(head);
            let bad = [platform.mem.read(at), platform.mem.read(HostPhys(at.0 + 8))];
            outcome = Outcome::Rejected(bad, detail.info());
            // The unit stays at the bad descriptor until it is another and IQE is clear.
            let spare = Descriptor::wait(HostPhys(self.status.0 + SPARE_STATUS), self.sequence);
            self.put(platform, head, spare);
            if self.write_buffer && window.flush_write_buffer(platform.clock).is_err() {
                // The bad one may be met again: then it counts as another error, and ROUNDS ends it.
                self.unsettled = true;
            }
        }
        if trouble.contains(FaultStatus::ITE) {
            self.errors.timeouts += 1;
            outcome = Outcome::DeviceTimeout(detail.timeout_source());
        }
        window.clear_fault_status(trouble);
        if trouble.intersects(FaultStatus::IQE | FaultStatus::ITE) {
            // Some units look at the queue again only when the tail is written.
            window.set_tail(self.position());
        }
        outcome
    }

    /// Clears what an unasked completion left in FSTS: it would hold back fault events
    /// (VT-d 11.4.9). Of the queue's own errors it leaves what a submission waits for.
    pub(crate) fn note_unasked<R: Registers>(&mut self, window: &Window<R>, status: FaultStatus) {
        if status.contains(FaultStatus::ICE) {
            self.errors.unasked += 1;
            self.errors.unasked_source = window.queue_error().completion_source();
            window.clear_fault_status(FaultStatus::ICE);
        }
    }

    /// Makes sure that the queue is empty and without error, and that its last descriptor
    /// is a wait, which is when a unit may be handed over or its queue turned off.
    pub(crate) fn drain<R: Registers>(&mut self, window: &Window<R>, platform: &mut Platform<'_>) -> Result<(), Error> {
        self.submit(window, platform, &[])?;
        self.settle(window, platform)
    }

    fn is_empty<R: Registers>(&self, window: &Window<R>) -> bool {
        window.head() == self.position()
    }

    fn stride(&self) -> u64 {
        if self.wide { 2 * DESCRIPTOR_BYTES } else { DESCRIPTOR_BYTES }
    }

    /// Descriptors in the queue's one frame.
    fn length(&self) -> u16 {
        (PAGE_SIZE / self.stride()) as u16
    }

    fn place(&self, index: u16) -> HostPhys {
        HostPhys(self.ring.0 + u64::from(index) * self.stride())
    }

    fn put(&self, platform: &mut Platform<'_>, index: u16, descriptor: Descriptor) {
        let at = self.place(index);
        platform.mem.write_pair(at, descriptor.bits());
        // The upper half of a wide one stays as the frame came: zeroes.
        if !self.coherent {
            platform.mem.flush(at, self.stride());
        }
    }
}
