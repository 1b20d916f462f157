//! Where the root pointer is on a machine with a BIOS: ACPI 5.2.5.1.

use super::Mapper;
use crate::addr::HostPhys;
use alloc::vec;

/// Looks for the root pointer in the first KiB of the EBDA and in 0xE0000 to 0xFFFFF.
/// UEFI names it itself.
#[must_use]
pub fn find_rsdp(mapper: &(impl Mapper + ?Sized)) -> Option<HostPhys> {
    let mut segment = [0; 2];
    // The BIOS data area holds the EBDA's segment at 0x40E, or anything else.
    let ebda = if mapper.read(HostPhys(0x40e), &mut segment) { u64::from(u16::from_le_bytes(segment)) << 4 } else { 0 };
    let ebda = (0x8_0000..0xa_0000).contains(&ebda).then_some((ebda, 1024));
    [ebda, Some((0xe_0000, 0x2_0000))].into_iter().flatten().find_map(|(start, bytes)| scan(mapper, start, bytes))
}

fn scan(mapper: &(impl Mapper + ?Sized), start: u64, bytes: usize) -> Option<HostPhys> {
    let mut area = vec![0; bytes];
    if !mapper.read(HostPhys(start), &mut area) {
        return None;
    }
    let found = area.chunks_exact(16).zip((start..).step_by(16)).filter(|(chunk, _)| chunk.starts_with(b"RSD PTR "));
    found.map(|(_, at)| HostPhys(at)).find(|&at| super::vet::root_pointer(mapper, at).is_some())
}
