//! The serial log on COM1, behind the `log` facade: one line an event, with the time since
//! power-on, its weight and the area it comes from. COM2 carries a guest's console.
#![expect(unsafe_code, reason = "port I/O")]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use hermit_sync::InterruptTicketMutex;
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::upgrade::last_words;
use crate::{cpu, time};

/// A 16550 reached by port I/O, polled.
pub struct SerialPort {
    base: u16,
}

/// Offsets and bits of the 16550 (National PC16550D data sheet, table 2).
mod uart {
    pub const DATA: u16 = 0;
    pub const INTERRUPTS: u16 = 1;
    pub const FIFO: u16 = 2;
    pub const LINE: u16 = 3;
    pub const MODEM: u16 = 4;
    pub const STATUS: u16 = 5;
    pub const DATA_READY: u8 = 1 << 0;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 5;
}

/// A stuck transmitter costs at most so many polls per byte: a byte at 115200 baud takes 87 us, a poll about 1 us.
const POLLS: u32 = 1_000;

impl SerialPort {
    const fn new(base: u16) -> Self {
        Self { base }
    }

    fn read(&self, register: u16) -> u8 {
        // SAFETY: the legacy UART's ports touch no memory.
        unsafe { cpu::port::read8(self.base + register) }
    }

    fn write(&self, register: u16, value: u8) {
        // SAFETY: the legacy UART's ports touch no memory.
        unsafe { cpu::port::write8(self.base + register, value) };
    }

    /// 115200 8N1, FIFOs on, no interrupts.
    fn init(&self) {
        self.write(uart::INTERRUPTS, 0);
        self.write(uart::LINE, 0x80);
        self.write(uart::DATA, 1);
        self.write(uart::INTERRUPTS, 0);
        self.write(uart::LINE, 0x03);
        self.write(uart::FIFO, 0x07);
        self.write(uart::MODEM, 0x03);
    }

    /// Sends a byte; drops it when the transmitter stays busy.
    pub fn send(&mut self, byte: u8) {
        for _ in 0..POLLS {
            if self.read(uart::STATUS) & uart::TRANSMITTER_EMPTY != 0 {
                self.write(uart::DATA, byte);
                return;
            }
            core::hint::spin_loop();
        }
    }

    /// A byte that has arrived.
    pub fn receive(&mut self) -> Option<u8> {
        // An absent port reads as all ones.
        let status = self.read(uart::STATUS);
        (status != 0xff && status & uart::DATA_READY != 0).then(|| self.read(uart::DATA))
    }
}

impl Write for SerialPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}

static COM1: InterruptTicketMutex<SerialPort> = InterruptTicketMutex::new(SerialPort::new(0x3f8));
static COM2: InterruptTicketMutex<SerialPort> = InterruptTicketMutex::new(SerialPort::new(0x2f8));
static QUIET: AtomicBool = AtomicBool::new(false);

struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries speak only when something is wrong.
        metadata.target().starts_with("baton")
            || metadata.target().starts_with("hypervisor")
            || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let area = record.target().rsplit("::").next().unwrap_or("");
        if QUIET.load(Ordering::Relaxed) {
            last_words::take(format_args!("{area}: {}", record.args()));
            return;
        }
        let micros = time::uptime_micros();
        let word = match record.level() {
            Level::Error => "error ",
            Level::Warn => "warning ",
            _ => "",
        };
        let mut port = COM1.lock();
        let _ = writeln!(port, "[{:5}.{:06}] {area}: {word}{}", micros / 1_000_000, micros % 1_000_000, record.args());
    }

    fn flush(&self) {}
}

/// Starts the log. After an upgrade the ports are set up already and keep their state.
pub fn init(cold: bool) {
    if cold {
        COM1.lock().init();
        COM2.lock().init();
    }
    if log::set_logger(&Console).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// A byte that was typed on COM1.
pub fn received() -> Option<u8> {
    COM1.lock().receive()
}

/// Silences the log for the pause of an upgrade.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// The port of a guest's console.
pub fn guest_port() -> &'static InterruptTicketMutex<SerialPort> {
    &COM2
}

/// Last words, past a lock that the dying code may hold.
pub fn emergency(arguments: fmt::Arguments<'_>) {
    let mut port = SerialPort::new(0x3f8);
    let _ = writeln!(port, "\n{arguments}");
}
