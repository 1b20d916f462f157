//! CRC32C (Castagnoli), the checksum of header and payload. By the CPU's own instruction: the stream's rest is
//! checksummed twice during the pause.

use crc::{CRC_32_ISCSI, Crc, Table};

/// For CPUs without that instruction: a small table, slower.
static CASTAGNOLI: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// A checksum in progress; a clone of it continues from the same point.
#[derive(Clone)]
pub(crate) struct Running {
    /// The register of the reflected algorithm.
    state: u32,
}

impl Running {
    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.state = machine::cpu::crc::crc32c(self.state, bytes).unwrap_or_else(|| by_table(self.state, bytes));
    }

    /// The checksum of all bytes taken.
    #[must_use]
    pub(crate) fn finalize(self) -> u32 {
        !self.state
    }
}

fn by_table(state: u32, bytes: &[u8]) -> u32 {
    // The library wants the initial value as the catalogue has it, not reflected.
    let mut digest = CASTAGNOLI.digest_with_initial(state.reverse_bits());
    digest.update(bytes);
    !digest.finalize()
}

/// A fresh checksum.
pub(crate) fn running() -> Running {
    Running { state: !0 }
}

/// The CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut running = running();
    running.update(bytes);
    running.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Vectors of RFC 3720 B.4 and the check value of the CRC catalogue.
    #[test]
    fn published_vectors() {
        let ascending: [u8; 32] = core::array::from_fn(|i| i as u8);
        for (bytes, crc) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
        ] {
            assert_eq!(crc32c(bytes), crc);
            assert_eq!(!by_table(!0, bytes), crc);
        }
    }

    #[test]
    fn continues_where_a_clone_was_taken() {
        let mut first = running();
        first.update(b"1234");
        let mut second = first.clone();
        second.update(b"56789");
        assert_eq!(second.finalize(), 0xe306_9283);
    }

    proptest! {
        /// With the instruction and without, in any pieces.
        #[test]
        fn both_ways(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<proptest::sample::Index>()) {
            let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
            let table = by_table(by_table(!0, head), tail);
            let mut running = running();
            running.update(head);
            running.update(tail);
            prop_assert_eq!(running.finalize(), !table);
            prop_assert_eq!(crc32c(&bytes), !table);
        }
    }
}
