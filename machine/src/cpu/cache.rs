//! Caches and the order of memory accesses: SDM 3A 12, APM2 7.
#![expect(unsafe_code, reason = "cache and fence instructions")]

use core::arch::asm;

/// Bytes in a cache line. CPUID.1:EBX 15:8 says 8 (times 8 bytes) on every x86-64 CPU.
pub const LINE: u64 = 64;

/// Orders all earlier loads and stores before all later ones.
pub fn fence() {
    // SAFETY: MFENCE only orders.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) }
}

/// Orders earlier stores before later ones, write-combining ones included.
pub fn store_fence() {
    // SAFETY: SFENCE only orders.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) }
}

/// Writes back and drops every cache line that `bytes` at `address` touch, and
/// waits until that is done: a device that does not snoop sees the data now.
///
/// # Safety
/// The range is mapped: CLFLUSH faults like a load.
pub unsafe fn flush(address: u64, bytes: u64) {
    let Some(last) = bytes.checked_sub(1).and_then(|bytes| address.checked_add(bytes)) else {
        return;
    };
    fence();
    let mut line = address & !(LINE - 1);
    loop {
        // SAFETY: mapped, says the caller; CLFLUSH changes no data.
        unsafe { asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)) }
        match line.checked_add(LINE) {
            Some(next) if next <= last => line = next,
            _ => break,
        }
    }
    fence();
}

/// Writes back and drops all caches of this CPU. Takes milliseconds.
///
/// Faults outside ring 0.
pub fn write_back_all() {
    // SAFETY: no data changes.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flush_keeps_data() {
        let data = [0x5au8; 300];
        // SAFETY: the array is mapped.
        unsafe {
            flush(data.as_ptr() as u64 + 3, 200);
            flush(data.as_ptr() as u64, 0);
            flush(u64::MAX, 2);
        }
        assert!(core::hint::black_box(data).iter().all(|&byte| byte == 0x5a));
    }
}
