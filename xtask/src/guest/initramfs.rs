//! The newc cpio archive that Linux unpacks (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// One entry.
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    /// Major and minor number of a device node.
    device: (u32, u32),
    data: &'a [u8],
}

/// Archives programs, the directories that init mounts on, and the console.
pub fn archive(programs: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    let directory = |name| Entry { name, mode: DIRECTORY, device: (0, 0), data: &[] };
    let mut entries: Vec<_> = ["bin", "dev", "proc", "sys"].map(directory).into();
    entries.push(Entry { name: "dev/console", mode: CONSOLE, device: (5, 1), data: &[] });
    entries.extend(programs.iter().map(|(name, data)| Entry { name, mode: PROGRAM, device: (0, 0), data }));
    for (number, entry) in entries.iter().enumerate() {
        append(&mut archive, u32::try_from(number)? + 1, entry)?;
    }
    append(&mut archive, 0, &Entry { name: "TRAILER!!!", mode: 0, device: (0, 0), data: &[] })?;
    Ok(archive)
}

fn append(archive: &mut Vec<u8>, inode: u32, entry: &Entry<'_>) -> Result<()> {
    let bytes = u32::try_from(entry.data.len()).context("a file of 4 GiB or more")?;
    let name_bytes = u32::try_from(entry.name.len())? + 1;
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check.
    // A time of 0 makes the same input give the same archive.
    let (major, minor) = entry.device;
    let fields = [inode, entry.mode, 0, 0, 1, 0, bytes, 0, 0, major, minor, name_bytes, 0];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(entry.name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(entry.data);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What GNU cpio writes for `bin` (mode 755, inode 1, one link, time 0), and its trailer.
    #[test]
    fn heads_look_like_those_of_gnu_cpio() {
        let archive = archive(&[]).expect("small");
        let head = "07070100000001000041ed0000000000000000000000010000000000000000000000000000000000000000000000000000000400000000bin\0";
        assert!(archive.starts_with(head.as_bytes()), "{}", String::from_utf8_lossy(&archive[..120]));
        let trailer = "0707010000000000000000000000000000000000000001000000000000000000000000000000000000000000000000\
                       0000000b00000000TRAILER!!!\0";
        let at = archive.len() - trailer.len().next_multiple_of(4);
        assert!(archive[at..].starts_with(trailer.as_bytes()));
    }

    #[test]
    fn names_and_data_are_padded_to_four() {
        for bytes in 0..5 {
            let archive = archive(&[("init", vec![7; bytes])]).expect("small");
            assert_eq!(archive.len() % 4, 0);
        }
    }
}
