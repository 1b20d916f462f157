//! The guest's 16550 (National PC16550D data sheet, table 2), polled.
#![expect(unsafe_code, reason = "port I/O")]

use alloc::string::String;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use machine::cpu::port;

use crate::interrupts;

const PORT: u16 = 0x3f8;
const FIFO: u16 = PORT + 2;
const LINE: u16 = PORT + 3;
const STATUS: u16 = PORT + 5;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Between two looks at the port.
const POLL_MS: u64 = 5;

/// Whose line it is: processors print one after the other.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Looks at it; who has waited that long prints all the same: whoever has it may have ended in the middle of a line.
const LOOKS: u32 = 10_000_000;

/// Everything goes through here.
struct Console;

/// Prints a line, when nobody else does.
pub fn print(text: fmt::Arguments<'_>) {
    let _mine = (0..LOOKS).any(|_| !BUSY.swap(true, Ordering::Acquire));
    // The console takes everything.
    let _ = Console.write_fmt(text);
    send(b'\n');
    BUSY.store(false, Ordering::Release);
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(send);
        Ok(())
    }
}

fn send(byte: u8) {
    // SAFETY: the UART's ports touch no memory.
    unsafe {
        while port::read8(STATUS) & TRANSMITTER_EMPTY == 0 {
            core::hint::spin_loop();
        }
        port::write8(PORT, byte);
    }
}

/// 8N1, FIFOs on.
pub fn init() {
    // SAFETY: the UART's ports touch no memory.
    unsafe {
        port::write8(LINE, 3);
        port::write8(FIFO, 7);
    }
}

fn receive() -> Option<u8> {
    // SAFETY: the UART's ports touch no memory.
    unsafe { (port::read8(STATUS) & DATA_READY != 0).then(|| port::read8(PORT)) }
}

/// Takes what was typed. A line is whole when it has ended.
#[derive(Default)]
pub struct Input {
    line: String,
}

impl Input {
    /// A whole line, if there is one.
    pub fn poll(&mut self) -> Option<String> {
        while let Some(byte) = receive() {
            match byte {
                b'\n' | b'\r' if self.line.is_empty() => {}
                b'\n' | b'\r' => return Some(core::mem::take(&mut self.line)),
                byte => self.line.push(char::from(byte)),
            }
        }
        None
    }

    /// Waits for a whole line.
    pub fn wait(&mut self) -> String {
        loop {
            if let Some(line) = self.poll() {
                return line;
            }
            interrupts::sleep_ms(POLL_MS);
        }
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print(format_args!($($argument)*))
    };
}
