//! Making virtual functions, and taking them back.

use super::{Sriov, SriovError, at, control};
use crate::access::Clock;
use crate::addr::HostPhys;
use crate::pci::bar::size_all;
use crate::pci::reset::answers;
use crate::pci::{Ari, Bar, BarError, BarKind, Bdf, ConfigSpace, Enumeration, Express, Function, HeaderKind};
use alloc::vec::Vec;

/// Milliseconds before the functions may be spoken to (PCIe 9.3.3.3.1).
const ENABLE_MS: u64 = 100;
/// Milliseconds more that a slow one may be not ready.
const READY_MS: u64 = 1_000;
/// Milliseconds after they went before the capability may be read (PCIe 9.3.3.3.1).
const DISABLE_MS: u64 = 1_000;

/// A virtual function that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualFunction {
    /// As an enumeration lists it.
    pub function: Function,
    /// Its memory; its own configuration space does not say.
    pub bars: Vec<Bar>,
}

impl Sriov {
    /// Makes `count` virtual functions. `place` says where memory for all of them goes: it gets the BAR with the size of
    /// one and the address that firmware gave (0 if it did not), and the bytes for all, and gives an address aligned
    /// to the size of one, in the windows of the bridges above, that is nobody else's. See [`Room`](super::Room).
    ///
    /// Takes at least 100 ms. Afterwards the functions are quiet, and belong to nobody. ARI forwarding is switched on in
    /// the port above if it has it and the device can use it.
    ///
    /// # Errors
    /// There can't be so many here. None is left then.
    pub fn enable(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        clock: &(impl Clock + ?Sized),
        found: &Enumeration,
        count: u16,
        mut place: impl FnMut(&Bar, u64) -> Option<u64>,
    ) -> Result<Vec<VirtualFunction>, SriovError> {
        let device = self.bdf;
        let physical = found.get(device).ok_or(SriovError::Unsupported { device })?;
        let state = config.read16(device, self.offset + at::CONTROL);
        if state & control::ENABLE != 0 {
            return Err(SriovError::Enabled { device });
        }
        // 4 KiB pages: every device must have them (PCIe 9.3.3.12).
        if self.total == 0 || config.read32(device, self.offset + at::PAGES_SUPPORTED) & 1 == 0 {
            return Err(SriovError::Unsupported { device });
        }
        if count == 0 || count > self.total {
            return Err(SriovError::Count { device, most: self.total });
        }
        let result = self.make(config, clock, found, physical, count, &mut place);
        if result.is_err() {
            self.disable(config, clock);
        }
        result
    }

    /// Takes all virtual functions back, which nobody may use any more: they are detached and their memory is not mapped.
    /// Takes a second.
    pub fn disable(&self, config: &(impl ConfigSpace + ?Sized), clock: &(impl Clock + ?Sized)) {
        let state = config.read16(self.bdf, self.offset + at::CONTROL);
        config.write16(self.bdf, self.offset + at::CONTROL, state & !(control::ENABLE | control::MEMORY));
        if state & control::ENABLE != 0 {
            // The time itself is what is waited for.
            let _elapsed = clock.wait_for(DISABLE_MS, &mut || false);
        }
        config.write16(self.bdf, self.offset + at::COUNT, 0);
    }

    fn make(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        clock: &(impl Clock + ?Sized),
        found: &Enumeration,
        physical: &Function,
        count: u16,
        place: &mut dyn FnMut(&Bar, u64) -> Option<u64>,
    ) -> Result<Vec<VirtualFunction>, SriovError> {
        let device = self.bdf;
        let register = |register| self.offset + register;
        let ari = self.forward(config, physical);
        config.write32(device, register(at::PAGE_SIZE), 1);
        let mut state = config.read16(device, register(at::CONTROL)) & !(control::MEMORY | control::ENABLE);
        state = if ari { state | control::ARI } else { state & !control::ARI };
        config.write16(device, register(at::CONTROL), state);
        config.write16(device, register(at::COUNT), count);
        // Offset and stride depend on both (PCIe 9.3.3.9, 9.3.3.10).
        let mut now = Self::find(config, device).ok_or(SriovError::Unsupported { device })?;
        now.offset = self.offset;
        let mut names = Vec::new();
        for index in 0..count {
            let name = now.name(index).filter(|name| is_free(found, physical, *name) && !names.contains(name));
            let name = name.ok_or(SriovError::Names { device, index })?;
            if let Some(&port) = physical.path.last()
                && !ari
                && name.bus() == device.bus()
                && !name.same_device(device)
            {
                return Err(SriovError::Ari { device, port });
            }
            names.push(name);
        }
        let bars = self.place(config, count, place)?;
        config.write16(device, register(at::CONTROL), state | control::ENABLE | control::MEMORY);
        let _elapsed = clock.wait_for(ENABLE_MS, &mut || false);
        let mut made = Vec::new();
        for (index, bdf) in (0..).zip(names) {
            if !clock.wait_for(READY_MS, &mut || answers(config, bdf)) {
                return Err(SriovError::Lost { device: bdf });
            }
            let own = |bar: &Bar| Bar { address: HostPhys(bar.address.get() + bar.bytes * index), ..*bar };
            let bars = bars.iter().map(own).collect();
            made.push(VirtualFunction { function: now.describe(config, physical, bdf), bars });
        }
        Ok(made)
    }

    /// Sizes the BARs (while they are not decoded), and gives each an address.
    fn place(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        count: u16,
        place: &mut dyn FnMut(&Bar, u64) -> Option<u64>,
    ) -> Result<Vec<Bar>, SriovError> {
        let device = self.bdf;
        let first = self.offset + at::BAR0;
        let mut bars = size_all(config, device, first, 6)?;
        for bar in &mut bars {
            let wide = matches!(bar.kind, BarKind::Memory64 { .. });
            let index = bar.index;
            let bytes = bar.bytes.saturating_mul(count.into());
            let fits = |at: &u64| {
                let limit = if wide { 1 << 52 } else { 1 << 32 };
                *at != 0 && at.is_multiple_of(bar.bytes) && at.checked_add(bytes).is_some_and(|end| end <= limit)
            };
            let address = place(bar, bytes).filter(fits).ok_or(SriovError::Memory { device, bar: index, bytes })?;
            bar.address = HostPhys(address);
            let register = first + u16::from(index) * 4;
            config.write32(device, register, address as u32);
            let mut readback = u64::from(config.read32(device, register) & !0xf);
            if wide {
                config.write32(device, register + 4, (address >> 32) as u32);
                readback |= u64::from(config.read32(device, register + 4)) << 32;
            }
            if readback != address {
                return Err(BarError::Size { bdf: device, index, readback }.into());
            }
        }
        Ok(bars)
    }

    /// Switches ARI forwarding on in the port above, if both ends have it.
    fn forward(&self, config: &(impl ConfigSpace + ?Sized), physical: &Function) -> bool {
        let port = physical.path.last().and_then(|port| Express::find(config, *port));
        Ari::find(config, self.bdf).is_some() && port.is_some_and(|port| port.forward_ari(config))
    }
}

/// Whether `name` can be a virtual function of `physical`: it is no other function's, and on its bus or one that is
/// forwarded to it and that no other bridge claims.
fn is_free(found: &Enumeration, physical: &Function, name: Bdf) -> bool {
    let bus = name.bus();
    found.functions.iter().all(|other| match other.header {
        _ if other.bdf == name => false,
        HeaderKind::Bridge { secondary, subordinate } if other.bdf.segment() == name.segment() => {
            (secondary..=subordinate).contains(&bus) == physical.path.contains(&other.bdf)
        }
        _ => true,
    })
}
