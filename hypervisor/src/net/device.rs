//! A [`Nic`] as smoltcp's device. Frames are built and parsed in buffers of our own
//! and copied, so that the card cannot change a frame while it is being looked at.

use alloc::boxed::Box;
use alloc::vec;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::nic::{MAX_FRAME, Nic};

/// A NIC and one frame buffer for each direction.
pub(super) struct NicDevice<N> {
    pub(super) nic: N,
    received: Box<[u8; MAX_FRAME]>,
    sending: Box<[u8; MAX_FRAME]>,
}

impl<N: Nic> NicDevice<N> {
    pub(super) fn new(nic: N) -> Self {
        Self { nic, received: Box::new([0; MAX_FRAME]), sending: Box::new([0; MAX_FRAME]) }
    }
}

/// One received frame.
pub(super) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one frame.
pub(super) struct Sending<'a, N> {
    nic: &'a mut N,
    buffer: &'a mut [u8; MAX_FRAME],
}

impl<N: Nic> TxToken for Sending<'_, N> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(frame) = self.buffer.get_mut(..len) else {
            // Longer than the MTU announced below: smoltcp does not do that. The
            // closure must run all the same; what it builds is not sent.
            return f(&mut vec![0; len]);
        };
        let result = f(frame);
        // A frame that the card does not take is lost like one lost on the wire; TCP repeats it.
        let _taken = self.nic.transmit(frame);
        result
    }
}

impl<N: Nic> Device for NicDevice<N> {
    type RxToken<'a>
        = Received<'a>
    where
        N: 'a;
    type TxToken<'a>
        = Sending<'a, N>
    where
        N: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // A frame may want an answer: without room to send, it stays in the card.
        if !self.nic.transmit_ready() {
            return None;
        }
        let length = self.nic.receive(&mut self.received)?;
        let frame = self.received.get(..length)?;
        Some((Received(frame), Sending { nic: &mut self.nic, buffer: &mut self.sending }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        self.nic.transmit_ready().then_some(Sending { nic: &mut self.nic, buffer: &mut self.sending })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME;
        capabilities
    }
}
