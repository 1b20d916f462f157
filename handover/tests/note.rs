//! The image note: sealing, and images that lie.

use handover::note::{
    self, DigestStream, NOTE_BYTES, Note, NoteError, Refusal, SEARCH_BYTES, compatible, parse_note, seal, seal_with,
    verify_digest,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const OFFSET: usize = 0x1230;

/// A file with an unsealed note as the linker leaves it: magic, length at 192, zeros.
fn unsealed(bytes: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..bytes).map(|index| ((index * 7) >> 3) as u8).collect();
    image[OFFSET..OFFSET + NOTE_BYTES].fill(0);
    image[OFFSET..OFFSET + 16].copy_from_slice(b"BATON.IMAGE.NOTE");
    image[OFFSET + 192..OFFSET + 196].copy_from_slice(&256u32.to_le_bytes());
    image
}

fn fill(note: &mut Note) {
    let bytes = 100_000;
    *note = Note {
        memory_bytes: bytes,
        slot_bytes: 0x20_0000,
        entry_upgrade: 0x2000,
        entry_multiboot: 0x1000,
        minor: 2,
        build_number: 7,
        ..Note::unsealed()
    };
}

fn sealed() -> Vec<u8> {
    let mut image = unsealed(100_000);
    seal_with(&mut image, fill).unwrap();
    image
}

#[test]
fn a_sealed_image_is_what_it_says() {
    let image = sealed();
    let note = verify_digest(&image).unwrap();
    assert_eq!((note.file_bytes, note.note_offset, note.minor, note.build_number), (100_000, OFFSET as u32, 2, 7));
    // By the definition, with the plain hash: digest, signature and key id zero.
    let mut copy = image.clone();
    copy[OFFSET + 48..OFFSET + 152].fill(0);
    assert_eq!(<[u8; 32]>::from(Sha256::digest(&copy)), note.digest);
    // And the build id: itself zero as well.
    copy[OFFSET + 16..OFFSET + 48].fill(0);
    assert_eq!(<[u8; 32]>::from(Sha256::digest(&copy)), note.build_id);
}

#[test]
fn sealing_again_changes_nothing_and_signing_keeps_the_digest() {
    let image = sealed();
    let mut again = image.clone();
    seal(&mut again).unwrap();
    assert!(again == image);
    again[OFFSET + 80..OFFSET + 152].fill(0x5a);
    assert_eq!(verify_digest(&again).map(|note| note.signature), Ok([0x5a; 64]));
}

#[test]
fn another_build_has_another_id() {
    let mut other = unsealed(100_000);
    other[99_999] ^= 1;
    seal_with(&mut other, fill).unwrap();
    assert_ne!(parse_note(&other).unwrap().build_id, parse_note(&sealed()).unwrap().build_id);
}

#[test]
fn each_bad_image_has_its_own_refusal() {
    let image = sealed();
    let mut damaged = image.clone();
    damaged[77_777] ^= 4;
    assert_eq!(verify_digest(&damaged), Err(NoteError::Digest));
    assert_eq!(verify_digest(&image[..99_999]), Err(NoteError::Truncated { received: 99_999, due: 100_000 }));
    let mut longer = image.clone();
    longer.push(0);
    assert_eq!(verify_digest(&longer), Err(NoteError::Oversized { received: 100_001, due: 100_000 }));
    let mut other = image.clone();
    other[OFFSET] ^= 1;
    assert_eq!(verify_digest(&other), Err(NoteError::Magic));
    assert_eq!(verify_digest(&unsealed(100_000)), Err(NoteError::Magic));
    assert_eq!(verify_digest(&[]), Err(NoteError::Magic));
    let note = parse_note(&image).unwrap();
    assert_eq!(note.check_slot(0x20_0000), Ok(()));
    assert_eq!(note.check_slot(0x1f_ffff), Err(NoteError::Slot { needs: 0x20_0000, room: 0x1f_ffff }));
    let texts: Vec<String> = [NoteError::Digest, NoteError::Magic, NoteError::Truncated { received: 1, due: 2 }]
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(texts[0].contains("digest") && texts[1].contains("not a Baton image") && texts[2].contains("1 of 2 bytes"));
}

#[test]
fn any_flipped_bit_in_the_note_is_refused_but_for_signature_and_key() {
    let mut image = unsealed(0x1400);
    let shrink = |note: &mut Note| {
        fill(note);
        note.entry_upgrade = 0x1000;
    };
    seal_with(&mut image, shrink).unwrap();
    for byte in OFFSET..OFFSET + NOTE_BYTES {
        let signature = (OFFSET + 80..OFFSET + 152).contains(&byte);
        for bit in 0..8 {
            image[byte] ^= 1 << bit;
            assert_eq!(verify_digest(&image).is_ok(), signature, "byte {:#x} bit {bit}", byte - OFFSET);
            image[byte] ^= 1 << bit;
        }
    }
}

#[test]
fn lies_in_a_note_are_refused_at_the_seal_and_at_the_parse() {
    let lies: [fn(&mut Note); 8] = [
        |note| note.memory_bytes = 99_999,
        |note| note.slot_bytes = 99_999,
        |note| note.entry_upgrade = 0,
        |note| note.entry_upgrade = 100_000,
        |note| note.entry_ap = u32::MAX,
        |note| note.reads_min = note.reads_max + 1,
        |note| note.flags = 1,
        |note| note.reserved[3] = 1,
    ];
    for (index, lie) in lies.iter().enumerate() {
        let result = seal_with(&mut unsealed(100_000), |note| {
            fill(note);
            lie(note);
        });
        assert!(matches!(result, Err(NoteError::Field { .. })), "lie {index}: {result:?}");
    }
}

#[test]
fn a_copy_of_the_magic_is_not_the_note() {
    let mut image = unsealed(100_000);
    image[0x400..0x410].copy_from_slice(b"BATON.IMAGE.NOTE");
    seal_with(&mut image, fill).unwrap();
    assert_eq!(verify_digest(&image).unwrap().note_offset as usize, OFFSET);
    let mut image = unsealed(100_000);
    let copy = image[OFFSET..OFFSET + NOTE_BYTES].to_vec();
    image[0x4000..0x4000 + NOTE_BYTES].copy_from_slice(&copy);
    assert_eq!(seal(&mut image), Err(NoteError::Ambiguous { offset: 0x4000 }));
}

#[test]
fn versions_meet_or_are_refused() {
    let image = |reads: (u16, u16), writes: (u16, u16), jump| Note {
        reads_min: reads.0,
        reads_max: reads.1,
        writes_min: writes.0,
        writes_max: writes.1,
        jump,
        ..Note::unsealed()
    };
    let running = image((2, 3), (2, 3), 1);
    assert_eq!(compatible(&running, &image((3, 4), (3, 4), 1)), Ok(3), "upgrade by one");
    assert_eq!(compatible(&running, &image((1, 2), (1, 2), 1)), Ok(2), "downgrade by one");
    assert_eq!(compatible(&running, &running), Ok(3));
    assert_eq!(compatible(&running, &image((4, 9), (4, 9), 1)), Err(Refusal::TooNew { writes: 3, reads: 4 }));
    assert_eq!(compatible(&running, &image((1, 1), (1, 1), 1)), Err(Refusal::TooOld { writes: 2, reads: 1 }));
    assert_eq!(compatible(&running, &image((2, 3), (2, 3), 2)), Err(Refusal::Jump { ours: 1, theirs: 2 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_digest_does_not_depend_on_the_chunks(mut cuts in prop::collection::vec(0..100_000usize, 0..12)) {
        let image = sealed();
        let note = parse_note(&image[..SEARCH_BYTES]).unwrap();
        cuts.extend([0, OFFSET + 50, OFFSET + 151, 100_000]);
        cuts.sort_unstable();
        let mut stream = DigestStream::new(&note);
        for pair in cuts.windows(2) {
            stream.update(&image[pair[0]..pair[1]]).unwrap();
        }
        prop_assert_eq!(stream.clone().finish(), Ok(()));
        let refused = matches!(stream.update(&[0]), Err(NoteError::Oversized { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(at in 0..NOTE_BYTES, bytes in prop::collection::vec(any::<u8>(), 1..32)) {
        let mut image = sealed();
        let end = OFFSET + (at + bytes.len()).min(NOTE_BYTES);
        let from = OFFSET + at;
        image[from..end].copy_from_slice(&bytes[..end - from]);
        let _ = verify_digest(&image).map_err(|error| error.to_string());
        let _ = note::parse_note(&bytes);
    }
}
