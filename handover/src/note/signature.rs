//! Who made an image: Ed25519 (RFC 8032) over everything in the file but the signature itself.
//!
//! What is signed is [`message`]: a fixed word, the key id and the digest, which covers every byte of the file but digest,
//! key id and signature. So a signature can be judged as soon as the note has arrived, and
//! [`DigestStream`](super::DigestStream) then says whether the file is the one that was signed.

use core::fmt;

use ed25519_compact::{PublicKey, Signature};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use super::{NOTE_BYTES, Note, NoteError, locate_unsealed};

/// Bytes of a public key, and of the seed of a secret one.
pub const KEY_BYTES: usize = 32;
/// The word in front of a public key in its file: the word, the key in hexadecimal digits, and what people want to call it.
pub const PUBLIC_WORD: &str = "baton-ed25519";
/// The word in front of a secret key's seed.
pub const SECRET_WORD: &str = "baton-ed25519-secret";
/// First bytes of what is signed: no signature is of use elsewhere.
const DOMAIN: &[u8; 24] = b"baton image signature 1\0";
/// Bytes of what is signed.
const MESSAGE_BYTES: usize = DOMAIN.len() + 8 + 32;

/// Why nobody vouches for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// It is not signed.
    Unsigned,
    /// Signed by a key that this machine does not know.
    UnknownKey {
        /// The key's id.
        id: [u8; 8],
    },
    /// The signature does not fit the image.
    Wrong {
        /// The key's id.
        id: [u8; 8],
    },
}

/// A key id as people read it.
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unsigned => f.write_str("image is unsigned; sign it: batonctl sign IMAGE --key KEY"),
            Self::UnknownKey { id } => write!(
                f,
                "image is signed by key {}, which this machine does not know; sign it by one of upgrade.keys in baton.toml",
                KeyId(id)
            ),
            Self::Wrong { id } => write!(
                f,
                "image's signature is not of key {} or not of this image; it was altered or badly signed, sign it again",
                KeyId(id)
            ),
        }
    }
}

impl core::error::Error for SignatureError {}

/// The first 8 bytes of a public key's SHA-256.
#[must_use]
pub fn key_id(public: &[u8; KEY_BYTES]) -> [u8; 8] {
    let hash = <[u8; 32]>::from(Sha256::digest(public));
    let mut id = [0; 8];
    id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    id
}

/// What is signed.
fn message(key_id: [u8; 8], digest: &[u8; 32]) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    let parts = DOMAIN.iter().chain(&key_id).chain(digest);
    message.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    message
}

/// Whether one of `keys` vouches for the image with that note, provided that its content has the note's digest.
pub fn verify(note: &Note, keys: &[[u8; KEY_BYTES]]) -> Result<(), SignatureError> {
    if note.signature == [0; 64] && note.key_id == [0; 8] {
        return Err(SignatureError::Unsigned);
    }
    let id = note.key_id;
    let key = keys.iter().find(|key| key_id(key) == id).ok_or(SignatureError::UnknownKey { id })?;
    PublicKey::new(*key)
        .verify(message(id, &note.digest), &Signature::new(note.signature))
        .map_err(|_| SignatureError::Wrong { id })
}

/// The public key of a seed.
#[must_use]
pub fn public_key(seed: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    *ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(*seed)).pk
}

/// Signs a sealed image by the key with that seed. Signing again gives the same file.
///
/// # Errors
/// The image is not sealed, or damaged.
pub fn sign(image: &mut [u8], seed: &[u8; KEY_BYTES]) -> Result<Note, NoteError> {
    let mut note = super::verify_digest(image)?;
    let offset = locate_unsealed(image)?;
    let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(*seed));
    note.key_id = key_id(&pair.pk);
    // Deterministic, as RFC 8032 has it.
    note.signature = *pair.sk.sign(message(note.key_id, &note.digest), None);
    let place = image.get_mut(offset..offset + NOTE_BYTES).ok_or(NoteError::Magic)?;
    place.copy_from_slice(note.as_bytes());
    Ok(note)
}

/// Why the text of a key's file is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// No line starts with the word.
    Missing {
        /// The word.
        word: &'static str,
    },
    /// A secret key where a public one is due: it does not belong on the machine.
    Secret,
    /// Not 64 hexadecimal digits.
    Digits,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing { word } => {
                write!(f, "no line starts with {word}; name a file that batonctl keys new has written")
            }
            Self::Secret => {
                f.write_str("it is a secret key; name the .pub file, and keep the secret one off the machine")
            }
            Self::Digits => {
                f.write_str("the key has not 64 hexadecimal digits; take the file as batonctl keys new wrote it")
            }
        }
    }
}

impl core::error::Error for KeyError {}

/// The public key in the text of its file.
pub fn parse_public(text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    if line(text, SECRET_WORD).is_some() {
        return Err(KeyError::Secret);
    }
    parse(text, PUBLIC_WORD)
}

/// The seed in the text of a secret key's file.
pub fn parse_secret(text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    parse(text, SECRET_WORD)
}

/// What follows `word` in the line that starts with it.
fn line<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(|line| line.split_ascii_whitespace());
    lines.find_map(|mut words| (words.next() == Some(word)).then(|| words.next().unwrap_or_default()))
}

fn parse(text: &str, word: &'static str) -> Result<[u8; KEY_BYTES], KeyError> {
    let digits = line(text, word).ok_or(KeyError::Missing { word })?;
    let mut key = [0; KEY_BYTES];
    if digits.len() != 2 * KEY_BYTES {
        return Err(KeyError::Digits);
    }
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(KeyError::Digits) };
        *byte = (high << 4 | low) as u8;
    }
    Ok(key)
}
