//! A virtual CPU without hardware, and a machine that keeps a record.

extern crate std;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use machine::addr::GuestPhys;

use super::bus::{Bus, CpuView, CpuidResult, GeneralProtection, NotMemory};
use super::cpu::{Control, CpuMsr, VirtualCpu};
use super::emulate::decode::Lengths;
use super::event::{Combined, Event, combine};
use super::exit::Exit;
use super::limits::{InvalidState, Limits};
use super::state::{Activity, ArchState, RFLAGS_IF, Segment, SegmentName};
use super::xstate::InvalidExtendedState;

/// Limits of a machine with everything up to AVX.
pub const LIMITS: Limits = Limits { cr4: 0x0077_0fff | 1 << 12, efer: 0xd01, xcr0: 7, physical_bits: 40 };

/// A virtual CPU whose exits are written down beforehand.
#[derive(Clone, Debug)]
pub struct FakeCpu {
    pub state: ArchState,
    pub limits: Limits,
    pub script: VecDeque<Exit>,
    pub host_tsc: u64,
    pub next_rip: Option<u64>,
    pub window: bool,
    /// Events that entries delivered.
    pub delivered: Vec<Event>,
    /// At each entry: whether a window was wanted.
    pub windows: Vec<bool>,
    pub triple_fault: bool,
}

impl FakeCpu {
    /// In 64-bit code, with page tables that must be set up elsewhere.
    pub fn long_mode() -> Self {
        Self::with(ArchState::linux64(0x1000, 0x2000, 0, 0x10_0000, 0x500, 0x1f))
    }

    /// In 64-bit code, with an identity map of 512 GiB in `bus` at 1 MiB (added to its RAM).
    pub fn long_mode_flat(bus: &mut RecorderBus) -> Self {
        bus.tables = 0x10_0000;
        let cpu = Self::long_mode();
        let mut tables = vec![0u8; 0x2000];
        tables[..8].copy_from_slice(&0x10_1027u64.to_le_bytes());
        for i in 0..512u64 {
            let at = 0x1000 + i as usize * 8;
            tables[at..at + 8].copy_from_slice(&(i << 30 | 0xe7).to_le_bytes());
        }
        bus.table_bytes = tables;
        cpu
    }

    pub fn with(state: ArchState) -> Self {
        Self {
            state,
            limits: LIMITS,
            script: VecDeque::new(),
            host_tsc: 0,
            next_rip: None,
            window: false,
            delivered: Vec::new(),
            windows: Vec::new(),
            triple_fault: false,
        }
    }

    fn msr_slot(&mut self, msr: CpuMsr) -> &mut u64 {
        let s = &mut self.state;
        match msr {
            CpuMsr::Pat => &mut s.pat,
            CpuMsr::Star => &mut s.star,
            CpuMsr::Lstar => &mut s.lstar,
            CpuMsr::Cstar => &mut s.cstar,
            CpuMsr::Sfmask => &mut s.sfmask,
            CpuMsr::FsBase => &mut s.segments[4].base,
            CpuMsr::GsBase => &mut s.segments[5].base,
            CpuMsr::KernelGsBase => &mut s.kernel_gs_base,
            CpuMsr::SysenterCs => &mut s.sysenter_cs,
            CpuMsr::SysenterEsp => &mut s.sysenter_esp,
            CpuMsr::SysenterEip => &mut s.sysenter_eip,
            CpuMsr::TscAux => &mut s.tsc_aux,
        }
    }
}

impl VirtualCpu for FakeCpu {
    fn enter(&mut self) -> Exit {
        self.windows.push(self.window);
        if let Some(event) = self.state.pending.take() {
            assert!(event.is_valid(), "{event:?} cannot be injected");
            self.delivered.push(event);
        }
        self.script.pop_front().unwrap_or(Exit::ExternalInterrupt)
    }
    fn load(&mut self) {}
    fn unload(&mut self) {}
    fn gpr(&self, index: u8) -> u64 {
        self.state.gprs.get(usize::from(index)).copied().unwrap_or(0)
    }
    fn set_gpr(&mut self, index: u8, value: u64) {
        if let Some(gpr) = self.state.gprs.get_mut(usize::from(index)) {
            *gpr = value;
        }
    }
    fn rip(&self) -> u64 {
        self.state.rip
    }
    fn rflags(&self) -> u64 {
        self.state.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.state.rflags = value;
    }
    fn control(&self, register: Control) -> u64 {
        let s = &self.state;
        match register {
            Control::Cr0 => s.cr0,
            Control::Cr2 => s.cr2,
            Control::Cr3 => s.cr3,
            Control::Cr4 => s.cr4,
            Control::Cr8 => s.cr8,
            Control::Efer => s.efer,
            Control::Xcr0 => s.xcr0,
        }
    }
    fn set_control(&mut self, register: Control, value: u64) {
        let s = &mut self.state;
        match register {
            Control::Cr0 => s.cr0 = value,
            Control::Cr2 => s.cr2 = value,
            Control::Cr3 => s.cr3 = value,
            Control::Cr4 => s.cr4 = value,
            Control::Cr8 => s.cr8 = value,
            Control::Efer => s.efer = value,
            Control::Xcr0 => s.xcr0 = value,
        }
    }
    fn segment(&self, name: SegmentName) -> Segment {
        self.state.segment(name)
    }
    fn cpl(&self) -> u8 {
        self.state.segment(SegmentName::Ss).dpl()
    }
    fn msr(&self, msr: CpuMsr) -> u64 {
        *self.clone().msr_slot(msr)
    }
    fn set_msr(&mut self, msr: CpuMsr, value: u64) {
        *self.msr_slot(msr) = value;
    }
    fn tsc(&self) -> u64 {
        self.host_tsc.wrapping_add(self.state.tsc_offset)
    }
    fn tsc_offset(&self) -> u64 {
        self.state.tsc_offset
    }
    fn set_tsc_offset(&mut self, offset: u64) {
        self.state.tsc_offset = offset;
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn next_rip(&self) -> Option<u64> {
        self.next_rip
    }
    fn advance_to(&mut self, rip: u64) {
        self.state.rip = rip;
        self.state.interrupt_shadow = false;
    }
    fn inject(&mut self, event: Event) {
        match combine(self.state.pending, event) {
            Combined::Deliver(event) => self.state.pending = Some(event),
            Combined::TripleFault => self.triple_fault = true,
        }
    }
    fn pending_event(&self) -> Option<Event> {
        self.state.pending
    }
    fn can_take_interrupt(&self) -> bool {
        self.state.pending.is_none() && self.state.rflags & RFLAGS_IF != 0 && !self.state.interrupt_shadow
    }
    fn can_take_nmi(&self) -> bool {
        self.state.pending.is_none() && !self.state.nmi_blocked && !self.state.interrupt_shadow
    }
    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window = wanted;
    }
    fn activity(&self) -> Activity {
        self.state.activity
    }
    fn set_activity(&mut self, activity: Activity) {
        self.state.activity = activity;
    }
    fn state(&self) -> ArchState {
        self.state.clone()
    }
    fn set_state(&mut self, state: &ArchState) -> Result<(), InvalidState> {
        self.limits.check(state)?;
        self.state = state.clone();
        Ok(())
    }
    fn extended_state_size(&self) -> usize {
        0
    }
    fn save_extended(&mut self, _: &mut [u8]) -> usize {
        0
    }
    fn restore_extended(&mut self, _: &[u8]) -> Result<(), InvalidExtendedState> {
        Ok(())
    }
    fn flush_guest_tlb(&mut self) {}
}

/// What happened on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    PortRead(u16, u8),
    PortWrite(u16, u8, u32),
    MmioRead(u64, u8),
    MmioWrite(u64, u8, u64),
    Accepted(u8),
    Priority(u8),
}

/// A machine with RAM from 0 on, page tables aside, and devices everywhere else.
#[derive(Clone, Debug, Default)]
pub struct RecorderBus {
    pub ram: Vec<u8>,
    pub tables: u64,
    pub table_bytes: Vec<u8>,
    pub seen: Vec<Seen>,
    pub mmio_value: u64,
    pub port_value: u32,
    pub pending: Vec<u8>,
    pub nmi: bool,
    pub priority: u8,
    pub xcr0_announced: u32,
    pub lengths: Lengths,
    /// How often memory was read.
    pub reads: u32,
    /// How often somebody looked for an interrupt.
    pub looks: u32,
    /// What waits after the next OUT.
    pub raised: Option<Vec<u8>>,
}

impl RecorderBus {
    pub fn with_ram(bytes: usize) -> Self {
        Self { ram: vec![0; bytes], xcr0_announced: 7, ..Self::default() }
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.ram[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn slice(&mut self, address: GuestPhys, length: usize) -> Result<&mut [u8], NotMemory> {
        let at = address.get();
        if let Some(offset) = at.checked_sub(self.tables).filter(|_| !self.table_bytes.is_empty()) {
            let end = (offset as usize).saturating_add(length);
            if let Some(slice) = self.table_bytes.get_mut(offset as usize..end) {
                return Ok(slice);
            }
        }
        let start = usize::try_from(at).map_err(|_| NotMemory)?;
        self.ram.get_mut(start..start.saturating_add(length)).ok_or(NotMemory)
    }
}

impl Bus for RecorderBus {
    fn port_read(&mut self, port: u16, width: u8) -> u32 {
        self.seen.push(Seen::PortRead(port, width));
        self.port_value
    }
    fn port_write(&mut self, port: u16, width: u8, value: u32) {
        self.seen.push(Seen::PortWrite(port, width, value));
        self.pending = self.raised.take().unwrap_or(core::mem::take(&mut self.pending));
    }
    fn mmio_read(&mut self, address: GuestPhys, width: u8) -> u64 {
        self.seen.push(Seen::MmioRead(address.get(), width));
        self.mmio_value
    }
    fn mmio_write(&mut self, address: GuestPhys, width: u8, value: u64) {
        self.seen.push(Seen::MmioWrite(address.get(), width, value));
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32, _: CpuView) -> CpuidResult {
        if leaf == 0xd { [self.xcr0_announced, 0, 0, 0] } else { [leaf, 0xb, subleaf, 0xd] }
    }
    fn msr_read(&mut self, msr: u32) -> Result<u64, GeneralProtection> {
        if msr == 0x1b { Ok(0x1_fee0_0900) } else { Err(GeneralProtection) }
    }
    fn msr_write(&mut self, msr: u32, _: u64) -> Result<(), GeneralProtection> {
        if msr == 0x1b { Ok(()) } else { Err(GeneralProtection) }
    }
    fn hypercall(&mut self, number: u64, arguments: [u64; 4]) -> u64 {
        arguments.iter().fold(number, |sum, a| sum.wrapping_add(*a))
    }
    fn read_memory(&mut self, address: GuestPhys, buffer: &mut [u8]) -> Result<(), NotMemory> {
        let length = buffer.len();
        self.reads += 1;
        buffer.copy_from_slice(self.slice(address, length)?);
        Ok(())
    }
    fn lengths(&mut self) -> Option<&mut Lengths> {
        Some(&mut self.lengths)
    }
    fn write_memory(&mut self, address: GuestPhys, bytes: &[u8]) -> Result<(), NotMemory> {
        self.slice(address, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
    fn is_quiet(&self) -> bool {
        self.pending.is_empty() && !self.nmi
    }
    fn pending_interrupt(&mut self) -> Option<u8> {
        self.looks += 1;
        let class = self.priority;
        self.pending.iter().copied().filter(|v| v >> 4 > class).max()
    }
    fn interrupt_accepted(&mut self, vector: u8) {
        self.seen.push(Seen::Accepted(vector));
        self.pending.retain(|v| *v != vector);
    }
    fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }
    fn set_task_priority(&mut self, cr8: u8) {
        self.seen.push(Seen::Priority(cr8));
        self.priority = cr8;
    }
    fn task_priority(&mut self) -> u8 {
        self.priority
    }
}
