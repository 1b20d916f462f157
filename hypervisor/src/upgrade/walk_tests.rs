//! Foreign leaves planted in live tables, and tables that are not what they must be, on a unit in software.

use alloc::vec;

use iommu::model::{ModelClock, ModelMemory, ModelUnit};
use iommu::{Platform, Preference, Route, UnitConfig, UnitIndex};
use machine::addr::{GuestPhys, Iova, PAGE_SIZE_1G, PAGE_SIZE_2M};
use machine::paging::{Caching, LeafSizes, NPT, Permissions};

use super::*;

const MIB: u64 = 1 << 20;
const DISK: Bdf = Bdf::from_requester_id(0, 0x0300);
const NIC: Bdf = Bdf::from_requester_id(0, 0x0108);
const DOMAIN: Token = Token(0x600d);
/// Memory of the guest: 1 GiB and 4 MiB in one piece, and a page of its own.
const RAM: Run = Run { base: PAGE_SIZE_1G, bytes: PAGE_SIZE_1G + 4 * MIB };
const PAGE: Run = Run { base: 5 * PAGE_SIZE_1G, bytes: PAGE_SIZE };
/// Where nothing is mapped: within 39 bits.
const FREE: u64 = 128 * PAGE_SIZE_1G;
/// Nobody's memory.
const NOBODYS: u64 = 9 * PAGE_SIZE_1G;

/// CAP with so many levels: SAGAW, MGAW (VT-d 11.4.2).
fn with_levels(cap: u64, levels: u8) -> u64 {
    let width = match levels {
        3 => 38,
        4 => 47,
        _ => 56,
    };
    cap & !(0x3f << 16 | 0x1f << 8) | width << 16 | 1 << (8 + levels - 2)
}

/// A kind of unit: what it can do, and the entries of its tables by hand (VT-d 9.7, 9.8).
#[derive(Clone, Copy)]
struct Kind {
    cap: u64,
    ecap: u64,
    levels: u8,
    link: u64,
    leaf: u64,
}

fn kinds() -> Vec<Kind> {
    let second = |ecap, levels| Kind { cap: with_levels(ModelUnit::CAP, levels), ecap, levels, link: 3, leaf: 3 };
    let (cap, ecap) = (ModelUnit::CAP_FIRST_STAGE, ModelUnit::ECAP_FIRST_STAGE);
    let first = |levels| Kind { cap: with_levels(cap, levels), ecap, levels, link: 0x27, leaf: 0x67 };
    let mut kinds: Vec<Kind> = (3..=5)
        .flat_map(|levels| [second(ModelUnit::ECAP, levels), second(ModelUnit::ECAP_SECOND_STAGE, levels)])
        .collect();
    // Of first stages Baton makes only such.
    kinds.push(first(4));
    kinds
}

struct Machine {
    kind: Kind,
    mem: ModelMemory,
    clock: ModelClock,
    iommu: Iommu<ModelUnit>,
}

impl Machine {
    /// The guest's disk in the guest's domain, everything mapped where the guest sees it.
    fn new(kind: Kind) -> Self {
        let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
        let unit = ModelUnit::new(&mem, kind.cap, kind.ecap);
        let config = UnitConfig {
            base: HostPhys(0xfed9_0000),
            segment: 0,
            register_bytes: 0x1000,
            x2apic: true,
            interrupts: None,
            fault_event: None,
            mode: Preference::Auto,
        };
        let routes = vec![Route::segment(0, UnitIndex(0))];
        let platform = &mut Platform { mem: &mut mem, clock: &clock };
        let mut iommu = Iommu::init_cold(vec![(config, unit)], routes, platform).unwrap();
        iommu.create_domain(platform, DOMAIN).unwrap();
        for (at, run) in [(0, RAM), (2 * PAGE_SIZE_1G, PAGE)] {
            let rights = Permissions::READ_WRITE;
            iommu.map(platform, DOMAIN, Iova(at), HostPhys(run.base), run.bytes, rights).unwrap();
        }
        iommu.attach(platform, DISK, &[], DOMAIN, None).unwrap();
        assert_eq!(iommu.domain(DOMAIN).unwrap().levels(), kind.levels);
        Self { kind, mem, clock, iommu }
    }

    fn check(&self) -> Result<(), String> {
        let before = self.mem.writes();
        let mem = self.mem.clone();
        let result = devices(&self.iommu, &self.mem, &|frame| mem.holds(frame), &[holding()]);
        assert_eq!(self.mem.writes(), before, "a look writes nothing");
        result
    }

    fn place(&mut self, at: u64, level: u8) -> HostPhys {
        let root = self.iommu.domain(DOMAIN).unwrap().root();
        place(&mut self.mem, (root, self.kind.levels), self.kind.link, at, level)
    }

    /// Writes `entry` for `at` in the table of `level`; says what was there.
    fn plant(&mut self, at: u64, level: u8, entry: u64) -> u64 {
        let place = self.place(at, level);
        let before = self.mem.read(place);
        self.mem.write(place, entry);
        before
    }
}

/// The place of the entry for `at` in the table of `level`, which is made where there is none.
fn place(mem: &mut ModelMemory, (root, levels): (HostPhys, u8), link: u64, at: u64, level: u8) -> HostPhys {
    let slot = |table: HostPhys, level: u8| HostPhys(table.0 + (at >> (12 + 9 * (level - 1)) & 511) * 8);
    let mut table = root;
    for above in (level + 1..=levels).rev() {
        let place = slot(table, above);
        if mem.read(place) == 0 {
            let below = mem.allocate().unwrap();
            mem.write(place, below.0 | link);
        }
        table = HostPhys(mem.read(place) & 0xf_ffff_ffff_f000);
    }
    slot(table, level)
}

fn holding() -> Holding<'static> {
    Holding { guest: "web", devices: vec![DISK], io: vec![RAM, PAGE], cpu: vec![RAM, PAGE] }
}

const SIZES: [(u8, u64); 3] = [(1, PAGE_SIZE), (2, PAGE_SIZE_2M), (3, PAGE_SIZE_1G)];

/// The line names guest, device, and both ranges.
fn expect(found: Result<(), String>, host: (u64, u64), iova: (u64, u64)) {
    let line = found.unwrap_err();
    let range = |(start, end): (u64, u64)| format!("{start:#x}..{end:#x}");
    for word in ["guest web", "0000:03:00.0", &range(host), &range(iova), "power the guest off"] {
        assert!(line.contains(word), "{word} is not in: {line}");
    }
}

#[test]
fn law_2_a_foreign_leaf_of_each_size_is_refused_in_every_format() {
    for kind in kinds() {
        let mut machine = Machine::new(kind);
        machine.check().unwrap();
        for (level, bytes) in SIZES {
            let large = if level > 1 { 1 << 7 } else { 0 };
            // Reads alone are enough to be refused, where the format can say that.
            for leaf in [kind.leaf, kind.leaf & !2] {
                let before = machine.plant(FREE, level, NOBODYS | leaf | large);
                expect(machine.check(), (NOBODYS, NOBODYS + bytes), (FREE, FREE + bytes));
                machine.plant(FREE, level, before);
                machine.check().unwrap();
            }
            // In the place of one of its own: the page, the end of its memory, and the beginning are leaves of these sizes.
            let at = u64::from(3 - level) * PAGE_SIZE_1G;
            let before = machine.plant(at, level, NOBODYS | kind.leaf | large);
            assert_ne!(before & !kind.leaf & !large, 0);
            expect(machine.check(), (NOBODYS, NOBODYS + bytes), (at, at + bytes));
            machine.plant(at, level, before);
            machine.check().unwrap();
        }
    }
}

/// A leaf that begins in the guest's memory and ends outside it: the part outside is named.
#[test]
fn law_2_a_leaf_that_sticks_out_is_refused_by_the_part_outside() {
    let end = RAM.base + RAM.bytes;
    for kind in kinds() {
        let mut machine = Machine::new(kind);
        let before = machine.plant(FREE, 3, (2 * PAGE_SIZE_1G) | kind.leaf | 1 << 7);
        expect(machine.check(), (end, 3 * PAGE_SIZE_1G), (FREE + 4 * MIB, FREE + PAGE_SIZE_1G));
        machine.plant(FREE, 3, before);
        let before = machine.plant(FREE, 2, PAGE.base | kind.leaf | 1 << 7);
        let outside = PAGE.base + PAGE.bytes;
        expect(machine.check(), (outside, PAGE.base + PAGE_SIZE_2M), (FREE + PAGE_SIZE, FREE + PAGE_SIZE_2M));
        machine.plant(FREE, 2, before);
        machine.check().unwrap();
    }
}

/// Nothing is remembered: the same question gets another answer as soon as memory has changed.
#[test]
fn law_2_what_belongs_to_another_guest_is_foreign_and_asked_for_live() {
    let mut machine = Machine::new(kinds()[0]);
    machine.check().unwrap();
    let other = Run { base: NOBODYS, bytes: PAGE_SIZE_1G };
    let both = [holding(), Holding { guest: "db", devices: vec![NIC], io: vec![other], cpu: vec![other] }];
    machine.plant(FREE, 1, NOBODYS | machine.kind.leaf);
    let mem = machine.mem.clone();
    let found = devices(&machine.iommu, &machine.mem, &|frame| mem.holds(frame), &both);
    expect(found, (NOBODYS, NOBODYS + PAGE_SIZE), (FREE, FREE + PAGE_SIZE));
    machine.plant(FREE, 1, 0);
    machine.check().unwrap();
}

/// A PASID of a preserved device leads to a domain of its own: that is looked at as well.
#[test]
fn law_2_domains_of_pasids_are_walked() {
    let kind = kinds()[1];
    let mut machine = Machine::new(Kind { ecap: kind.ecap | 1 << 40 | 15 << 35, ..kind });
    let Machine { mem, clock, iommu, .. } = &mut machine;
    let platform = &mut Platform { mem, clock };
    let token = Token(0xbad);
    iommu.create_domain(platform, token).unwrap();
    iommu.map(platform, token, Iova(0), HostPhys(RAM.base), PAGE_SIZE, Permissions::READ).unwrap();
    iommu.attach_pasid(platform, DISK, 5, token).unwrap();
    machine.check().unwrap();
    let Machine { mem, clock, iommu, .. } = &mut machine;
    let platform = &mut Platform { mem, clock };
    iommu.map(platform, token, Iova(0x7000), HostPhys(NOBODYS), PAGE_SIZE, Permissions::READ).unwrap();
    expect(machine.check(), (NOBODYS, NOBODYS + PAGE_SIZE), (0x7000, 0x8000));
}

/// Devices of Baton's own may reach what is no guest's, in a domain of their own.
#[test]
fn law_2_who_is_not_preserved_is_not_asked() {
    let mut machine = Machine::new(kinds()[0]);
    let Machine { mem, clock, iommu, .. } = &mut machine;
    let platform = &mut Platform { mem, clock };
    iommu.create_domain(platform, Token(1)).unwrap();
    iommu.map(platform, Token(1), Iova(0), HostPhys(NOBODYS), PAGE_SIZE_2M, Permissions::READ_WRITE).unwrap();
    iommu.attach(platform, NIC, &[], Token(1), None).unwrap();
    machine.check().unwrap();
    // But a guest's device in a domain without any table is.
    let Machine { mem, clock, iommu, .. } = &mut machine;
    let platform = &mut Platform { mem, clock };
    iommu.detach(platform, DISK).unwrap();
    iommu.create_pass_through(Token(2)).unwrap();
    iommu.attach_pass_through(platform, DISK, &[], Token(2)).unwrap();
    let line = machine.check().unwrap_err();
    assert!(line.contains("domain 0x2") && line.contains("without a page table"), "{line}");
}

/// Tables that somebody has been at: refused, and the walk ends.
#[test]
fn law_2_hostile_tables_are_refused() {
    for kind in kinds() {
        let mut machine = Machine::new(kind);
        let root = machine.iommu.domain(DOMAIN).unwrap().root().0;
        let place = machine.place(FREE, 1).0 & !0xfff;
        let lies = [
            ("a loop", 2, root | kind.link),
            ("a table that is used twice", 2, place | kind.link),
            ("a table in the guest's memory", 2, RAM.base | kind.link),
            ("a table at the end of the address space", 3, 0xf_ffff_ffff_f000 | kind.link),
            ("a leaf where there can be none", kind.levels.max(4), RAM.base | kind.leaf | 1 << 7),
        ];
        for (lie, level, entry) in lies {
            if level > kind.levels {
                continue;
            }
            // Beside what is there, in the same table.
            let at = FREE + (1 << (12 + 9 * (level - 1)));
            let before = machine.plant(at, level, entry);
            let line = machine.check().expect_err(lie);
            assert!(line.contains("page table"), "{lie}: {line}");
            machine.plant(at, level, before);
            machine.check().unwrap();
        }
    }
}

/// The walk begins where the unit begins: an entry that leads elsewhere is not passed over.
#[test]
fn law_2_devices_go_through_these_tables_and_no_others() {
    for kind in [kinds()[0], kinds()[1]] {
        let mut machine = Machine::new(kind);
        let root = machine.iommu.domain(DOMAIN).unwrap().root().0;
        let copy = machine.mem.allocate().unwrap().0;
        let mut changed = 0;
        // Whatever names the root of the domain's tables, the context or the PASID entry, names another.
        for frame in 0..64 {
            for word in 0..512 {
                let place = HostPhys(0x1_0000_0000 + frame * PAGE_SIZE + word * 8);
                let entry = machine.mem.read(place);
                if machine.mem.holds(HostPhys(place.0 & !0xfff)) && entry & 0xf_ffff_ffff_f000 == root && entry & 1 != 0
                {
                    machine.mem.write(place, entry & 0xfff | copy);
                    let line = machine.check().unwrap_err();
                    assert!(line.contains("entry"), "{line}");
                    machine.mem.write(place, entry);
                    changed += 1;
                }
            }
        }
        assert_eq!(changed, 1);
        machine.check().unwrap();
    }
}

/// What virtual CPUs reach: their memory, the BARs of their devices, nothing else.
#[test]
fn law_2_nested_tables_are_walked() {
    let mut mem = ModelMemory::default();
    let mut table = PageTable::new(&mut mem, &NPT, 4, LeafSizes { two_mib: true, one_gib: true }).unwrap();
    let bar = Run { base: 0xfe00_0000, bytes: 4 * PAGE_SIZE };
    let holding = Holding { cpu: sorted([RAM, bar].into_iter()), ..holding() };
    let check = |mem: &ModelMemory, table: &PageTable| processors(table, mem, &|frame| mem.holds(frame), &holding);
    let mut map = |mem: &mut ModelMemory, at: GuestPhys, to: u64, bytes| {
        table.map(mem, at.get(), HostPhys(to), bytes, Permissions::ALL, Caching::WriteBack).unwrap().complete(mem);
    };
    map(&mut mem, GuestPhys(0), RAM.base, RAM.bytes);
    map(&mut mem, GuestPhys(0xc000_0000), bar.base, bar.bytes);
    let root = table.root();
    check(&mem, &table).unwrap();
    for (level, bytes) in SIZES {
        // NPT (APM2 15.25.5): present, writable, user; bit 7 of a large leaf.
        let at = place(&mut mem, (root, 4), 7, FREE, level);
        let before = mem.read(at);
        mem.write(at, NOBODYS | 7 | if level > 1 { 1 << 7 } else { 0 });
        let line = check(&mem, &table).unwrap_err();
        let ranges = [(NOBODYS, NOBODYS + bytes), (FREE, FREE + bytes)].map(|(from, to)| format!("{from:#x}..{to:#x}"));
        assert!(line.contains("guest web: its virtual CPUs reach"), "{line}");
        assert!(ranges.iter().all(|range| line.contains(range)), "{line}");
        mem.write(at, before);
        check(&mem, &table).unwrap();
    }
    for lie in [root.0 | 7, RAM.base | 7] {
        mem.write(HostPhys(root.0 + 8 * 300), lie);
        let line = check(&mem, &table).unwrap_err();
        assert!(line.contains("guest web") && line.contains("nested page tables"), "{line}");
        mem.write(HostPhys(root.0 + 8 * 300), 0);
    }
}
