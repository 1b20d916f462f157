//! Registers and descriptors of the 82574: numbers only. Sections of the datasheet
//! in brackets.

// Offsets of registers [10.2].
pub(super) const CTRL: usize = 0x0000;
pub(super) const STATUS: usize = 0x0008;
pub(super) const EECD: usize = 0x0010;
pub(super) const CTRL_EXT: usize = 0x0018;
pub(super) const ICR: usize = 0x00c0;
pub(super) const ITR: usize = 0x00c4;
pub(super) const IMS: usize = 0x00d0;
pub(super) const IMC: usize = 0x00d8;
pub(super) const RCTL: usize = 0x0100;
pub(super) const TCTL: usize = 0x0400;
pub(super) const TIPG: usize = 0x0410;
pub(super) const RDBAL: usize = 0x2800;
pub(super) const RDBAH: usize = 0x2804;
pub(super) const RDLEN: usize = 0x2808;
pub(super) const RDH: usize = 0x2810;
pub(super) const RDT: usize = 0x2818;
pub(super) const RDTR: usize = 0x2820;
pub(super) const RADV: usize = 0x282c;
pub(super) const TDBAL: usize = 0x3800;
pub(super) const TDBAH: usize = 0x3804;
pub(super) const TDLEN: usize = 0x3808;
pub(super) const TDH: usize = 0x3810;
pub(super) const TDT: usize = 0x3818;
pub(super) const TXDCTL: usize = 0x3828;
pub(super) const RXCSUM: usize = 0x5000;
pub(super) const RFCTL: usize = 0x5008;
pub(super) const MTA: usize = 0x5200;
pub(super) const RAL: usize = 0x5400;
pub(super) const RAH: usize = 0x5404;
pub(super) const GCR: usize = 0x5b00;
pub(super) const GCR2: usize = 0x5b64;

/// Words of the multicast table.
pub(super) const MTA_WORDS: usize = 128;

// CTRL [10.2.2]
pub(super) const CTRL_GIO_MASTER_DISABLE: u32 = 1 << 2;
pub(super) const CTRL_SLU: u32 = 1 << 6;
pub(super) const CTRL_FRCSPD: u32 = 1 << 11;
pub(super) const CTRL_FRCDPLX: u32 = 1 << 12;
pub(super) const CTRL_RST: u32 = 1 << 26;
pub(super) const CTRL_PHY_RST: u32 = 1 << 31;
// STATUS [10.2.2]
pub(super) const STATUS_LU: u32 = 1 << 1;
pub(super) const STATUS_GIO_MASTER_ENABLE: u32 = 1 << 19;
// EECD [10.2.2]: the EEPROM has been loaded.
pub(super) const EECD_AUTO_RD: u32 = 1 << 9;
// CTRL_EXT [10.2.2]: tells the card's management firmware that a driver owns the card.
pub(super) const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
// ICR, IMS, IMC [10.2.4]
pub(super) const CAUSE_LSC: u32 = 1 << 2;
pub(super) const CAUSE_RXDMT0: u32 = 1 << 4;
pub(super) const CAUSE_RXO: u32 = 1 << 6;
pub(super) const CAUSE_RXT0: u32 = 1 << 7;
pub(super) const CAUSES: u32 = CAUSE_LSC | CAUSE_RXDMT0 | CAUSE_RXO | CAUSE_RXT0;
/// ITR [10.2.4]: 50 us between interrupts, in units of 256 ns, so that a flood
/// of frames cannot become a flood of interrupts.
pub(super) const INTERRUPT_INTERVAL: u32 = 195;
// RCTL [10.2.5]: broadcast accepted, checksum stripped, no long packets, 2 KiB buffers.
pub(super) const RCTL_EN: u32 = 1 << 1;
pub(super) const RCTL_BAM: u32 = 1 << 15;
pub(super) const RCTL_SECRC: u32 = 1 << 26;
// TCTL [10.2.6]: short packets padded; collision threshold and distance as recommended.
pub(super) const TCTL_EN: u32 = 1 << 1;
pub(super) const TCTL_PSP: u32 = 1 << 3;
pub(super) const TCTL_CT: u32 = 0x0f << 4;
pub(super) const TCTL_COLD: u32 = 0x3f << 12;
/// TIPG [10.2.6]: 8, 8 and 6.
pub(super) const TIPG_COPPER: u32 = 0x0060_2008;
/// TXDCTL [10.2.6]: descriptors are counted (GRAN, and bit 22, which must be 1) and
/// written back one by one (WTHRESH = 1). RXDCTL stays as the reset leaves it, WTHRESH = 1.
pub(super) const TXDCTL_IMMEDIATE: u32 = 1 << 24 | 1 << 22 | 1 << 16;
// GCR, GCR2: both bits stand against lost PCIe completions, an erratum of the 82574
// that stalls transmission; Linux' e1000e sets them too.
pub(super) const GCR_COMPLETIONS: u32 = 1 << 22;
pub(super) const GCR2_COMPLETIONS: u32 = 1;
// RFCTL [10.2.5]: 1 would mean extended descriptors.
pub(super) const RFCTL_EXTEN: u32 = 1 << 15;
// RAH [10.2.5]
pub(super) const RAH_AV: u32 = 1 << 31;

// The second word of a receive descriptor [7.1]: length 15:0, status 39:32, errors 47:40.
pub(super) const RX_DD: u64 = 1 << 32;
pub(super) const RX_EOP: u64 = 1 << 33;
/// CE, SE, SEQ, CXE, RXE. The checksum errors (TCPE, IPE) are smoltcp's to find.
pub(super) const RX_ERRORS: u64 = 0x97 << 40;
/// The shortest frame that has an Ethernet header.
pub(super) const MIN_FRAME: usize = 14;
// The second word of a transmit descriptor [7.2]: length 15:0, command 31:24, status 35:32.
pub(super) const TX_EOP: u64 = 1 << 24;
pub(super) const TX_IFCS: u64 = 1 << 25;
pub(super) const TX_RS: u64 = 1 << 27;
pub(super) const TX_DD: u64 = 1 << 32;
