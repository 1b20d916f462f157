//! A larger interrupt remapping table in the place of a full one, while remapping stays on: VT-d 11.4.4.1 (SIRTP).
//!
//! The new table begins with a copy of the old, so that an interrupt in flight finds the same
//! entry in either; indices stay. Only when the unit has taken it and has forgotten what it cached
//! is the old one nobody's.

use super::cold::InterruptRegion;
use super::remap::InterruptTable;
use super::spec::invalidation::Descriptor;
use super::spec::registers::{Global, InterruptTableAddress, offset};
use super::unit::Unit;
use crate::error::Error;
use crate::platform::Platform;
use machine::access::Registers;
use machine::addr::HostPhys;

const TAKEN: &str = "a larger interrupt remapping table being taken (GSTS.IRTPS)";

impl<R: Registers> Unit<R> {
    /// Swaps `region` in. Returns the old table's region when that came from the caller too.
    pub(crate) fn grow_interrupts(
        &mut self,
        platform: &mut Platform<'_>,
        region: InterruptRegion,
    ) -> Result<Option<InterruptRegion>, Error> {
        self.settle_growth(platform)?;
        let unit = self.base();
        let lacks = Error::Unsupported { unit, what: "interrupt remapping (ECAP.IR)" };
        let old = self.interrupts.as_mut().ok_or(lacks)?;
        if !region.is_sound() || region.order <= old.order {
            let what =
                "use for that interrupt remapping table: larger than the one it has, aligned, at most 2^16 entries";
            return Err(Error::Unsupported { unit, what });
        }
        let new = InterruptTable::new(region.base, region.order, old.x2apic, old.coherent, false);
        for at in (0..new.bytes()).step_by(8) {
            let word = if at < old.bytes() { platform.mem.read(HostPhys(old.base.0 + at)) } else { 0 };
            platform.mem.write(HostPhys(new.base.0 + at), word);
        }
        if !new.coherent {
            platform.mem.flush(new.base, new.bytes());
        }
        if self.cap.write_buffer() {
            self.window.flush_write_buffer(platform.clock)?;
        }
        let before = InterruptRegion { base: old.base, order: old.order };
        let own_frame = core::mem::replace(&mut old.own_frame, false);
        old.predecessor = Some((before.base, own_frame));
        (old.base, old.order) = (region.base, region.order);
        self.settle_growth(platform)?;
        Ok((!own_frame).then_some(before))
    }

    /// Whether it is known which table the unit reads: a snapshot needs that.
    pub(crate) fn growth_settled(&self) -> Result<(), Error> {
        match self.interrupts.as_ref().and_then(|table| table.predecessor) {
            Some(_) => Err(self.window.timeout(TAKEN)),
            None => Ok(()),
        }
    }

    /// Finishes a growth that timed out, if there is one. Until then nobody knows which table
    /// the unit reads: every other change of an entry comes here first, and fails as this does.
    pub(crate) fn settle_growth(&mut self, platform: &mut Platform<'_>) -> Result<(), Error> {
        let Some(table) = self.interrupts.as_ref().filter(|table| table.predecessor.is_some()) else { return Ok(()) };
        let register: InterruptTableAddress = table.register();
        self.window.regs.write64(offset::IRTA, register.0);
        self.window.fire(platform.clock, Global::SIRTP, true, TAKEN)?;
        if !self.cap.enhanced_sirtp() {
            self.submit(platform, &[Descriptor::interrupt_global()])?;
        }
        let settled = self.interrupts.as_mut().and_then(|table| table.predecessor.take());
        if let Some((frame, true)) = settled {
            platform.mem.free(frame);
        }
        Ok(())
    }
}
