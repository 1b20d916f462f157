//! Signatures: against the vectors of RFC 8032, and over every byte of the file but themselves.

use handover::note::signature::{
    KeyError, PUBLIC_WORD, SECRET_WORD, SignatureError, key_id, parse_public, parse_secret, public_key, sign, verify,
};
use handover::note::{self, NOTE_BYTES, Note, parse_note, seal_with, verify_digest};
use zerocopy::IntoBytes;

const OFFSET: usize = 512;
const BYTES: usize = 2048;

/// RFC 8032 7.1, TEST 1: seed and public key.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
/// First 8 bytes of the public key's SHA-256.
const KEY_ID: &str = "21fe31dfa154a261";
/// See [`another_implementation_signs_the_same`].
const SIGNATURE: &str = "c5dfa4ffac0fc49d445395276536573952e00390f72d0a43c93fa2dc68853e4b\
                         6429fd56a63052c34910566587f40cd50e6e334b33ce4c83c01a7a8a4c18c30c";

fn seed() -> [u8; 32] {
    parse_secret(&format!("{SECRET_WORD} {SEED} test")).unwrap()
}

fn image() -> Vec<u8> {
    let mut image: Vec<u8> = (0..BYTES).map(|at| at as u8).collect();
    image[OFFSET..OFFSET + NOTE_BYTES].copy_from_slice(Note::unsealed().as_bytes());
    let fill = |note: &mut Note| (note.memory_bytes, note.slot_bytes, note.entry_upgrade) = (4096, 4096, 16);
    seal_with(&mut image, fill).unwrap();
    image
}

/// Whether a machine that knows the key takes these bytes for the signed image: note, signature, content.
fn accepted(bytes: &[u8], keys: &[[u8; 32]]) -> bool {
    parse_note(bytes).is_ok_and(|note| verify(&note, keys).is_ok()) && verify_digest(bytes).is_ok()
}

#[test]
fn keys_of_the_rfc() {
    assert_eq!(public_key(&seed()), parse_public(&format!("{PUBLIC_WORD} {PUBLIC}")).unwrap());
}

#[test]
fn a_signed_image_is_accepted_and_signing_again_gives_the_same() {
    let mut signed = image();
    assert_eq!(verify(&parse_note(&signed).unwrap(), &[public_key(&seed())]), Err(SignatureError::Unsigned));
    let note = sign(&mut signed, &seed()).unwrap();
    assert_eq!(note.key_id, key_id(&public_key(&seed())));
    assert!(accepted(&signed, &[[1; 32], public_key(&seed())]));
    let mut again = signed.clone();
    sign(&mut again, &seed()).unwrap();
    assert_eq!(again, signed);
    // Sealing takes the signature away.
    note::seal(&mut again).unwrap();
    assert_eq!(again, image());
}

/// The RFC's key over the word, the key id and the digest 00 01 .. 1f, signed by OpenSSL (Python's `cryptography` 48).
#[test]
fn another_implementation_signs_the_same() {
    let hex = |text: &str| -> Vec<u8> {
        text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let note = Note {
        digest: std::array::from_fn(|at| at as u8),
        key_id: hex(KEY_ID).try_into().unwrap(),
        signature: hex(SIGNATURE).try_into().unwrap(),
        ..Note::unsealed()
    };
    assert_eq!(verify(&note, &[public_key(&seed())]), Ok(()));
}

#[test]
fn law_21_every_bit_of_the_file_is_signed() {
    let mut signed = image();
    sign(&mut signed, &seed()).unwrap();
    let keys = [public_key(&seed())];
    for byte in 0..BYTES {
        // Each bit within the note, one elsewhere.
        let bits = if (OFFSET..OFFSET + NOTE_BYTES).contains(&byte) { 0..8 } else { byte % 8..byte % 8 + 1 };
        for bit in bits {
            signed[byte] ^= 1 << bit;
            assert!(!accepted(&signed, &keys), "byte {byte} bit {bit}");
            signed[byte] ^= 1 << bit;
        }
    }
    assert!(accepted(&signed, &keys));
    for length in 0..BYTES {
        assert!(!accepted(&signed[..length], &keys), "{length} bytes");
    }
}

#[test]
fn keys_are_read_or_refused_with_the_reason() {
    let text = format!("# ops\n\n{PUBLIC_WORD} {PUBLIC} ops key\n");
    assert_eq!(parse_public(&text), Ok(public_key(&seed())));
    assert_eq!(parse_public(""), Err(KeyError::Missing { word: PUBLIC_WORD }));
    assert_eq!(parse_public(&format!("{SECRET_WORD} {SEED}")), Err(KeyError::Secret));
    for digits in
        ["", "d75a", &PUBLIC[1..], &PUBLIC.replace('d', "g"), &format!("{PUBLIC}0"), &PUBLIC.replace("d7", "é")]
    {
        assert_eq!(parse_public(&format!("{PUBLIC_WORD} {digits}")), Err(KeyError::Digits), "{digits}");
    }
    // A key that is no point of the curve vouches for nothing (RFC 8032 5.1.3: y = 2 has no x).
    let mut signed = image();
    sign(&mut signed, &seed()).unwrap();
    let mut nobody = [0; 32];
    nobody[0] = 2;
    let note = Note { key_id: key_id(&nobody), ..parse_note(&signed).unwrap() };
    assert!(matches!(verify(&note, &[nobody]), Err(SignatureError::Wrong { .. })));
}
