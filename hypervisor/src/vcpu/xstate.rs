//! Extended state (x87, SSE, AVX, ...): the host is compiled without it, so a guest's stays
//! in the registers across exits, and moves only when a virtual CPU leaves its pCPU.
#![expect(unsafe_code, reason = "XSAVE areas and control registers")]

use core::fmt;

use machine::addr::PAGE_SIZE;

use super::frames::{FrameSource, OutOfFrames};
use super::hw;
use super::limits::Limits;

/// Bytes of the legacy region and the header.
const MINIMUM: usize = 576;
/// Where the XSAVE header starts.
const HEADER: usize = 512;
/// Where MXCSR is.
const MXCSR: usize = 24;
/// Where MXCSR_MASK is.
const MXCSR_MASK: usize = 28;
/// CR4.OSFXSR and CR4.OSXMMEXCPT.
const CR4_FX: u64 = 3 << 9;
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;

/// What the CPUs of this machine have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XstateSupport {
    /// Bits XCR0 can have; 0 when there is only FXSAVE.
    pub mask: u64,
    /// Bytes of an area that holds all of them.
    pub size: usize,
}

impl XstateSupport {
    /// Asks CPUID (SDM 1 13.2).
    #[must_use]
    pub fn detect() -> Self {
        let mask = Limits::detect().xcr0;
        let [.., size, _] = hw::cpuid(0xd, 0);
        if mask == 0 {
            return Self { mask, size: MINIMUM };
        }
        Self { mask, size: (size as usize).max(MINIMUM) }
    }

    /// Makes XSAVE and XRSTOR usable on this pCPU (CR0.TS, CR0.EM, CR4.OSFXSR, CR4.OSXSAVE). Once per pCPU and image, before a
    /// virtual CPU is loaded there; CR4 must keep these bits.
    ///
    /// # Safety
    /// CPL is 0.
    pub unsafe fn enable(&self) {
        // SAFETY: CPL 0 by contract; long mode implies FXSAVE, and `mask` says whether there is XSAVE.
        unsafe {
            hw::allow_fpu();
            let extra = if self.mask == 0 { 0 } else { CR4_OSXSAVE };
            hw::write_cr4(hw::read_cr4() | CR4_FX | extra);
        }
    }
}

/// One virtual CPU's extended state while it is not in registers.
#[derive(Debug)]
pub struct ExtendedState {
    area: *mut u8,
    support: XstateSupport,
    /// The guest's XCR0 while it is not in the register.
    pub xcr0: u64,
}

// SAFETY: the area is owned by this object alone, and is reached through `&mut self` only.
unsafe impl Send for ExtendedState {}

impl ExtendedState {
    /// The state after reset.
    ///
    /// # Errors
    /// No memory.
    pub fn new(support: XstateSupport, frames: &mut dyn FrameSource) -> Result<Self, OutOfFrames> {
        let page = PAGE_SIZE as usize;
        let count = support.size.div_ceil(page);
        let area = frames.contiguous(count).ok_or(OutOfFrames)?;
        let area = core::ptr::with_exposed_provenance_mut::<u8>(area.get() as usize);
        // SAFETY: the frames are ours alone and mapped writable at this address (contract of FrameSource).
        unsafe { area.write_bytes(0, count * page) };
        let mut state = Self { area, support, xcr0: 1 };
        // XSTATE_BV = 0 makes XRSTOR load initial values (SDM 1 13.8), but FXRSTOR needs them spelled out.
        let bytes = state.bytes_mut();
        bytes[0..2].copy_from_slice(&0x037f_u16.to_le_bytes()); // FCW
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80_u32.to_le_bytes());
        Ok(state)
    }

    /// The area in memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `support.size` bytes were allocated and initialized by `new`; the borrow keeps writers out.
        unsafe { core::slice::from_raw_parts(self.area, self.support.size) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.area, self.support.size) }
    }

    /// Copies the area in memory out; the bytes written, 0 if `target` is too small.
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        let bytes = self.bytes();
        match target.get_mut(..bytes.len()) {
            Some(target) => {
                target.copy_from_slice(bytes);
                bytes.len()
            }
            None => 0,
        }
    }

    /// Replaces the area in memory.
    ///
    /// # Errors
    /// The area is not one that XRSTOR accepts here; nothing has changed then.
    pub fn set_bytes(&mut self, area: &[u8]) -> Result<(), InvalidExtendedState> {
        check(area, self.support, mxcsr_mask())?;
        let target = self.bytes_mut();
        let length = area.len().min(target.len());
        target[length..].fill(0);
        target[..length].copy_from_slice(&area[..length]);
        Ok(())
    }

    /// Registers to memory.
    ///
    /// # Safety
    /// CPL is 0, [`XstateSupport::enable`] was called on this pCPU, and its registers hold this virtual CPU's state.
    pub unsafe fn save(&mut self) {
        // SAFETY: the area is as large as the mask needs and frame-aligned; the feature is enabled by contract.
        unsafe {
            if self.support.mask == 0 {
                hw::fxsave(self.area);
            } else {
                self.xcr0 = hw::xgetbv0();
                self.save_keeping_xcr0();
            }
        }
    }

    /// Registers to memory; XCR0 is left as the guest set it.
    ///
    /// # Safety
    /// As for [`save`](Self::save).
    pub unsafe fn save_keeping_xcr0(&mut self) {
        // SAFETY: as for `save`; every bit of the mask is one that CPUID announces.
        unsafe {
            if self.support.mask == 0 {
                hw::fxsave(self.area);
                return;
            }
            let guest = hw::xgetbv0();
            // State of components the guest has turned off is kept as well.
            hw::xsetbv0(self.support.mask);
            hw::xsave(self.area);
            hw::xsetbv0(guest);
        }
    }

    /// Memory to registers, XCR0 included.
    ///
    /// # Safety
    /// CPL is 0 and [`XstateSupport::enable`] was called on this pCPU.
    pub unsafe fn restore(&self) {
        // SAFETY: the area comes from XSAVE, from `new`, or was checked by `set_bytes`; XCR0 was checked by whoever set it.
        unsafe {
            if self.support.mask == 0 {
                hw::fxrstor(self.area);
                return;
            }
            hw::xsetbv0(self.support.mask);
            hw::xrstor(self.area);
            hw::xsetbv0(self.xcr0 | 1);
        }
    }
}

/// The bits MXCSR may have on this CPU (SDM 1 11.6.6).
fn mxcsr_mask() -> u32 {
    #[repr(align(16))]
    struct Area([u8; 512]);
    let mut area = Area([0; 512]);
    // SAFETY: 512 bytes, aligned; FXSAVE is part of x86-64, and the host enables it before it creates virtual CPUs.
    unsafe { hw::fxsave(area.0.as_mut_ptr()) };
    match u32_at(&area.0, MXCSR_MASK) {
        Some(0) | None => 0xffbf,
        Some(mask) => mask,
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// What XRSTOR would answer with #GP (SDM 1 13.8.1).
fn check(area: &[u8], support: XstateSupport, mxcsr_mask: u32) -> Result<(), InvalidExtendedState> {
    if area.len() < MINIMUM || area.len() > support.size {
        return Err(InvalidExtendedState::Size { got: area.len(), supported: support.size });
    }
    let (Some(mxcsr), Some(present)) = (u32_at(area, MXCSR), u64_at(area, HEADER)) else {
        return Err(InvalidExtendedState::Size { got: area.len(), supported: support.size });
    };
    if mxcsr & !mxcsr_mask != 0 {
        return Err(InvalidExtendedState::Mxcsr(mxcsr));
    }
    if support.mask == 0 {
        return Ok(());
    }
    if present & !support.mask != 0 {
        return Err(InvalidExtendedState::Components(present & !support.mask));
    }
    if area.get(HEADER + 8..HEADER + 64).is_none_or(|rest| rest.iter().any(|byte| *byte != 0)) {
        return Err(InvalidExtendedState::Header);
    }
    Ok(())
}

/// An XSAVE area cannot be loaded on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidExtendedState {
    /// Its size is wrong.
    Size {
        /// Bytes given.
        got: usize,
        /// Bytes this machine has room for.
        supported: usize,
    },
    /// MXCSR has reserved bits.
    Mxcsr(u32),
    /// It holds components that this machine has not.
    Components(u64),
    /// The header has reserved bytes set, or the area is compacted.
    Header,
}

impl fmt::Display for InvalidExtendedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("virtual CPU's extended state refused: ")?;
        match self {
            Self::Size { got, supported } => write!(f, "{got} bytes, this machine takes {MINIMUM} to {supported}"),
            Self::Mxcsr(value) => write!(f, "MXCSR {value:#x} has reserved bits"),
            Self::Components(bits) => write!(f, "components {bits:#x} are not on this machine"),
            Self::Header => f.write_str("reserved bytes of the header are set, or it is compacted"),
        }?;
        f.write_str("; the record is damaged or comes from another CPU model")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVX: XstateSupport = XstateSupport { mask: 7, size: 832 };

    #[test]
    fn hostile_areas_are_refused() {
        let mut area = [0u8; 832];
        area[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        area[512] = 7;
        assert_eq!(check(&area, AVX, 0xffff), Ok(()));
        assert!(matches!(check(&area[..575], AVX, 0xffff), Err(InvalidExtendedState::Size { .. })));
        assert!(matches!(check(&[0; 833], AVX, 0xffff), Err(InvalidExtendedState::Size { .. })));
        area[512] = 15;
        assert_eq!(check(&area, AVX, 0xffff), Err(InvalidExtendedState::Components(8)));
        area[512] = 7;
        area[527] = 0x80; // XCOMP_BV bit 63: compacted
        assert_eq!(check(&area, AVX, 0xffff), Err(InvalidExtendedState::Header));
        area[527] = 0;
        area[26] = 1;
        assert_eq!(check(&area, AVX, 0xffff), Err(InvalidExtendedState::Mxcsr(0x1_1f80)));
    }
}
