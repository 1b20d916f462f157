//! A live unit and the record of it.

use super::spec::registers::{
    Capability, EVENT_MASK, EVENT_PENDING, ExtendedCapability, FaultStatus, Global, InterruptTableAddress, PMEN_ENABLE,
    PMEN_STATUS, QueueAddress, RootTableAddress, offset,
};
use super::spec::tables::pair;
use super::unit::Unit;
use super::window::Window;
use crate::error::Error;
use crate::state::UnitState;
use machine::access::{Registers, TableMemory};

impl<R: Registers> Unit<R> {
    /// What a handover must carry of the unit: what its registers must show, by what
    /// was written to them, not by what they show now.
    pub(crate) fn state(&self) -> UnitState {
        let event = self.fault_event.unwrap_or_default();
        UnitState {
            base: self.base().0,
            segment: self.segment,
            version: self.version,
            cap: self.cap.into_bits(),
            ecap: self.ecap.into_bits(),
            gsts: self.expected_status().bits(),
            rtaddr: self.expected_root().0,
            irta: self.interrupts.as_ref().map_or(0, |table| table.register().0),
            iqa: self.expected_queue().0,
            iqt: self.queue.position(),
            status: self.queue.status.0,
            sequence: self.queue.sequence,
            fectl: if self.faults_masked { EVENT_MASK } else { 0 },
            fedata: event.data,
            feaddr: event.address as u32,
            feuaddr: (event.address >> 32) as u32,
            fault_event: u8::from(self.fault_event.is_some()),
            consumed: false,
        }
    }
}

impl<R: Registers> Window<R> {
    /// Compares every register that lasts with the record. Reads only.
    pub(crate) fn compare(&self, state: &UnitState) -> Result<(), Error> {
        let r32 = |at| u64::from(self.regs.read32(at));
        let r64 = |at| self.regs.read64(at);
        let event = |at| r32(at) & !u64::from(EVENT_PENDING);
        let remapping = ExtendedCapability::from_bits(state.ecap).interrupt_remapping();
        let cap = Capability::from_bits(state.cap);
        self.expect("VER", u64::from(state.version), r32(offset::VER))?;
        self.expect("CAP", state.cap, r64(offset::CAP))?;
        self.expect("ECAP", state.ecap, r64(offset::ECAP))?;
        self.expect("GSTS", u64::from(state.gsts), r32(offset::GSTS) & u64::from(Global::all().bits()))?;
        self.expect("RTADDR", state.rtaddr, r64(offset::RTADDR))?;
        if remapping {
            self.expect("IRTA", state.irta, r64(offset::IRTA))?;
        }
        self.expect("IQA", state.iqa, r64(offset::IQA))?;
        self.expect("FECTL", u64::from(state.fectl), event(offset::FECTL))?;
        self.expect("FEDATA", u64::from(state.fedata), r32(offset::FEDATA))?;
        self.expect("FEADDR", u64::from(state.feaddr), r32(offset::FEADDR))?;
        self.expect("FEUADDR", u64::from(state.feuaddr), r32(offset::FEUADDR))?;
        self.expect("IECTL", u64::from(EVENT_MASK), event(offset::IECTL))?;
        if cap.protected_low() || cap.protected_high() {
            let on = u64::from(PMEN_ENABLE | PMEN_STATUS);
            self.expect("PMEN", 0, r32(offset::PMEN) & on)?;
        }
        Ok(())
    }

    /// Compares what moves while the unit works: the queue is where the record says,
    /// empty and without error, and its last wait descriptor has written.
    pub(crate) fn compare_queue(&self, state: &UnitState, mem: &dyn TableMemory) -> Result<(), Error> {
        // A completion that nobody asked for (ICE) a device can send at any time: no reason to refuse.
        let errors = self.fault_status() & (FaultStatus::IQE | FaultStatus::ITE);
        self.expect("FSTS (queue errors)", 0, u64::from(errors.bits()))?;
        self.expect("IQT", state.iqt, self.regs.read64(offset::IQT))?;
        self.expect("IQH", state.iqt, self.regs.read64(offset::IQH))?;
        let written = mem.read(machine::addr::HostPhys(state.status)) as u32;
        self.expect("the invalidation status word", u64::from(state.sequence), u64::from(written))
    }

    fn expect(&self, register: &'static str, expected: u64, found: u64) -> Result<(), Error> {
        if expected == found { Ok(()) } else { Err(Error::Mismatch { unit: self.base, register, expected, found }) }
    }
}

/// Checks that the record describes a unit that this driver could have left: one of
/// its modes, everything on, a queue of its own shape.
pub(crate) fn check_state<R: Registers>(window: &Window<R>, state: &UnitState) -> Result<(), Error> {
    let bad = |what, value| Err(Error::BadRecord { what, value });
    let unit = window.base;
    let ecap = ExtendedCapability::from_bits(state.ecap);
    let remapping = Global::IRE | Global::SIRTP;
    let mut on = Global::TE | Global::SRTP | Global::QIE;
    on.set(remapping, ecap.interrupt_remapping());
    if state.gsts != on.bits() {
        return bad("GSTS", u64::from(state.gsts));
    }
    let root = RootTableAddress(state.rtaddr);
    let scalable = match root.mode() {
        0 => false,
        1 if ecap.scalable_mode() => true,
        _ => {
            let what = "a root table in the mode that the record says; this version knows legacy and scalable mode";
            return Err(Error::Unsupported { unit, what });
        }
    };
    let shapes = [RootTableAddress::legacy(root.table()), RootTableAddress::scalable(root.table())];
    if !shapes.contains(&root) {
        return bad("RTADDR", state.rtaddr);
    }
    let queue = QueueAddress(state.iqa);
    if queue.shape() != 0 {
        return bad("IQA", state.iqa);
    }
    if queue.wide() != scalable {
        return bad("IQA", state.iqa);
    }
    let irta = InterruptTableAddress(state.irta);
    if ecap.interrupt_remapping() {
        if irta != InterruptTableAddress::new(irta.table(), irta.order(), irta.x2apic()) || irta.order() < 8 {
            return bad("IRTA", state.irta);
        }
    } else if state.irta != 0 {
        return bad("IRTA", state.irta);
    }
    if state.fectl & !EVENT_MASK != 0 || state.fault_event > 1 {
        return bad("FECTL", u64::from(state.fectl));
    }
    Ok(())
}

/// Compares an entry in memory with the record of it.
pub(crate) fn compare_entry<R>(
    window: &Window<R>,
    what: &'static str,
    index: u32,
    expected: u128,
    found: u128,
) -> Result<(), Error> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::Entry { unit: window.base, what, index, expected: pair(expected), found: pair(found) })
    }
}
