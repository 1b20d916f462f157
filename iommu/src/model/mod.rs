//! A VT-d unit in software, to run the driver against on the host.
//!
//! It is written from the manual with its own masks, not with [`crate::intel::spec`],
//! so that a wrong layout there shows. Like hardware it
//! - keeps context and PASID entries, translations, links between tables and interrupt entries
//!   until they are invalidated, however stale, and so do devices with a TLB;
//! - sees, when it does not snoop, only what was written back;
//! - records faults and loses those that find no room.
//!
//! And unlike hardware it fails on demand ([`Failures`]) and takes note of what software
//! must not do ([`ModelUnit::violations`]).
//!
//! - [`ModelMemory`], [`ModelClock`]: the rest of the machine
//! - [`ModelUnit`]: the registers (`unit`), the queue (`queue`), interrupts (`interrupts`), faults (`faults`), DMA: which
//!   tables (`contexts`), and through them (`walk`), in legacy and scalable mode, first and second stage; devices with
//!   TLBs (`device`)
//! - `caches`: what it keeps

mod caches;
mod clock;
mod contexts;
mod device;
mod faults;
mod interrupts;
mod memory;
mod queue;
mod unit;
mod walk;

pub use clock::ModelClock;
pub use memory::ModelMemory;
pub use unit::{Failures, ModelUnit};

/// A request was blocked: the reason code of VT-d 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked(pub u8);

/// Where an interrupt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The vector.
    pub vector: u8,
    /// The APIC id.
    pub destination: u32,
}

/// What became of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It went to a processor.
    Sent(Delivered),
    /// It was noted in a posted interrupt descriptor; perhaps a processor was notified.
    Posted(Option<Delivered>),
}
