//! A block on the disk: which one it is, which version, and a checksum over all of it.

use crc::{CRC_32_ISCSI, Crc, Table};

/// Bytes of a block, and the alignment that O_DIRECT wants.
pub const BLOCK_BYTES: usize = 4096;

const CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
const HEAD_BYTES: usize = 24;
const MAGIC: u32 = 0x6f69_7462;

/// A block in memory.
#[repr(align(4096))]
pub struct Block(pub [u8; BLOCK_BYTES]);

impl Block {
    /// Zeroes.
    pub fn new() -> Box<Self> {
        Box::new(Self([0; BLOCK_BYTES]))
    }

    /// Fills the block with version `sequence` of block `number`.
    ///
    /// Head: number, sequence, magic, checksum of the rest and the head. The rest is a pattern of both.
    pub fn fill(&mut self, number: u64, sequence: u64) {
        let mut value = (number << 32 ^ sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for chunk in self.0[HEAD_BYTES..].chunks_exact_mut(8) {
            // xorshift64: no two versions look alike
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        self.0[0..8].copy_from_slice(&number.to_le_bytes());
        self.0[8..16].copy_from_slice(&sequence.to_le_bytes());
        self.0[16..20].copy_from_slice(&MAGIC.to_le_bytes());
        self.0[20..24].fill(0);
        let sum = CRC.checksum(&self.0);
        self.0[20..24].copy_from_slice(&sum.to_le_bytes());
    }

    /// Whether this is version `sequence` of block `number`, whole.
    pub fn is(&mut self, number: u64, sequence: u64) -> bool {
        let mut stored = [0; 4];
        stored.copy_from_slice(&self.0[20..24]);
        self.0[20..24].fill(0);
        let sum = CRC.checksum(&self.0);
        self.0[20..24].copy_from_slice(&stored);
        self.0[0..8] == number.to_le_bytes()
            && self.0[8..16] == sequence.to_le_bytes()
            && self.0[16..20] == MAGIC.to_le_bytes()
            && sum.to_le_bytes() == stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_itself() {
        let mut block = Block::new();
        block.fill(7, 3);
        assert!(block.is(7, 3));
        assert!(block.is(7, 3), "checking leaves the block as it was");
    }

    #[test]
    fn stale_misplaced_and_damaged_blocks_are_seen() {
        let mut block = Block::new();
        assert!(!block.is(0, 0), "zeroes are no block");
        block.fill(7, 3);
        assert!(!block.is(7, 4), "stale");
        assert!(!block.is(8, 3), "misplaced");
        for byte in 0..BLOCK_BYTES {
            block.0[byte] ^= 0x10;
            assert!(!block.is(7, 3), "byte {byte} damaged");
            block.0[byte] ^= 0x10;
        }
    }

    #[test]
    fn versions_differ_everywhere() {
        let (mut one, mut two) = (Block::new(), Block::new());
        one.fill(7, 3);
        two.fill(7, 4);
        let equal = one.0[HEAD_BYTES..].chunks(8).zip(two.0[HEAD_BYTES..].chunks(8)).filter(|(a, b)| a == b).count();
        assert_eq!(equal, 0, "a torn mix of two versions can't have the checksum of one by likeness");
    }
}
