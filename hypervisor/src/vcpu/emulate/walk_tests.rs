use super::super::super::testing::RecorderBus;
use super::*;
use proptest::prelude::*;

const READ: Access = Access { write: false, fetch: false, user: false };
const WRITE: Access = Access { write: true, fetch: false, user: false };
const USER_WRITE: Access = Access { write: true, fetch: false, user: true };

const LONG: Paging = Paging { cr0: 0x8000_0001, cr3: 0x1000, cr4: 0x20, efer: 0x500 };

fn put(bus: &mut RecorderBus, at: usize, entry: u64) {
    bus.put(at, &entry.to_le_bytes());
}

fn fault(result: Result<GuestPhys, Stop>) -> (u32, u64) {
    match result {
        Err(Stop::Event { event: Event { vector: PF, error_code: Some(code), .. }, cr2: Some(cr2) }) => (code, cr2),
        other => panic!("no page fault: {other:?}"),
    }
}

#[test]
fn no_paging() {
    let mut bus = RecorderBus::with_ram(0);
    let paging = Paging { cr0: 1, cr3: u64::MAX, cr4: 0, efer: 0 };
    assert_eq!(walk(&mut bus, paging, 0x1_fee0_0020, READ), Ok(GuestPhys(0xfee0_0020)));
}

#[test]
fn four_levels() {
    let mut bus = RecorderBus::with_ram(0x5000);
    // ffff_8880_0040_3123: PML4 index 273, PDPT index 0, PD index 2, PT index 3.
    put(&mut bus, 0x1000 + 273 * 8, 0x2007);
    put(&mut bus, 0x2000, 0x3007);
    put(&mut bus, 0x3000 + 2 * 8, 0x4007);
    put(&mut bus, 0x4000 + 3 * 8, 0x8000_0000_fee0_0007);
    let linear = 0xffff_8880_0040_3123;
    assert_eq!(walk(&mut bus, LONG, linear, READ), Ok(GuestPhys(0xfee0_0123)));
    assert_eq!(bus.ram[0x4018], 0x27, "accessed");
    assert_eq!(walk(&mut bus, LONG, linear, WRITE), Ok(GuestPhys(0xfee0_0123)));
    assert_eq!(bus.ram[0x4018], 0x67, "accessed and dirty");
    assert_eq!(bus.ram[0x3010], 0x27, "tables are accessed, never dirty");
    // 2 MiB page: PD index 4.
    put(&mut bus, 0x3000 + 4 * 8, 0xc000_00e7 | 1 << 12); // PAT bit of a large page is no address bit
    assert_eq!(walk(&mut bus, LONG, 0xffff_8880_0081_2345, READ), Ok(GuestPhys(0xc001_2345)));
    // 1 GiB page: PDPT index 1.
    put(&mut bus, 0x2008, 0x1_4000_00e7);
    assert_eq!(walk(&mut bus, LONG, 0xffff_8880_4123_4567, READ), Ok(GuestPhys(0x1_4123_4567)));
    assert_eq!(fault(walk(&mut bus, LONG, 0xffff_8880_0060_0000, USER_WRITE)), (0b110, 0xffff_8880_0060_0000));
}

#[test]
fn not_canonical() {
    let mut bus = RecorderBus::with_ram(0x5000);
    let result = walk(&mut bus, LONG, 0x0000_8000_0000_0000, READ);
    assert_eq!(result, Err(Stop::Event { event: Event::general_protection(), cr2: None }));
}

#[test]
fn rights_are_combined() {
    let mut bus = RecorderBus::with_ram(0x5000);
    put(&mut bus, 0x1000, 0x2007);
    put(&mut bus, 0x2000, 0x3005); // read-only, user
    put(&mut bus, 0x3000, 0x4003); // writable, supervisor
    put(&mut bus, 0x4000, 0x9007);
    assert_eq!(fault(walk(&mut bus, LONG, 0, Access { write: false, fetch: false, user: true })), (0b101, 0));
    assert_eq!(walk(&mut bus, LONG, 0, WRITE), Ok(GuestPhys(0x9000)), "CR0.WP is clear");
    let protected = Paging { cr0: LONG.cr0 | CR0_WP, ..LONG };
    assert_eq!(fault(walk(&mut bus, protected, 0x10, WRITE)), (0b11, 0x10));
}

#[test]
fn five_levels() {
    let mut bus = RecorderBus::with_ram(0x6000);
    let paging = Paging { cr4: 0x20 | CR4_LA57, ..LONG };
    // Bits 56:48 of the address are 1: PML5 index 1.
    put(&mut bus, 0x1008, 0x2007);
    put(&mut bus, 0x2000, 0x3007);
    put(&mut bus, 0x3000, 0x4007);
    put(&mut bus, 0x4000, 0x5007);
    put(&mut bus, 0x5000 + 8, 0x7007);
    assert_eq!(walk(&mut bus, paging, 0x0001_0000_0000_1008, READ), Ok(GuestPhys(0x7008)));
}

#[test]
fn two_levels() {
    let mut bus = RecorderBus::with_ram(0x4000);
    let paging = Paging { cr0: 0x8000_0001, cr3: 0x1000, cr4: 0x10, efer: 0 };
    // c010_2abc: directory 768, table 258.
    bus.put(0x1000 + 768 * 4, &0x2007u32.to_le_bytes());
    bus.put(0x2000 + 258 * 4, &0xfec0_0003u32.to_le_bytes());
    assert_eq!(walk(&mut bus, paging, 0xc010_2abc, WRITE), Ok(GuestPhys(0xfec0_0abc)));
    assert_eq!(bus.ram[0x2000 + 258 * 4], 0x63);
    // 4 MiB page at directory 1, with PSE-36 bits 2: address bits 39:32 are 1 (bit 13).
    bus.put(0x1004, &0x0080_2083u32.to_le_bytes());
    assert_eq!(walk(&mut bus, paging, 0x0040_1234, READ), Ok(GuestPhys(0x1_0080_1234)));
    // Without CR4.PSE the same entry names a table at 80_2000h, which is not RAM.
    let no_pse = Paging { cr4: 0, ..paging };
    assert_eq!(walk(&mut bus, no_pse, 0x0040_1234, READ), Err(Stop::NotRam(GuestPhys(0x80_2004))));
}

#[test]
fn pae() {
    let mut bus = RecorderBus::with_ram(0x5000);
    let paging = Paging { cr0: 0x8000_0001, cr3: 0x1020, cr4: 0x20, efer: 0 };
    // c020_1004: PDPT index 3, PD index 1, PT index 1. The PDPT entry has no rights and no accessed bit.
    put(&mut bus, 0x1020 + 3 * 8, 0x2001);
    put(&mut bus, 0x2008, 0x3007);
    put(&mut bus, 0x3008, 0xf_fee0_0007);
    assert_eq!(walk(&mut bus, paging, 0xc020_1004, USER_WRITE), Ok(GuestPhys(0xf_fee0_0004)));
    assert_eq!(bus.ram[0x1020 + 24], 0x01, "PDPT entries stay as they are");
    put(&mut bus, 0x2010, 0x60_00e3);
    assert_eq!(walk(&mut bus, paging, 0xc045_6789, READ), Ok(GuestPhys(0x65_6789)));
}

#[test]
fn tables_that_point_to_themselves_end() {
    let mut bus = RecorderBus::with_ram(0x2000);
    put(&mut bus, 0x1000, 0x1007);
    assert_eq!(walk(&mut bus, LONG, 0, READ), Ok(GuestPhys(0x1000)));
}

proptest! {
    #[test]
    fn any_table_and_any_mode(
        ram in proptest::collection::vec(any::<u8>(), 0x3000..0x3001),
        cr3 in prop_oneof![0u64..0x3000, any::<u64>()],
        (cr0, cr4, efer, linear) in any::<(u64, u64, u64, u64)>(),
        (write, fetch, user) in any::<(bool, bool, bool)>(),
    ) {
        let mut bus = RecorderBus::with_ram(0);
        bus.ram = ram;
        let paging = Paging { cr0, cr3, cr4, efer };
        if let Ok(GuestPhys(gpa)) = walk(&mut bus, paging, linear, Access { write, fetch, user }) {
            prop_assert_eq!(gpa & 0xfff, linear & 0xfff);
            prop_assert!(gpa >> 52 == 0);
        }
    }
}
