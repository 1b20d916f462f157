//! CRC32 of SSE4.2, which is CRC32C (Castagnoli): SDM 2A, CRC32.
#![expect(unsafe_code, reason = "the CRC32 instruction")]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use super::ids;

const UNKNOWN: u8 = 0;
const ABSENT: u8 = 1;
const PRESENT: u8 = 2;

/// Asked once: under a hypervisor CPUID is an exit.
static SSE42: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Continues a CRC32C over `bytes`; `None` where the CPU has no instruction for it. `state` is the register
/// of the reflected algorithm: all ones to begin with, and inverted at the end.
#[must_use]
pub fn crc32c(state: u32, bytes: &[u8]) -> Option<u32> {
    if !present() {
        return None;
    }
    let mut wide = u64::from(state);
    // Eight at a time: an upgrade's pause counts the loop's own instructions.
    let (blocks, bytes) = bytes.as_chunks::<64>();
    for block in blocks {
        // SAFETY: reads the block's 64 bytes and computes on registers; CPUID announces the instruction, which needs no SSE state.
        unsafe {
            asm!(
                "crc32 {crc}, qword ptr [{at}]",
                "crc32 {crc}, qword ptr [{at} + 8]",
                "crc32 {crc}, qword ptr [{at} + 16]",
                "crc32 {crc}, qword ptr [{at} + 24]",
                "crc32 {crc}, qword ptr [{at} + 32]",
                "crc32 {crc}, qword ptr [{at} + 40]",
                "crc32 {crc}, qword ptr [{at} + 48]",
                "crc32 {crc}, qword ptr [{at} + 56]",
                crc = inout(reg) wide,
                at = in(reg) block.as_ptr(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
    }
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        // SAFETY: computes on registers; CPUID announces the instruction, which needs no SSE state.
        unsafe {
            asm!("crc32 {}, {}", inout(reg) wide, in(reg) word, options(pure, nomem, nostack, preserves_flags));
        }
    }
    // The upper half is zero after each step.
    let mut state = wide as u32;
    for byte in rest {
        // SAFETY: as above.
        unsafe {
            asm!("crc32 {:e}, {}", inout(reg) state, in(reg_byte) *byte, options(pure, nomem, nostack, preserves_flags));
        }
    }
    Some(state)
}

fn present() -> bool {
    match SSE42.load(Ordering::Relaxed) {
        UNKNOWN => {
            let present = ids::raw(1, 0).ecx & 1 << 20 != 0;
            SSE42.store(if present { PRESENT } else { ABSENT }, Ordering::Relaxed);
            present
        }
        known => known == PRESENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces of any length the same as bit by bit, by the polynomial (reflected 0x1edc6f41).
    #[test]
    fn blocks_words_and_bytes() {
        let bytes: [u8; 200] = core::array::from_fn(|i| (i * 37 + 11) as u8);
        for length in 0..bytes.len() {
            let slow = bytes[..length].iter().fold(!0u32, |state, byte| {
                (0..8).fold(state ^ u32::from(*byte), |state, _| {
                    state >> 1 ^ if state & 1 == 1 { 0x82f6_3b78 } else { 0 }
                })
            });
            if let Some(state) = crc32c(!0, &bytes[..length]) {
                assert_eq!(state, slow, "{length}");
            }
        }
    }

    /// RFC 3720 B.4, in one piece and in two.
    #[test]
    fn published_vectors() {
        let ascending: [u8; 32] = core::array::from_fn(|i| i as u8);
        for (bytes, crc) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
        ] {
            for split in 0..=bytes.len() {
                let (first, second) = bytes.split_at(split);
                match crc32c(!0, first) {
                    Some(state) => assert_eq!(crc32c(state, second).map(|state| !state), Some(crc)),
                    None => assert_eq!(ids::raw(1, 0).ecx & 1 << 20, 0),
                }
            }
        }
    }
}
