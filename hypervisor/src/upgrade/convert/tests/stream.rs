//! The sample machine through the handover crate's writer, reader and validation.

extern crate std;

use std::vec;
use std::vec::Vec;

use handover::header::HEADER_BYTES;
use handover::reader::Stream;
use handover::writer::Writer;
use handover::{State, graph};

use super::sample::{ARENA, Everything, everything, finished_report, modules};
use crate::api::error::Blame;
use crate::api::types::{Outcome, Phases};
use crate::upgrade::convert::{machine, report};

fn finish(writer: Writer<'_>) -> [u8; HEADER_BYTES] {
    writer.finish().unwrap()
}

/// Dry run at PLAN, then FREEZE with another rest behind the same plan, as an upgrade does it.
#[test]
fn the_machine_arrives_whole_and_valid() {
    let mut machine = everything();
    let mut region: Vec<u8> = vec![0; 64 << 10];
    let base = ARENA + 0x10_0000;

    let mut state = State::default();
    machine.save_plan(&mut state).unwrap();
    state.sort();
    state.set_planned();
    let mut writer = Writer::new(&mut region, base, 3, handover::version::WRITES_MAX).unwrap();
    state.write_plan(&mut writer).unwrap();
    let draft = writer.mark().unwrap();
    machine.save_rest(&mut state).unwrap();
    state.sort();
    let mut writer = draft.resume(&mut region).unwrap();
    state.write_rest(&mut writer).unwrap();
    let header = finish(writer);
    region[..HEADER_BYTES].copy_from_slice(&header);

    let stream = Stream::open(&region, base).unwrap();
    let prefix = stream.prefix();
    let mut read = State::decode(&stream).unwrap();
    assert_eq!(graph::validate(&read), Ok(()));
    assert_eq!(Everything::load(&read), Ok(machine.clone()));

    // The guest ran on.
    machine.vcpu.arch.rip += 2;
    machine.vcpu.xsave[300] = 1;
    machine.platform.uart.input.clear();
    machine.platform.pci.functions[0].command = 0x402;
    machine.snapshot.units[0].iqt = 0x80;
    state.clear_rest();
    machine.save_rest(&mut state).unwrap();
    state.sort();
    let mut writer = draft.resume(&mut region).unwrap();
    state.write_rest(&mut writer).unwrap();
    let header = finish(writer);
    region[..HEADER_BYTES].copy_from_slice(&header);

    let stream = prefix.reopen(&region, base).unwrap();
    read.refresh(&stream).unwrap();
    assert_eq!(graph::validate_rest(&read), Ok(()));
    assert_eq!(Everything::load(&read), Ok(machine));

    let [(0, module)] = machine::load_modules(&read).unwrap()[..] else {
        panic!("one module");
    };
    let (_, expected) = modules()[0];
    assert_eq!((module.start, module.bytes), (expected.start, expected.bytes));
    assert_eq!(module.name.as_str(), "http://10.0.2.2/vmlinuz quiet");
}

#[test]
fn the_api_shows_a_report() {
    let shown = report::shown(&finished_report()).unwrap().unwrap();
    assert_eq!((shown.id, shown.generation), (7, 2));
    assert_eq!((shown.outcome, shown.blame), (Outcome::RolledBack, Some(Blame::Baton)));
    assert_eq!(shown.from, "00000000000000000000000000000000000000000000000000000000000000ab");
    assert_eq!((shown.to.as_str(), shown.to_version.as_str()), ("", ""));
    assert_eq!((shown.from_version.as_str(), shown.reason.as_str()), ("0.1.0", "too late!"));
    assert_eq!(
        shown.phases,
        Phases { stage: 4_000, plan: 1_000, warm: 3_000, freeze: 100, switch: 50, verify: 250, ..Phases::default() }
    );
    // FREEZE at 9000 to the end of the way back at 9460.
    assert_eq!(shown.pause_ticks, 460);

    let mut running = finished_report();
    running.outcome = 0;
    assert_eq!(report::shown(&running), Ok(None));
}
