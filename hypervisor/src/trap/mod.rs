//! Exceptions and interrupts of the hypervisor itself.
//!
//! - `tables`: GDT, TSS and IDT of each pCPU
//! - `stubs`: 256 entry points that build a [`Frame`]
//! - `dispatch`: what happens then
//! - `probe`: reading what may not be there
//! - `devices`: whom a device's vector belongs to

pub mod devices;
pub mod dispatch;
pub mod probe;
pub mod stubs;
pub mod tables;

/// What the entry stub saved, lowest address first.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// R15, R14, R13, R12, R11, R10, R9, R8, RDI, RSI, RBP, RDX, RCX, RBX, RAX.
    pub registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// The error code, 0 where the exception has none.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}
