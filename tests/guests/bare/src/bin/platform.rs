//! A guest that checks its firmware's tables and its PCI bus against the specifications, moves its disk's registers about, resets the
//! disk, and then works on it where it is: what is not as it has to be ends it with `guest failed: ...`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![expect(unsafe_code, reason = "tables of the firmware's, page tables and registers of its own")]

extern crate alloc;

use alloc::vec::Vec;

use bareguest::edu::{self, Edu};
use bareguest::nvme::{self, Nvme};
use bareguest::{devices, guest, interrupts, load, println};
use machine::access::Width;
use machine::addr::HostPhys;
use machine::cpu::control;
use machine::cpu::port::PortRange;
use machine::mmio::MmioRegion;
use machine::pci::{self, Bdf, Command, ConfigSpace, Ecam, Express, LegacyConfig, Msi, id};

guest!(run);

/// Where a guest looks for the RSDP first (ACPI 6.5, 5.2.5.1).
const RSDP: u64 = 0xe_0000;
/// FADT flags: HW_REDUCED_ACPI, RESET_REG_SUP (ACPI 6.5, table 5.10).
const HARDWARE_REDUCED: u32 = 1 << 20 | 1 << 10;
/// The windows that _CRS gives the bus; a place in each where nothing is.
const LOW_WINDOW: core::ops::Range<u64> = 0xc000_0000..0xe000_0000;
const HIGH_WINDOW: core::ops::Range<u64> = 0x40_0000_0000..0x50_0000_0000;
const ELSEWHERE: u64 = 0xd800_0000;
const HIGH: u64 = 0x41_0000_0000;
/// NVMe 1.4 3.1: capabilities, configuration.
const CAP: usize = 0;
const CC: usize = 0x14;
/// Express: initiate FLR (PCIe 7.5.3.4); FLR is there (7.5.3.3). Its time (6.6.2).
const INITIATE_FLR: u16 = 1 << 15;
const HAS_FLR: u32 = 1 << 28;
const FLR_MS: u64 = 100;
/// The vector of MSI, how many messages are sent, how long one may take, and how long none may come.
const MESSAGE: u8 = interrupts::DEVICES + 8;
const MESSAGES: u32 = 3;
const PATIENCE_MS: u64 = 1000;
const SILENCE_MS: u64 = 20;
/// A leaf of 1 GiB: present, writable, uncached (SDM 3A 4.5).
const LEAF_1G: u64 = 0x9b;

fn run(_: &str) {
    tables();
    let config = devices::config();
    let disk = *devices::find(nvme::IDS.0, nvme::IDS.1).first().expect("a disk");
    bus(&config);
    function(&config, disk);
    reset(&config, disk);
    messages(&config);
    map_high();
    moved(&config, disk, HIGH);
    println!("platform: the disk works at {HIGH:#x}");
    if let Some(disk) = Nvme::all().first_mut() {
        load::run(disk);
    }
}

/// `N` bytes of physical memory, which is mapped one to one.
fn bytes<const N: usize>(at: u64) -> [u8; N] {
    // SAFETY: plain memory below 4 GiB, which nobody writes to.
    unsafe { (at as *const [u8; N]).read_unaligned() }
}

fn word(at: u64) -> u32 {
    u32::from_le_bytes(bytes(at))
}

fn long(at: u64) -> u64 {
    u64::from_le_bytes(bytes(at))
}

fn sum(at: u64, length: u64) -> u8 {
    (at..at + length).fold(0, |sum: u8, at| sum.wrapping_add(bytes::<1>(at)[0]))
}

/// ACPI 6.5, 5.2: signatures, lengths, checksums, and what a hardware-reduced platform has.
fn tables() {
    assert_eq!(&bytes::<8>(RSDP), b"RSD PTR ");
    assert!(bytes::<1>(RSDP + 15)[0] >= 2 && sum(RSDP, 20) == 0 && sum(RSDP, 36) == 0, "the RSDP's revision or sums");
    let xsdt = long(RSDP + 24);
    assert_eq!((&bytes::<4>(xsdt), sum(xsdt, word(xsdt + 4).into())), (b"XSDT", 0));
    let entries = (36..u64::from(word(xsdt + 4))).step_by(8).map(|entry| long(xsdt + entry));
    let found: Vec<(u64, [u8; 4])> = entries.map(|table| (table, bytes(table))).collect();
    for (table, signature) in &found {
        assert_eq!(sum(*table, word(table + 4).into()), 0, "the checksum of {signature:?}");
    }
    let find = |signature: &[u8; 4]| found.iter().find(|(_, known)| known == signature).expect("a table").0;
    let fadt = find(b"FACP");
    assert_eq!(word(fadt + 112) & HARDWARE_REDUCED, HARDWARE_REDUCED, "FADT flags");
    // Reset register: I/O space, 0xCF9.
    assert_eq!((bytes::<1>(fadt + 116)[0], long(fadt + 120)), (1, 0xcf9));
    let dsdt = long(fadt + 140);
    assert_eq!((&bytes::<4>(dsdt), sum(dsdt, word(dsdt + 4).into())), (b"DSDT", 0));
    // MADT: entries of type 0 (local APIC) and 1 (IOAPIC), from 44 on (5.2.12).
    let madt = find(b"APIC");
    let (mut at, end, mut cpus, mut ioapics) = (madt + 44, madt + u64::from(word(madt + 4)), 0, Vec::new());
    while at < end {
        let [kind, length] = bytes(at);
        assert!(length >= 2, "an entry of the MADT without end");
        match kind {
            0 => cpus += word(at + 4) & 1,
            1 => ioapics.push(word(at + 4)),
            _ => {}
        }
        at += u64::from(length);
    }
    assert_eq!((cpus, ioapics.as_slice()), (1, &[0xfec0_0000][..]));
    // MCFG: one segment, bus 0 (PCI firmware specification 3.3, 4.1.2).
    let mcfg = find(b"MCFG");
    assert_eq!((word(mcfg + 4), long(mcfg + 44), bytes::<4>(mcfg + 52)), (60, 0xe000_0000, [0; 4]));
    println!("platform: ACPI tables {}", found.len() + 1);
}

/// The same by ports and by ECAM; nobody where nobody is.
fn bus(config: &Ecam) {
    // SAFETY: configuration mechanism 1, which this guest has for itself.
    let ports = LegacyConfig::new(unsafe { PortRange::new(0xcf8, 0xcff) });
    let mut there = 0;
    for function in 0..256 {
        let bdf = Bdf::from_requester_id(0, function);
        let identity = config.read32(bdf, 0);
        assert_eq!(ports.read32(bdf, 0), identity, "{bdf} by ports");
        if identity == u32::MAX {
            continue;
        }
        there += 1;
        for register in (0..256).step_by(4) {
            assert_eq!(
                ports.read32(bdf, register),
                config.read32(bdf, register),
                "{bdf} register {register:#x} by ports"
            );
            let halves = [0, 2].map(|half| u32::from(config.read16(bdf, register + half)));
            let single = [0, 1, 2, 3].map(|byte| config.read8(bdf, register + byte));
            assert_eq!(
                halves[0] | halves[1] << 16,
                config.read32(bdf, register),
                "{bdf} register {register:#x} by halves"
            );
            assert_eq!(
                u32::from_le_bytes(single),
                config.read32(bdf, register),
                "{bdf} register {register:#x} by bytes"
            );
        }
    }
    // Another bus has nobody.
    assert_eq!(ports.read32(Bdf::from_requester_id(0, 1 << 8), 0), u32::MAX);
    assert_eq!(config.read32(Bdf::from_requester_id(0, 0), 8) >> 16, 0x0600, "function 0 is no host bridge");
    println!("platform: functions {there}, the same by ports and by ECAM");
}

/// The disk's header: only what is virtual, no ROM, no line, registers that move.
fn function(config: &Ecam, disk: Bdf) {
    let known = [1, id::MSI, id::EXPRESS, id::MSIX].map(u16::from);
    let found: Vec<u16> = pci::capabilities(config, disk).map(|capability| capability.id).collect();
    assert!(found.iter().all(|id| known.contains(id)), "capabilities {found:x?}");
    assert!(found.contains(&id::MSIX.into()) && found.contains(&id::EXPRESS.into()), "capabilities {found:x?}");
    assert_eq!(pci::extended_capabilities(config, disk).count(), 0);
    assert_eq!(config.read8(disk, 0x3d), 0, "the interrupt pin");
    config.write(disk, 0x30, Width::Long, u32::MAX);
    assert_eq!(config.read32(disk, 0x30), 0, "the expansion ROM");
    let first = devices::bar_address(config, disk, 0);
    assert!(LOW_WINDOW.contains(&first) || HIGH_WINDOW.contains(&first), "BAR 0 at {first:#x}");
    // Its size (PCI 3.0 6.2.5.1), with decoding off.
    Command::empty().write(config, disk);
    write_bar(config, disk, u64::MAX);
    let mask = u64::from(config.read32(disk, 0x10) & !0xf) | u64::from(config.read32(disk, 0x14)) << 32;
    let size = mask.wrapping_neg();
    assert!(size.is_power_of_two() && size >= 0x2000, "BAR 0 has {size:#x} bytes");
    write_bar(config, disk, first);
    let capabilities = registers(config, disk, first).read_u64(CAP);
    assert!(capabilities != 0 && capabilities != u64::MAX);
    moved(config, disk, ELSEWHERE);
    assert_eq!(registers(config, disk, ELSEWHERE).read_u64(CAP), capabilities, "the disk elsewhere");
    // SAFETY: in the window, mapped and uncached; nothing is there any more.
    let left = unsafe { MmioRegion::new(HostPhys(first), 0x1000) };
    assert_eq!(left.read_u64(CAP), u64::MAX, "something is left where the disk was");
    println!("platform: capabilities {found:x?}, BAR 0 of {size:#x} bytes moved");
}

/// A function level reset leaves nothing as it was, and the function comes back.
fn reset(config: &Ecam, disk: Bdf) {
    let express = pci::find(config, disk, id::EXPRESS, 12).expect("an Express capability");
    assert!(config.read32(disk, express + 4) & HAS_FLR != 0, "the disk has no FLR");
    let before = registers(config, disk, ELSEWHERE);
    before.write_u32(CC, 0x0046_0000);
    assert_eq!(before.read_u32(CC), 0x0046_0000);
    config.write(disk, express + 8, Width::Word, INITIATE_FLR.into());
    interrupts::sleep_ms(FLR_MS);
    assert_eq!((config.read16(disk, 4), config.read32(disk, 0x10) & !0xf), (0, 0), "command or BAR 0 after the reset");
    assert!(Express::find(config, disk).is_some());
    let after = registers(config, disk, ELSEWHERE);
    assert_eq!(after.read_u32(CC), 0, "the disk was not reset");
    println!("platform: reset by FLR");
}

/// MSI through configuration space (PCIe 7.7.1): each one arrives, once; without it nothing does, for the line leads nowhere.
fn messages(config: &Ecam) {
    let device = *devices::find(edu::IDS.0, edu::IDS.1).first().expect("the device for teaching");
    let (teacher, msi) = (Edu::find().expect("its registers"), Msi::find(config, device).expect("its MSI capability"));
    let (address, data) = interrupts::message(MESSAGE);
    msi.set_message(config, address, data as u16);
    msi.set_enabled(config, true);
    for sent in 1..=MESSAGES {
        teacher.raise();
        interrupts::sleep_unless(PATIENCE_MS, || interrupts::count(MESSAGE) >= sent);
        teacher.acknowledge();
        assert_eq!(interrupts::count(MESSAGE), sent, "messages that arrived");
    }
    msi.set_enabled(config, false);
    teacher.raise();
    interrupts::sleep_ms(SILENCE_MS);
    teacher.acknowledge();
    assert_eq!(interrupts::count(MESSAGE), MESSAGES, "messages that arrived, MSI off");
    println!("platform: messages {MESSAGES} by MSI");
}

/// BAR 0, both halves: it has 64 bits.
fn write_bar(config: &Ecam, disk: Bdf, address: u64) {
    config.write(disk, 0x10, Width::Long, address as u32);
    config.write(disk, 0x14, Width::Long, (address >> 32) as u32);
}

/// Puts BAR 0 to `address`, as a kernel does that finds its place wanting; decoding is on afterwards.
fn moved(config: &Ecam, disk: Bdf, address: u64) {
    Command::empty().write(config, disk);
    write_bar(config, disk, address);
    Command::MEMORY.write(config, disk);
    assert_eq!(devices::bar_address(config, disk, 0), address, "BAR 0 does not keep its address");
}

/// The registers in BAR 0, which is at `address` from now on.
fn registers(config: &Ecam, disk: Bdf, address: u64) -> MmioRegion {
    moved(config, disk, address);
    devices::bar(config, disk, 0)
}

/// Maps the first GiB of the window above all memory one to one: the kit's tables end at 4 GiB.
fn map_high() {
    let root = control::cr3() & !0xfff;
    let directory = long(root) & 0xf_ffff_ffff_f000;
    let entry = (directory + (HIGH >> 30) * 8) as *mut u64;
    // SAFETY: the entry is of the guest's own tables, maps nothing yet, and is not cached: it was not present.
    unsafe { entry.write_volatile(HIGH | LEAF_1G) };
}
