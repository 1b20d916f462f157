//! What is typed on COM2 goes to the guest whose console it is.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::config::Console;
use crate::vm::{self, Vm, VmState};
use crate::{console, time};

/// Between two looks at the port, in milliseconds: at 115200 baud a 16-byte FIFO fills in 1.4 ms, a typist in seconds.
const POLL_MS: u64 = 20;
/// Bytes taken at once: a 16550's FIFO.
const BATCH: usize = 16;

/// The guest that listens, and what it has not taken yet.
pub struct Keyboard {
    guest: Option<Arc<Vm>>,
    typed: Vec<u8>,
    due: u64,
}

impl Keyboard {
    /// Nobody listens.
    pub const fn new() -> Self {
        Self { guest: None, typed: Vec::new(), due: 0 }
    }

    /// Looks for the guest; now and then.
    pub fn find_guest(&mut self) {
        let guests = vm::all();
        let listens = |vm: &&Arc<Vm>| vm.console == Console::Com2 && vm.state() == VmState::Running;
        self.guest = guests.iter().find(listens).cloned();
    }

    /// Passes on what was typed. Returns when to come back, in ticks of the TSC.
    pub fn poll(&mut self, now: u64) -> u64 {
        let Some(guest) = &self.guest else {
            return u64::MAX;
        };
        if now < self.due {
            return self.due;
        }
        if self.typed.is_empty() {
            let mut port = console::guest_port().lock();
            self.typed.extend(core::iter::from_fn(|| port.receive()).take(BATCH));
        }
        if !self.typed.is_empty() {
            let taken = guest.platform.push_input(&self.typed).min(self.typed.len());
            self.typed.drain(..taken);
        }
        self.due = now.saturating_add(time::ms_to_ticks(POLL_MS));
        self.due
    }
}
