//! The other end of a network card's wire: it sends every frame back to its sender, unchanged but for the two addresses.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long until the end is noticed.
const POLL: Duration = Duration::from_millis(100);
/// Bytes of an address.
const ADDRESS: usize = 6;

/// A thread that returns frames (QEMU's `-netdev dgram`: one in each datagram). Dropping it ends it.
pub struct Wire {
    port: u16,
    returned: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Begins, at any free port of the loopback.
    ///
    /// # Errors
    /// There is none.
    pub fn start() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("no free loopback port")?;
        socket.set_read_timeout(Some(POLL))?;
        let port = socket.local_addr()?.port();
        let (returned, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&returned), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut frame = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                // A time-out, or the emulator's end.
                let Ok((bytes, sender)) = socket.recv_from(&mut frame) else { continue };
                let Some(frame) = frame.get_mut(..bytes).filter(|frame| frame.len() >= 2 * ADDRESS) else { continue };
                let (destination, rest) = frame.split_at_mut(ADDRESS);
                destination.swap_with_slice(&mut rest[..ADDRESS]);
                if socket.send_to(frame, sender).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { port, returned, stop, thread: Some(thread) })
    }

    /// Where QEMU sends to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Frames sent back.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and what it would say concerns nobody any more.
            _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_with_their_addresses_exchanged() {
        let wire = Wire::start().expect("a port");
        let card = UdpSocket::bind("127.0.0.1:0").expect("a port");
        card.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
        card.send_to(b"short", ("127.0.0.1", wire.port())).expect("sent");
        card.send_to(b"targetsource the rest", ("127.0.0.1", wire.port())).expect("sent");
        let mut frame = [0; 100];
        let (bytes, _) = card.recv_from(&mut frame).expect("an answer");
        assert_eq!(frame.get(..bytes), Some(&b"sourcetarget the rest"[..]));
        // A frame is counted after it was sent: the thread's end is what shows the count.
        let returned = Arc::clone(&wire.returned);
        drop(wire);
        assert_eq!(returned.load(Ordering::Relaxed), 1, "what is too short for addresses is dropped");
    }
}
