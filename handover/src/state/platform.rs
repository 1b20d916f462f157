//! The rest of a guest's board.

record! {
    /// A guest's I/O APIC.
    IoapicV1 [0x0701, "I/O APIC", Freeze, true, 216] key |record| [record.guest, record.id.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Redirection entries.
        pub redirection: [u64; 24],
        /// APIC id.
        pub id: u32,
        /// Selected register.
        pub select: u32,
        /// Levels of the pins, one bit each.
        pub levels: u32,
        reserved: [u8; 4],
    }
}

/// Bytes the receive queue of a [`UartV1`] holds.
pub const UART_QUEUE: usize = 64;

record! {
    /// A guest's 16550 (its registers by the data sheet's names).
    UartV1 [0x0702, "UART", Freeze, true, 96] key |record| [record.guest, record.port.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// First I/O port.
        pub port: u32,
        /// Bytes in [`UartV1::queue`].
        pub queued: u32,
        /// Bytes from the operator that wait for the guest.
        pub queue: [u8; UART_QUEUE],
        /// Interrupt enable.
        pub ier: u8,
        /// Line control.
        pub lcr: u8,
        /// Modem control.
        pub mcr: u8,
        /// Line status.
        pub lsr: u8,
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
        /// 1 when its interrupt line is raised.
        pub line: u8,
        reserved: [u8; 5],
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
    /// A guest's MC146818 clock.
    RtcV1 [0x0704, "RTC", Freeze, false, 152] key |record| [record.guest, 0];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Nanoseconds to add to the host's time of day.
        pub offset_ns: u64,
        /// Registers and CMOS memory; the time in the first ten is computed anew.
        pub memory: [u8; 128],
        /// Selected register.
        pub select: u32,
        reserved: [u8; 4],
    }
}
