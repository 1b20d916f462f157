//! Golden blobs: every released format decodes forever, the current writer reproduces the current one byte for
//! byte, and damage anywhere is refused or makes no difference.

mod common;

use common::{BASE, read, sample, write_as};
use handover::graph;
use handover::header::{HEADER_BYTES, Header};
use handover::reader::{ReadError, Stream};
use zerocopy::FromBytes;

/// Format 1, written by `examples/golden.rs` when the format was new.
const V1: &[u8] = include_bytes!("../golden/v1-machine.bin");

#[test]
fn format_1_decodes_to_the_sample_machine() {
    let state = read(V1).unwrap();
    graph::validate(&state).unwrap();
    let mut expected = sample();
    assert_eq!(state.skipped, []);
    // `decode` knows what was planned from the mark, `sample` from what it pushed before; both agree.
    expected.skipped.clear();
    assert_eq!(state, expected);
}

#[test]
fn the_writer_still_writes_format_1_byte_for_byte() {
    let written = write_as(&sample(), 1);
    let difference = written.iter().zip(V1).position(|(new, old)| new != old);
    assert_eq!(difference, None, "first different byte; a released format must not change, add a version instead");
    assert_eq!(written.len(), V1.len());
}

/// Numbers read off the format's description, not off the types.
#[test]
fn format_1_bytes() {
    let word = |at: usize| u64::from_le_bytes(V1[at..at + 8].try_into().unwrap());
    assert_eq!(&V1[..8], b"BATONHO1");
    assert_eq!([word(8), word(16), word(24)], [3, 0x1800_0000, 12288]);
    // The first record: kind 0x0101, version 1, critical, 72 bytes; then its nonce.
    assert_eq!(&V1[64..80], &[1, 1, 0, 0, 1, 0, 1, 0, 72, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(word(80), 0x0123_4567_89ab_cdef);
    // The second, a pCPU of 16 bytes, follows at once.
    assert_eq!(&V1[152..164], &[2, 1, 0, 0, 1, 0, 1, 0, 16, 0, 0, 0]);
}

#[test]
fn truncated_at_each_byte_it_is_refused() {
    for length in 0..V1.len() {
        assert!(Stream::open(&V1[..length], BASE).is_err(), "{length} bytes");
    }
}

/// A truncated payload whose header was made to fit is still refused: the end record is missing or cut off.
#[test]
fn truncated_with_a_fitting_header_it_is_refused() {
    let (header, _) = Header::read_from_prefix(V1).unwrap();
    for payload in (0..header.payload_bytes as usize).step_by(8) {
        let mut region = V1.to_vec();
        reseal(&mut region, payload);
        let error = Stream::open(&region, BASE).map(|_| ()).unwrap_err();
        assert!(!matches!(error, ReadError::Header(_) | ReadError::Checksum { .. }), "{payload} bytes: {error}");
    }
}

#[test]
fn with_any_bit_flipped_it_is_refused_or_accepted_whole() {
    let used = HEADER_BYTES + Header::read_from_prefix(V1).unwrap().0.payload_bytes as usize;
    let mut region = V1.to_vec();
    for byte in 0..used {
        for bit in 0..8 {
            region[byte] ^= 1 << bit;
            assert!(Stream::open(&region, BASE).is_err(), "byte {byte} bit {bit}");
            region[byte] ^= 1 << bit;
        }
    }
    // What lies behind the payload is nobody's.
    let whole = read(V1).unwrap();
    for byte in used..region.len() {
        region[byte] ^= 0xff;
        assert_eq!(read(&region).as_ref(), Ok(&whole), "byte {byte}");
        region[byte] ^= 0xff;
    }
}

/// Makes header and checksums fit a payload of that many bytes.
fn reseal(region: &mut [u8], payload_bytes: usize) {
    use zerocopy::IntoBytes;
    let (mut header, rest) = Header::read_from_prefix(region).unwrap();
    header.payload_bytes = payload_bytes as u64;
    header.payload_crc = handover::crc32c(&rest[..payload_bytes]);
    header.header_crc = header.checksum();
    region[..HEADER_BYTES].copy_from_slice(header.as_bytes());
}

/// `docs/handover.md` lists each type by kind number and name.
#[test]
fn the_description_names_every_record_type() {
    let description = include_str!("../../docs/handover.md");
    for (kind, name) in handover::state::set::KINDS {
        let row = description.lines().find(|line| line.starts_with(&format!("| `{kind:#06x}` |")));
        assert!(row.is_some_and(|row| row.contains(&format!("| {name} |"))), "{kind:#06x} {name}");
    }
}
