//! Whether what a device decodes is its own. Its BARs are its word: whoever maps them for a guest looks at what else is there.

use super::bar::{Bar, BarKind, bars};
use super::bdf::Bdf;
use super::config::ConfigSpace;
use super::enumerate::{Enumeration, Function};
use super::header::{Command, HeaderKind};
use super::sriov::Windows;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Messages to local APICs: writes there are interrupts (SDM 3A 11.11.1).
const INTERRUPTS: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Whose addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Memory.
    Memory,
    /// The window that interrupts are written to.
    Interrupts,
    /// Registers of the machine: configuration space, IOMMU units, I/O APICs.
    Registers,
    /// A BAR of this function.
    Function(Bdf),
    /// Nobody: the port above does not forward it, or there are no such addresses.
    Nobody,
}

/// A BAR that decodes what is not the function's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarClash {
    /// The function.
    pub device: Bdf,
    /// The register, 0 to 5.
    pub index: u8,
    /// The address in it.
    pub address: u64,
    /// Whose it is.
    pub holder: Holder,
}

impl fmt::Display for BarClash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BAR {} of device {} is at {:#x}, ", self.index, self.device, self.address)?;
        match self.holder {
            Holder::Memory => f.write_str("over memory"),
            Holder::Interrupts => f.write_str("over the interrupts of the CPUs"),
            Holder::Registers => f.write_str("over registers of the machine"),
            Holder::Function(other) => write!(f, "over a BAR of {other}"),
            Holder::Nobody => f.write_str("where the port above forwards nothing"),
        }?;
        f.write_str("; the device can't be given to a guest, reset the machine's PCI setup in its firmware")
    }
}

impl core::error::Error for BarClash {}

/// Compares the memory BARs of `device` (those that have an address) with each other, with what `held` lists, with the
/// window of interrupts and, for a device behind a port, with the windows of that.
///
/// # Errors
/// The first BAR that decodes something else.
pub fn check_bars<'a>(
    device: Bdf,
    bars: &[Bar],
    windows: Option<&Windows>,
    held: impl Iterator<Item = (Range<u64>, Holder)> + Clone + 'a,
) -> Result<(), BarClash> {
    let memory = bars.iter().filter(|bar| bar.kind != BarKind::Io && bar.address.get() != 0);
    for bar in memory.clone() {
        let address = bar.address.get();
        let clash = |holder| Err(BarClash { device, index: bar.index, address, holder });
        let Some(end) = address.checked_add(bar.bytes).filter(|end| *end <= 1 << 52) else {
            return clash(Holder::Nobody);
        };
        let within = |window: &Range<u64>| window.start <= address && end <= window.end;
        if windows.is_some_and(|windows| !within(&windows.memory) && !within(&windows.prefetchable)) {
            return clash(Holder::Nobody);
        }
        let own = memory.clone().filter(|other| other.index != bar.index).map(|other| {
            let start = other.address.get();
            (start..start.saturating_add(other.bytes), Holder::Function(device))
        });
        let interrupts = core::iter::once((INTERRUPTS, Holder::Interrupts));
        let mut others = interrupts.chain(own).chain(held.clone());
        if let Some((_, holder)) = others.find(|(range, _)| range.start < end && address < range.end) {
            return clash(holder);
        }
    }
    Ok(())
}

/// What every function decodes, as firmware has set it up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    bars: Vec<(Bdf, Range<u64>)>,
}

impl Decoded {
    /// Sizes the memory BARs of all functions, none of which is in use. One whose BARs make no sense decodes nothing that
    /// could be told; virtual functions have no BARs of their own.
    #[must_use]
    pub fn measure(config: &(impl ConfigSpace + ?Sized), found: &Enumeration) -> Self {
        let real = found.functions.iter().filter(|function| function.physical.is_none());
        let sized = real.filter_map(|function| Some((function.bdf, bars(config, function.bdf, function.header).ok()?)));
        let ranges = sized.flat_map(|(bdf, bars)| {
            let memory = bars.into_iter().filter(|bar| bar.kind != BarKind::Io && bar.address.get() != 0);
            memory.map(move |bar| (bdf, bar.address.get()..bar.address.get().saturating_add(bar.bytes)))
        });
        Self { bars: ranges.collect() }
    }

    /// What others than `function` decode: their BARs, and the windows of the bridges on its bus. For [`check_bars`].
    #[must_use]
    pub fn others(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        found: &Enumeration,
        function: &Function,
    ) -> Vec<(Range<u64>, Holder)> {
        let own = |bdf: &Bdf| *bdf == function.bdf || Some(*bdf) == function.physical;
        let bars = self.bars.iter().filter(|(bdf, _)| !own(bdf)).cloned();
        let beside = |other: &&Function| {
            let place = |bdf: Bdf| (bdf.segment(), bdf.bus());
            matches!(other.header, HeaderKind::Bridge { .. })
                && place(other.bdf) == place(function.bdf)
                && Command::read(config, other.bdf).contains(Command::MEMORY)
        };
        let windows = found.functions.iter().filter(beside).flat_map(|bridge| {
            let Windows { memory, prefetchable } = Windows::read(config, bridge.bdf);
            [(bridge.bdf, memory), (bridge.bdf, prefetchable)]
        });
        let all = bars.chain(windows).filter(|(_, range)| !range.is_empty());
        all.map(|(bdf, range)| (range, Holder::Function(bdf))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::HostPhys;
    use crate::pci::enumerate::{Buses, enumerate};
    use crate::pci::model::{Model, bdf};
    use std::string::ToString;

    fn bar(index: u8, address: u64, bytes: u64) -> Bar {
        Bar { index, kind: BarKind::Memory64 { prefetchable: false }, address: HostPhys(address), bytes }
    }

    /// On a root bus no port's windows keep functions apart: what each decodes is compared.
    #[test]
    fn functions_of_one_bus_are_kept_apart() {
        let model = Model::q35();
        let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 255 }]);
        let before: Vec<_> = model.0.borrow().values().map(|device| device.bytes.clone()).collect();
        let decoded = Decoded::measure(&model, &found);
        let after: Vec<_> = model.0.borrow().values().map(|device| device.bytes.clone()).collect();
        assert_eq!(before, after, "everything is where it was");
        let check = |name: &str, address: u64| {
            let function = found.get(bdf(name)).unwrap();
            let others = decoded.others(&model, &found, function);
            check_bars(function.bdf, &[bar(0, address, 0x10_0000)], None, others.into_iter())
                .map_err(|clash| clash.holder)
        };
        let edu = "00:05.0";
        assert_eq!(check(edu, 0xfea0_0000), Ok(()), "its own BAR is not in its way");
        assert_eq!(check(edu, 0xfe80_0000), Err(Holder::Function(bdf("01:00.0"))));
        assert_eq!(check(edu, 0x1_fe00_0000), Err(Holder::Function(bdf("03:00.0"))));
        // Ports, that is 0xc000: no memory.
        assert_eq!(check(edu, 0xfd00_0000), Ok(()));
        // What a port beside it forwards, as soon as it forwards anything (PCIe 7.5.1.3.8: 0xfd00_0000 to 0xfd1f_ffff).
        model.edit("00:02.1", |port| port.set(0x20, 4, 0xfd10_fd00));
        model.edit("00:02.1", |port| port.set(0x24, 4, 0x0001_fff1));
        assert_eq!(check(edu, 0xfd10_0000), Ok(()));
        model.edit("00:02.1", |port| port.set(4, 2, 2));
        assert_eq!(check(edu, 0xfd10_0000), Err(Holder::Function(bdf("00:02.1"))));
        assert_eq!(check(edu, 0xfd20_0000), Ok(()));
        // The port's own device is not beside it.
        assert_eq!(check("02:00.0", 0xfd10_0000), Ok(()));
    }

    #[test]
    fn what_a_device_may_not_decode() {
        let device = bdf("03:00.0");
        let held = [
            (0..0xa_0000, Holder::Memory),
            (0x10_0000..0x8000_0000, Holder::Memory),
            (0xb000_0000..0xc000_0000, Holder::Registers),
            (0xfe84_0000..0xfe86_0000, Holder::Function(bdf("01:00.0"))),
        ];
        let check = |bars: &[Bar]| check_bars(device, bars, None, held.iter().cloned()).map_err(|clash| clash.holder);
        assert_eq!(check(&[bar(0, 0xfe00_0000, 0x4000), bar(4, 0xfe00_4000, 0x1000)]), Ok(()));
        // Without an address it decodes nothing; ports are not offered.
        let ports = Bar { kind: BarKind::Io, ..bar(2, 0xc000, 32) };
        assert_eq!(check(&[bar(0, 0, 0x4000), ports]), Ok(()));
        for (address, bytes, holder) in [
            (0x7fff_f000, 0x1000, Holder::Memory),
            (0x8000_0000 - 0x4000, 0x8000, Holder::Memory),
            (0x1000, 0x1000, Holder::Memory),
            (0xfee0_0000, 0x1000, Holder::Interrupts),
            (0xfee0_f000, 0x10, Holder::Interrupts),
            (0xfe00_0000, 0x200_0000, Holder::Interrupts),
            (0xb000_8000, 0x1000, Holder::Registers),
            (0xfe85_0000, 0x4000, Holder::Function(bdf("01:00.0"))),
            (u64::MAX - 0xfff, 0x1000, Holder::Nobody),
            (1 << 52, 0x1000, Holder::Nobody),
        ] {
            assert_eq!(check(&[bar(0, address, bytes)]), Err(holder), "{address:#x}");
        }
        // Over itself.
        assert_eq!(check(&[bar(0, 0xfe00_0000, 0x4000), bar(2, 0xfe00_2000, 0x1000)]), Err(Holder::Function(device)));
        let windows = Windows { memory: 0xfe00_0000..0xfe10_0000, prefetchable: 0x8_0000_0000..0x8_0010_0000 };
        let behind = |address| check_bars(device, &[bar(0, address, 0x4000)], Some(&windows), held.iter().cloned());
        assert_eq!((behind(0xfe0f_c000), behind(0x8_000f_c000)), (Ok(()), Ok(())));
        let clash = behind(0xfe0f_e000).unwrap_err();
        assert_eq!(clash.holder, Holder::Nobody);
        assert!(
            clash.to_string().starts_with("BAR 0 of device 0000:03:00.0 is at 0xfe0fe000, where the port"),
            "{clash}"
        );
    }
}
