//! The management NIC's place in the machine: its registers, its own domain, its own
//! remapping entry. It can be taken out of all of them before a jump and put back after a rollback.
#![expect(unsafe_code, reason = "a function's registers are mapped and taken over")]

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use iommu::{InterruptRange, InterruptTarget, Token, msi_message};
use machine::access::Clock;
use machine::addr::{HostPhys, Iova};
use machine::cpu::random;
use machine::mmio::MmioRegion;
use machine::paging::Permissions;
use machine::pci::{self, Bar, BarKind, Bdf, Command, ConfigSpace, HeaderKind, Msi, Msix};

use super::settings::Settings;
use crate::api::Management;
use crate::api::http::Timeouts;
use crate::mem::dma::DmaBuffer;
use crate::mem::host_map;
use crate::net::dma::DmaMemory;
use crate::net::e1000e::{DEVICE, DMA_BYTES, E1000e, REGISTER_BYTES, VENDOR};
use crate::net::nic::Nic;
use crate::net::stack::StackConfig;
use crate::passthrough::{entries, inventory, units};
use crate::smp::lapic::vector;
use crate::smp::pcpu;
use crate::time::{self, TscClock};
use crate::{cpu, host};

/// The server over this machine's card.
pub type Server = Management<E1000e<MmioRegion, DmaBuffer, TscClock>>;

/// Whose the card is, in claims and in the API.
pub const OWNER: &str = "baton";

/// The name of the card's domain: no guest's, whose tokens leave 7 of 8 alone.
#[must_use]
pub fn token() -> Token {
    Token(host::get().boot_nonce.wrapping_add(0xba77))
}

/// How the card tells that there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// An MSI through a remapping entry.
    Remapped(InterruptRange),
    /// An MSI straight to pCPU 0.
    Direct,
    /// Not at all: it is polled.
    Polled,
}

/// The card in the machine.
pub struct Card {
    bdf: Bdf,
    mac: [u8; 6],
    /// The DMA block; the card sees it where the CPU does.
    memory: HostPhys,
    bytes: u64,
    /// The domain exists.
    domain: bool,
    /// The card is in it.
    attached: bool,
    telling: Telling,
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = if self.attached { "in a domain of its own" } else { "without an IOMMU" };
        let telling = match self.telling {
            Telling::Remapped(_) => "remapped MSI",
            Telling::Direct => "MSI",
            Telling::Polled => "polled",
        };
        let [a, b, c, d, e, g] = self.mac;
        write!(f, "{} ({a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}), {domain}, {telling}", self.bdf)
    }
}

impl Card {
    /// The function.
    pub const fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// The station address.
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether it raises interrupts.
    pub fn interrupts(&self) -> bool {
        self.telling != Telling::Polled
    }

    /// Whether its DMA is translated.
    pub const fn isolated(&self) -> bool {
        self.attached
    }

    /// Into a domain that shows the DMA block and nothing else, interrupts to pCPU 0, bus mastering last.
    ///
    /// # Errors
    /// An IOMMU unit does not obey; bus mastering is off then.
    pub fn connect(&mut self) -> Result<(), String> {
        let ecam = &*host::get().ecam;
        if let Some(msix) = Msix::find(ecam, self.bdf) {
            msix.set_control(ecam, false, true);
        }
        if units::unit_of(self.bdf).is_some() {
            self.enter_domain()?;
        }
        self.tell();
        Command::MEMORY.union(Command::INTX_DISABLE).union(Command::BUS_MASTER).write(ecam, self.bdf);
        Ok(())
    }

    fn enter_domain(&mut self) -> Result<(), String> {
        let (bdf, memory, bytes) = (self.bdf, self.memory, self.bytes);
        let entered = units::with(|units, platform| {
            if !self.domain {
                units.create_domain(platform, token())?;
                self.domain = true;
                let rights = Permissions::READ_WRITE;
                units.map(platform, token(), Iova(memory.get()), memory, bytes, rights)?;
            }
            if !self.attached {
                units.attach(platform, bdf, &[], token(), None)?;
                self.attached = true;
            }
            Ok::<(), iommu::Error>(())
        });
        match entered {
            Some(Err(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Sets the MSI up; without one the card is polled.
    fn tell(&mut self) {
        let ecam = &*host::get().ecam;
        let apic_id = pcpu::all().iter().find(|pcpu| pcpu.index == 0).map(|pcpu| pcpu.apic_id);
        let (Some(msi), Some(apic_id)) = (Msi::find(ecam, self.bdf), apic_id) else {
            return;
        };
        msi.set_enabled(ecam, false);
        let (telling, address, data) = match self.remapped(apic_id) {
            Some(Ok(range)) => {
                let (address, data) = msi_message(range.first, 0);
                (Telling::Remapped(range), address, data)
            }
            Some(Err(error)) => {
                log::warn!("the management NIC gets no interrupt and is polled: {error}");
                return;
            }
            // Compatibility format (VT-d 5.1.2.1): 8 bits of APIC id.
            None if apic_id <= 0xff => {
                (Telling::Direct, 0xfee0_0000 | u64::from(apic_id) << 12, vector::MANAGEMENT.into())
            }
            None => return,
        };
        self.telling = telling;
        msi.set_message(ecam, address, data as u16);
        msi.set_enabled(ecam, true);
    }

    /// A remapping entry that leads to pCPU 0; `None` where interrupts are not remapped.
    fn remapped(&self, apic_id: u32) -> Option<Result<InterruptRange, iommu::Error>> {
        let bdf = self.bdf;
        if !units::with(|units, _| units.remaps_interrupts(bdf))? {
            return None;
        }
        let range = match entries::allocate(bdf, None, 1)? {
            Ok(range) => range,
            Err(error) => return Some(Err(error)),
        };
        units::with(|units, platform| {
            let target = InterruptTarget::fixed(vector::MANAGEMENT, apic_id);
            if let Err(error) = units.set_interrupt(platform, range.unit, range.first, &target) {
                // Blocked or not, nobody is told of it: an entry that can't be freed stays allocated.
                let _freed = units.free_interrupts(platform, range);
                return Err(error);
            }
            Ok(range)
        })
    }

    /// Bus mastering and MSI off, out of the domain, the domain and the remapping entry gone: no table of a unit names the
    /// card any more. What succeeded is not repeated by another call.
    ///
    /// # Errors
    /// A unit does not obey: an entry for the card may be left, or cached.
    pub fn disconnect(&mut self) -> Result<(), String> {
        let ecam = &*host::get().ecam;
        Command::MEMORY.union(Command::INTX_DISABLE).write(ecam, self.bdf);
        if let Some(msi) = Msi::find(ecam, self.bdf) {
            msi.set_enabled(ecam, false);
        }
        let bdf = self.bdf;
        let left = units::with(|units, platform| {
            if self.attached {
                units.detach(platform, bdf)?;
                units.forget_all(platform)?;
                self.attached = false;
            }
            if self.domain {
                units.destroy_domain(platform, token())?;
                self.domain = false;
            }
            if let Telling::Remapped(range) = self.telling {
                units.free_interrupts(platform, range)?;
            }
            self.telling = Telling::Polled;
            Ok::<(), iommu::Error>(())
        });
        match left {
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(())) => Ok(()),
            None => {
                self.telling = Telling::Polled;
                Ok(())
            }
        }
    }
}

/// Takes the card over and starts the server on it.
///
/// # Errors
/// The card is no card of ours, broken, or can't be isolated; it is silent then and nobody's.
pub fn open(settings: &Settings) -> Result<(Card, Server), String> {
    inventory::claim(settings.nic, OWNER)?;
    let opened = claimed(settings);
    if opened.is_err() {
        inventory::disclaim(settings.nic);
    }
    opened
}

fn claimed(settings: &Settings) -> Result<(Card, Server), String> {
    let ecam = &*host::get().ecam;
    let bdf = settings.nic;
    let identity = ecam.read32(bdf, 0);
    if identity != u32::from(DEVICE) << 16 | u32::from(VENDOR) {
        return Err(format!(
            "{bdf} is {:04x}:{:04x}, which this release has no driver for: name an Intel 82574 ({VENDOR:04x}:{DEVICE:04x}) in management.nic",
            identity as u16,
            identity >> 16
        ));
    }
    units::silence(ecam, bdf);
    let bars = pci::bars(ecam, bdf, HeaderKind::Endpoint).map_err(|error| error.to_string())?;
    let base = registers(&bars, bdf)?;
    Command::MEMORY.union(Command::INTX_DISABLE).write(ecam, bdf);
    host_map::map_device(base, REGISTER_BYTES as u64).map_err(|error| error.to_string())?;
    // SAFETY: just mapped one to one and uncached; the function's BAR 0 was sized to at least this, decodes memory from
    // here on and was claimed, so nobody else uses it.
    let bar = unsafe { MmioRegion::new(base, REGISTER_BYTES) };
    reset(&bar);
    let memory = DmaBuffer::leak(DMA_BYTES).ok_or("the heap has no room for the management NIC's rings")?;
    let mut card = Card {
        bdf,
        mac: [0; 6],
        memory: memory.address(),
        bytes: memory.bytes() as u64,
        domain: false,
        attached: false,
        telling: Telling::Polled,
    };
    let started = card.connect().and_then(|()| server(bar, memory, settings));
    match started {
        Ok((mac, server)) => {
            card.mac = mac;
            Ok((card, server))
        }
        Err(error) => {
            if let Err(left) = card.disconnect() {
                log::error!("the management NIC {bdf} can't be taken out of the IOMMU again: {left}");
            }
            Err(error)
        }
    }
}

fn server(bar: MmioRegion, memory: DmaBuffer, settings: &Settings) -> Result<([u8; 6], Server), String> {
    let nic = E1000e::new(bar, memory, TscClock).map_err(|error| error.to_string())?;
    let mac = nic.mac();
    let config = StackConfig { addressing: settings.addressing, port: settings.port, seed: seed() };
    match Management::new(nic, &config, Timeouts::default(), time::uptime_ms()) {
        Ok(server) => Ok((mac, server)),
        Err((error, mut nic)) => {
            // It has not been told to transmit anything, and is taken out of its domain next.
            let _stopped = nic.stop();
            Err(error.to_string())
        }
    }
}

/// Where the card's registers are.
fn registers(bars: &[Bar], bdf: Bdf) -> Result<HostPhys, String> {
    let bar = bars
        .iter()
        .find(|bar| bar.index == 0 && bar.kind != BarKind::Io)
        .ok_or_else(|| format!("the management NIC {bdf} has no registers in BAR 0: choose another card"))?;
    if bar.bytes < REGISTER_BYTES as u64 {
        return Err(format!(
            "the management NIC {bdf} has {:#x} bytes of registers where {REGISTER_BYTES:#x} are due: choose another card",
            bar.bytes
        ));
    }
    if bar.address.get() == 0 {
        return Err(format!(
            "the firmware gave the registers of the management NIC {bdf} no address: correct its PCI settings"
        ));
    }
    Ok(bar.address)
}

/// Ends whatever the boot loader left running (it may have come through this very card), while the card
/// can't reach memory: afterwards it has no ring to write to (82574 10.2.2.1: CTRL.RST).
fn reset(bar: &MmioRegion) {
    const CTRL: usize = 0x0000;
    const CTRL_RST: u32 = 1 << 26;
    bar.write_u32(CTRL, bar.read_u32(CTRL) | CTRL_RST);
    // Registers rest for a microsecond at least; the driver then resets again and judges.
    let _elapsed = TscClock.wait_for(1, &mut || false);
}

/// A number that others can't guess, where the CPU has a generator; else from the clock.
fn seed() -> u64 {
    cpu::tsc().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ random::number().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_that_cannot_be_are_refused() {
        let bdf = Bdf::new(0, 1, 0, 0).unwrap();
        let bar = |index, address, bytes| Bar {
            index,
            kind: BarKind::Memory32 { prefetchable: false },
            address: HostPhys(address),
            bytes,
        };
        assert_eq!(registers(&[bar(0, 0xfea0_0000, 0x2_0000)], bdf), Ok(HostPhys(0xfea0_0000)));
        assert!(registers(&[bar(1, 0xfea0_0000, 0x2_0000)], bdf).unwrap_err().contains("BAR 0"));
        assert!(registers(&[bar(0, 0xfea0_0000, 0x1000)], bdf).unwrap_err().contains("0x1000 bytes"));
        assert!(registers(&[bar(0, 0, 0x2_0000)], bdf).unwrap_err().contains("no address"));
    }
}
