//! What the guest's kernel says about the disk.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Counts lines of the kernel log in which the NVMe driver or the block layer complains.
pub struct KernelLog {
    log: Option<File>,
    complaints: u64,
}

impl KernelLog {
    /// From the first line of the log on. Without `/dev/kmsg`, 0 would be a lie: see [`KernelLog::complaints`].
    pub fn open() -> Self {
        let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok();
        Self { log, complaints: 0 }
    }

    /// Complaints so far; `None` when the log can't be read.
    pub fn complaints(&mut self) -> Option<u64> {
        let log = self.log.as_mut()?;
        let mut record = [0; 2048];
        loop {
            // Each read gives one record.
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(bytes) => self.complaints += u64::from(complains(&String::from_utf8_lossy(&record[..bytes]))),
                // The ring overtook us: the next read goes on with the oldest record.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return None,
            }
        }
        Some(self.complaints)
    }
}

fn complains(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let words = ["timeout", "reset", "abort", "i/o error", "failed", "disabling"];
    (line.contains("nvme") && words.iter().any(|word| line.contains(word)))
        || line.contains("blk_update_request: i/o error")
}

#[cfg(test)]
mod tests {
    use super::complains;

    #[test]
    fn knows_the_drivers_words() {
        // Messages of drivers/nvme/host/pci.c and block/blk-core.c of Linux 6.1.
        assert!(complains("4,500,1,-;nvme nvme0: I/O 12 QID 1 timeout, aborting"));
        assert!(complains("4,501,1,-;nvme nvme0: I/O 12 QID 1 timeout, completion polled"));
        assert!(complains("4,502,1,-;nvme nvme0: controller is down; will reset: CSTS=0xffffffff"));
        assert!(complains("3,503,1,-;I/O error, dev nvme0n1, sector 0 op 0x0:(READ) flags 0x0"));
        assert!(!complains("6,504,1,-;nvme nvme0: 1/0/0 default/read/poll queues"));
        assert!(!complains("6,505,1,-;random: crng init done"));
    }
}
