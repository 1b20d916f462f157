//! Where virtual CPUs' registers go in the pause: pages outside the stream, which PLAN sets aside and names by [`VcpuPlaceV1`], so that
//! every pCPU writes those of its own virtual CPUs, in place and at the same time.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::lapic::{KvmClockV1, LapicV1};
use super::vcpu::{VcpuMsrsV1, VcpuV1};
use crate::checksum::crc32c;
use crate::record::{Record, RecordName};

record! {
    /// Where a vCPU's state will be: its XSAVE area in standard format (SDM 1 13.4), and a [`VcpuPage`] behind it. With it the rest of the
    /// stream has none of its records.
    VcpuPlaceV1 [0x060a, "vCPU place", Plan, true, {2: 32}] key |record| [record.guest, record.vcpu.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Host physical address of its frames, and of the XSAVE area.
        pub base: u64,
        /// Number of the vCPU.
        pub vcpu: u32,
        /// pCPU it runs on.
        pub pcpu: u32,
        /// Bytes kept for the XSAVE area.
        pub area_bytes: u32,
        /// Where the page starts, from `base`: a multiple of 64, behind the area.
        pub page_offset: u32,
    }
}

/// The records of one vCPU, as they would stand in a stream of the same format, and a seal over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuPage {
    /// Registers.
    pub vcpu: VcpuV1,
    /// Local APIC.
    pub lapic: LapicV1,
    /// Clock registrations.
    pub clock: KvmClockV1,
    /// Emulated MSRs.
    pub msrs: VcpuMsrsV1,
    /// Generation of the image it is for.
    pub generation: u64,
    /// CRC32C of all before.
    pub crc: u32,
    /// Padding; zero.
    pub reserved: [u8; 4],
}

/// Bytes of a page that its checksum covers.
const SEALED: usize = core::mem::offset_of!(VcpuPage, crc);

impl VcpuPage {
    /// Seals it for the image of that generation.
    pub fn seal(&mut self, generation: u64) {
        self.generation = generation;
        self.reserved = [0; 4];
        self.crc = self.checksum();
    }

    fn checksum(&self) -> u32 {
        crc32c(self.as_bytes().get(..SEALED).unwrap_or_default())
    }

    /// Whether it is sealed for `generation` and holds the records of the vCPU of `place`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, generation: u64, place: &VcpuPlaceV1) -> Result<(), PageError> {
        let wrong = |what| Err(PageError { place: place.name(), what });
        let key = place.key();
        if self.crc != self.checksum() {
            return wrong("its checksum does not fit");
        }
        if self.generation != generation {
            return wrong("it is of another upgrade");
        }
        if [self.vcpu.key(), self.lapic.key(), self.clock.key(), self.msrs.key()] != [key; 4] {
            return wrong("it is of another vCPU");
        }
        if self.vcpu.pcpu != place.pcpu {
            return wrong("it is of another pCPU than planned");
        }
        let clean = self.vcpu.padding_is_zero() && self.lapic.padding_is_zero() && self.msrs.padding_is_zero();
        if !clean || self.reserved != [0; 4] {
            return wrong("its padding is not zero");
        }
        Ok(())
    }
}

/// A page is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageError {
    /// Where it is.
    pub place: RecordName,
    /// What is wrong.
    pub what: &'static str,
}

impl core::fmt::Display for PageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the page of {} can't be taken over: {}; the old image is at fault", self.place, self.what)
    }
}

impl core::error::Error for PageError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use zerocopy::FromZeros;

    const PLACE: VcpuPlaceV1 =
        VcpuPlaceV1 { guest: 9, base: 0x10_0000, vcpu: 1, pcpu: 3, area_bytes: 576, page_offset: 576 };

    fn page() -> VcpuPage {
        let mut page = VcpuPage::new_zeroed();
        (page.vcpu.guest, page.vcpu.index, page.vcpu.pcpu) = (9, 1, 3);
        (page.lapic.guest, page.lapic.vcpu) = (9, 1);
        (page.clock.guest, page.clock.vcpu) = (9, 1);
        (page.msrs.guest, page.msrs.vcpu) = (9, 1);
        page.seal(7);
        page
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let good = page();
        assert_eq!(good.check(7, &PLACE), Ok(()));
        for at in 0..size_of::<VcpuPage>() * 8 {
            let mut bad = good;
            bad.as_mut_bytes()[at / 8] ^= 1 << (at % 8);
            assert!(bad.check(7, &PLACE).is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_page_of_another_upgrade_or_vcpu_is_refused_by_name() {
        assert!(page().check(8, &PLACE).unwrap_err().to_string().contains("another upgrade"));
        let elsewhere = page().check(7, &VcpuPlaceV1 { vcpu: 2, ..PLACE }).unwrap_err();
        assert!(elsewhere.to_string().contains("vCPU place 0x9/0x2") && elsewhere.what.contains("another vCPU"));
        assert!(page().check(7, &VcpuPlaceV1 { pcpu: 0, ..PLACE }).unwrap_err().what.contains("pCPU"));
        let mut page = page();
        page.vcpu.reserved[1] = 1;
        page.seal(7);
        assert!(page.check(7, &PLACE).unwrap_err().what.contains("padding"));
    }
}
