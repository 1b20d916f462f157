//! A byte stream to one client. Plain TCP today, TLS over TCP next; whoever
//! speaks HTTP must not know which one it is.

/// Why a channel moved no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// Nothing can be moved now; try again at the next poll.
    WouldBlock,
    /// This direction is over: the peer finished sending, or the connection is gone.
    Closed,
}

/// The result of a transfer.
pub type ChannelResult<T> = Result<T, ChannelError>;

/// A reliable, ordered, non-blocking byte stream.
pub trait Channel {
    /// Reads some bytes. `Ok(n)` has `n > 0` unless `buffer` is empty.
    fn read(&mut self, buffer: &mut [u8]) -> ChannelResult<usize>;
    /// Accepts some of `bytes` for sending. `Ok(n)` has `n > 0` unless `bytes` is empty.
    fn write(&mut self, bytes: &[u8]) -> ChannelResult<usize>;
    /// Whether the peer has acknowledged every byte written so far, or can no
    /// longer do so because the connection is gone.
    fn flushed(&self) -> bool;
    /// Finishes sending: what was written still arrives, followed by the end of
    /// the stream. Reading stays possible until the peer finishes too.
    fn close(&mut self);
    /// Drops the connection at once; what has not been sent is lost.
    fn abort(&mut self);
}
