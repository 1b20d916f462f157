//! kvmclock: the guest's view of time, by formula (Linux Documentation/virt/kvm/x86/msr.rst).
//!
//! The page a guest registers holds `time = base_ns + (tsc - base_tsc) * mul >> 32`, shifted. The formula
//! is the same on every vCPU and does not change over an upgrade: nothing has to be written again.

use machine::addr::GuestPhys;

use crate::vcpu::bus::{GeneralProtection, NotMemory};

/// `MSR_KVM_WALL_CLOCK_NEW`.
pub(crate) const MSR_WALL_CLOCK: u32 = 0x4B56_4D00;
/// `MSR_KVM_SYSTEM_TIME_NEW`.
pub(crate) const MSR_SYSTEM_TIME: u32 = 0x4B56_4D01;
/// `MSR_KVM_WALL_CLOCK`.
pub(crate) const MSR_WALL_CLOCK_OLD: u32 = 0x11;
/// `MSR_KVM_SYSTEM_TIME`.
pub(crate) const MSR_SYSTEM_TIME_OLD: u32 = 0x12;

const ENABLED: u64 = 1;
/// The clocks of all vCPUs agree.
const FLAG_TSC_STABLE: u8 = 1;
const NS_PER_S: u64 = 1_000_000_000;

/// The guest's clock. Numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockState {
    /// Guest TSC at which the system time was `base_ns`.
    pub base_tsc: u64,
    /// System time (ns since the guest's start) at `base_tsc`.
    pub base_ns: u64,
    /// Unix time (ns) at system time 0.
    pub wall_base_ns: u64,
    /// TSC ticks per millisecond.
    pub tsc_khz: u32,
}

/// A [`ClockState`] without a frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStateError;

impl core::fmt::Display for ClockStateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the guest's clock has a TSC frequency of 0 kHz; calibration failed or the record is damaged")
    }
}

/// The formula all vCPUs of a guest share.
#[derive(Clone, Copy, Debug)]
pub struct GuestClock {
    state: ClockState,
    multiplier: u32,
    shift: i8,
}

impl GuestClock {
    /// A clock from numbers: for a new guest `base_tsc` now, `base_ns` 0 and `wall_base_ns` now;
    /// after an upgrade what [`save`](Self::save) returned.
    ///
    /// # Errors
    /// The frequency is zero.
    pub fn new(state: ClockState) -> Result<Self, ClockStateError> {
        if state.tsc_khz == 0 {
            return Err(ClockStateError);
        }
        let (multiplier, shift) = scale(state.tsc_khz);
        Ok(Self { state, multiplier, shift })
    }

    /// The numbers.
    #[must_use]
    pub const fn save(&self) -> ClockState {
        self.state
    }

    /// TSC ticks per millisecond.
    #[must_use]
    pub const fn tsc_khz(&self) -> u32 {
        self.state.tsc_khz
    }

    /// System time in ns at guest TSC `tsc`, as the guest computes it.
    #[must_use]
    pub fn system_time(&self, tsc: u64) -> u64 {
        let delta = tsc.saturating_sub(self.state.base_tsc);
        let shifted = match self.shift {
            left @ 0.. => u128::from(delta) << u32::from(left.unsigned_abs()).min(63),
            right => u128::from(delta) >> u32::from(right.unsigned_abs()).min(63),
        };
        let elapsed = (shifted.wrapping_mul(u128::from(self.multiplier)) >> 32) as u64;
        self.state.base_ns.wrapping_add(elapsed)
    }

    /// `struct pvclock_vcpu_time_info`, 32 bytes.
    fn time_info(&self, version: u32) -> [u8; 32] {
        let mut bytes = [0; 32];
        let fields: [(usize, &[u8]); 6] = [
            (0, &version.to_le_bytes()),
            (8, &self.state.base_tsc.to_le_bytes()),
            (16, &self.state.base_ns.to_le_bytes()),
            (24, &self.multiplier.to_le_bytes()),
            (28, &self.shift.to_le_bytes()),
            (29, &[FLAG_TSC_STABLE]),
        ];
        for (offset, field) in fields {
            if let Some(place) = bytes.get_mut(offset..offset + field.len()) {
                place.copy_from_slice(field);
            }
        }
        bytes
    }

    /// `struct pvclock_wall_clock`, 12 bytes: the time at system time 0.
    fn wall_clock(&self, version: u32) -> [u8; 12] {
        let seconds = (self.state.wall_base_ns / NS_PER_S) as u32;
        let nanoseconds = (self.state.wall_base_ns % NS_PER_S) as u32;
        let mut bytes = [0; 12];
        for (place, word) in bytes.chunks_exact_mut(4).zip([version, seconds, nanoseconds]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Multiplier and shift such that `(ticks << shift) * multiplier >> 32` is nanoseconds.
/// The multiplier has its top bit set, so that no precision is given away.
fn scale(khz: u32) -> (u32, i8) {
    let hertz = u64::from(khz) * 1000;
    let mut ticks = hertz;
    let mut shift = 0i8;
    while ticks > 2 * NS_PER_S {
        ticks >>= 1;
        shift -= 1;
    }
    while ticks <= NS_PER_S {
        ticks <<= 1;
        shift += 1;
    }
    // NS_PER_S < ticks <= 2 * NS_PER_S, so the quotient is in [2^31, 2^32).
    (u32::try_from((NS_PER_S << 32) / ticks.max(1)).unwrap_or(u32::MAX), shift)
}

/// Where one vCPU registered its clock. Numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuClockState {
    /// The system time MSR: address and enable bit.
    pub system_time: u64,
    /// The wall clock MSR.
    pub wall_clock: u64,
    /// Version last written to the time info.
    pub version: u32,
}

/// The clock MSRs of one vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuClock {
    state: VcpuClockState,
}

/// How the clock writes guest memory.
pub type WriteMemory<'a> = &'a mut dyn FnMut(GuestPhys, &[u8]) -> Result<(), NotMemory>;

impl VcpuClock {
    /// Whether `msr` is a clock MSR.
    #[must_use]
    pub const fn owns_msr(msr: u32) -> bool {
        matches!(msr, MSR_WALL_CLOCK | MSR_SYSTEM_TIME | MSR_WALL_CLOCK_OLD | MSR_SYSTEM_TIME_OLD)
    }

    /// RDMSR.
    ///
    /// # Errors
    /// Not a clock MSR.
    pub const fn msr_read(&self, msr: u32) -> Result<u64, GeneralProtection> {
        match msr {
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_OLD => Ok(self.state.wall_clock),
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_OLD => Ok(self.state.system_time),
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR: writes the structure at the address given. An address that is not RAM gets nothing.
    ///
    /// # Errors
    /// Not a clock MSR.
    pub fn msr_write(
        &mut self,
        msr: u32,
        value: u64,
        clock: &GuestClock,
        write: WriteMemory<'_>,
    ) -> Result<(), GeneralProtection> {
        match msr {
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_OLD => {
                self.state.wall_clock = value;
                let version = self.next_version();
                publish(value, version, &clock.wall_clock(version), write);
            }
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_OLD => {
                self.state.system_time = value;
                if value & ENABLED != 0 {
                    let version = self.next_version();
                    publish(value & !ENABLED, version, &clock.time_info(version), write);
                }
            }
            _ => return Err(GeneralProtection),
        }
        Ok(())
    }

    const fn next_version(&mut self) -> u32 {
        self.state.version = self.state.version.wrapping_add(2);
        self.state.version
    }

    /// The registrations.
    #[must_use]
    pub const fn save(&self) -> VcpuClockState {
        self.state
    }

    /// Continues; guest memory is as the guest knows it already.
    pub const fn restore(&mut self, state: &VcpuClockState) {
        self.state = *state;
        self.state.version &= !1;
    }
}

/// Writes a structure whose first word is its version: odd while the rest changes.
fn publish(address: u64, version: u32, bytes: &[u8], write: WriteMemory<'_>) {
    let address = GuestPhys(address);
    let Some((_, body)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let Some(body_address) = address.checked_add(4) else {
        return;
    };
    // A hole in the middle of the structure leaves it odd: its reader waits, by its own fault.
    if write(address, &version.wrapping_sub(1).to_le_bytes()).is_ok() && write(body_address, body).is_ok() {
        let _gone = write(address, &version.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn clock(khz: u32) -> GuestClock {
        let state = ClockState { base_tsc: 1_000, base_ns: 500, wall_base_ns: 1_700_000_000_123_456_789, tsc_khz: khz };
        GuestClock::new(state).expect("a frequency")
    }

    #[test]
    fn scales() {
        // As kvm_get_time_scale(NSEC_PER_SEC, hz) of Linux computes them.
        for (khz, expected) in [
            (1_000_000, (0x8000_0000, 1)),
            (2_000_000, (0x8000_0000, 0)),
            (2_400_000, (0xD555_5555, -1)),
            (3_000_000, (0xAAAA_AAAA, -1)),
            (50_000, (0xA000_0000, 5)),
        ] {
            assert_eq!(scale(khz), expected, "{khz} kHz");
        }
        for khz in [1, 17, u32::MAX] {
            assert!(scale(khz).0 >= 1 << 31);
        }
    }

    #[test]
    fn time_passes() {
        let clock = clock(2_000_000);
        assert_eq!(clock.system_time(1_000), 500);
        assert_eq!(clock.system_time(1_000 + 2_000_000_000), 500 + 1_000_000_000);
        assert_eq!(clock.system_time(0), 500);
        // 3 GHz: a year is off by less than 0.1 s, the multiplier has 32 bits.
        let year = super::tests::clock(3_000_000).system_time(1_000 + 3_000_000_000 * 31_536_000);
        assert!((31_536_000 * NS_PER_S - year) < 100_000_000);
        let _any = clock.system_time(u64::MAX);
        assert!(GuestClock::new(ClockState::default()).is_err());
    }

    #[test]
    fn system_time_page() {
        let mut memory = [0xEEu8; 64];
        let mut versions = Vec::new();
        let mut vcpu = VcpuClock::default();
        let mut write = |address: GuestPhys, bytes: &[u8]| {
            let start = address.get() as usize - 0x1000;
            memory[start..start + bytes.len()].copy_from_slice(bytes);
            versions.push(u32::from_le_bytes([memory[0], memory[1], memory[2], memory[3]]));
            Ok(())
        };
        assert_eq!(vcpu.msr_write(0x4B56_4D01, 0x1001, &clock(2_400_000), &mut write), Ok(()));
        assert_eq!(vcpu.msr_read(0x4B56_4D01), Ok(0x1001));
        assert_eq!(versions, [1, 1, 2]);
        let expected = [
            2, 0, 0, 0, 0, 0, 0, 0, 0xE8, 3, 0, 0, 0, 0, 0, 0, 0xF4, 1, 0, 0, 0, 0, 0, 0, 0x55, 0x55, 0x55, 0xD5, 0xFF,
            1, 0, 0,
        ];
        assert_eq!(memory[..32], expected);
        assert_eq!(memory[32], 0xEE);
    }

    #[test]
    fn wall_clock_page() {
        let mut written = Vec::new();
        let mut vcpu = VcpuClock::default();
        let mut write = |address: GuestPhys, bytes: &[u8]| {
            written.push((address.get(), bytes.to_vec()));
            Ok(())
        };
        assert_eq!(vcpu.msr_write(0x11, 0x2000, &clock(1), &mut write), Ok(()));
        // 1700000000 = 0x6553F100, 123456789 = 0x075BCD15.
        assert_eq!(written[1], (0x2004, [0x00, 0xF1, 0x53, 0x65, 0x15, 0xCD, 0x5B, 0x07].to_vec()));
        assert_eq!(written[2], (0x2000, [2, 0, 0, 0].to_vec()));
    }

    #[test]
    fn disabled_or_wild_addresses_get_nothing() {
        let mut vcpu = VcpuClock::default();
        let mut writes = 0;
        let mut write = |_: GuestPhys, _: &[u8]| {
            writes += 1;
            Err(NotMemory)
        };
        assert_eq!(vcpu.msr_write(0x4B56_4D01, 0x1000, &clock(1), &mut write), Ok(()));
        assert_eq!(vcpu.msr_write(0x4B56_4D01, u64::MAX, &clock(1), &mut write), Ok(()));
        assert_eq!(vcpu.msr_write(0x4B56_4D02, 1, &clock(1), &mut write), Err(GeneralProtection));
        assert_eq!(writes, 0, "beyond the address space");
    }
}
