//! Entries as the manuals draw them, as literal numbers.

use crate::addr::HostPhys;
use crate::paging::{Caching, EPT, HOST, NPT, Permissions, VTD_FIRST_STAGE, VTD_SECOND_STAGE};

const TO: HostPhys = HostPhys(0x1_4020_0000);

#[test]
fn host() {
    // SDM 3A table 4-15..4-20: P 0, R/W 1, U/S 2, PWT 3, PCD 4, A 5, D 6, PS 7, XD 63.
    assert_eq!(HOST.table(TO), 0x1_4020_0023);
    assert_eq!(HOST.leaf(1, TO, Permissions::READ_WRITE, Caching::WriteBack), 0x8000_0001_4020_0063);
    assert_eq!(HOST.leaf(1, TO, Permissions::READ_EXECUTE, Caching::WriteBack), 0x1_4020_0021);
    assert_eq!(HOST.leaf(2, TO, Permissions::READ, Caching::WriteBack), 0x8000_0001_4020_00a1);
    assert_eq!(HOST.leaf(2, TO, Permissions::READ_WRITE, Caching::Uncached), 0x8000_0001_4020_00fb);
    assert_eq!(HOST.leaf(3, HostPhys(0x1_4000_0000), Permissions::ALL, Caching::WriteBack), 0x1_4000_00e3);
}

#[test]
fn npt() {
    // APM2 15.25.5: as long mode, with U/S (bit 2) at every level.
    assert_eq!(NPT.table(TO), 0x1_4020_0027);
    assert_eq!(NPT.leaf(1, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_0067);
    assert_eq!(NPT.leaf(2, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_00e7);
    assert_eq!(NPT.leaf(1, TO, Permissions::READ_WRITE, Caching::Uncached), 0x8000_0001_4020_007f);
    assert_eq!(NPT.leaf(1, TO, Permissions::READ, Caching::WriteBack), 0x8000_0001_4020_0025);
}

#[test]
fn ept() {
    // SDM 3C tables 29-1..29-7: R 0, W 1, X 2, type 5:3 (UC 0, WC 1, WB 6), IPAT 6, leaf 7.
    assert_eq!(EPT.table(TO), 0x1_4020_0007);
    assert_eq!(EPT.leaf(1, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_0037);
    assert_eq!(EPT.leaf(2, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_00b7);
    assert_eq!(EPT.leaf(3, HostPhys(0x1_4000_0000), Permissions::ALL, Caching::Coherent), 0x1_4000_00f7);
    assert_eq!(EPT.leaf(1, TO, Permissions::READ_WRITE, Caching::Uncached), 0x1_4020_0003);
    assert_eq!(EPT.leaf(1, TO, Permissions::READ_WRITE, Caching::WriteCombining), 0x1_4020_000b);
    assert_eq!(EPT.leaf(1, TO, Permissions::READ_EXECUTE, Caching::WriteBack), 0x1_4020_0035);
}

#[test]
fn vtd_second_stage() {
    // VT-d 9.8: R 0, W 1, PS 7, SNP 11.
    assert_eq!(VTD_SECOND_STAGE.table(TO), 0x1_4020_0003);
    assert_eq!(VTD_SECOND_STAGE.leaf(1, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_0003);
    assert_eq!(VTD_SECOND_STAGE.leaf(2, TO, Permissions::READ_WRITE, Caching::WriteBack), 0x1_4020_0083);
    assert_eq!(VTD_SECOND_STAGE.leaf(3, HostPhys(0x1_4000_0000), Permissions::READ, Caching::WriteBack), 0x1_4000_0081);
    assert_eq!(VTD_SECOND_STAGE.leaf(1, TO, Permissions::READ_WRITE, Caching::Coherent), 0x1_4020_0803);
    assert_eq!(VTD_SECOND_STAGE.leaf(1, TO, Permissions::READ_WRITE, Caching::Uncached), 0x1_4020_0003);
}

#[test]
fn vtd_first_stage() {
    // VT-d 9.7: P 0, R/W 1, U/S 2, PWT 3, PCD 4, A 5, D 6, PS 7, EA 10.
    assert_eq!(VTD_FIRST_STAGE.table(TO), 0x1_4020_0027);
    assert_eq!(VTD_FIRST_STAGE.leaf(1, TO, Permissions::READ_WRITE, Caching::WriteBack), 0x1_4020_0067);
    assert_eq!(VTD_FIRST_STAGE.leaf(1, TO, Permissions::READ, Caching::Coherent), 0x1_4020_0025);
    assert_eq!(VTD_FIRST_STAGE.leaf(2, TO, Permissions::ALL, Caching::Uncached), 0x1_4020_00e7);
    assert_eq!(VTD_FIRST_STAGE.leaf(3, HostPhys(0x1_4000_0000), Permissions::READ, Caching::WriteBack), 0x1_4000_00a5);
    // As Linux writes them for a device that reads and writes: P, R/W, U/S, A, D, and XD in older versions.
    assert_eq!(VTD_FIRST_STAGE.permissions(0x8000_0001_4020_0067), Permissions::READ_WRITE);
    assert_eq!(VTD_FIRST_STAGE.permissions(0x1_4020_0025), Permissions::READ);
    assert_eq!(VTD_FIRST_STAGE.leaf_address(0x8000_0001_4020_00e7, 2), TO);
    // SAGAW's widths are 39, 48 and 57 bits; of the first stage's 48 and 57 the lower half is used.
    assert_eq!([3, 4, 5].map(|levels| VTD_SECOND_STAGE.input_bits(levels)), [39, 48, 57]);
    assert_eq!([4, 5].map(|levels| VTD_FIRST_STAGE.input_bits(levels)), [47, 56]);
    assert!(!VTD_FIRST_STAGE.has_levels(3) && !VTD_FIRST_STAGE.has_levels(6));
}

#[test]
fn decode() {
    // Entries as Linux or KVM would write them, with bits of their own.
    assert!(!HOST.is_present(0x1_4020_0062));
    assert!(HOST.is_leaf(0x8000_0001_4020_01e3, 2));
    assert_eq!(HOST.leaf_address(0x8000_0001_4020_11e3, 2), TO);
    assert_eq!(HOST.permissions(0x8000_0001_4020_01e3), Permissions::READ_WRITE);
    assert!(!EPT.is_present(0x1_4020_00f8));
    assert!(EPT.is_present(0x1_4020_0004));
    assert_eq!(EPT.caching(0x1_4020_0077), Caching::Coherent);
    assert_eq!(EPT.permissions(0x1_4020_0335), Permissions::READ_EXECUTE);
    assert!(VTD_SECOND_STAGE.is_present(0x1_4020_0002));
    assert!(!VTD_SECOND_STAGE.is_present(0x1_4020_0880));
    assert!(!VTD_SECOND_STAGE.is_leaf(0x1_4020_0003, 2));
    assert_eq!(VTD_SECOND_STAGE.table_address(0x1_4020_0003), TO);
    assert!(!NPT.is_leaf(0x1_4020_00a7, 4));
}

#[test]
fn what_formats_cannot_say() {
    const WRITE_ONLY: Permissions = Permissions { read: false, write: true, execute: false };
    assert!(!HOST.accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(!NPT.accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(!EPT.accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(!VTD_FIRST_STAGE.accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(VTD_FIRST_STAGE.accepts(Permissions::READ, Caching::Coherent));
    assert!(VTD_SECOND_STAGE.accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(!HOST.accepts(Permissions::READ, Caching::WriteCombining));
    assert!(!NPT.accepts(Permissions::READ, Caching::Coherent));
}
