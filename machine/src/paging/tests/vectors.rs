//! Entries as the manuals draw them, as literal numbers.

use crate::addr::HostPhys;
use crate::paging::{Caching, Ept, Format, Host, Npt, Permissions, VtdSecondStage};

const TO: HostPhys = HostPhys(0x1_4020_0000);

#[test]
fn host() {
    // SDM 3A table 4-15..4-20: P 0, R/W 1, U/S 2, PWT 3, PCD 4, A 5, D 6, PS 7, XD 63.
    assert_eq!(Host::table(TO), 0x1_4020_0023);
    assert_eq!(Host::leaf(1, TO, Permissions::READ_WRITE, Caching::WriteBack), 0x8000_0001_4020_0063);
    assert_eq!(Host::leaf(1, TO, Permissions::READ_EXECUTE, Caching::WriteBack), 0x1_4020_0021);
    assert_eq!(Host::leaf(2, TO, Permissions::READ, Caching::WriteBack), 0x8000_0001_4020_00a1);
    assert_eq!(Host::leaf(2, TO, Permissions::READ_WRITE, Caching::Uncached), 0x8000_0001_4020_00fb);
    assert_eq!(Host::leaf(3, HostPhys(0x1_4000_0000), Permissions::ALL, Caching::WriteBack), 0x1_4000_00e3);
}

#[test]
fn npt() {
    // APM2 15.25.5: as long mode, with U/S (bit 2) at every level.
    assert_eq!(Npt::table(TO), 0x1_4020_0027);
    assert_eq!(Npt::leaf(1, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_0067);
    assert_eq!(Npt::leaf(2, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_00e7);
    assert_eq!(Npt::leaf(1, TO, Permissions::READ_WRITE, Caching::Uncached), 0x8000_0001_4020_007f);
    assert_eq!(Npt::leaf(1, TO, Permissions::READ, Caching::WriteBack), 0x8000_0001_4020_0025);
}

#[test]
fn ept() {
    // SDM 3C tables 29-1..29-7: R 0, W 1, X 2, type 5:3 (UC 0, WC 1, WB 6), IPAT 6, leaf 7.
    assert_eq!(Ept::table(TO), 0x1_4020_0007);
    assert_eq!(Ept::leaf(1, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_0037);
    assert_eq!(Ept::leaf(2, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_00b7);
    assert_eq!(Ept::leaf(3, HostPhys(0x1_4000_0000), Permissions::ALL, Caching::Coherent), 0x1_4000_00f7);
    assert_eq!(Ept::leaf(1, TO, Permissions::READ_WRITE, Caching::Uncached), 0x1_4020_0003);
    assert_eq!(Ept::leaf(1, TO, Permissions::READ_WRITE, Caching::WriteCombining), 0x1_4020_000b);
    assert_eq!(Ept::leaf(1, TO, Permissions::READ_EXECUTE, Caching::WriteBack), 0x1_4020_0035);
}

#[test]
fn vtd() {
    // VT-d 9.8: R 0, W 1, PS 7, SNP 11.
    assert_eq!(VtdSecondStage::table(TO), 0x1_4020_0003);
    assert_eq!(VtdSecondStage::leaf(1, TO, Permissions::ALL, Caching::WriteBack), 0x1_4020_0003);
    assert_eq!(VtdSecondStage::leaf(2, TO, Permissions::READ_WRITE, Caching::WriteBack), 0x1_4020_0083);
    assert_eq!(VtdSecondStage::leaf(3, HostPhys(0x1_4000_0000), Permissions::READ, Caching::WriteBack), 0x1_4000_0081);
    assert_eq!(VtdSecondStage::leaf(1, TO, Permissions::READ_WRITE, Caching::Coherent), 0x1_4020_0803);
    assert_eq!(VtdSecondStage::leaf(1, TO, Permissions::READ_WRITE, Caching::Uncached), 0x1_4020_0003);
}

#[test]
fn decode() {
    // Entries as Linux or KVM would write them, with bits of their own.
    assert!(!Host::is_present(0x1_4020_0062));
    assert!(Host::is_leaf(0x8000_0001_4020_01e3, 2));
    assert_eq!(Host::leaf_address(0x8000_0001_4020_11e3, 2), TO);
    assert_eq!(Host::permissions(0x8000_0001_4020_01e3), Permissions::READ_WRITE);
    assert!(!Ept::is_present(0x1_4020_00f8));
    assert!(Ept::is_present(0x1_4020_0004));
    assert_eq!(Ept::caching(0x1_4020_0077), Caching::Coherent);
    assert_eq!(Ept::permissions(0x1_4020_0335), Permissions::READ_EXECUTE);
    assert!(VtdSecondStage::is_present(0x1_4020_0002));
    assert!(!VtdSecondStage::is_present(0x1_4020_0880));
    assert!(!VtdSecondStage::is_leaf(0x1_4020_0003, 2));
    assert_eq!(VtdSecondStage::table_address(0x1_4020_0003), TO);
    assert!(!Npt::is_leaf(0x1_4020_00a7, 4));
}

#[test]
fn what_formats_cannot_say() {
    const WRITE_ONLY: Permissions = Permissions { read: false, write: true, execute: false };
    assert!(!Host::accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(!Npt::accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(!Ept::accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(VtdSecondStage::accepts(WRITE_ONLY, Caching::WriteBack));
    assert!(!Host::accepts(Permissions::READ, Caching::WriteCombining));
    assert!(!Npt::accepts(Permissions::READ, Caching::Coherent));
}
