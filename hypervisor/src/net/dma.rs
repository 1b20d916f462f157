//! Memory shared with a device.

/// A block of memory that the CPU and one device both reach. The CPU addresses it
/// by byte offset; the device by I/O virtual address, contiguous over the block.
///
/// Accesses outside the block read as zero and write nothing, so that a driver's
/// arithmetic can never become a stray access. The device writes at any time:
/// `read` copies, and the caller looks only at the copy.
pub trait DmaMemory {
    /// Bytes in the block.
    fn bytes(&self) -> usize;
    /// The address at which the device sees `offset`.
    fn iova(&self, offset: usize) -> u64;
    /// Copies out of the block.
    fn read(&self, offset: usize, buffer: &mut [u8]);
    /// Copies into the block.
    fn write(&mut self, offset: usize, bytes: &[u8]);
    /// Reads the 8-byte aligned word at `offset` in one volatile load.
    fn read_u64(&self, offset: usize) -> u64;
    /// Writes the 8-byte aligned word at `offset` in one volatile store.
    fn write_u64(&mut self, offset: usize, value: u64);
}
