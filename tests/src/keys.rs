//! The key that the tests' images are signed by: made at the first build, never committed.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use handover::note::signature;

use crate::paths;

/// The seed of the tests' key; made when there is none.
///
/// # Errors
/// It can't be written or read.
pub fn secret() -> Result<[u8; 32]> {
    secret_at(&paths::test_key())
}

fn secret_at(path: &Path) -> Result<[u8; 32]> {
    if !path.is_file() {
        let name = path.with_extension("");
        fs::create_dir_all(name.parent().unwrap_or(&name))?;
        batonctl::keys::generate(&name)?;
    }
    Ok(batonctl::keys::read_secret(path)?)
}

/// Signs an image as the tests' machines expect.
///
/// # Errors
/// It is not sealed, or there is no key.
pub fn sign(image: &mut [u8]) -> Result<()> {
    signature::sign(image, &secret()?).map_err(|error| anyhow!("the image can't be signed: {error}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once() {
        let directory = std::env::temp_dir().join(format!("baton-keys-{}", std::process::id()));
        let path = directory.join("test.key");
        let first = secret_at(&path).expect("made");
        assert_eq!(secret_at(&path).expect("read"), first);
        let public = fs::read_to_string(directory.join("test.pub")).expect("beside it");
        assert_eq!(signature::parse_public(&public), Ok(signature::public_key(&first)));
        fs::remove_dir_all(directory).expect("was created");
    }
}
