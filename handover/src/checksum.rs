//! CRC32C (Castagnoli), the checksum of header and payload.

use crc::{CRC_32_ISCSI, Crc, Digest, Table};

/// Sixteen tables: 16 KiB of read-only data for about a quarter of the instructions per byte, since
/// the rest of the stream is checksummed twice during the pause.
static CASTAGNOLI: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A checksum in progress; a clone of it continues from the same point.
pub(crate) type Running = Digest<'static, u32, Table<16>>;

/// A fresh checksum.
pub(crate) fn running() -> Running {
    CASTAGNOLI.digest()
}

/// The CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    CASTAGNOLI.checksum(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of RFC 3720 B.4 and the check value of the CRC catalogue.
    #[test]
    fn published_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: [u8; 32] = core::array::from_fn(|i| i as u8);
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
    }

    #[test]
    fn continues_where_a_clone_was_taken() {
        let mut first = running();
        first.update(b"1234");
        let mut second = first.clone();
        second.update(b"56789");
        assert_eq!(second.finalize(), 0xe306_9283);
    }
}
