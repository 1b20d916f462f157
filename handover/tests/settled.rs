//! What is settled: read once at PLAN, and again in the pause only if it has changed.
// Only the newest format has it.
#![cfg(not(feature = "previous"))]

mod common;

use common::{BASE, GENERATION, REGION, read, sample};
use handover::graph;
use handover::header::HEADER_BYTES;
use handover::reader::{Prefix, ReadError, Stream};
use handover::record::Record;
use handover::state::State;
use handover::state::interrupt::MsixV1;
use handover::state::stream::SettledV1;
use handover::version::WRITES_MAX;
use handover::writer::{Draft, WriteError, Writer};
use zerocopy::IntoBytes;

/// An old image after its dry run: the region, the draft behind the mark, the one behind what is settled.
struct Old {
    region: Vec<u8>,
    marked: Draft,
    settled: Draft,
}

impl Old {
    fn dry_run(state: &State) -> Self {
        let mut region = vec![0; REGION];
        let mut writer = Writer::new(&mut region, BASE, GENERATION, WRITES_MAX).unwrap();
        state.write_plan(&mut writer).unwrap();
        let marked = writer.mark().unwrap();
        let mut writer = marked.resume(&mut region).unwrap();
        let settled = state.write_settled(&mut writer).unwrap().expect("the newest format has a settled part");
        let mut old = Self { region, marked, settled };
        old.freeze(state);
        old
    }

    /// The pause, nothing settled having changed.
    fn freeze(&mut self, state: &State) {
        let mut writer = self.settled.resume(&mut self.region).unwrap();
        state.write_unsettled(&mut writer).unwrap();
        let header = writer.finish().unwrap();
        self.region[..HEADER_BYTES].copy_from_slice(&header);
    }

    /// The pause, all being written again.
    fn freeze_all(&mut self, state: &State) {
        let mut writer = self.marked.resume(&mut self.region).unwrap();
        state.write_rest(&mut writer).unwrap();
        let header = writer.finish().unwrap();
        self.region[..HEADER_BYTES].copy_from_slice(&header);
    }

    /// The new image in its sandbox.
    fn warm(&self) -> (Prefix, State) {
        let stream = Stream::open(&self.region, BASE).unwrap();
        (stream.prefix(), State::decode(&stream).unwrap())
    }
}

/// What the guests have done meanwhile, but for their devices.
fn go_on(state: &mut State) {
    state.vcpus[0].rip += 2;
    state.unit_rests[0].sequence += 5;
    state.faults.pop();
}

#[test]
fn what_did_not_change_is_neither_written_nor_read_again() {
    let mut state = sample();
    assert!(!state.irtes.is_empty() && !state.msix.is_empty() && !state.functions.is_empty());
    let mut old = Old::dry_run(&state);
    let (prefix, mut warm) = old.warm();
    assert_eq!(warm, state);
    go_on(&mut state);
    // It is not even looked at: another set of it is not seen.
    let (irtes, msix) = (core::mem::take(&mut state.irtes), core::mem::take(&mut state.msix));
    old.freeze(&state);
    (state.irtes, state.msix) = (irtes, msix);
    let stream = prefix.reopen(&old.region, BASE).unwrap();
    assert!(stream.is_rest() && stream.is_unsettled());
    let settled =
        |record: &handover::reader::RawRecord<'_>| record.kind == MsixV1::KIND || record.kind == SettledV1::KIND;
    assert_eq!(stream.records().filter(settled).count(), 0);
    warm.refresh(&stream).unwrap();
    graph::validate_unsettled(&warm).unwrap();
    assert_eq!(warm, state);
    assert_eq!(read(&old.region).unwrap(), state, "the whole says the same");
}

#[test]
fn what_did_change_is_read_again_with_all_behind_the_mark() {
    let mut state = sample();
    let mut old = Old::dry_run(&state);
    let (prefix, mut warm) = old.warm();
    go_on(&mut state);
    state.msix[0].guest_data ^= 1;
    old.freeze_all(&state);
    let stream = prefix.reopen(&old.region, BASE).unwrap();
    assert!(stream.is_rest() && !stream.is_unsettled());
    warm.refresh(&stream).unwrap();
    graph::validate_rest(&warm).unwrap();
    assert_eq!(warm, state);
    // Written again without a change, it is known again.
    let mut old = Old::dry_run(&state);
    let (prefix, _) = old.warm();
    old.freeze_all(&state);
    assert!(prefix.reopen(&old.region, BASE).unwrap().is_unsettled());
}

#[test]
fn an_entry_more_or_less_is_a_change() {
    for more in [true, false] {
        let mut state = sample();
        let mut old = Old::dry_run(&state);
        let (prefix, mut warm) = old.warm();
        match state.msix.pop() {
            Some(last) if more => {
                state.msix.extend([last, MsixV1 { index: last.index + 1, irte: u32::MAX, host_vector: 0, ..last }])
            }
            _ => {}
        }
        old.freeze_all(&state);
        let stream = prefix.reopen(&old.region, BASE).unwrap();
        assert!(!stream.is_unsettled());
        warm.refresh(&stream).unwrap();
        assert_eq!(warm, state);
    }
}

#[test]
fn damage_behind_what_is_settled_is_found() {
    let state = sample();
    let old = Old::dry_run(&state);
    let (prefix, _) = old.warm();
    let mut region = old.region.clone();
    let end = region.len() - region.iter().rev().take_while(|byte| **byte == 0).count();
    let mark = old.settled.bytes() - size_of::<SettledV1>();
    for at in mark..end {
        region[at] ^= 0x10;
        // The settled mark's own bytes: it is another, so all behind the first mark is looked at, and is damaged.
        assert!(matches!(prefix.reopen(&region, BASE), Err(ReadError::Checksum { .. })), "byte {at}");
        region[at] ^= 0x10;
    }
    assert!(prefix.reopen(&region, BASE).is_ok());
}

/// A stream with these records behind the mark, as they stand.
fn stream_of(state: &State, rest: &dyn Fn(&mut Writer<'_>)) -> Vec<u8> {
    let mut region = vec![0; 2 * REGION];
    let mut writer = Writer::new(&mut region, BASE, GENERATION, WRITES_MAX).unwrap();
    state.write_plan(&mut writer).unwrap();
    let draft = writer.mark().unwrap();
    let mut writer = draft.resume(&mut region).unwrap();
    rest(&mut writer);
    let header = writer.finish().unwrap();
    region[..HEADER_BYTES].copy_from_slice(&header);
    region
}

#[test]
fn nothing_settled_stands_behind_the_settled_mark() {
    let state = sample();
    let late = stream_of(&state, &|writer| {
        state.write_settled(writer).unwrap();
        assert_eq!(writer.put(&state.msix[0]), Err(WriteError::Part { kind: "MSI-X entry" }));
        writer.put_raw(MsixV1::KIND, 1, 1, state.msix[0].as_bytes()).unwrap();
        state.write_unsettled(writer).unwrap();
    });
    assert_eq!(read(&late), Err(ReadError::Part { kind: "MSI-X entry" }));
    // Nor in the pause, after a dry run without it.
    let mut old = Old::dry_run(&state);
    let (prefix, mut warm) = old.warm();
    let mut writer = old.settled.resume(&mut old.region).unwrap();
    writer.put_raw(MsixV1::KIND, 1, 1, state.msix[0].as_bytes()).unwrap();
    state.write_unsettled(&mut writer).unwrap();
    let header = writer.finish().unwrap();
    old.region[..HEADER_BYTES].copy_from_slice(&header);
    let stream = prefix.reopen(&old.region, BASE).unwrap();
    assert!(stream.is_unsettled());
    assert!(warm.refresh(&stream).is_err());
}

#[test]
fn a_second_settled_mark_and_one_that_lies_are_refused() {
    let state = sample();
    let doubled = stream_of(&state, &|writer| {
        state.write_settled(writer).unwrap();
        writer.settle().unwrap();
    });
    assert!(matches!(Stream::open(&doubled, BASE).map(|_| ()), Err(ReadError::Order { .. })));
    for lie in 0..3 {
        let lying = stream_of(&state, &|writer| {
            let mut mark = SettledV1 {
                payload_bytes: (writer.bytes() - HEADER_BYTES) as u64,
                records: 0,
                crc: 0,
                reserved: [0; 4],
            };
            mark.records = Stream::open(&stream_of(&state, &|_| ()), BASE).unwrap().records().count() as u64 - 1;
            match lie {
                0 => mark.payload_bytes += 8,
                1 => mark.records += 1,
                // The checksum: zero, which it is not.
                _ => {}
            }
            writer.put_raw(SettledV1::KIND, 1, 0, mark.as_bytes()).unwrap();
        });
        let refused = Stream::open(&lying, BASE).map(|_| ()).unwrap_err();
        let expected = if lie < 2 {
            matches!(refused, ReadError::Count { .. })
        } else {
            matches!(refused, ReadError::Checksum { .. })
        };
        assert!(expected, "{lie}: {refused}");
    }
}

/// The format before has no such part: the same order as ever, all of it again in the pause.
#[test]
fn format_1_has_none() {
    let state = sample();
    let mut region = vec![0; REGION];
    let mut writer = Writer::new(&mut region, BASE, GENERATION, 1).unwrap();
    state.write_plan(&mut writer).unwrap();
    let draft = writer.mark().unwrap();
    let mut writer = draft.resume(&mut region).unwrap();
    assert!(state.write_settled(&mut writer).unwrap().is_none());
    state.write_unsettled(&mut writer).unwrap();
    let header = writer.finish().unwrap();
    region[..HEADER_BYTES].copy_from_slice(&header);
    assert_eq!(region, common::write_as(&state, 1));
    let prefix = Stream::open(&region, BASE).unwrap().prefix();
    assert!(!prefix.reopen(&region, BASE).unwrap().is_unsettled());
}
