//! The policy against a made-up host that has everything.

use super::*;

const CONFIG: CpuidConfig = CpuidConfig {
    vcpus: 3,
    physical_bits: 40,
    xcr0: 0xE7,
    tsc_khz: 2_400_000,
    speculation_control: false,
    hide_xsavec: false,
};

/// GenuineIntel or AuthenticAMD with all feature bits set.
fn host(amd: bool) -> impl Fn(u32, u32) -> CpuidResult {
    move |leaf, subleaf| match (leaf, subleaf) {
        (0, _) if amd => [0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65],
        (0, _) => [0x20, 0x756E_6547, 0x6C65_746E, 0x4965_6E69],
        (1, _) => [0x0005_0654, 0x1E40_0800, u32::MAX, u32::MAX],
        (4 | 0x8000_001D, 0) => [0x3C00_4121, 0x01C0_003F, 0x3F, 0],
        (4 | 0x8000_001D, 1) => [0x3C07_C163, 0x0280_003F, 0xFFFF, 4],
        (4 | 0x8000_001D, _) => [0; 4],
        (7, 0) => [2, u32::MAX, u32::MAX, u32::MAX],
        // Components as on a Skylake server: AVX, MPX, AVX-512, PKRU.
        (0xD, 0) => [0x2FF, 0xA88, 0xA88, 0],
        (0xD, 1) => [0xF, 0xA08, 0x100, 0],
        (0xD, 2) => [256, 576, 0, 0],
        (0xD, 5) => [64, 1088, 0, 0],
        (0xD, 6) => [512, 1152, 0, 0],
        (0xD, 7) => [1024, 1664, 0, 0],
        (0xD, 9) => [8, 2688, 0, 0],
        (0x8000_0000, _) => [0x8000_0028, 0, 0, 0],
        (0x8000_0008, _) => [0x0039_392E, u32::MAX, u32::MAX, u32::MAX],
        (0x4000_0000.., _) if leaf < 0x8000_0000 => [7; 4],
        _ => [u32::MAX; 4],
    }
}

fn view(cr4: u64, xcr0: u64) -> CpuView {
    CpuView { cr4, xcr0 }
}

fn ask(amd: bool, leaf: u32, subleaf: u32) -> CpuidResult {
    CpuidTable::new(&CONFIG, &host(amd)).query(leaf, subleaf, 2, view(0, 1))
}

#[test]
fn kvm_signature_and_features() {
    let [last, b, c, d] = ask(false, 0x4000_0000, 0);
    assert_eq!(last, 0x4000_0010);
    let text: Vec<u8> = [b, c, d].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(text, b"KVMKVMKVM\0\0\0");
    assert_eq!(ask(false, 0x4000_0001, 0), [0x0100_000B, 0, 0, 0]);
    assert_eq!(ask(false, 0x4000_0010, 0), [2_400_000, 2_400_000, 0, 0]);
    assert_eq!(ask(false, 0x4000_0002, 0), [0; 4]);
}

#[test]
fn leaf_1() {
    let [version, misc, ecx, edx] = ask(false, 1, 0);
    assert_eq!(version, 0x0005_0654);
    // APIC id 2, 4 ids, CLFLUSH of 64 bytes.
    assert_eq!(misc, 0x0204_0800);
    for (bit, name) in [(21, "x2APIC"), (24, "TSC deadline"), (31, "hypervisor"), (26, "XSAVE"), (28, "AVX")] {
        assert_ne!(ecx & 1 << bit, 0, "{name}");
    }
    for (bit, name) in [
        (2, "DTES64"),
        (3, "MONITOR"),
        (5, "VMX"),
        (6, "SMX"),
        (7, "EST"),
        (8, "TM2"),
        (15, "PDCM"),
        (18, "DCA"),
        (27, "OSXSAVE"),
    ] {
        assert_eq!(ecx & 1 << bit, 0, "{name}");
    }
    for (bit, name) in [(18, "PSN"), (21, "DS"), (22, "ACPI"), (29, "TM"), (31, "PBE")] {
        assert_eq!(edx & 1 << bit, 0, "{name}");
    }
    for (bit, name) in [(9, "APIC"), (12, "MTRR"), (16, "PAT"), (28, "HTT")] {
        assert_ne!(edx & 1 << bit, 0, "{name}");
    }
    let table = CpuidTable::new(&CONFIG, &host(false));
    assert_ne!(table.query(1, 0, 0, view(1 << 18, 1))[2] & 1 << 27, 0);
}

#[test]
fn leaf_7_hides_what_is_not_handled() {
    let [last, ebx, ecx, edx] = ask(false, 7, 0);
    assert_eq!(last, 1);
    for bit in [1, 2, 4, 11, 12, 14, 15, 22, 25] {
        assert_eq!(ebx & 1 << bit, 0, "EBX {bit}");
    }
    // PKU, WAITPKG, CET, LA57, ENQCMD, SGX_LC, PKS.
    for bit in [3, 4, 5, 7, 13, 16, 23, 24, 29, 30, 31] {
        assert_eq!(ecx & 1 << bit, 0, "ECX {bit}");
    }
    // UINTR, hybrid, PCONFIG, LBR, IBT, AMX, SPEC_CTRL, ARCH_CAPABILITIES.
    for bit in [5, 15, 18, 19, 20, 22, 24, 25, 26, 27, 28, 29, 30, 31] {
        assert_eq!(edx & 1 << bit, 0, "EDX {bit}");
    }
    assert_ne!(ebx & 1 << 16, 0, "AVX512F");
    let open = CpuidConfig { speculation_control: true, xcr0: 0x207, ..CONFIG };
    let table = CpuidTable::new(&open, &host(false));
    let [_, ebx, ecx, edx] = table.query(7, 0, 0, view(1 << 22, 1));
    assert_eq!(ebx & 1 << 16, 0, "no AVX-512 without its state");
    assert_eq!(ecx & 0x18, 0x18, "PKU and OSPKE");
    assert_ne!(edx & 1 << 26, 0);
    let table = CpuidTable::new(&CpuidConfig { xcr0: 3, ..CONFIG }, &host(false));
    assert_eq!(table.query(7, 0, 0, view(0, 1))[1] & 1 << 5, 0, "no AVX2 without AVX");
}

#[test]
fn no_performance_counters_or_power_management() {
    assert_eq!(ask(false, 0xA, 0), [0; 4]);
    assert_eq!(ask(false, 5, 0), [0; 4]);
    assert_eq!(ask(false, 6, 0), [4, 0, 0, 0]);
    for leaf in [0xF, 0x10, 0x12, 0x14, 0x15, 0x16, 0x18, 0x1A, 0x1D, 0x1F, 0x8000_000A, 0x8000_001B, 0x8000_001F] {
        assert_eq!(ask(true, leaf, 0), [0; 4], "{leaf:#x}");
        assert_eq!(ask(false, leaf, 0), [0; 4], "{leaf:#x}");
    }
    assert_eq!(ask(false, 0, 0)[0], 0xD);
}

#[test]
fn topology_is_consistent() {
    assert_eq!(ask(false, 0xB, 0), [0, 1, 0x100, 2]);
    assert_eq!(ask(false, 0xB, 1), [2, 3, 0x201, 2]);
    assert_eq!(ask(false, 0xB, 2), [0, 0, 2, 2]);
    // L1 private, L3 shared by four ids, four core ids in the package.
    assert_eq!(ask(false, 4, 0)[0], 0x0C00_0121);
    assert_eq!(ask(false, 4, 1)[0], 0x0C00_C163);
    assert_eq!(ask(false, 4, 2), [0; 4]);
    assert_eq!(ask(true, 0x8000_001D, 1)[0], 0x0000_C163);
    assert_eq!(ask(true, 0x8000_001E, 0), [2, 2, 0, 0]);
    assert_eq!(ask(true, 0x8000_0008, 0)[2], 0x2002);
    let one = CpuidTable::new(&CpuidConfig { vcpus: 1, ..CONFIG }, &host(false));
    assert_eq!(one.query(0xB, 1, 0, view(0, 1)), [0, 1, 0x201, 0]);
    assert_eq!(one.query(1, 0, 0, view(0, 1))[3] & 1 << 28, 0);
}

#[test]
fn extended_leaves() {
    let [eax, ebx, _, edx] = ask(true, 0x8000_0008, 0);
    assert_eq!(eax, 0x0000_3028);
    assert_eq!(ebx, 0x0000_0205);
    assert_eq!(edx, 0);
    let [_, _, ecx, edx] = ask(true, 0x8000_0001, 0);
    // SVM, EXTAPIC, OSVW, IBS, SKINIT, WDT, LWP, perf counters, MWAITX.
    for bit in [2, 3, 9, 10, 12, 13, 15, 23, 24, 26, 28, 29] {
        assert_eq!(ecx & 1 << bit, 0, "ECX {bit}");
    }
    assert_ne!(ecx & 2, 0, "CMP_LEGACY");
    assert_eq!(edx & (1 << 20 | 1 << 27 | 1 << 29 | 1 << 11), 1 << 20 | 1 << 27 | 1 << 29 | 1 << 11);
    assert_eq!(ask(false, 0x8000_0007, 0), [0, 0, 0, 0x100]);
    assert_eq!(ask(true, 0x8000_0000, 0)[0], 0x8000_0021);
    assert_eq!(ask(true, 0x8000_0002, 0), [u32::MAX; 4]);
}

#[test]
fn extended_state_sizes_follow_xcr0() {
    let table = CpuidTable::new(&CONFIG, &host(false));
    let size = |xcr0| table.query(0xD, 0, 0, view(0, xcr0));
    assert_eq!(size(1), [0xE7, 576, 2688, 0]);
    assert_eq!(size(7)[1], 832);
    assert_eq!(size(0xE7)[1], 2688);
    // MPX and PKRU are not offered.
    assert_eq!(table.query(0xD, 9, 0, view(0, 1)), [0; 4]);
    // No XSAVES, no XFD; the compacted area of 0xE7 has no hole for MPX.
    assert_eq!(table.query(0xD, 1, 0, view(0, 0xE7)), [7, 576 + 256 + 64 + 512 + 1024, 0, 0]);
    let hidden = CpuidTable::new(&CpuidConfig { hide_xsavec: true, ..CONFIG }, &host(false));
    assert_eq!(hidden.query(0xD, 1, 0, view(0, 7)), [5, 0, 0, 0]);
}

#[test]
fn a_host_without_xsave() {
    let bare = |leaf: u32, subleaf: u32| {
        let mut values = host(false)(leaf, subleaf);
        if leaf == 1 {
            values[2] &= !(1 << 26);
        }
        values
    };
    let table = CpuidTable::new(&CONFIG, &bare);
    assert_eq!(table.query(1, 0, 0, view(0, 1))[2] & (1 << 26 | 1 << 28 | 1 << 12), 0);
    assert_eq!(table.query(0xD, 0, 0, view(0, 1)), [0; 4]);
}

#[test]
fn the_table_survives_an_upgrade() {
    let table = CpuidTable::new(&CONFIG, &host(true));
    assert_eq!(CpuidTable::restore(table.entries().to_vec()), Ok(table.clone()));
    let mut damaged = table.entries().to_vec();
    damaged.swap(3, 4);
    assert!(CpuidTable::restore(damaged).is_err());
}

#[test]
fn hostile_numbers_do_not_panic() {
    for value in [0, 1, u32::MAX] {
        let table = CpuidTable::new(&CpuidConfig { vcpus: value, ..CONFIG }, &|_, _| [value; 4]);
        for leaf in (0..0x30).chain(0x8000_0000..0x8000_0030) {
            let _ = table.query(leaf, value, value, view(u64::MAX, u64::MAX));
        }
    }
}

/// SDM 2A, CPUID: AVX2 is leaf 7 EBX bit 5, XSAVEC leaf 0xD.1 EAX bit 1; XCR0 bit 9 is PKRU's.
#[test]
fn features_that_went_away_are_named() {
    let told = CpuidTable::new(&CONFIG, &host(true));
    assert_eq!(offer::check(told.entries(), &told), Ok(()));
    // More than before is no harm.
    let fewer = CpuidTable::new(&CpuidConfig { xcr0: 3, ..CONFIG }, &host(true));
    assert_eq!(offer::check(fewer.entries(), &told), Ok(()));
    let gone = |leaf, subleaf, register, bit: u32| {
        let without = |l: u32, s: u32| {
            let mut values = host(true)(l, s);
            if (l, s) == (leaf, subleaf) {
                values[register] &= !(1 << bit);
            }
            values
        };
        let offered = CpuidTable::new(&CONFIG, &without);
        let missing = offer::check(told.entries(), &offered).unwrap_err();
        assert_eq!(
            (missing.leaf, missing.subleaf, missing.register, missing.bits),
            (leaf, subleaf, register, 1 << bit)
        );
        missing
    };
    let text = alloc::format!("{}", gone(7, 0, 1, 5));
    assert!(text.contains("CPUID 0x7.0 EBX bits 0x20") && text.contains("power it off"), "{text}");
    gone(0xD, 1, 0, 1);
    gone(0x8000_0001, 0, 3, 20);
    gone(1, 0, 2, 30);
    let states = CpuidTable::new(&CpuidConfig { xcr0: 7, ..CONFIG }, &host(true));
    assert!(offer::check(told.entries(), &states).is_err());
}

/// The quick way to a leaf says what a search for it does.
#[test]
fn basic_leaves_without_a_search() {
    for amd in [false, true] {
        let table = CpuidTable::new(&CONFIG, &host(amd));
        let found = |leaf, subleaf| {
            let entry = table.entries().iter().find(|entry| (entry.leaf, entry.subleaf) == (leaf, subleaf));
            entry.map_or([0; 4], |entry| entry.values)
        };
        for leaf in [0, 2, 3, 5, 6, 8, 9, 0xA, 0xC, 0xE, 0x1F, 0x20, 0x1_0000] {
            for subleaf in [0, 1, 7, u32::MAX] {
                assert_eq!(table.query(leaf, subleaf, 2, view(u64::MAX, 7)), found(leaf, 0), "{leaf:#x} {subleaf}");
            }
        }
        for subleaf in 0..4 {
            assert_eq!(table.query(4, subleaf, 2, view(0, 1)), found(4, subleaf), "4 {subleaf}");
        }
        assert_ne!(table.query(1, 0, 2, view(0, 1)), table.query(1, 0, 1, view(0, 1)), "an APIC id of its own");
    }
}
