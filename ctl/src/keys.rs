//! Signing keys and signatures of images, on the operator's own machine: no machine that runs Baton is asked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use handover::note::signature::{self, KEY_BYTES, KeyError, KeyId, PUBLIC_WORD, SECRET_WORD};
use handover::note::{NoteError, seal_with};

/// Why nothing was made or signed.
#[derive(Debug)]
pub enum Error {
    /// A file can't be read or written.
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file holds no key.
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: KeyError,
    },
    /// A file is no image, or a damaged one.
    Image {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: NoteError,
    },
    /// The system gives no random numbers.
    Random(getrandom::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, cause } if cause.kind() == io::ErrorKind::AlreadyExists => {
                write!(f, "{} is there already, and a key is never overwritten: take another name", path.display())
            }
            Self::File { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::Key { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::Image { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::Random(cause) => write!(f, "the system gives no random numbers: {cause}"),
        }
    }
}

impl std::error::Error for Error {}

fn file(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |cause| Error::File { path: path.into(), cause }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new pair: `NAME.key`, which only its owner can read, and `NAME.pub`. Returns the key's id.
///
/// # Errors
/// One of them is there already, or can't be written.
pub fn generate(name: &Path) -> Result<String, Error> {
    let mut seed = [0; KEY_BYTES];
    getrandom::fill(&mut seed).map_err(Error::Random)?;
    let public = signature::public_key(&seed);
    let id = KeyId(signature::key_id(&public)).to_string();
    let with = |extension: &str| {
        let mut path = name.as_os_str().to_owned();
        path.push(extension);
        PathBuf::from(path)
    };
    let (secret, public_path) = (with(".key"), with(".pub"));
    // Both or none: the name is looked at before anything is written.
    if public_path.exists() {
        return Err(file(&public_path)(io::ErrorKind::AlreadyExists.into()));
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut key = options.open(&secret).map_err(file(&secret))?;
    writeln!(key, "{SECRET_WORD} {} {id}", hex(&seed)).map_err(file(&secret))?;
    let mut key = File::create_new(&public_path).map_err(file(&public_path))?;
    writeln!(key, "{PUBLIC_WORD} {} {id}", hex(&public)).map_err(file(&public_path))?;
    Ok(id)
}

/// The seed in a secret key's file.
///
/// # Errors
/// It can't be read, or holds none.
pub fn read_secret(path: &Path) -> Result<[u8; KEY_BYTES], Error> {
    let text = fs::read_to_string(path).map_err(file(path))?;
    signature::parse_secret(&text).map_err(|cause| Error::Key { path: path.into(), cause })
}

/// Signs the image in `from` and writes it to `to`, which may be the same file. With `minimum_build` no older build can follow
/// it. Returns the key's id.
///
/// # Errors
/// A file can't be read or written, or is no image.
pub fn sign(from: &Path, to: &Path, key: &Path, minimum_build: Option<u32>) -> Result<String, Error> {
    let seed = read_secret(key)?;
    let mut image = fs::read(from).map_err(file(from))?;
    let bad = |cause| Error::Image { path: from.into(), cause };
    handover::note::verify_digest(&image).map_err(bad)?;
    if let Some(minimum) = minimum_build {
        seal_with(&mut image, |note| note.minimum_build = minimum).map_err(bad)?;
    }
    let note = signature::sign(&mut image, &seed).map_err(bad)?;
    fs::write(to, image).map_err(file(to))?;
    Ok(KeyId(note.key_id).to_string())
}
