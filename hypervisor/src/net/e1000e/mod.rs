//! The Intel 82574L (PCI 8086:10d3), QEMU's `e1000e`: one receive and one transmit
//! ring of legacy descriptors, one MSI. Numbers in brackets are sections of the
//! 82574 datasheet; bit positions were checked against QEMU hw/net/e1000x_regs.h.

mod regs;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use core::sync::atomic::{Ordering, fence};

use machine::access::{Clock, Registers};

use super::dma::DmaMemory;
use super::nic::{MAX_FRAME, Nic, NicError};

/// PCI vendor id of the card.
pub const VENDOR: u16 = 0x8086;
/// PCI device id of the card.
pub const DEVICE: u16 = 0x10d3;
/// Bytes of the register block, BAR 0.
pub const REGISTER_BYTES: usize = 0x2_0000;
/// Bytes of DMA memory that [`E1000e::new`] needs, contiguous for the device.
pub const DMA_BYTES: usize = TX_BUFFERS + RING * BUFFER;
/// Alignment of the DMA memory as the device sees it; the rings need 16 bytes, a page is what there is.
pub const DMA_ALIGN: u64 = 4096;

/// Descriptors in each ring. Ring lengths are multiples of 128 bytes [10.2.5].
const RING: usize = 64;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Bytes of each buffer, `RCTL.BSIZE = 0` [10.2.5].
const BUFFER: usize = 2048;
// The block: both rings in the first page, then the receive buffers, then the transmit buffers.
const RX_RING: usize = 0;
const TX_RING: usize = RX_RING + RING * DESCRIPTOR;
const RX_BUFFERS: usize = 4096;
const TX_BUFFERS: usize = RX_BUFFERS + RING * BUFFER;
const _: () = assert!(TX_RING + RING * DESCRIPTOR <= RX_BUFFERS);
const RING_BYTES: u32 = (RING * DESCRIPTOR) as u32;

/// Longest wait for a reset to end and for the EEPROM to be loaded, in milliseconds.
const RESET_MS: u64 = 100;
/// Longest wait for memory accesses to end, in milliseconds.
const QUIET_MS: u64 = 80;

/// The driver. `R` is BAR 0, `M` the DMA memory, `C` the clock of the bounded waits.
pub struct E1000e<R, M, C> {
    registers: R,
    memory: M,
    clock: C,
    mac: [u8; 6],
    /// The receive descriptor to be looked at next.
    rx_next: usize,
    /// The last receive descriptor was part of a frame that goes on.
    rx_partial: bool,
    /// The transmit descriptor to be filled next.
    tx_next: usize,
    /// Transmit descriptors that the card has not reported as sent.
    tx_pending: usize,
}

impl<R: Registers, M: DmaMemory, C: Clock> E1000e<R, M, C> {
    /// Takes the card over, resets and starts it.
    ///
    /// Memory decoding and bus mastering are on, the MSI capability is programmed
    /// and the DMA memory is mapped in the card's domain before this is called.
    ///
    /// # Errors
    /// The card is left stopped.
    pub fn new(registers: R, memory: M, clock: C) -> Result<Self, NicError> {
        if memory.bytes() < DMA_BYTES {
            return Err(NicError::DmaTooSmall { needed: DMA_BYTES, given: memory.bytes() });
        }
        let mut nic =
            Self { registers, memory, clock, mac: [0; 6], rx_next: 0, rx_partial: false, tx_next: 0, tx_pending: 0 };
        nic.start()?;
        Ok(nic)
    }

    /// The DMA memory, the registers and the clock, for another driver. The card is not stopped by this.
    pub fn into_parts(self) -> (R, M, C) {
        (self.registers, self.memory, self.clock)
    }

    /// Turns both engines and all interrupts off and waits until the card has no
    /// memory access under way [GIO master disable, 10.2.2].
    fn quiesce(&mut self) -> Result<(), NicError> {
        let bar = &self.registers;
        bar.write32(regs::IMC, u32::MAX);
        bar.write32(regs::RCTL, 0);
        bar.write32(regs::TCTL, regs::TCTL_PSP);
        bar.write32(regs::CTRL, bar.read32(regs::CTRL) | regs::CTRL_GIO_MASTER_DISABLE);
        let quiet =
            self.clock.wait_for(QUIET_MS, &mut || bar.read32(regs::STATUS) & regs::STATUS_GIO_MASTER_ENABLE == 0);
        // Reading takes back whatever was raised before the mask.
        let _causes = bar.read32(regs::ICR);
        if quiet { Ok(()) } else { Err(NicError::NotQuiet(QUIET_MS)) }
    }

    /// Resets everything but the PHY [4.6].
    fn reset(&mut self) -> Result<(), NicError> {
        let bar = &self.registers;
        bar.write32(regs::CTRL, bar.read32(regs::CTRL) | regs::CTRL_RST);
        // Registers must not be touched for a microsecond; the EEPROM then takes about a millisecond.
        let _elapsed = self.clock.wait_for(1, &mut || false);
        if !self.clock.wait_for(RESET_MS, &mut || bar.read32(regs::CTRL) & regs::CTRL_RST == 0) {
            return Err(if bar.read32(regs::STATUS) == u32::MAX {
                NicError::Absent
            } else {
                NicError::ResetTimeout(RESET_MS)
            });
        }
        if !self.clock.wait_for(RESET_MS, &mut || bar.read32(regs::EECD) & regs::EECD_AUTO_RD != 0) {
            return Err(NicError::EepromTimeout(RESET_MS));
        }
        bar.write32(regs::IMC, u32::MAX);
        let _causes = bar.read32(regs::ICR);
        Ok(())
    }

    /// The station address that the reset loaded from the EEPROM [10.2.5].
    fn station_address(&self) -> Result<[u8; 6], NicError> {
        let low = self.registers.read32(regs::RAL).to_le_bytes();
        let high = self.registers.read32(regs::RAH);
        let [h0, h1, ..] = high.to_le_bytes();
        let mac = [low[0], low[1], low[2], low[3], h0, h1];
        let group = mac[0] & 1 != 0;
        if high & regs::RAH_AV == 0 || group || mac == [0; 6] { Err(NicError::NoAddress(mac)) } else { Ok(mac) }
    }

    fn start_receive(&mut self) {
        for index in 0..RING {
            self.give_rx(index);
        }
        self.rx_next = 0;
        self.rx_partial = false;
        let bar = &self.registers;
        for word in 0..regs::MTA_WORDS {
            bar.write32(regs::MTA + 4 * word, 0);
        }
        let (low, high) = halves(self.memory.iova(RX_RING));
        bar.write32(regs::RDTR, 0);
        bar.write32(regs::RADV, 0);
        bar.write32(regs::RXCSUM, 0);
        bar.write32(regs::RFCTL, bar.read32(regs::RFCTL) & !regs::RFCTL_EXTEN);
        bar.write32(regs::RDBAL, low);
        bar.write32(regs::RDBAH, high);
        bar.write32(regs::RDLEN, RING_BYTES);
        bar.write32(regs::RDH, 0);
        bar.write32(regs::RDT, 0);
        bar.write32(regs::RCTL, regs::RCTL_EN | regs::RCTL_BAM | regs::RCTL_SECRC);
        fence(Ordering::Release);
        // The tail is the first descriptor the card may not use: all but one are its own.
        bar.write32(regs::RDT, RING as u32 - 1);
    }

    fn start_transmit(&mut self) {
        for index in 0..RING {
            self.memory.write_u64(tx_descriptor(index), 0);
            self.memory.write_u64(tx_descriptor(index) + 8, 0);
        }
        self.tx_next = 0;
        self.tx_pending = 0;
        let bar = &self.registers;
        let (low, high) = halves(self.memory.iova(TX_RING));
        fence(Ordering::Release);
        bar.write32(regs::TDBAL, low);
        bar.write32(regs::TDBAH, high);
        bar.write32(regs::TDLEN, RING_BYTES);
        bar.write32(regs::TDH, 0);
        bar.write32(regs::TDT, 0);
        bar.write32(regs::TXDCTL, regs::TXDCTL_IMMEDIATE);
        bar.write32(regs::TIPG, regs::TIPG_COPPER);
        bar.write32(regs::TCTL, regs::TCTL_EN | regs::TCTL_PSP | regs::TCTL_CT | regs::TCTL_COLD);
    }

    /// Prepares a receive descriptor for the card: buffer address, status cleared.
    fn give_rx(&mut self, index: usize) {
        let buffer = self.memory.iova(RX_BUFFERS + index * BUFFER);
        self.memory.write_u64(rx_descriptor(index), buffer);
        self.memory.write_u64(rx_descriptor(index) + 8, 0);
    }

    /// The length of the whole, faultless frame that a completed descriptor tells of.
    fn frame_length(&mut self, word: u64) -> Option<usize> {
        let partial = word & regs::RX_EOP == 0;
        let continued = core::mem::replace(&mut self.rx_partial, partial);
        // Frames longer than a buffer are not accepted (RCTL.LPE = 0); if one comes
        // all the same, each of its parts is dropped.
        if partial || continued || word & regs::RX_ERRORS != 0 {
            return None;
        }
        let length = (word & 0xffff) as usize;
        (regs::MIN_FRAME..=MAX_FRAME).contains(&length).then_some(length)
    }

    fn reclaim(&mut self) {
        while self.tx_pending > 0 {
            let oldest = (self.tx_next + RING - self.tx_pending) % RING;
            if self.memory.read_u64(tx_descriptor(oldest) + 8) & regs::TX_DD == 0 {
                break;
            }
            self.tx_pending -= 1;
        }
    }
}

impl<R: Registers, M: DmaMemory, C: Clock> Nic for E1000e<R, M, C> {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn link_up(&self) -> bool {
        let status = self.registers.read32(regs::STATUS);
        status != u32::MAX && status & regs::STATUS_LU != 0
    }

    fn start(&mut self) -> Result<(), NicError> {
        if self.registers.read32(regs::STATUS) == u32::MAX {
            return Err(NicError::Absent);
        }
        // A card that is not quiet is reset all the same: the reset ends its accesses.
        let _quiet = self.quiesce();
        self.reset()?;
        self.mac = self.station_address()?;
        let bar = &self.registers;
        bar.write32(regs::CTRL_EXT, bar.read32(regs::CTRL_EXT) | regs::CTRL_EXT_DRV_LOAD);
        bar.write32(regs::GCR, bar.read32(regs::GCR) | regs::GCR_COMPLETIONS);
        bar.write32(regs::GCR2, bar.read32(regs::GCR2) | regs::GCR2_COMPLETIONS);
        let ctrl = bar.read32(regs::CTRL);
        let cleared = regs::CTRL_GIO_MASTER_DISABLE | regs::CTRL_FRCSPD | regs::CTRL_FRCDPLX | regs::CTRL_PHY_RST;
        bar.write32(regs::CTRL, (ctrl & !cleared) | regs::CTRL_SLU);
        self.start_transmit();
        self.start_receive();
        self.registers.write32(regs::ITR, regs::INTERRUPT_INTERVAL);
        self.registers.write32(regs::IMS, regs::CAUSES);
        Ok(())
    }

    fn receive(&mut self, frame: &mut [u8; MAX_FRAME]) -> Option<usize> {
        // Once round the ring at most, however many bad descriptors the card produces.
        for _ in 0..RING {
            let index = self.rx_next;
            let word = self.memory.read_u64(rx_descriptor(index) + 8);
            if word & regs::RX_DD == 0 {
                return None;
            }
            // The buffer is read after the status that says it is filled.
            fence(Ordering::Acquire);
            let length = self.frame_length(word);
            if let Some(part) = length.and_then(|length| frame.get_mut(..length)) {
                self.memory.read(RX_BUFFERS + index * BUFFER, part);
            }
            self.give_rx(index);
            fence(Ordering::Release);
            self.registers.write32(regs::RDT, index as u32);
            self.rx_next = (index + 1) % RING;
            if length.is_some() {
                return length;
            }
        }
        None
    }

    fn transmit_ready(&mut self) -> bool {
        self.reclaim();
        // One descriptor stays free: head equal to tail means an empty ring.
        self.tx_pending < RING - 1
    }

    fn transmit(&mut self, frame: &[u8]) -> bool {
        if frame.is_empty() || frame.len() > MAX_FRAME || !self.transmit_ready() {
            return false;
        }
        let index = self.tx_next;
        let offset = TX_BUFFERS + index * BUFFER;
        self.memory.write(offset, frame);
        self.memory.write_u64(tx_descriptor(index), self.memory.iova(offset));
        self.memory
            .write_u64(tx_descriptor(index) + 8, frame.len() as u64 | regs::TX_EOP | regs::TX_IFCS | regs::TX_RS);
        fence(Ordering::Release);
        self.tx_next = (index + 1) % RING;
        self.tx_pending += 1;
        self.registers.write32(regs::TDT, self.tx_next as u32);
        true
    }

    fn acknowledge_interrupt(&mut self) {
        // Reading clears every cause [10.2.4]. The rings say what happened.
        let _causes = self.registers.read32(regs::ICR);
    }

    fn stop(&mut self) -> Result<(), NicError> {
        let result = self.quiesce();
        let bar = &self.registers;
        bar.write32(regs::CTRL_EXT, bar.read32(regs::CTRL_EXT) & !regs::CTRL_EXT_DRV_LOAD);
        result
    }
}

fn rx_descriptor(index: usize) -> usize {
    RX_RING + index * DESCRIPTOR
}

fn tx_descriptor(index: usize) -> usize {
    TX_RING + index * DESCRIPTOR
}

/// Low and high half.
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
