//! The bodies, word for word: clients depend on them.

extern crate std;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use serde::Serialize;

use super::error::Blame;
use super::testing::{FakeControl, status};
use super::types::{
    Counts, Device, Devices, Domain, Fault, Group, Guest, GuestState, Guests, Hex, Interrupt, Iommu, Outcome, Outcomes,
    PciDevice, Phases, Progress, Report, Unit, Upgrade, UpgradeState, Vcpu,
};

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("serializable")
}

fn guests() -> Guests {
    Guests {
        guests: vec![Guest {
            name: "web".into(),
            state: GuestState::Running,
            reason: None,
            memory_mib: 512,
            vcpus: vec![Vcpu {
                index: 0,
                pcpu: 1,
                exits: Counts(vec![("cpuid", 3), ("io", 7)]),
                state: "running".into(),
            }],
            devices: vec!["0000:03:00.0".into()],
            kernel: "vmlinuz".into(),
            on_upgrade: "preserve".into(),
        }],
    }
}

fn iommu() -> Iommu {
    Iommu {
        units: vec![Unit {
            base: Hex(0xfed9_0000),
            version: "1.0".into(),
            cap: Hex(0x00d2_008c_222f_0606),
            ecap: Hex(0xf0_0f5a),
            status: Hex(0xc600_0000),
            translation_enabled: true,
            interrupt_remapping_enabled: true,
            root_table: Hex(0x10_0000),
            interrupt_table: Hex(0x20_0000),
            faults_total: 2,
        }],
        domains: vec![Domain {
            token: Hex(0x1_0001),
            owner: "web".into(),
            did: 2,
            unit: Hex(0xfed9_0000),
            table_root: Hex(0x30_0000),
            levels: 4,
        }],
        devices: vec![Device { bdf: "0000:03:00.0".into(), owner: "web".into(), domain: Hex(0x1_0001), did: 2 }],
        interrupts: vec![Interrupt { index: 5, source: "0000:03:00.0".into(), vector: 65, destination: 1 }],
        faults: vec![Fault {
            unit: Hex(0xfed9_0000),
            source: "0000:05:00.0".into(),
            address: Hex(0x1000),
            reason: Hex(6),
            kind: "read".into(),
            owner: "web".into(),
            words: "no read permission",
            pasid: None,
            count: 3,
        }],
        faults_lost: 1,
    }
}

#[test]
fn devices_and_groups() {
    let devices = Devices {
        devices: vec![PciDevice {
            bdf: "0000:02:10.0".into(),
            id: "8086:10ca".into(),
            class: "020000".into(),
            state: "assigned",
            owner: "web".into(),
            group: "0000:02:10.0".into(),
            unit: Some(Hex(0xfed9_0000)),
            reset: "function".into(),
            ats: "off",
            physical: Some("0000:02:00.0".into()),
            refused: String::new(),
        }],
        groups: vec![Group { id: "a".into(), members: vec!["a".into(), "b".into()], why: vec!["no ACS".into()] }],
    };
    assert_eq!(
        json(&devices),
        r#"{"devices":[{"bdf":"0000:02:10.0","id":"8086:10ca","class":"020000","state":"assigned","owner":"web","group":"0000:02:10.0","unit":"0xfed90000","reset":"function","ats":"off","physical":"0000:02:00.0","refused":""}],"groups":[{"id":"a","members":["a","b"],"why":["no ACS"]}]}"#
    );
}

fn report() -> Report {
    Report {
        id: 4,
        from: "aa".into(),
        to: "bb".into(),
        from_version: "0.1.0".into(),
        to_version: "0.1.1".into(),
        generation: 3,
        outcome: Outcome::RolledBack,
        reason: "deadline".into(),
        blame: Some(Blame::Baton),
        pause_ticks: 1000,
        phases: Phases { stage: 1, plan: 2, warm: 3, freeze: 4, switch: 5, verify: 6, commit: 7, run: 8, retire: 9 },
        pause_allocations: 3,
        iommu_faults: 0,
        interrupts_pending: 2,
        interrupts_delivered: 2,
        stopped: vec!["batch".into()],
        notes: vec!["note".into()],
    }
}

#[test]
fn status_body() {
    let expected = r#"{"product":"baton","version":"0.1.0","build_id":"BUILD","build_name":"first","generation":2,"handover":{"writes":1,"reads":[1,2]},"uptime_ms":12345,"tsc_khz":1000000,"pcpus":2,"boot":{"via":"ipxe","ticks_to_guest":77},"memory":{"total_bytes":1000,"hypervisor_bytes":100,"guest_bytes":500,"free_bytes":400},"resources":{"arena_frames":70,"arena_unclaimed":1,"domain_ids":2,"interrupt_entries":4,"vectors":3,"heap_bytes":5000}}"#;
    assert_eq!(json(&status()), expected.replace("BUILD", &"ab".repeat(32)));
}

#[test]
fn guests_body() {
    assert_eq!(
        json(&guests()),
        r#"{"guests":[{"name":"web","state":"running","reason":null,"memory_mib":512,"vcpus":[{"index":0,"pcpu":1,"exits":{"cpuid":3,"io":7},"state":"running"}],"devices":["0000:03:00.0"],"kernel":"vmlinuz","on_upgrade":"preserve"}]}"#
    );
    assert_eq!(json(&[GuestState::Stopped, GuestState::Refused]), r#"["stopped","refused"]"#);
}

#[test]
fn iommu_body() {
    assert_eq!(
        json(&iommu()),
        r#"{"units":[{"base":"0xfed90000","version":"1.0","cap":"0xd2008c222f0606","ecap":"0xf00f5a","status":"0xc6000000","translation_enabled":true,"interrupt_remapping_enabled":true,"root_table":"0x100000","interrupt_table":"0x200000","faults_total":2}],"domains":[{"token":"0x10001","owner":"web","did":2,"unit":"0xfed90000","table_root":"0x300000","levels":4}],"devices":[{"bdf":"0000:03:00.0","owner":"web","domain":"0x10001","did":2}],"interrupts":[{"index":5,"source":"0000:03:00.0","vector":65,"destination":1}],"faults":[{"unit":"0xfed90000","source":"0000:05:00.0","address":"0x1000","reason":"0x6","type":"read","owner":"web","words":"no read permission","pasid":null,"count":3}],"faults_lost":1}"#
    );
}

#[test]
fn upgrade_body() {
    let upgrade = Upgrade {
        state: UpgradeState::Staging,
        progress: Progress { received: 5, total: 10 },
        id: Some(5),
        last: Some(report()),
        history: vec![],
    };
    assert_eq!(
        json(&upgrade),
        r#"{"state":"staging","progress":{"received":5,"total":10},"id":5,"last":{"id":4,"from":"aa","to":"bb","from_version":"0.1.0","to_version":"0.1.1","generation":3,"outcome":"rolled_back","reason":"deadline","blame":"baton","pause_ticks":1000,"phases":{"stage":1,"plan":2,"warm":3,"freeze":4,"switch":5,"verify":6,"commit":7,"run":8,"retire":9},"pause_allocations":3,"iommu_faults":0,"interrupts_pending":2,"interrupts_delivered":2,"stopped":["batch"],"notes":["note"]},"history":[]}"#
    );
    use UpgradeState as S;
    let states =
        [S::Idle, S::Planning, S::Warming, S::Freezing, S::Switching, S::Verifying, S::Retiring, S::RollingBack];
    assert_eq!(
        json(&states),
        r#"["idle","planning","warming","freezing","switching","verifying","retiring","rolling_back"]"#
    );
    let outcomes = [Outcome::Committed, Outcome::RolledBack, Outcome::Refused, Outcome::Cancelled];
    assert_eq!(json(&outcomes), r#"["committed","rolled_back","refused","cancelled"]"#);
    let blames = [Blame::Operator, Blame::Guest, Blame::Firmware, Blame::Hardware, Blame::Baton];
    assert_eq!(json(&blames), r#"["operator","guest","firmware","hardware","baton"]"#);
}

#[test]
fn metrics_body() {
    let mut guests = guests();
    guests.guests[0].name = "a\"b\\c\nd".into();
    let control = FakeControl {
        guests,
        iommu: iommu(),
        outcomes: Outcomes { committed: 3, rolled_back: 1, refused: 2, cancelled: 0 },
        ..FakeControl::default()
    };
    let body = String::from_utf8(super::metrics::response(&control).body).expect("text");
    let samples: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        &r#"baton_info{version="0.1.0",build_id="BUILD"} 1"#.replace("BUILD", &"ab".repeat(32)),
        "baton_uptime_seconds 12.345",
        "baton_generation 2",
        r#"baton_memory_bytes{owner="hypervisor"} 100"#,
        r#"baton_memory_bytes{owner="guest"} 500"#,
        r#"baton_memory_bytes{owner="free"} 400"#,
        r#"baton_resources{kind="arena_frame"} 70"#,
        r#"baton_resources{kind="arena_frame_unclaimed"} 1"#,
        r#"baton_resources{kind="domain_id"} 2"#,
        r#"baton_resources{kind="interrupt_entry"} 4"#,
        r#"baton_resources{kind="vector"} 3"#,
        r#"baton_resources{kind="heap_byte"} 5000"#,
        r#"baton_upgrades_total{outcome="committed"} 3"#,
        r#"baton_upgrades_total{outcome="rolled_back"} 1"#,
        r#"baton_upgrades_total{outcome="refused"} 2"#,
        r#"baton_upgrades_total{outcome="cancelled"} 0"#,
        r#"baton_iommu_faults_total{unit="0xfed90000"} 2"#,
        r#"baton_iommu_device_faults_total{unit="0xfed90000",device="0000:05:00.0",access="read",reason="0x6"} 3"#,
        "baton_iommu_faults_lost_total 1",
        r#"baton_guest_running{guest="a\"b\\c\nd"} 1"#,
        r#"baton_guest_exits_total{guest="a\"b\\c\nd",vcpu="0",reason="cpuid"} 3"#,
        r#"baton_guest_exits_total{guest="a\"b\\c\nd",vcpu="0",reason="io"} 7"#,
    ]
    .map(ToString::to_string);
    assert_eq!(samples, expected);
    for line in body.lines().filter(|line| line.starts_with("# TYPE")) {
        assert!(line.ends_with(" counter") || line.ends_with(" gauge"), "{line}");
    }
}
