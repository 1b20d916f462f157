//! Damage that the checksums do not show: mutated streams with fitting checksums, mutated fields, random
//! bytes. Nothing may panic, and what is accepted is accepted whole.

mod common;

use common::{BASE, read, sample, write};
use handover::header::{HEADER_BYTES, Header};
use handover::reader::Stream;
use handover::{crc32c, graph};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

/// Makes both checksums, and the planned part's, fit what is there.
fn reseal(region: &mut [u8]) {
    let (mut header, rest) = Header::read_from_prefix(region).unwrap();
    let used = (header.payload_bytes as usize).min(rest.len());
    header.payload_crc = crc32c(&rest[..used]);
    header.header_crc = header.checksum();
    region[..HEADER_BYTES].copy_from_slice(header.as_bytes());
}

/// Makes the checksum in the mark fit as well, so that mutations of the plan reach the decoder.
fn reseal_mark(region: &mut [u8], mark_at: usize) {
    let crc = crc32c(&region[HEADER_BYTES..mark_at]);
    region[mark_at + 16 + 16..][..4].copy_from_slice(&crc.to_le_bytes());
    reseal(region);
}

/// Where the frame of the mark starts in the region.
fn mark_at(region: &[u8]) -> usize {
    let stream = Stream::open(region, BASE).unwrap();
    HEADER_BYTES + stream.records().find(|record| record.kind == 1).unwrap().offset
}

fn digest(region: &[u8]) {
    if let Ok(state) = read(region)
        && graph::validate(&state).is_ok()
    {
        // Accepted whole: what was understood can be handed on, and is understood again.
        let again = write(&state);
        assert_eq!(graph::validate(&read(&again).unwrap()), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_payload_with_fitting_checksums(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut region = write(&sample());
        let mark = mark_at(&region);
        let used = HEADER_BYTES + Header::read_from_prefix(&region).unwrap().0.payload_bytes as usize;
        for (at, byte) in changes {
            region[HEADER_BYTES + at.index(used - HEADER_BYTES)] = byte;
        }
        reseal_mark(&mut region, mark);
        digest(&region);
    }

    #[test]
    fn mutated_words_with_fitting_checksums(
        at in any::<prop::sample::Index>(),
        word in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(1 << 63), 0..64u64, (0..64u32).prop_map(|bit| (1u64 << bit).wrapping_sub(1))],
    ) {
        let mut region = write(&sample());
        let mark = mark_at(&region);
        let used = Header::read_from_prefix(&region).unwrap().0.payload_bytes as usize;
        let at = HEADER_BYTES + at.index(used / 8) * 8;
        region[at..at + 8].copy_from_slice(&word.to_le_bytes());
        reseal_mark(&mut region, mark);
        digest(&region);
    }

    #[test]
    fn mutated_header_with_fitting_checksum(at in 8..60usize, byte in any::<u8>()) {
        let mut region = write(&sample());
        let whole = region.clone();
        region[at] = byte;
        let (mut header, _) = Header::read_from_prefix(&region).unwrap();
        header.header_crc = header.checksum();
        region[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        match read(&region) {
            // Only another format that allows this reader is not refused.
            Ok(state) => prop_assert!(region == whole || (state == sample() && (44..48).contains(&at)), "byte {}", at),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn records_left_out_or_doubled(index in any::<prop::sample::Index>(), double in any::<bool>()) {
        let region = write(&sample());
        let stream = Stream::open(&region, BASE).unwrap();
        let records: Vec<_> = stream.records().filter(|record| record.kind > 3).collect();
        let (victim, mark) = (index.index(records.len()), mark_at(&region) - HEADER_BYTES);
        let mut other = vec![0; 2 * common::REGION];
        let mut writer = handover::writer::Writer::new(&mut other, BASE, common::GENERATION, 1).unwrap();
        let put = |writer: &mut handover::writer::Writer<'_>, planned: bool| {
            for (at, record) in records.iter().enumerate().filter(|(_, record)| (record.offset < mark) == planned) {
                for _ in 0..if at == victim { usize::from(double) * 2 } else { 1 } {
                    writer.put_raw(record.kind, record.version, record.flags, record.body).unwrap();
                }
            }
        };
        put(&mut writer, true);
        let draft = writer.mark().unwrap();
        let mut writer = draft.resume(&mut other).unwrap();
        put(&mut writer, false);
        let header = writer.finish().unwrap();
        other[..HEADER_BYTES].copy_from_slice(&header);
        let verdict = graph::validate(&read(&other).unwrap());
        // Records nothing depends on may be missing; nothing may be there twice.
        let kind = records[victim].kind;
        let optional = [0x0103, 0x0105, 0x0106, 0x0107, 0x0405, 0x0607, 0x0609, 0x0804, 0x0402, 0x0403, 0x0404, 0x0501, 0x0502, 0x0701, 0x0702, 0x0703, 0x0704, 0x0801, 0x0802, 0x0803, 0x0304];
        if double || !optional.contains(&kind) {
            prop_assert!(verdict.is_err(), "kind {:#x}", kind);
        }
    }

    #[test]
    fn random_bytes_are_no_stream(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Stream::open(&bytes, BASE).is_err());
    }

    #[test]
    fn random_payload_with_fitting_checksums(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..512)) {
        let mut region = write(&sample());
        region[HEADER_BYTES..HEADER_BYTES + bytes.len()].copy_from_slice(&bytes);
        reseal(&mut region);
        digest(&region);
    }
}
