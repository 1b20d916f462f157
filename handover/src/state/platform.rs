//! The rest of a guest's board.

record! {
    /// A guest's I/O APIC.
    IoapicV1 [0x0701, "I/O APIC", Freeze, true, 216] key |record| [record.guest, record.id.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Redirection entries.
        pub redirection: [u64; 24],
        /// ID register: the APIC id in bits 27:24.
        pub id: u32,
        /// Selected register.
        pub select: u32,
        /// Levels of the pins, one bit each.
        pub levels: u32,
        reserved: [u8; 4],
    }
}

/// The most input a [`UartV1`] keeps, in bytes.
pub const UART_INPUT_MAX: u32 = 4096;
/// Bytes of input in one record.
pub const UART_PIECE: usize = 256;

record! {
    /// A guest's 16550 (its registers by the data sheet's names). Line status and interrupt line follow from them.
    UartV1 [0x0702, "UART", Freeze, true, 32] key |record| [record.guest, record.port.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// First I/O port.
        pub port: u32,
        /// Bytes from the operator that wait for the guest, in [`UartInputV1`]s.
        pub input_bytes: u32,
        /// Interrupt enable.
        pub ier: u8,
        /// Line control.
        pub lcr: u8,
        /// Modem control.
        pub mcr: u8,
        /// Modem status.
        pub msr: u8,
        /// Scratch.
        pub scr: u8,
        /// Divisor, low.
        pub dll: u8,
        /// Divisor, high.
        pub dlm: u8,
        /// FIFO control.
        pub fcr: u8,
        /// 1 when the transmitter-empty interrupt waits to be read.
        pub thr_pending: u8,
        /// 1 after input was lost, until the guest reads it.
        pub overrun: u8,
        reserved: [u8; 6],
    }
}

record! {
    /// A piece of the input that waits in a UART, oldest first. No piece is left out.
    UartInputV1 [0x0705, "UART input", Freeze, true, 272] key |record| [record.guest, u64::from(record.port) << 32 | u64::from(record.offset)];
    {
        /// Token of the guest.
        pub guest: u64,
        /// First I/O port of the UART.
        pub port: u32,
        /// Offset of the piece, a multiple of [`UART_PIECE`].
        pub offset: u32,
        /// The bytes; zero past the end of the input.
        pub bytes: [u8; UART_PIECE],
    }
}

record! {
    /// A guest's PCI host bridge.
    PciHostV1 [0x0703, "PCI host", Freeze, true, 16] key |record| [record.guest, 0];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Last value written to port 0xcf8.
        pub address: u32,
        reserved: [u8; 4],
    }
}

record! {
    /// A guest's legacy ports: interval timer, CMOS address, port 0x61. The time in the CMOS is the host's.
    LegacyV1 [0x0704, "legacy ports", Freeze, true, 72] key |record| [record.guest, 0];
    {
        /// Token of the guest.
        pub guest: u64,
        /// System time in nanoseconds at which each channel's count was loaded.
        pub pit_loaded_ns: [u64; 3],
        /// Count of each channel, zero for 65536.
        pub pit_reload: [u16; 3],
        /// Count when it was latched.
        pub pit_latched: [u16; 3],
        /// 1 after a latch command, until it is read.
        pub pit_is_latched: [u8; 3],
        /// Bits 5:4 of each control word.
        pub pit_access: [u8; 3],
        /// Bits 3:1 of each control word.
        pub pit_mode: [u8; 3],
        /// 1 when the next read or write is the high byte.
        pub pit_high_next: [u8; 3],
        /// The low byte written.
        pub pit_low: [u8; 3],
        /// CMOS address register.
        pub cmos_index: u8,
        /// Bits 1:0 of port 0x61.
        pub port_61: u8,
        /// The refresh bit of port 0x61.
        pub refresh: u8,
        reserved: [u8; 10],
    }
}
