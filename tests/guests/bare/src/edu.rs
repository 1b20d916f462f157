//! QEMU's `edu` (QEMU, docs/specs/edu.rst): a DMA engine that goes wherever it is told.

use machine::mmio::MmioRegion;

use crate::{clock, devices, interrupts};

/// Vendor and device id.
pub const IDS: (u16, u16) = (0x1234, 0x11e8);

const RAISE: usize = 0x60;
const ACKNOWLEDGE: usize = 0x64;
const SOURCE: usize = 0x80;
const TARGET: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
/// Start; also: busy.
const START: u64 = 1;
/// From the device to memory.
const TO_MEMORY: u64 = 1 << 1;
/// The device's own buffer: 4 KiB.
const BUFFER: u64 = 0x4_0000;
/// The device takes 100 ms for each transfer.
const PATIENCE_NS: u64 = 2_000_000_000;

/// The device.
pub struct Edu {
    registers: MmioRegion,
}

impl Edu {
    /// The first one that the guest has.
    #[must_use]
    pub fn find() -> Option<Self> {
        let config = devices::config();
        let bdf = *devices::find(IDS.0, IDS.1).first()?;
        Some(Self { registers: devices::enable(&config, bdf) })
    }

    /// Lets the device interrupt, by whatever way is enabled.
    pub fn raise(&self) {
        self.registers.write_u32(RAISE, 1);
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&self) {
        self.registers.write_u32(ACKNOWLEDGE, 1);
    }

    /// Lets the device copy `bytes` of its buffer to `address`; whether it said that it is done.
    #[must_use]
    pub fn write(&self, address: u64, bytes: u64) -> bool {
        self.transfer(BUFFER, address, bytes, TO_MEMORY)
    }

    /// Lets the device copy `bytes` from `address` into its buffer.
    #[must_use]
    pub fn read(&self, address: u64, bytes: u64) -> bool {
        self.transfer(address, BUFFER, bytes, 0)
    }

    /// Lets the device begin to copy `bytes` of its buffer to `address`.
    pub fn begin(&self, address: u64, bytes: u64) {
        self.order(BUFFER, address, bytes, TO_MEMORY);
    }

    fn order(&self, source: u64, target: u64, bytes: u64, direction: u64) {
        self.registers.write_u64(SOURCE, source);
        self.registers.write_u64(TARGET, target);
        self.registers.write_u64(COUNT, bytes);
        self.registers.write_u64(COMMAND, START | direction);
    }

    fn transfer(&self, source: u64, target: u64, bytes: u64, direction: u64) -> bool {
        self.order(source, target, bytes, direction);
        let end = clock::now_ns() + PATIENCE_NS;
        while self.registers.read_u64(COMMAND) & START != 0 {
            if clock::now_ns() > end {
                return false;
            }
            interrupts::sleep_ms(5);
        }
        true
    }
}
