//! The 16550A console (PC16550D data sheet). Output leaves at once: the transmitter
//! is always empty. Input waits in a backlog until the guest has read its FIFO.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Where the guest's console output goes.
pub trait ConsoleSink: Send {
    /// One byte written by the guest.
    fn write(&mut self, byte: u8);
}

/// Most bytes of input kept for a guest that does not read.
pub const INPUT_LIMIT: usize = 4096;

const FIFO_DEPTH: usize = 16;

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTER: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_TRANSMITTER: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0C;
const IIR_FIFOS: u8 = 0xC0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;

const LCR_DLAB: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TRANSMITTER: u8 = 1 << 5 | 1 << 6;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
/// A console is always connected.
const MSR_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// Everything the UART remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UartState {
    /// Input not yet read by the guest, oldest first.
    pub input: Vec<u8>,
    /// Divisor latch.
    pub divisor: u16,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// FIFO control register.
    pub fifo_control: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// 1 while the transmitter-empty interrupt is pending.
    pub transmitter_pending: u8,
    /// 1 after input was lost.
    pub overrun: u8,
}

/// Why a [`UartState`] is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartStateError {
    /// More input than [`INPUT_LIMIT`].
    InputTooLong(usize),
    /// A register has bits that the UART never sets.
    Reserved,
}

impl core::fmt::Display for UartStateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::InputTooLong(length) => {
                write!(f, "UART record has {length} bytes of input, at most {INPUT_LIMIT} fit; the record is damaged")
            }
            Self::Reserved => f.write_str("UART record has reserved bits set; the record is damaged"),
        }
    }
}

/// One 16550A.
pub struct Uart {
    sink: Box<dyn ConsoleSink>,
    input: VecDeque<u8>,
    divisor: u16,
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    transmitter_pending: bool,
    overrun: bool,
}

impl Uart {
    /// After reset, writing to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn ConsoleSink>) -> Self {
        Self {
            sink,
            input: VecDeque::new(),
            // 9600 baud.
            divisor: 12,
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            modem_status: MSR_CONNECTED,
            scratch: 0,
            transmitter_pending: false,
            overrun: false,
        }
    }

    /// Types `bytes` at the guest. Returns how many were taken; the rest did not fit.
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        let room = INPUT_LIMIT.saturating_sub(self.input.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.input.extend(taken);
        taken.len()
    }

    /// The interrupt line. MCR.OUT2 gates it, as on a PC.
    #[must_use]
    pub fn is_interrupting(&self) -> bool {
        self.identify() != IIR_NONE && self.modem_control & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
    }

    const fn fifo_enabled(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    /// Bytes in the FIFO that make the received-data interrupt.
    const fn trigger(&self) -> usize {
        match (self.fifo_enabled(), self.fifo_control >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        }
    }

    /// The pending interrupt of highest priority (PC16550D table IV).
    fn identify(&self) -> u8 {
        let enabled = self.interrupt_enable;
        if enabled & IER_LINE != 0 && self.overrun {
            IIR_LINE
        } else if enabled & IER_RECEIVED != 0 && self.input.len() >= self.trigger() {
            IIR_RECEIVED
        } else if enabled & IER_RECEIVED != 0 && !self.input.is_empty() {
            // Less than the trigger level: no more will come soon, the time-out is at once.
            IIR_TIMEOUT
        } else if enabled & IER_TRANSMITTER != 0 && self.transmitter_pending {
            IIR_TRANSMITTER
        } else if enabled & IER_MODEM != 0 && self.modem_status & 0x0F != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// IN from register `offset` (0 to 7).
    pub fn read(&mut self, offset: u16) -> u8 {
        let latch = self.line_control & LCR_DLAB != 0;
        match offset {
            0 if latch => self.divisor as u8,
            1 if latch => (self.divisor >> 8) as u8,
            0 => self.input.pop_front().unwrap_or(0),
            1 => self.interrupt_enable,
            2 => {
                let cause = self.identify();
                if cause == IIR_TRANSMITTER {
                    // Reading IIR resets this one source (PC16550D table IV).
                    self.transmitter_pending = false;
                }
                cause | if self.fifo_enabled() { IIR_FIFOS } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let mut status = LSR_TRANSMITTER;
                if !self.input.is_empty() {
                    status |= LSR_DATA;
                }
                if core::mem::take(&mut self.overrun) {
                    status |= LSR_OVERRUN;
                }
                status
            }
            6 => {
                let status = self.modem_status;
                self.modem_status &= 0xF0;
                status
            }
            7 => self.scratch,
            _ => 0xFF,
        }
    }

    /// OUT to register `offset` (0 to 7).
    pub fn write(&mut self, offset: u16, value: u8) {
        let latch = self.line_control & LCR_DLAB != 0;
        match offset {
            0 if latch => self.divisor = self.divisor & 0xFF00 | u16::from(value),
            1 if latch => self.divisor = self.divisor & 0x00FF | u16::from(value) << 8,
            0 => self.transmit(value),
            1 => {
                let rising = !self.interrupt_enable & value;
                self.interrupt_enable = value & 0x0F;
                // Enabling the interrupt while the transmitter is empty raises it at once:
                // Linux's 8250 driver tests for just this (its UART_BUG_THRE).
                if rising & IER_TRANSMITTER != 0 {
                    self.transmitter_pending = true;
                }
            }
            2 => self.write_fifo_control(value),
            3 => self.line_control = value,
            4 => self.write_modem_control(value),
            7 => self.scratch = value,
            // LSR and MSR are read-only here; factory tests of the chip are not offered.
            _ => {}
        }
    }

    fn transmit(&mut self, byte: u8) {
        if self.modem_control & MCR_LOOP == 0 {
            self.sink.write(byte);
        } else if self.input.len() < if self.fifo_enabled() { FIFO_DEPTH } else { 1 } {
            self.input.push_back(byte);
        } else {
            self.overrun = true;
        }
        self.transmitter_pending = true;
    }

    fn write_fifo_control(&mut self, value: u8) {
        let switched = (self.fifo_control ^ value) & FCR_ENABLE != 0;
        if switched || value & FCR_CLEAR_RECEIVER != 0 {
            // Only what has reached the FIFO is lost, not what waits behind it.
            let depth = if self.fifo_enabled() { FIFO_DEPTH } else { 1 };
            self.input.drain(..depth.min(self.input.len()));
        }
        // Without the enable bit the other bits are not programmed (PC16550D 8.5).
        self.fifo_control = if value & FCR_ENABLE == 0 { 0 } else { value & 0xC1 };
    }

    fn write_modem_control(&mut self, value: u8) {
        self.modem_control = value & 0x1F;
        let mut lines = MSR_CONNECTED;
        if value & MCR_LOOP != 0 {
            // Outputs come back as inputs (PC16550D 8.6).
            lines = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
                .iter()
                .filter(|(output, _)| value & output != 0)
                .fold(0, |lines, (_, input)| lines | input);
        }
        let changed = (self.modem_status ^ lines) & 0xF0;
        // The ring indicator's delta bit tells only of the trailing edge.
        let mut deltas = changed >> 4 & !(MSR_RI >> 4);
        if changed & MSR_RI != 0 && lines & MSR_RI == 0 {
            deltas |= MSR_RI >> 4;
        }
        self.modem_status = lines | self.modem_status & 0x0F | deltas;
    }

    /// Everything but the sink.
    #[must_use]
    pub fn save(&self) -> UartState {
        let mut state = UartState::default();
        self.save_into(&mut state);
        state
    }

    /// Likewise, into a state that was saved before: takes no memory but for input that came since.
    pub fn save_into(&self, state: &mut UartState) {
        state.input.clear();
        state.input.extend(&self.input);
        state.divisor = self.divisor;
        state.interrupt_enable = self.interrupt_enable;
        state.fifo_control = self.fifo_control;
        state.line_control = self.line_control;
        state.modem_control = self.modem_control;
        state.modem_status = self.modem_status;
        state.scratch = self.scratch;
        state.transmitter_pending = u8::from(self.transmitter_pending);
        state.overrun = u8::from(self.overrun);
    }

    /// Continues from `state`.
    ///
    /// # Errors
    /// The state could not come from [`save`](Self::save); nothing was changed.
    pub fn restore(&mut self, state: &UartState) -> Result<(), UartStateError> {
        if state.input.len() > INPUT_LIMIT {
            return Err(UartStateError::InputTooLong(state.input.len()));
        }
        let reserved = state.interrupt_enable & 0xF0
            | state.fifo_control & !0xC1
            | state.modem_control & !0x1F
            | (state.transmitter_pending | state.overrun) & !1;
        if reserved != 0 {
            return Err(UartStateError::Reserved);
        }
        self.input.clear();
        self.input.extend(&state.input);
        self.divisor = state.divisor;
        self.interrupt_enable = state.interrupt_enable;
        self.fifo_control = state.fifo_control;
        self.line_control = state.line_control;
        self.modem_control = state.modem_control;
        self.modem_status = state.modem_status;
        self.scratch = state.scratch;
        self.transmitter_pending = state.transmitter_pending != 0;
        self.overrun = state.overrun != 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use hermit_sync::SpinMutex;
    use proptest::prelude::*;

    #[derive(Clone, Default)]
    struct Recorder(Arc<SpinMutex<Vec<u8>>>);
    impl ConsoleSink for Recorder {
        fn write(&mut self, byte: u8) {
            self.0.lock().push(byte);
        }
    }

    fn uart() -> (Uart, Recorder) {
        let recorder = Recorder::default();
        (Uart::new(Box::new(recorder.clone())), recorder)
    }

    #[test]
    fn linux_autoconfig_finds_a_16550a() {
        // drivers/tty/serial/8250/8250_port.c, autoconfig().
        let (mut uart, _) = uart();
        uart.write(1, 0);
        assert_eq!(uart.read(1) & 0x0F, 0);
        uart.write(1, 0x0F);
        assert_eq!(uart.read(1) & 0x0F, 0x0F);
        uart.write(1, 0);
        // Loopback: MCR 0x1A must show 0x90 in MSR.
        uart.write(4, 0x1A);
        assert_eq!(uart.read(6) & 0xF0, 0x90);
        uart.write(4, 0);
        uart.write(3, 0xBF);
        uart.write(2, 0);
        uart.write(3, 0);
        uart.write(2, 0x01);
        assert_eq!(uart.read(2) >> 6, 3);
        // Not a 16650 (EFR at LCR.DLAB reads non-zero), not a 16750, no XScale UUE bit.
        uart.write(3, 0x80);
        assert_ne!(uart.read(2), 0);
        uart.write(3, 0);
        uart.write(2, 0x21);
        assert_eq!(uart.read(2) >> 5, 6);
        uart.write(1, 0x40);
        assert_eq!(uart.read(1) & 0x40, 0);
    }

    #[test]
    fn linux_thre_test_passes() {
        // serial8250_do_startup(): the interrupt must come back when re-enabled.
        let (mut uart, _) = uart();
        uart.write(4, 0x0B);
        uart.write(1, 0x02);
        assert!(uart.is_interrupting());
        assert_eq!(uart.read(2), 0x02);
        assert!(!uart.is_interrupting());
        uart.write(1, 0);
        uart.write(1, 0x02);
        assert_eq!(uart.read(2), 0x02);
        assert_eq!(uart.read(2), 0x01);
        assert_eq!(uart.read(5), 0x60);
        // Writing makes the transmitter empty again: next interrupt.
        uart.write(0, b'x');
        assert_eq!(uart.read(2), 0x02);
    }

    #[test]
    fn output_reaches_the_sink() {
        let (mut uart, recorder) = uart();
        for byte in *b"hello" {
            uart.write(0, byte);
        }
        uart.write(3, 0x83);
        uart.write(0, 1);
        uart.write(1, 0);
        assert_eq!((uart.read(0), uart.read(1)), (1, 0));
        uart.write(3, 0x03);
        uart.write(4, 0x10);
        uart.write(0, b'!');
        assert_eq!(uart.read(0), b'!');
        assert_eq!(*recorder.0.lock(), b"hello");
    }

    #[test]
    fn input_interrupts_by_level_and_timeout() {
        let (mut uart, _) = uart();
        uart.write(2, 0xC1);
        uart.write(4, 0x0B);
        uart.write(1, 0x05);
        assert_eq!(uart.push_input(&[7; 13]), 13);
        assert!(uart.is_interrupting());
        assert_eq!(uart.read(2), 0xCC);
        assert_eq!(uart.push_input(&[8]), 1);
        assert_eq!(uart.read(2), 0xC4);
        assert_eq!(uart.read(5), 0x61);
        for _ in 0..14 {
            assert!(uart.is_interrupting());
            uart.read(0);
        }
        assert!(!uart.is_interrupting());
        assert_eq!(uart.read(5), 0x60);
        assert_eq!(uart.push_input(&[0; 5000]), INPUT_LIMIT);
    }

    #[test]
    fn out2_gates_the_line() {
        let (mut uart, _) = uart();
        uart.write(1, 0x02);
        assert!(!uart.is_interrupting());
        uart.write(4, 0x08);
        assert!(uart.is_interrupting());
    }

    #[test]
    fn state_survives_and_is_checked() {
        let (mut old, _) = uart();
        old.write(2, 0x81);
        old.write(4, 0x0B);
        old.write(1, 0x07);
        old.write(7, 0x5A);
        old.push_input(b"abc");
        let state = old.save();
        let (mut new, _) = uart();
        assert_eq!(new.restore(&state), Ok(()));
        assert_eq!(new.save(), state);
        assert_eq!(new.read(0), b'a');
        let long = UartState { input: alloc::vec![0; 4097], ..state.clone() };
        assert_eq!(new.restore(&long), Err(UartStateError::InputTooLong(4097)));
        assert_eq!(new.restore(&UartState { interrupt_enable: 0x10, ..state }), Err(UartStateError::Reserved));
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in proptest::collection::vec((any::<bool>(), 0u16..10, any::<u8>()), 1..200)) {
            let (mut uart, _) = uart();
            for (write, offset, value) in accesses {
                if write { uart.write(offset, value); } else { uart.read(offset); }
                uart.push_input(&[value]);
                let _ = uart.is_interrupting();
            }
            let state = uart.save();
            prop_assert_eq!(uart.restore(&state), Ok(()));
        }
    }
}
