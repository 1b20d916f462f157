//! What a virtual CPU sees of the rest of its machine. The exit handlers call
//! this trait; `guest/` implements it; tests implement it with a recorder.

use machine::addr::GuestPhys;

use super::emulate::decode::Lengths;

/// The access raises #GP(0) in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// The guest physical range is not RAM of this guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMemory;

/// Results of CPUID: EAX, EBX, ECX, EDX.
pub type CpuidResult = [u32; 4];

/// The state of the virtual CPU that some answers depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuView {
    /// CR4 as the guest sees it (OSXSAVE, PKE show in CPUID).
    pub cr4: u64,
    /// XCR0 as the guest sees it (CPUID leaf 0xD sizes).
    pub xcr0: u64,
}

/// The rest of the guest's machine, as one of its virtual CPUs reaches it.
///
/// `width` is in bytes: 1, 2 or 4 for ports, 1, 2, 4 or 8 for MMIO. An address that
/// nobody answers reads as all ones and swallows writes, as an empty bus does.
pub trait Bus {
    /// IN from `port`.
    fn port_read(&mut self, port: u16, width: u8) -> u32;
    /// OUT to `port`.
    fn port_write(&mut self, port: u16, width: u8, value: u32);
    /// A load from an address that is not RAM.
    fn mmio_read(&mut self, address: GuestPhys, width: u8) -> u64;
    /// A store to an address that is not RAM.
    fn mmio_write(&mut self, address: GuestPhys, width: u8, value: u64);
    /// CPUID after policy.
    fn cpuid(&mut self, leaf: u32, subleaf: u32, cpu: CpuView) -> CpuidResult;
    /// RDMSR of an MSR that neither hardware nor the vendor module answers.
    fn msr_read(&mut self, msr: u32) -> Result<u64, GeneralProtection>;
    /// WRMSR, likewise.
    fn msr_write(&mut self, msr: u32, value: u64) -> Result<(), GeneralProtection>;
    /// VMCALL/VMMCALL in the KVM convention: number in RAX, arguments in RBX, RCX, RDX, RSI; the result goes to RAX.
    fn hypercall(&mut self, number: u64, arguments: [u64; 4]) -> u64;
    /// Copies guest RAM out (instruction bytes, guest page tables).
    fn read_memory(&mut self, address: GuestPhys, buffer: &mut [u8]) -> Result<(), NotMemory>;
    /// Copies into guest RAM.
    fn write_memory(&mut self, address: GuestPhys, bytes: &[u8]) -> Result<(), NotMemory>;

    /// What is known of instructions that have exited before; `None` where nothing is kept.
    fn lengths(&mut self) -> Option<&mut Lengths> {
        None
    }

    /// The highest-priority interrupt vector the LAPIC would deliver now, given the task priority; does not accept it.
    fn pending_interrupt(&mut self) -> Option<u8>;
    /// The vector was injected: IRR to ISR.
    fn interrupt_accepted(&mut self, vector: u8);
    /// Takes a pending NMI, if there is one.
    fn take_nmi(&mut self) -> bool;
    /// The task priority (CR8, bits 3:0), after a CR8 write by the guest.
    fn set_task_priority(&mut self, cr8: u8);
    /// The task priority as CR8 shows it.
    fn task_priority(&mut self) -> u8;

    /// Whether there is nothing that an entry could deliver or that the caller of the run loop would have to do: no interrupt that waits
    /// (for its priority either), no NMI, nothing that [`needs_attention`](Self::needs_attention). True only if nothing was posted before
    /// the call; what is posted later comes with a physical interrupt, which ends the entry.
    fn is_quiet(&self) -> bool {
        false
    }

    /// Whether something waits that only the caller of the run loop can do (a BAR was moved, the timer was set to fire before the
    /// caller would look, the guest powers itself off): asked before every entry.
    fn needs_attention(&self) -> bool {
        false
    }
}
