//! Views of sample data.

use alloc::vec;

use handover::phase::{END, Phase};
use handover::state::name_field;
use iommu::intel::spec::faults::{Qualifiers, Reason};
use zerocopy::FromZeros;

use super::*;

#[test]
fn memory_by_owner() {
    // 1 GiB of QEMU's q35 as SeaBIOS reports it, below 1 MiB left out.
    let ranges = [(0x10_0000, 0x3fee_0000, true), (0x3ffe_0000, 0x2_0000, false)];
    let mut regions = RegionMap::from_firmware(ranges.into_iter());
    regions.claim(0x20_0000, 8 << 20, Owner::Slot(0)).unwrap();
    regions.claim(0x100_0000, 8 << 20, Owner::Arena).unwrap();
    regions.claim(0x200_0000, 64 << 10, Owner::Scratch).unwrap();
    regions.claim(0x1000_0000, 512 << 20, Owner::Object(9)).unwrap();
    regions.claim(0x300_0000, 4096, Owner::Module(0)).unwrap();
    let view = memory(&regions);
    assert_eq!(view.total_bytes, 0x3fee_0000);
    assert_eq!(view.hypervisor_bytes, (16 << 20) + (64 << 10));
    assert_eq!(view.guest_bytes, 512 << 20);
    assert_eq!(view.total_bytes - view.hypervisor_bytes - view.guest_bytes - view.free_bytes, 4096);
}

/// The registers of QEMU 9's intel-iommu with `intremap=on,eim=on`: GSTS as it shows TES, RTPS, QIES, IRES, IRTPS.
#[test]
fn a_unit_by_its_live_registers() {
    let live = [0xc700_0000, 0x7f_e000, 0x7f_d80f, 0x10, 0x00d2_008c_222f_0686, 0x00f0_0f5e];
    let unit = unit(HostPhys(0xfed9_0000), live, 3);
    assert_eq!(unit.version, "1.0");
    assert!(unit.translation_enabled && unit.interrupt_remapping_enabled);
    assert_eq!((unit.root_table, unit.interrupt_table, unit.faults_total), (Hex(0x7f_e000), Hex(0x7f_d80f), 3));
    let off = super::unit(HostPhys(0xfed9_0000), [0x4000_0000, 0, 0, 0x10, 0, 0], 0);
    assert!(!off.translation_enabled && !off.interrupt_remapping_enabled);
}

/// Entries put together by VT-d 9.10: P, V in 23:16, DST in 63:32, SID in 79:64, SVT = 1 in 83:82.
#[test]
fn remapping_entries_in_both_apic_modes() {
    let entry = |low, high, index| IrteState { unit: 0xfed9_0000, low, high, index, owner: None };
    let snapshot = |irta| Snapshot {
        units: vec![UnitState { base: 0xfed9_0000, irta, ..UnitState::default() }],
        irtes: vec![
            entry(0x0000_0001_00f3_0001, 0x4_0100, 5),
            entry(0, 0x4_0300, 6),
            entry(0x0000_0200_0031_0001, 0x4_0300, 7),
        ],
        ..Snapshot::default()
    };
    let x2apic = interrupts(&snapshot(0x7f_d809));
    assert_eq!(x2apic.len(), 2, "an entry that is not present lets nothing through");
    assert_eq!(x2apic[0], Interrupt { index: 5, source: "0000:01:00.0".into(), vector: 0xf3, destination: 1 });
    let xapic = interrupts(&snapshot(0x7f_d009));
    assert_eq!((xapic[1].destination, xapic[1].vector, xapic[1].index), (2, 0x31, 7));
}

/// A write that QEMU's unit blocked: FR 5, the page in FI.
#[test]
fn a_fault_in_words() {
    let seen = iommu::Fault {
        unit: HostPhys(0xfed9_0000),
        device: Bdf::from_requester_id(0, 0x300),
        reason: Reason(5),
        access: Access::Write,
        address: machine::addr::Iova(0x1234_5000),
        pasid: Some(7),
        qualifiers: Qualifiers::default(),
    };
    let view = fault(&FaultLine { fault: seen, count: 3, reported: 1, reported_at: 9 }, Some("web".into()));
    assert_eq!((view.source.as_str(), view.owner.as_str(), view.kind.as_str()), ("0000:03:00.0", "web", "write"));
    assert_eq!((view.words, view.reason, view.address), ("no write permission", Hex(5), Hex(0x1234_5000)));
    assert_eq!((view.count, view.pasid), (3, Some(7)));
}

fn record(outcome: u32, phases: &[(usize, u64)]) -> ReportV1 {
    let mut record = ReportV1 {
        sequence: 4,
        generation: 3,
        outcome,
        from_version: name_field("0.1.0+1").unwrap(),
        from_build: [0xab; 32],
        ..ReportV1::new_zeroed()
    };
    for (index, tsc) in phases {
        record.phase_tsc[*index] = *tsc;
    }
    record
}

#[test]
fn phases_of_a_commit_and_its_pause() {
    let record = record(
        1,
        &[
            (0, 100),
            (1, 1_100),
            (2, 1_300),
            (3, 2_000),
            (4, 2_010),
            (5, 2_030),
            (6, 2_035),
            (7, 2_036),
            (8, 2_050),
            (END, 2_500),
        ],
    );
    let view = upgrade(UpgradeState::Idle, Progress::default(), None, &[record]);
    let report = view.last.unwrap();
    assert_eq!((report.id, report.generation, report.outcome), (4, 3, Outcome::Committed));
    assert_eq!((report.phases.stage, report.phases.plan, report.phases.warm), (1_000, 200, 700));
    assert_eq!((report.phases.freeze, report.phases.run, report.phases.retire), (10, 14, 450));
    assert_eq!(report.pause_ticks, 50, "FREEZE to the end of RUN");
    assert_eq!((report.from_version.as_str(), report.to_version.as_str()), ("0.1.0+1", ""));
    assert!(report.from.starts_with("abab") && report.to.is_empty());
}

#[test]
fn what_did_not_commit_stays_in_its_generation() {
    let refused = record(3, &[(Phase::Stage.index(), 100), (END, 150)]);
    let rolled_back = record(2, &[(0, 100), (3, 200), (4, 210), (Phase::Rollback.index(), 240), (END, 260)]);
    let under_way = record(0, &[(0, 100)]);
    let view = upgrade(
        UpgradeState::Staging,
        Progress { received: 1, total: 2 },
        Some(UploadId(5)),
        &[refused, rolled_back, under_way],
    );
    assert_eq!(view.history.len(), 2, "one under way has no report yet");
    assert_eq!((view.history[0].generation, view.history[0].pause_ticks, view.history[0].phases.stage), (2, 0, 50));
    assert_eq!((view.history[1].generation, view.history[1].pause_ticks), (2, 60));
    assert_eq!(view.last, view.history.last().cloned());
    assert_eq!((view.id, view.progress.total), (Some(5), 2));
}
