//! Whose images may be staged: the operator's keys and policy, from `baton.toml` at power-on, from the records after that.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use handover::note::Note;
use handover::note::signature::{self, KEY_BYTES, SignatureError};
use hermit_sync::SpinMutex;

use super::convert::trust::TrustState;
use crate::config;

/// Nothing may be staged until somebody has said what may.
static TRUST: SpinMutex<TrustState> =
    SpinMutex::new(TrustState { keys: Vec::new(), unsigned: false, minimum_build: 0 });

/// Why an image is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// Its signature.
    Signature(SignatureError),
    /// No key is known by which it could be judged.
    NoKeys,
    /// It is older than the oldest build that may follow.
    Build {
        /// Its number.
        number: u32,
        /// The oldest.
        minimum: u32,
    },
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Signature(error) => error.fmt(f),
            Self::NoKeys => f.write_str(
                "this machine knows no signing key, so no image may be staged; at its next power-on name one in upgrade.keys of baton.toml, or write upgrade.unsigned = \"allow\"",
            ),
            Self::Build { number, minimum } => write!(
                f,
                "image is build {number}, the oldest that may follow is {minimum} (the minimum build of an image that ran here); send a newer one"
            ),
        }
    }
}

/// What `[upgrade]` asks for. A key that can't be read is left out, in one line each.
pub fn init(upgrade: &config::Upgrade, module: &dyn Fn(&str) -> Option<&'static [u8]>) {
    let mut trust = TrustState { keys: Vec::new(), unsigned: upgrade.unsigned, minimum_build: 0 };
    for name in &upgrade.keys {
        match read(name, module) {
            Ok(key) => trust.keys.push(key),
            Err(reason) => log::error!("signing key {name} is not taken: {reason}"),
        }
    }
    match (trust.keys.len(), trust.unsigned) {
        (0, false) => log::warn!("{}", Untrusted::NoKeys),
        (count, true) => log::warn!("upgrade.unsigned is allow: images need no signature ({count} signing keys)"),
        (count, false) => log::info!("{count} signing keys: only images signed by them may be staged"),
    }
    *TRUST.lock() = trust;
}

fn read(name: &str, module: &dyn Fn(&str) -> Option<&'static [u8]>) -> Result<[u8; KEY_BYTES], String> {
    let bytes = module(name).ok_or("there is no such boot module: add it to the boot script")?;
    let text = core::str::from_utf8(bytes).map_err(|_| "it is not text: name the .pub file of batonctl keys new")?;
    signature::parse_public(text).map_err(|error| format!("{error}"))
}

/// As the image before this one had it.
pub fn restore(trust: TrustState) {
    *TRUST.lock() = trust;
}

/// What the next image must know, the minimum build of the running one included.
pub fn state(running: &Note) -> TrustState {
    let trust = TRUST.lock().clone();
    TrustState { minimum_build: trust.minimum_build.max(running.minimum_build), ..trust }
}

/// Whether an image with this note may be staged. Its content is for the digest to judge.
///
/// # Errors
/// Why not.
pub fn admit(running: &Note, note: &Note) -> Result<(), Untrusted> {
    judge(&state(running), note)
}

fn judge(trust: &TrustState, note: &Note) -> Result<(), Untrusted> {
    match signature::verify(note, &trust.keys) {
        Ok(()) => {}
        Err(SignatureError::Unsigned) if trust.unsigned => {}
        // Whoever allows unsigned images without naming a key can't tell one signature from another.
        Err(SignatureError::UnknownKey { .. }) if trust.unsigned && trust.keys.is_empty() => {}
        Err(_) if trust.keys.is_empty() => return Err(Untrusted::NoKeys),
        Err(error) => return Err(Untrusted::Signature(error)),
    }
    if note.build_number < trust.minimum_build {
        return Err(Untrusted::Build { number: note.build_number, minimum: trust.minimum_build });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use handover::note::{NOTE_BYTES, seal_with};
    use zerocopy::IntoBytes;

    const SEED: [u8; 32] = [7; 32];

    fn image(edit: impl FnOnce(&mut Note)) -> Vec<u8> {
        let mut image = alloc::vec![0; 4096];
        image[1024..1024 + NOTE_BYTES].copy_from_slice(Note::unsealed().as_bytes());
        seal_with(&mut image, |note| {
            (note.memory_bytes, note.slot_bytes, note.entry_upgrade) = (4096, 4096, 16);
            note.build_number = 5;
            edit(note);
        })
        .unwrap();
        image
    }

    fn note(image: &[u8]) -> Note {
        handover::note::parse_note(image).unwrap()
    }

    fn trust(keys: &[[u8; 32]], unsigned: bool) -> TrustState {
        TrustState { keys: keys.to_vec(), unsigned, minimum_build: 0 }
    }

    #[test]
    fn law_21_unsigned_unknown_and_altered_images_are_refused() {
        let known = signature::public_key(&SEED);
        let mut image = image(|_| {});
        let unsigned = note(&image);
        signature::sign(&mut image, &SEED).unwrap();
        let signed = note(&image);
        assert_eq!(judge(&trust(&[[9; 32], known], false), &signed), Ok(()));
        let refusal = |trust: &TrustState, note: &Note| judge(trust, note).unwrap_err();
        let strict = trust(&[known], false);
        assert_eq!(refusal(&strict, &unsigned), Untrusted::Signature(SignatureError::Unsigned));
        let stranger = trust(&[signature::public_key(&[8; 32])], false);
        let id = signature::key_id(&known);
        assert_eq!(refusal(&stranger, &signed), Untrusted::Signature(SignatureError::UnknownKey { id }));
        let altered = Note { signature: [1; 64], ..signed };
        assert_eq!(refusal(&strict, &altered), Untrusted::Signature(SignatureError::Wrong { id }));
        let other_content = Note { digest: [1; 32], ..signed };
        assert_eq!(refusal(&strict, &other_content), Untrusted::Signature(SignatureError::Wrong { id }));
    }

    #[test]
    fn without_keys_nothing_is_staged_unless_the_operator_says_so() {
        let mut image = image(|_| {});
        let unsigned = note(&image);
        signature::sign(&mut image, &SEED).unwrap();
        for note in [unsigned, note(&image)] {
            assert_eq!(judge(&trust(&[], false), &note), Err(Untrusted::NoKeys));
            assert_eq!(judge(&trust(&[], true), &note), Ok(()));
        }
        // Who knows a key is not told lies by others.
        let some = trust(&[signature::public_key(&[8; 32])], true);
        assert_eq!(judge(&some, &unsigned), Ok(()));
        assert!(judge(&some, &note(&image)).is_err());
    }

    #[test]
    fn the_minimum_build_is_kept_and_honoured() {
        let running = note(&image(|note| note.minimum_build = 6));
        let old = note(&image(|_| {}));
        restore(trust(&[], true));
        assert_eq!(admit(&running, &old), Err(Untrusted::Build { number: 5, minimum: 6 }));
        assert_eq!(admit(&running, &note(&image(|note| note.build_number = 6))), Ok(()));
        let handed = state(&running);
        assert_eq!(handed.minimum_build, 6);
        // A successor that asks for less does not lower it.
        restore(handed);
        assert_eq!(admit(&old, &old), Err(Untrusted::Build { number: 5, minimum: 6 }));
        restore(trust(&[], false));
    }

    #[test]
    fn a_key_that_cant_be_read_is_named() {
        let module = |name: &str| -> Option<&'static [u8]> {
            match name {
                "binary.pub" => Some(&[0xff]),
                "secret.pub" => Some(b"baton-ed25519-secret 00"),
                _ => None,
            }
        };
        for (name, word) in [("binary.pub", "not text"), ("secret.pub", "secret"), ("no.pub", "no such boot module")] {
            assert!(read(name, &module).unwrap_err().contains(word), "{name}");
        }
    }
}
