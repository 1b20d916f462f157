//! The NMI source that ends silence on pCPU 0 when no other pCPU can: PIT channel 0, through the 8259, to LINT0 set to NMI.
//! This way needs no entry of a remapping table and no handler but the NMI's; a pCPU that has interrupts off is reached all the same.
//!
//! The PIT counts 55 ms at most: the NMI's handler (`rescue`) starts it again until the deadline is there.
#![expect(unsafe_code, reason = "port I/O")]

use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::port;
use crate::smp::lapic;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// Counts of the PIT in a millisecond (1.193182 MHz).
const COUNTS_PER_MS: u64 = 1193;

/// The 8259 pair and the PIT, as every PC has had them (Intel 8259A and 8254 data sheets).
mod ports {
    pub const PIC_COMMAND: u16 = 0x20;
    pub const PIC_DATA: u16 = 0x21;
    pub const SLAVE_DATA: u16 = 0xa1;
    pub const PIT_0: u16 = 0x40;
    pub const PIT_CONTROL: u16 = 0x43;
}

/// Channel 0, low byte then high byte, mode 0: the output rises when the count is through.
const ONE_SHOT: u8 = 0x30;

fn out(port: u16, value: u8) {
    // SAFETY: the registers of the 8259 and of the PIT's channel 0 touch no memory, and nothing else of this image uses them.
    unsafe { port::write8(port, value) };
}

/// The firmware says whether there are 8259s.
pub fn set_present(present: bool) {
    PRESENT.store(present, Ordering::Release);
}

/// Whether this machine has the source.
pub fn is_present() -> bool {
    PRESENT.load(Ordering::Acquire)
}

/// Nothing hangs on the 8259s here; what firmware left open there would arrive as an exception's vector.
pub fn mask() {
    if is_present() {
        out(ports::PIC_DATA, 0xff);
        out(ports::SLAVE_DATA, 0xff);
    }
}

/// Arms it for `ms` milliseconds from now, on pCPU 0, which executes this.
pub fn arm(ms: u64) {
    if !is_present() {
        return;
    }
    out(ports::PIT_CONTROL, ONE_SHOT);
    // ICW1 to ICW4: edges, a second 8259 on IRQ 2, automatic EOI; then only IRQ 0 is open.
    out(ports::PIC_COMMAND, 0x11);
    for word in [0x20, 0x04, 0x03, 0xfe] {
        out(ports::PIC_DATA, word);
    }
    lapic::set_lint0_nmi(true);
    let count = (ms.saturating_add(1) * COUNTS_PER_MS).min(0xffff) as u16;
    let [low, high] = count.to_le_bytes();
    out(ports::PIT_0, low);
    out(ports::PIT_0, high);
}

/// Takes it back, on pCPU 0.
pub fn disarm() {
    if is_present() {
        lapic::set_lint0_nmi(false);
        // Without a count the channel stands still.
        out(ports::PIT_CONTROL, ONE_SHOT);
        mask();
    }
}
