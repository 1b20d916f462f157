//! The guest's monotonic clock, raw: `std::time::Instant` would hide a step backwards.
#![expect(unsafe_code, reason = "clock_gettime is a C function")]

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type, which the call fills and doesn't keep.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // The clock id is a constant that every Linux has; 0 shows as a clock that steps backwards.
    if result == 0 { now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 } else { 0 }
}
