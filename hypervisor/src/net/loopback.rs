//! Two NICs joined by a wire, and a TCP client, for tests.

extern crate std;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::device::NicDevice;
use super::nic::{MAX_FRAME, Nic, NicError};

type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of the wire.
#[derive(Clone)]
pub(crate) struct WireNic {
    mac: [u8; 6],
    incoming: Queue,
    outgoing: Queue,
    pub shared: Rc<Switches>,
}

/// What tests turn on a NIC.
#[derive(Default)]
pub(crate) struct Switches {
    /// Has no room to send, until it is started.
    pub hung: Cell<bool>,
    pub starts: Cell<u32>,
    pub stopped: Cell<bool>,
    pub acknowledged: Cell<u32>,
    /// Every n-th frame that is sent gets lost; 0: none.
    pub lose_every: Cell<u32>,
    pub sent: Cell<u32>,
}

/// Both ends of a wire.
pub(crate) fn wire() -> (WireNic, WireNic) {
    let (a, b): (Queue, Queue) = Default::default();
    let end = |last, incoming: &Queue, outgoing: &Queue| WireNic {
        mac: [2, 0, 0, 0, 0, last],
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        shared: Rc::default(),
    };
    (end(1, &a, &b), end(2, &b, &a))
}

impl Nic for WireNic {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn link_up(&self) -> bool {
        true
    }

    fn start(&mut self) -> Result<(), NicError> {
        self.shared.hung.set(false);
        self.shared.stopped.set(false);
        self.shared.starts.set(self.shared.starts.get() + 1);
        Ok(())
    }

    fn receive(&mut self, frame: &mut [u8; MAX_FRAME]) -> Option<usize> {
        let received = self.incoming.borrow_mut().pop_front()?;
        frame[..received.len()].copy_from_slice(&received);
        Some(received.len())
    }

    fn transmit_ready(&mut self) -> bool {
        !self.shared.hung.get()
    }

    fn transmit(&mut self, frame: &[u8]) -> bool {
        let shared = &self.shared;
        shared.sent.set(shared.sent.get() + 1);
        let every = shared.lose_every.get();
        if every == 0 || !shared.sent.get().is_multiple_of(every) {
            self.outgoing.borrow_mut().push_back(frame.to_vec());
        }
        true
    }

    fn acknowledge_interrupt(&mut self) {
        self.shared.acknowledged.set(self.shared.acknowledged.get() + 1);
    }

    fn stop(&mut self) -> Result<(), NicError> {
        self.shared.stopped.set(true);
        Ok(())
    }
}

/// A client machine at 10.0.2.2 with any number of connections.
pub(crate) struct ClientHost {
    device: NicDevice<WireNic>,
    interface: Interface,
    sockets: SocketSet<'static>,
    next_port: u16,
}

pub(crate) const SERVER: IpAddress = IpAddress::v4(10, 0, 2, 15);

impl ClientHost {
    pub fn new(nic: WireNic) -> Self {
        let mut config = Config::new(EthernetAddress(nic.mac()).into());
        config.random_seed = 99;
        let mut device = NicDevice::new(nic);
        let mut interface = Interface::new(config, &mut device, Instant::from_millis(0));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(10, 0, 2, 2), 24)).unwrap();
        });
        Self { device, interface, sockets: SocketSet::new(vec![]), next_port: 50_000 }
    }

    pub fn connect(&mut self, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        self.next_port += 1;
        socket.connect(self.interface.context(), (SERVER, port), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn poll(&mut self, now_ms: u64) {
        self.interface.poll(Instant::from_millis(now_ms as i64), &mut self.device, &mut self.sockets);
    }

    /// Sends as much as goes; returns how much.
    pub fn send(&mut self, handle: SocketHandle, bytes: &[u8]) -> usize {
        let socket = self.socket(handle);
        if socket.can_send() { socket.send_slice(bytes).unwrap_or(0) } else { 0 }
    }

    pub fn receive(&mut self, handle: SocketHandle, into: &mut Vec<u8>) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = self.socket(handle).recv_slice(&mut buffer) {
            into.extend_from_slice(&buffer[..read]);
        }
    }
}
