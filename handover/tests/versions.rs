//! Streams between releases: what an older format can carry, and what a reader does with what came after it.

mod common;

use common::{BASE, GENERATION, REGION, read, sample, write_as};
use handover::graph;
use handover::header::{HEADER_BYTES, Header};
use handover::note::{Note, Refusal, compatible};
use handover::reader::ReadError;
use handover::record::CRITICAL;
use handover::state::trial::{NEEDED, OPTIONAL};
use handover::version::{NEWEST, READS_MAX, RELEASED, WRITES_MAX, WRITES_MIN, minimum_reader};
use handover::writer::Writer;
use zerocopy::FromBytes;

#[test]
fn every_format_that_is_written_is_read() {
    for format in WRITES_MIN..=WRITES_MAX {
        let region = write_as(&sample(), format);
        let (header, _) = Header::read_from_prefix(&region).unwrap();
        assert_eq!((header.version, header.minimum_reader), (format, minimum_reader(format)));
        let state = read(&region).unwrap();
        graph::validate(&state).unwrap();
        assert_eq!(state, sample(), "format {format}");
    }
}

/// What a release after this one may add, as `state::trial` writes it: a longer record of a newer version, and new kinds.
fn from_the_next_release(critical: bool) -> Result<handover::State, ReadError> {
    let mut region = vec![0; REGION];
    let state = sample();
    let mut writer = Writer::new(&mut region, BASE, GENERATION, NEWEST).unwrap();
    state.write_plan(&mut writer).unwrap();
    writer.put_raw(OPTIONAL, 1, 0, &[7; 8]).unwrap();
    if critical {
        writer.put_raw(NEEDED, 1, CRITICAL, &[7; 8]).unwrap();
    }
    let draft = writer.mark().unwrap();
    let mut writer = draft.resume(&mut region).unwrap();
    state.write_rest(&mut writer).unwrap();
    let header = writer.finish().unwrap();
    region[..HEADER_BYTES].copy_from_slice(&header);
    read(&region)
}

#[test]
fn a_later_kind_is_skipped_and_named_and_a_critical_one_refused() {
    let state = from_the_next_release(false).unwrap();
    graph::validate(&state).unwrap();
    assert_eq!(state.skipped.iter().map(|skipped| (skipped.kind, skipped.count)).collect::<Vec<_>>(), [(OPTIONAL, 1)]);
    let error = from_the_next_release(true).unwrap_err();
    assert_eq!(error, ReadError::UnknownCritical { kind: NEEDED, version: 1 });
    assert!(error.to_string().contains("0x7f02"), "{error}");
}

/// The four images that the tests build: each can follow the present one and be followed by it, but for records that say no.
#[test]
fn releases_next_to_each_other_can_follow_each_other() {
    let image = |newest| Note { reads_max: newest, writes_max: newest, ..Note::unsealed() };
    let (previous, present) = (image(READS_MAX - 1), image(READS_MAX));
    assert_eq!(compatible(&present, &present), Ok(READS_MAX));
    assert_eq!(compatible(&present, &previous), Ok(READS_MAX - 1));
    assert_eq!(compatible(&previous, &present), Ok(READS_MAX - 1));
    // What comes after it hands over what it writes itself, if that allows the present reader, else what both know.
    assert_eq!(compatible(&image(READS_MAX + 1), &present), Ok(READS_MAX));
    let far = Note { reads_min: READS_MAX + 1, ..image(READS_MAX + 2) };
    assert_eq!(compatible(&present, &far), Err(Refusal::TooNew { writes: READS_MAX, reads: READS_MAX + 1 }));
}

#[test]
fn the_present_format_may_follow_the_released_one_by_one() {
    assert!((RELEASED..=RELEASED + 1).contains(&READS_MAX));
}
