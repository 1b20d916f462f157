//! Power-on: from whatever firmware left to a unit that translates and blocks
//! everything. The other way in is `adopt`.

use super::dids::DomainIds;
use super::mode::{Mode, Preference};
use super::queue::Queue;
use super::remap::{FRAME_ORDER, InterruptTable, MAX_ORDER};
use super::spec::faults::{RECORD_BYTES, RECORD_FLAG, RECORD_FLAG_OFFSET};
use super::spec::interrupts::ENTRY_BYTES;
use super::spec::invalidation::Descriptor;
use super::spec::registers::{
    Capability, EVENT_MASK, ExtendedCapability, FaultStatus, Global, REGISTER_BYTES, Version, offset,
};
use super::tables::{Tables, frame};
use super::unit::{FaultEvent, Unit};
use super::window::Window;
use crate::error::Error;
use crate::platform::Platform;
use machine::access::Registers;
use machine::addr::{HostPhys, PAGE_SIZE};

/// How long firmware's own invalidations may take to finish, in milliseconds.
const LEFTOVER_MS: u64 = 1_000;

/// Memory for an interrupt remapping table of more than one frame, which
/// `TableMemory` cannot give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptRegion {
    /// The first byte; aligned to a frame.
    pub base: HostPhys,
    /// Log2 of the entries of 16 bytes, 8 to 16.
    pub order: u8,
}

impl InterruptRegion {
    /// Log2 of the most entries that a table can have.
    pub const MAX_ORDER: u8 = MAX_ORDER;

    /// Aligned, and of a size that IRTA can say.
    pub(crate) fn is_sound(&self) -> bool {
        self.base.is_aligned(PAGE_SIZE) && (FRAME_ORDER..=MAX_ORDER).contains(&self.order)
    }
}

/// What the caller decides about a unit at power-on.
#[derive(Clone, Copy, Debug)]
pub struct UnitConfig {
    /// Physical base of the registers: the unit's name.
    pub base: HostPhys,
    /// The PCI segment whose devices it translates.
    pub segment: u16,
    /// Bytes of registers that are mapped, at least 4 KiB. See [`register_bytes`].
    pub register_bytes: usize,
    /// The processors are in x2APIC mode: interrupt destinations have 32 bits.
    pub x2apic: bool,
    /// Memory for the interrupt remapping table; `None`: one frame, 256 entries.
    pub interrupts: Option<InterruptRegion>,
    /// The fault event, or `None` to have faults polled.
    pub fault_event: Option<FaultEvent>,
    /// The mode to work in.
    pub mode: Preference,
}

/// How many bytes of registers a unit has, by its CAP and ECAP: map at least 4 KiB,
/// read both, then map so many.
#[must_use]
pub fn register_bytes(regs: &impl Registers) -> usize {
    let cap = Capability::from_bits(regs.read64(offset::CAP));
    let ecap = ExtendedCapability::from_bits(regs.read64(offset::ECAP));
    let faults = fault_records(cap).end;
    let iotlb = usize::from(ecap.iotlb_offset()) * 16 + 16;
    REGISTER_BYTES.max(faults).max(iotlb).next_multiple_of(REGISTER_BYTES)
}

/// Whether a unit can send interrupts to processors by 32-bit APIC ids (ECAP.EIM): what
/// [`UnitConfig::x2apic`] may ask of it.
#[must_use]
pub fn extended_interrupts(regs: &impl Registers) -> bool {
    ExtendedCapability::from_bits(regs.read64(offset::ECAP)).extended_interrupts()
}

/// Byte offsets of the fault recording registers.
pub(crate) fn fault_records(cap: Capability) -> core::ops::Range<usize> {
    let first = usize::from(cap.fault_offset()) * RECORD_BYTES;
    first..first + (usize::from(cap.fault_records()) + 1) * RECORD_BYTES
}

impl<R: Registers> Unit<R> {
    /// Takes a unit from power-on to translating, with no device assigned: every DMA
    /// and every interrupt through it is blocked from here on.
    ///
    /// On an error the unit is quiet again where that was possible.
    pub(crate) fn init_cold(regs: R, platform: &mut Platform<'_>, config: &UnitConfig) -> Result<Self, Error> {
        let window = Window { base: config.base, regs };
        let (version, cap, ecap, mode) = probe(&window, config)?;
        quiet(&window, platform)?;
        let mut unit = Self::build(window, platform, config, version, (cap, ecap, mode))?;
        match unit.enable(platform) {
            Ok(()) => Ok(unit),
            Err(error) => {
                unit.abandon(platform);
                Err(error)
            }
        }
    }

    /// All structures in memory, complete; nothing of them in a register.
    fn build(
        window: Window<R>,
        platform: &mut Platform<'_>,
        config: &UnitConfig,
        version: u32,
        (cap, ecap, mode): (Capability, ExtendedCapability, Mode),
    ) -> Result<Self, Error> {
        let coherent = ecap.coherent();
        let region = config.interrupts.filter(|_| ecap.interrupt_remapping());
        let own_frame = ecap.interrupt_remapping() && region.is_none();
        let whats =
            ["a root table", "an invalidation queue", "invalidation status words", "an interrupt remapping table"];
        let mut frames = [HostPhys(0); 4];
        for (index, what) in whats.into_iter().enumerate().take(if own_frame { 4 } else { 3 }) {
            match frame(platform, coherent, what) {
                Ok(got) => frames[index] = got,
                Err(error) => {
                    frames.iter().take(index).for_each(|frame| platform.mem.free(*frame));
                    return Err(error);
                }
            }
        }
        let [root, ring, status, table] = frames;
        let interrupts = match region {
            Some(region) => {
                clear(platform, region.base, ENTRY_BYTES << region.order, coherent);
                Some((region.base, region.order))
            }
            None if own_frame => Some((table, FRAME_ORDER)),
            None => None,
        };
        Ok(Self {
            segment: config.segment,
            version,
            cap,
            ecap,
            tables: Tables { root, mode, coherent },
            queue: Queue::new(ring, status, cap, ecap, mode == Mode::Scalable),
            interrupts: interrupts
                .map(|(base, order)| InterruptTable::new(base, order, config.x2apic, coherent, own_frame)),
            dids: DomainIds::new(cap),
            fault_event: config.fault_event,
            faults_masked: true,
            window,
        })
    }

    /// VT-d 6.5.2 (queue), 11.4.5 (root table), 5.1.4 (interrupts), 11.4.4.
    fn enable(&mut self, platform: &mut Platform<'_>) -> Result<(), Error> {
        self.prepare_fault_event()?;
        let clock = platform.clock;
        let window = &self.window;
        if self.cap.write_buffer() {
            window.flush_write_buffer(clock)?;
        }
        window.set_tail(0);
        window.regs.write64(offset::IQA, self.expected_queue().0);
        window.switch(clock, Global::QIE, true, "queued invalidation going on (GSTS.QIES)")?;
        if window.head() != 0 {
            return Err(Error::Unsupported {
                unit: window.base,
                what: "an invalidation queue that starts at its head",
            });
        }

        window.regs.write64(offset::RTADDR, self.expected_root().0);
        window.fire(clock, Global::SRTP, true, "the root table being taken (GSTS.RTPS)")?;
        if !self.cap.enhanced_srtp() {
            self.forget_all(platform)?;
        }

        if let Some(table) = &self.interrupts {
            let window = &self.window;
            window.regs.write64(offset::IRTA, table.register().0);
            window.fire(clock, Global::SIRTP, true, "the interrupt remapping table being taken (GSTS.IRTPS)")?;
            if !self.cap.enhanced_sirtp() {
                self.submit(platform, &[Descriptor::interrupt_global()])?;
            }
            self.window.switch(clock, Global::IRE, true, "interrupt remapping going on (GSTS.IRES)")?;
        }
        self.window.switch(clock, Global::TE, true, "translation going on (GSTS.TES)")?;
        // What firmware protected stays protected until every DMA is blocked anyhow.
        if self.cap.protected_low() || self.cap.protected_high() {
            self.window.disable_protected_memory(clock)?;
        }
        if self.fault_event.is_some() {
            self.mask_faults(false);
        }
        Ok(())
    }

    /// Forgets old faults and programs the fault event, masked. Some units ignore the
    /// upper address: an event to a processor that they cannot name is refused.
    fn prepare_fault_event(&mut self) -> Result<(), Error> {
        let regs = &self.window.regs;
        regs.write32(offset::FECTL, EVENT_MASK);
        regs.write32(offset::IECTL, EVENT_MASK);
        let event = self.fault_event.unwrap_or_default();
        regs.write32(offset::FEDATA, event.data);
        regs.write32(offset::FEADDR, event.address as u32);
        regs.write32(offset::FEUADDR, (event.address >> 32) as u32);
        for record in fault_records(self.cap).step_by(RECORD_BYTES) {
            regs.write32(record + RECORD_FLAG_OFFSET, RECORD_FLAG);
        }
        self.window.clear_fault_status(FaultStatus::all() - FaultStatus::PPF);
        let taken = [offset::FEDATA, offset::FEADDR, offset::FEUADDR].map(|at| regs.read32(at));
        if taken != [event.data, event.address as u32, (event.address >> 32) as u32] {
            let what = "fault events to that processor; name one with an APIC id below 256";
            return Err(Error::Unsupported { unit: self.window.base, what });
        }
        Ok(())
    }

    /// Masks the fault event, or lets it through.
    pub(crate) fn mask_faults(&mut self, masked: bool) {
        self.window.regs.write32(offset::FECTL, if masked { EVENT_MASK } else { 0 });
        self.faults_masked = masked;
    }

    /// After a failed start: turns the unit off and gives its memory back, or, if it
    /// cannot be turned off, leaves the memory to it.
    pub(crate) fn abandon(self, platform: &mut Platform<'_>) {
        if quiet(&self.window, platform).is_err() {
            return;
        }
        self.tables.free(platform.mem);
        platform.mem.free(self.queue.ring);
        platform.mem.free(self.queue.status);
        if let Some(table) = self.interrupts.filter(|table| table.own_frame) {
            platform.mem.free(table.base);
        }
    }
}

/// Reads what the unit is and checks that it can do what is needed.
fn probe<R: Registers>(
    window: &Window<R>,
    config: &UnitConfig,
) -> Result<(u32, Capability, ExtendedCapability, Mode), Error> {
    let unit = config.base;
    let version = window.regs.read32(offset::VER);
    if version == 0 || version == u32::MAX || Version(version).major() == 0 {
        return Err(Error::NoHardware { unit, version });
    }
    let (cap, ecap) = (window.capability(), window.extended_capability());
    let must = |condition: bool, what: &'static str| {
        if condition { Ok(()) } else { Err(Error::Unsupported { unit, what }) }
    };
    must(ecap.queued_invalidation(), "queued invalidation (ECAP.QI)")?;
    let lacking = match config.mode {
        Preference::Scalable => {
            "scalable mode with a second or a first stage (ECAP.SMTS, SSTS, FSTS); set the mode to auto"
        }
        _ => "page tables of a kind that this driver knows (CAP.SAGAW)",
    };
    let mode = config.mode.mode(cap, ecap).ok_or(Error::Unsupported { unit, what: lacking })?;
    must(
        config.register_bytes >= fault_records(cap).end,
        "fault recording registers inside what is mapped; map register_bytes() bytes",
    )?;
    must(
        !config.x2apic || !ecap.interrupt_remapping() || ecap.extended_interrupts(),
        "x2APIC destinations (ECAP.EIM); start the processors in xAPIC mode",
    )?;
    if let Some(region) = config.interrupts {
        must(
            region.is_sound(),
            "an aligned interrupt remapping table of 2^8 to 2^16 entries; correct the configuration",
        )?;
    }
    Ok((version, cap, ecap, mode))
}

/// Turns off what firmware, or a failed start, left on.
fn quiet<R: Registers>(window: &Window<R>, platform: &mut Platform<'_>) -> Result<(), Error> {
    let clock = platform.clock;
    let on = window.status();
    if on.contains(Global::TE) {
        window.switch(clock, Global::TE, false, "translation going off (GSTS.TES clear)")?;
    }
    if on.contains(Global::IRE) {
        window.switch(clock, Global::IRE, false, "interrupt remapping going off (GSTS.IRES clear)")?;
    }
    if on.contains(Global::CFI) {
        window.switch(clock, Global::CFI, false, "compatibility interrupts going off (GSTS.CFIS clear)")?;
    }
    if on.contains(Global::EAFL) {
        window.switch(clock, Global::EAFL, false, "advanced fault logging going off (GSTS.AFLS clear)")?;
    }
    if on.contains(Global::QIE) {
        // A queue with an error stands still until the error is cleared; whatever it
        // held does not matter any more, everything is invalidated later.
        window.clear_fault_status(FaultStatus::QUEUE);
        let _finished_or_hopeless = window.wait_idle(clock, LEFTOVER_MS);
        window.switch(clock, Global::QIE, false, "queued invalidation going off (GSTS.QIES clear)")?;
    }
    Ok(())
}

/// Zeroes `bytes` from `base`.
fn clear(platform: &mut Platform<'_>, base: HostPhys, bytes: u64, coherent: bool) {
    for offset in (0..bytes).step_by(8) {
        platform.mem.write(HostPhys(base.0 + offset), 0);
    }
    if !coherent {
        platform.mem.flush(base, bytes);
    }
}
