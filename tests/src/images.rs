//! Images made from a finished one: under another name, or wrong in a known way.

use anyhow::{Context, Result, ensure};
use handover::note;

use crate::keys;

/// Stands before the build's name (`boot/src/note.rs`).
const NAME_MAGIC: &[u8] = b"BATON.BUILD.NAME";
/// Bytes of the name, one of them a zero behind it.
const NAME_BYTES: usize = 32;

/// Names an image, seals and signs it: another name or number is another build.
///
/// # Errors
/// The name is too long, or the image has no place for it, or no note.
pub fn set_name(image: &mut [u8], name: &str, number: u32) -> Result<()> {
    ensure!(name.len() < NAME_BYTES, "a build's name has {} bytes at most: {name}", NAME_BYTES - 1);
    let at = image.windows(NAME_MAGIC.len()).position(|bytes| bytes == NAME_MAGIC).context("no place for a name")?;
    let place =
        image.get_mut(at + NAME_MAGIC.len()..).and_then(|rest| rest.get_mut(..NAME_BYTES)).context("cut off")?;
    place.fill(0);
    place[..name.len()].copy_from_slice(name.as_bytes());
    // What the note says of entries and sizes, the linker has put there.
    note::seal_with(image, |note| note.build_number = number)
        .map_err(|error| anyhow::anyhow!("the image can't be sealed: {error} (its note lies in boot/src/note.rs)"))?;
    keys::sign(image)
}

/// Plants a fault in an image that was built for it (`hypervisor/src/upgrade/fault.rs`): its kind, and where it is met.
///
/// # Errors
/// As for [`set_name`].
pub fn set_fault(image: &mut [u8], kind: u8, place: u8) -> Result<()> {
    let at = image.windows(NAME_MAGIC.len()).position(|bytes| bytes == NAME_MAGIC).context("no place for a fault")?;
    let place_at = at + NAME_MAGIC.len() + NAME_BYTES;
    image.get_mut(place_at..place_at + 2).context("cut off")?.copy_from_slice(&[kind, place]);
    note::seal_with(image, |_| {}).map_err(|error| anyhow::anyhow!("the image can't be sealed: {error}"))?;
    keys::sign(image)
}

/// An image that is whole and signed, and so short that it can be sent a thousand times: nothing behind its note is there. It can be
/// planned for, and must not be run.
///
/// # Errors
/// When the image has no note.
pub fn short(good: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = good.get(..note::SEARCH_BYTES).unwrap_or(good).to_vec();
    let entries = |note: &mut note::Note| {
        (note.entry_multiboot, note.entry_efi, note.entry_ap, note.entry_upgrade) = (16, 16, 16, 16);
    };
    note::seal_with(&mut bytes, entries).map_err(|error| anyhow::anyhow!("the image can't be cut: {error}"))?;
    keys::sign(&mut bytes)?;
    Ok(bytes)
}

/// A file that must be refused.
pub struct Wrong {
    /// What is wrong with it.
    pub name: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
    /// A word that the refusal has to contain: the reason, not any failure.
    pub reason: &'static str,
}

/// One byte is flipped, far behind the note.
///
/// # Errors
/// When the image is too small to be one.
pub fn flipped(good: &[u8]) -> Result<Wrong> {
    let mut bytes = good.to_vec();
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty image")? ^= 1;
    Ok(Wrong { name: "one byte flipped", bytes, reason: "digest" })
}

/// Whole, but reads only handover formats that are not written yet.
///
/// # Errors
/// When the image has no note.
pub fn from_the_future(good: &[u8]) -> Result<Wrong> {
    let mut bytes = good.to_vec();
    note::seal_with(&mut bytes, |note| (note.reads_min, note.reads_max) = (60_000, 60_001))
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Wrong { name: "handover versions out of range", bytes, reason: "format" })
}

/// Where the signature stands in the note, and its bytes with the key id.
const SIGNATURE: std::ops::Range<usize> = 80..152;

/// Whole, but the bytes of signature and key id are changed.
///
/// # Errors
/// When the image has no note.
fn signed_otherwise(good: &[u8], name: &'static str, reason: &'static str, change: fn(&mut [u8])) -> Result<Wrong> {
    let mut bytes = good.to_vec();
    let at = note::locate_unsealed(&bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
    change(bytes.get_mut(at + SIGNATURE.start..at + SIGNATURE.end).context("cut off")?);
    Ok(Wrong { name, bytes, reason })
}

/// Signed by somebody else.
fn by_a_stranger(good: &[u8]) -> Result<Wrong> {
    let mut bytes = good.to_vec();
    note::signature::sign(&mut bytes, &[0x5a; 32]).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Wrong { name: "a stranger's signature", bytes, reason: "does not know" })
}

/// Whole, but nobody that the tests' machines know vouches for them.
///
/// # Errors
/// When the good image isn't good.
pub fn untrusted(good: &[u8]) -> Result<Vec<Wrong>> {
    Ok(vec![
        signed_otherwise(good, "no signature", "unsigned", |place| place.fill(0))?,
        signed_otherwise(good, "an altered signature", "signature is not", |place| place[40] ^= 1)?,
        by_a_stranger(good)?,
    ])
}

/// Every kind.
///
/// # Errors
/// When the good image isn't good.
pub fn all(good: &[u8]) -> Result<Vec<Wrong>> {
    let truncated = good.get(..good.len() / 2).context("an empty image")?.to_vec();
    let longer = [good, &[0]].concat();
    let garbage = (0u32..100_000).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Ok([
        flipped(good)?,
        from_the_future(good)?,
        Wrong { name: "truncated", bytes: truncated, reason: "truncated" },
        Wrong { name: "one byte too long", bytes: longer, reason: "oversized" },
        Wrong { name: "garbage", bytes: garbage, reason: "image" },
    ]
    .into_iter()
    .chain(untrusted(good)?)
    .collect())
}
