extern crate std;

use alloc::format;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// One newc entry by its description in cpio(5): 13 fields of 8 hexadecimal digits.
fn entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(*b"070701");
    let fields = [1, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    for field in fields {
        bytes.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn archive() -> Vec<u8> {
    [
        entry(".", 0o040_755, b""),
        entry("vmlinuz", 0o100_644, b"kernel"),
        entry("./boot/initrd.cpio", 0o100_644, b"07070100"),
        entry("link", 0o120_777, b"vmlinuz"),
        entry("/empty", 0o100_600, b""),
        entry("TRAILER!!!", 0, b""),
    ]
    .concat()
}

fn names<'a>(modules: &[Module<'a>]) -> Vec<(&'a str, &'a [u8])> {
    modules.iter().map(|module| (module.name, module.bytes)).collect()
}

#[test]
fn regular_files_by_name() {
    let archive = archive();
    assert_eq!(
        names(&modules(&archive).unwrap()),
        [("vmlinuz", &b"kernel"[..]), ("boot/initrd.cpio", b"07070100"), ("empty", b"")]
    );
    assert!(modules(b"").unwrap().is_empty());
    assert!(modules(&[0; 600]).unwrap().is_empty());
}

#[test]
fn archives_follow_one_another() {
    let mut bytes = archive();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(entry("baton.toml", 0o100_644, b"[upgrade]"));
    bytes.extend(entry("TRAILER!!!", 0, b""));
    let modules = modules(&bytes).unwrap();
    assert_eq!(modules.len(), 4);
    assert_eq!((modules[3].name, modules[3].bytes), ("baton.toml", &b"[upgrade]"[..]));
}

#[test]
fn every_cut_is_noticed() {
    let archive = archive();
    // The padding behind the last name is not needed.
    let end = archive.len() - 2;
    assert_eq!(modules(&archive[..end]).map(|modules| modules.len()), Ok(3));
    for length in 1..end - 1 {
        assert!(modules(&archive[..length]).is_err(), "{length}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(modules(b"\x1f\x8b\x08").map(|_| ()), Err(CpioError::NoMagic { offset: 0 }));
    // The portable ASCII format is not newc.
    assert_eq!(modules(b"070707000000").map(|_| ()), Err(CpioError::NoMagic { offset: 0 }));
    let mut bytes = archive();
    let second = entry(".", 0o040_755, b"").len();
    bytes[second + 54] = b'Z';
    assert_eq!(modules(&bytes).map(|_| ()), Err(CpioError::BadEntry { offset: second }));
    let mut bytes = archive();
    let end = bytes.len();
    bytes.extend_from_slice(b"junk");
    assert_eq!(modules(&bytes).map(|_| ()), Err(CpioError::NoMagic { offset: end }));
}

/// GNU cpio itself, where it is installed.
#[test]
fn agrees_with_gnu_cpio_if_there_is_one() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let directory = std::env::temp_dir().join(format!("baton-cpio-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("a"), b"content").unwrap();
    let spawned = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(&directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    if let Ok(mut child) = spawned {
        child.stdin.take().unwrap().write_all(b"./a\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(names(&modules(&output.stdout).unwrap()), [("a", &b"content"[..])]);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

proptest! {
    #[test]
    fn damage_never_panics(damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8)) {
        let mut bytes = archive();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = modules(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = modules(&bytes);
        let _ = modules(&[b"070701", &bytes[..]].concat());
    }
}
