//! Offsets and bits of the configuration header (PCI 3.0 chapter 6, PCIe 7.5). Data only.

pub(super) const ID: u16 = 0x00;
pub(super) const COMMAND: u16 = 0x04;
pub(super) const CLASS: u16 = 0x08;
pub(super) const CACHE_LINE: u16 = 0x0C;
pub(super) const BAR0: u16 = 0x10;
pub(super) const BAR5: u16 = 0x24;
pub(super) const SUBSYSTEM: u16 = 0x2C;
pub(super) const CAPABILITIES: u16 = 0x34;
pub(super) const INTERRUPT: u16 = 0x3C;
/// First byte behind the header.
pub(super) const HEADER_END: u16 = 0x40;
/// Bytes of conventional configuration space.
pub(super) const CONVENTIONAL_END: u16 = 0x100;

pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
pub(super) const COMMAND_BUS_MASTER: u16 = 1 << 2;
pub(super) const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Bits a guest may set: memory, bus master, parity response, SERR#, INTx disable.
pub(super) const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | COMMAND_BUS_MASTER | 1 << 6 | 1 << 8 | COMMAND_INTX_DISABLE;
/// The capability list bit of the status register.
pub(super) const STATUS_CAPABILITIES: u32 = 1 << 4;

/// All ones in `width` bytes: what nobody answers.
pub(super) const fn ones(width: u8) -> u32 {
    match width {
        1 => 0xFF,
        2 => 0xFFFF,
        _ => 0xFFFF_FFFF,
    }
}

/// Replaces the bits of `old` selected by `mask`.
pub(super) const fn masked(old: u32, value: u32, mask: u32) -> u32 {
    old & !mask | value & mask
}

/// A write of `width` bytes at `offset` as a dword value and a mask of the bytes written.
/// `None` if it crosses a dword.
pub(super) const fn lanes(offset: u16, width: u8, value: u32) -> Option<(u32, u32)> {
    let byte = offset & 3;
    if !matches!(width, 1 | 2 | 4) || byte + width as u16 > 4 {
        return None;
    }
    let shift = byte as u32 * 8;
    Some(((value & ones(width)) << shift, ones(width) << shift))
}
