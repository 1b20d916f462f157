//! The new image's log until COMMIT: not on the console but in a ring in its scratch, where the old image finds
//! the last lines if it has to take over again.
#![expect(unsafe_code, reason = "the ring is raw memory of the scratch, which two images share")]

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use handover::jump::{LOG_BYTES, LOG_OFFSET};

use super::block::Block;

/// Lines that a report shows.
const LINES: usize = 6;

/// Where the ring is while this image is the new one and has not committed, else 0.
static RING: AtomicU64 = AtomicU64::new(0);

/// From now on lines go to the scratch that `block` lies in.
pub fn begin(block: Block) {
    RING.store(block.address() + LOG_OFFSET, Ordering::Release);
}

/// From now on they go to the console again.
pub fn end() {
    RING.store(0, Ordering::Release);
}

/// Before the jump: nothing was said.
pub fn clear(block: Block) {
    Ring(block.address() + LOG_OFFSET).count().store(0, Ordering::Release);
}

struct Ring(u64);

impl Ring {
    fn count(&self) -> &AtomicU64 {
        // SAFETY: the ring's counter lies in the scratch, which is mapped while the ring is set; 8-byte aligned.
        unsafe { &*(self.0 as usize as *const AtomicU64) }
    }

    fn byte(&self, at: u64) -> *mut u8 {
        (self.0 + 8 + at % LOG_BYTES) as usize as *mut u8
    }
}

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let from = self.count().fetch_add(text.len() as u64, Ordering::AcqRel);
        for (at, byte) in (from..).zip(text.bytes()) {
            // SAFETY: inside the ring; the other image does not look before this one has given up.
            unsafe { self.byte(at).write_volatile(byte) };
        }
        Ok(())
    }
}

/// Takes a line, if this image is on its way in.
pub fn take(line: fmt::Arguments<'_>) {
    match RING.load(Ordering::Acquire) {
        0 => {}
        at => {
            let _ = Ring(at).write_fmt(line);
            let _ = Ring(at).write_char('\n');
        }
    }
}

/// The last lines that the image behind `block` left.
pub fn read(block: Block) -> Vec<String> {
    let ring = Ring(block.address() + LOG_OFFSET);
    let count = ring.count().load(Ordering::Acquire);
    let from = count.saturating_sub(LOG_BYTES);
    // SAFETY: inside the ring.
    let bytes: Vec<u8> = (from..count).map(|at| unsafe { ring.byte(at).read_volatile() }).collect();
    lines(&bytes, from != 0)
}

/// The last whole lines; what another image wrote is shown as far as it is plain text.
fn lines(bytes: &[u8], cut: bool) -> Vec<String> {
    let plain = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' };
    let mut all: Vec<String> = bytes
        .split(|byte| *byte == b'\n')
        .skip(usize::from(cut))
        .filter(|line| !line.is_empty())
        .map(|line| line.iter().map(plain).collect())
        .collect();
    all.drain(..all.len().saturating_sub(LINES));
    all
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn the_last_lines_are_plain_text() {
        assert_eq!(lines(b"one\ntw\x1bo\n", false), ["one", "tw?o"]);
        assert_eq!(lines(b"alf a line\nwhole\n", true), ["whole"], "a line whose beginning is overwritten");
        assert_eq!(lines(b"1\n2\n3\n4\n5\n6\n7\n8\n", false), ["3", "4", "5", "6", "7", "8"]);
        assert!(lines(b"", false).is_empty());
    }
}
