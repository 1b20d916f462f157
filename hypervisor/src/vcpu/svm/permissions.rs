//! The I/O and MSR permission maps (APM2 15.10, 15.11): everything is intercepted
//! but the MSRs that VMLOAD, VMSAVE and VMRUN switch. One pair serves all virtual CPUs.
#![expect(unsafe_code, reason = "bitmaps that hardware reads")]

use machine::addr::{HostPhys, PAGE_SIZE};

use super::super::frames::{FrameSource, OutOfFrames};

/// Frames of the I/O permission map.
const IOPM_FRAMES: usize = 3;
/// Frames of the MSR permission map.
const MSRPM_FRAMES: usize = 2;
/// Bytes of the MSR permission map.
const MSRPM_BYTES: usize = MSRPM_FRAMES * PAGE_SIZE as usize;

/// MSRs that the guest reads and writes in the CPU itself.
const SWITCHED: [u32; 10] = [
    x86::msr::IA32_STAR,
    x86::msr::IA32_LSTAR,
    x86::msr::IA32_CSTAR,
    x86::msr::IA32_FMASK,
    x86::msr::IA32_FS_BASE,
    x86::msr::IA32_GS_BASE,
    x86::msr::IA32_KERNEL_GSBASE,
    x86::msr::IA32_SYSENTER_CS,
    x86::msr::IA32_SYSENTER_ESP,
    x86::msr::IA32_SYSENTER_EIP,
];

/// The two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// The I/O permission map.
    pub iopm: HostPhys,
    /// The MSR permission map.
    pub msrpm: HostPhys,
}

impl Permissions {
    /// Builds the maps.
    ///
    /// # Errors
    /// No memory.
    pub fn new(frames: &mut dyn FrameSource) -> Result<Self, OutOfFrames> {
        let iopm = frames.contiguous(IOPM_FRAMES).ok_or(OutOfFrames)?;
        let msrpm = frames.contiguous(MSRPM_FRAMES).ok_or(OutOfFrames)?;
        let io = core::ptr::with_exposed_provenance_mut::<u8>(iopm.get() as usize);
        let msr = core::ptr::with_exposed_provenance_mut::<[u8; MSRPM_BYTES]>(msrpm.get() as usize);
        // SAFETY: the frames are ours alone and mapped writable at these addresses (contract of FrameSource).
        unsafe {
            io.write_bytes(0xff, IOPM_FRAMES * PAGE_SIZE as usize);
            msr.write(msr_map());
        }
        Ok(Self { iopm, msrpm })
    }
}

/// Two bits per MSR, read then write; 2 KiB for each of three ranges of 0x2000 MSRs.
fn msr_map() -> [u8; MSRPM_BYTES] {
    let mut map = [0xff; MSRPM_BYTES];
    for msr in SWITCHED {
        let (start, first) = match msr {
            0..=0x1fff => (0, 0),
            0xc000_0000..=0xc000_1fff => (0x800, 0xc000_0000),
            _ => continue,
        };
        let bit = (msr - first) as usize * 2;
        if let Some(byte) = map.get_mut(start + bit / 8) {
            *byte &= !(3 << (bit % 8));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_the_msr_map() {
        let map = msr_map();
        // STAR is C000_0081: bits 0x102 and 0x103 after 0x800, in byte 0x820; LSTAR, CSTAR: bits 4 to 7; EFER: bits 0 and 1.
        assert_eq!(map[0x820], 0x03, "STAR, LSTAR, CSTAR pass, EFER does not");
        assert_eq!(map[0x821], 0xfc, "SFMASK passes");
        // FS_BASE, GS_BASE, KERNEL_GS_BASE are C000_0100 to C000_0102; TSC_AUX is C000_0103.
        assert_eq!(map[0x840], 0xc0);
        // SYSENTER_CS, ESP, EIP are 174h to 176h: bits 0x2e8 to 0x2ed.
        assert_eq!(map[0x5d], 0xc0);
        assert_eq!(map.iter().filter(|b| **b != 0xff).count(), 4, "all else is intercepted");
    }
}
