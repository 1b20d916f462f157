//! What a vendor module implements: one virtual CPU.

use alloc::sync::Arc;
use core::sync::atomic::AtomicU64;

use super::event::Event;
use super::exit::Exit;
use super::limits::{InvalidState, Limits};
use super::state::{Activity, ArchState, Segment, SegmentName};
use super::xstate::InvalidExtendedState;

/// Counts how often the address space of a guest lost translations. Whoever unmaps adds one and kicks the
/// virtual CPUs; each flushes its TLB before it runs again.
pub type TlbGeneration = Arc<AtomicU64>;

/// Control registers that hardware switches with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// CR0.
    Cr0,
    /// CR2.
    Cr2,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// CR8, the task priority.
    Cr8,
    /// EFER as the guest sees it: SVME is clear, and stays set underneath.
    Efer,
    /// XCR0.
    Xcr0,
}

/// MSRs that the virtual CPU itself holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuMsr {
    /// IA32_PAT.
    Pat,
    /// STAR.
    Star,
    /// LSTAR.
    Lstar,
    /// CSTAR.
    Cstar,
    /// SFMASK.
    Sfmask,
    /// FS_BASE.
    FsBase,
    /// GS_BASE.
    GsBase,
    /// KERNEL_GS_BASE.
    KernelGsBase,
    /// SYSENTER_CS.
    SysenterCs,
    /// SYSENTER_ESP.
    SysenterEsp,
    /// SYSENTER_EIP.
    SysenterEip,
    /// TSC_AUX.
    TscAux,
}

/// One virtual CPU.
///
/// A virtual CPU is *loaded* on at most one pCPU at a time ([`load`](Self::load), [`unload`](Self::unload)); only a loaded one
/// is entered. While it is loaded, its extended state, XCR0, DR0 to DR3 and TSC_AUX live in that pCPU's
/// registers, which the host never uses; the other methods must then be called on that pCPU.
pub trait VirtualCpu {
    /// Enters the guest until the next exit.
    ///
    /// The caller runs at CPL 0 with interrupts disabled (RFLAGS.IF = 0), and finds them disabled afterwards. A physical interrupt
    /// ends the guest's run and stays pending; a physical NMI has been handled by the host's IDT at return.
    fn enter(&mut self) -> Exit;

    /// Brings the registers that VM entry does not switch into this pCPU.
    fn load(&mut self);
    /// Takes them out again.
    fn unload(&mut self);

    /// A general register by its number in instruction encodings (0 RAX, 4 RSP, ...); 16 and up read as 0.
    fn gpr(&self, index: u8) -> u64;
    /// Sets a general register; 16 and up are ignored.
    fn set_gpr(&mut self, index: u8, value: u64);
    /// RIP.
    fn rip(&self) -> u64;
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);
    /// A control register.
    fn control(&self, register: Control) -> u64;
    /// Sets a control register. The caller has checked the value against [`limits`](Self::limits).
    fn set_control(&mut self, register: Control, value: u64);
    /// A segment register.
    fn segment(&self, name: SegmentName) -> Segment;
    /// The current privilege level.
    fn cpl(&self) -> u8;
    /// An MSR that the virtual CPU holds.
    fn msr(&self, msr: CpuMsr) -> u64;
    /// Sets it. The caller has checked the value.
    fn set_msr(&mut self, msr: CpuMsr, value: u64);
    /// The guest's time stamp counter, now.
    fn tsc(&self) -> u64;
    /// Guest TSC minus host TSC.
    fn tsc_offset(&self) -> u64;
    /// Sets it.
    fn set_tsc_offset(&mut self, offset: u64);
    /// What a guest may set on this machine.
    fn limits(&self) -> &Limits;

    /// Where the instruction that exited ends, if hardware said so.
    fn next_rip(&self) -> Option<u64>;
    /// Goes on at `rip`; the interrupt shadow ends with the instruction that was completed.
    fn advance_to(&mut self, rip: u64);
    /// Skips an instruction of `length` bytes.
    fn advance(&mut self, length: u8) {
        let next = self.rip().wrapping_add(u64::from(length));
        self.advance_to(if self.is_64bit() { next } else { next & 0xffff_ffff });
    }

    /// Has `event` delivered at the next entry, combined with one that is on its way already.
    fn inject(&mut self, event: Event);
    /// The event that will be delivered at the next entry.
    fn pending_event(&self) -> Option<Event>;
    /// Whether an external interrupt can be injected now: IF set, no shadow, nothing else to be delivered.
    fn can_take_interrupt(&self) -> bool;
    /// Whether an NMI can be injected now.
    fn can_take_nmi(&self) -> bool;
    /// Asks for [`Exit::InterruptWindow`] as soon as the guest can take an interrupt, or withdraws the wish.
    fn request_interrupt_window(&mut self, wanted: bool);

    /// What the virtual CPU is doing.
    fn activity(&self) -> Activity;
    /// Sets it.
    fn set_activity(&mut self, activity: Activity);

    /// The whole architectural state but the extended one.
    fn state(&self) -> ArchState;
    /// Replaces it.
    ///
    /// # Errors
    /// A register that this machine cannot run; nothing has changed then.
    fn set_state(&mut self, state: &ArchState) -> Result<(), InvalidState>;
    /// Bytes of the extended state (an XSAVE area in standard format).
    fn extended_state_size(&self) -> usize;
    /// Copies the extended state out; returns the bytes written, 0 if `area` is too small.
    fn save_extended(&mut self, area: &mut [u8]) -> usize;
    /// Replaces the extended state.
    ///
    /// # Errors
    /// The area is not one that XRSTOR accepts on this machine; nothing has changed then.
    fn restore_extended(&mut self, area: &[u8]) -> Result<(), InvalidExtendedState>;
    /// Forgets every translation of this guest at the next entry.
    fn flush_guest_tlb(&mut self);

    /// Whether the guest executes 64-bit code.
    fn is_64bit(&self) -> bool {
        self.control(Control::Efer) & super::state::EFER_LMA != 0
            && self.segment(SegmentName::Cs).attributes & Segment::LONG != 0
    }

    /// Bits of the guest's default operand and address size: 16, 32 or 64.
    fn code_bits(&self) -> u32 {
        if self.is_64bit() {
            64
        } else if self.segment(SegmentName::Cs).attributes & Segment::DEFAULT_BIG != 0 {
            // In real mode too: CS keeps D of the descriptor it was loaded from.
            32
        } else {
            16
        }
    }
}
