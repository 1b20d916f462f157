//! TCP/IP over the management NIC: one address, one port, a fixed number of
//! connections. All memory is taken at construction; every poll does bounded work.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr};

use super::address::{Addressing, Lease, StackError};
use super::channel::{Channel, ChannelError, ChannelResult};
use super::device::NicDevice;
use super::nic::Nic;

/// Connections at a time.
pub const SLOTS: usize = 8;
/// Bytes of each connection's receive buffer: uploads arrive here.
pub const RECEIVE_BUFFER: usize = 64 * 1024;
/// Bytes of each connection's send buffer.
pub const SEND_BUFFER: usize = 16 * 1024;

/// Frames taken from the card in one poll.
const INGRESS_BUDGET: usize = 64;
/// Rounds of sending in one poll; each sends at most one frame per socket.
const EGRESS_BUDGET: usize = 64;
/// A peer that sends nothing for so long is gone; probes are sent more often.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// A card with a link that sends nothing for so long hangs and is reset.
const HANG_MS: u64 = 5_000;
/// Delay until the next look at a card that has no room to send, in milliseconds.
const NO_ROOM_MS: u64 = 1;

/// What the stack is told at construction.
#[derive(Clone, Copy, Debug)]
pub struct StackConfig {
    /// Where the address comes from.
    pub addressing: Addressing,
    /// TCP port to listen on, not 0.
    pub port: u16,
    /// A random number: TCP sequence numbers and DHCP transactions derive from it.
    pub seed: u64,
}

/// Where a connection slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Waits for a client.
    Listening,
    /// A client has knocked; the handshake is not done.
    Opening,
    /// Data may flow in at least one direction.
    Open,
    /// Over. [`Stack::recycle`] makes it listen again.
    Closed,
}

/// The network stack.
pub struct Stack<N: Nic> {
    device: NicDevice<N>,
    interface: Interface,
    sockets: SocketSet<'static>,
    slots: [SocketHandle; SLOTS],
    dhcp: Option<SocketHandle>,
    /// The lease that DHCP has not confirmed yet.
    provisional: bool,
    lease: Option<Lease>,
    port: u16,
    /// Frames may be left in the card.
    more: bool,
    /// Since when the card has had no room to send.
    stuck_since: Option<u64>,
    resets: u64,
}

fn instant(now_ms: u64) -> Instant {
    // Above 2^62 ms smoltcp's microseconds would overflow; uptime never gets there.
    Instant::from_millis(i64::try_from(now_ms.min(1 << 50)).unwrap_or(0))
}

impl<N: Nic> Stack<N> {
    /// Builds the stack over a started NIC. `now_ms` is the time since any moment, monotonic.
    ///
    /// # Errors
    /// When the configuration cannot be used; the NIC is given back.
    pub fn new(nic: N, config: &StackConfig, now_ms: u64) -> Result<Self, (StackError, N)> {
        let lease = match config.addressing {
            Addressing::Static(lease) => match lease.check() {
                Ok(()) => Some(lease),
                Err(error) => return Err((error, nic)),
            },
            // A record of another image: not usable means not used.
            Addressing::Dhcp { previous } => previous.filter(|lease| lease.check().is_ok()),
        };
        if config.port == 0 {
            return Err((StackError::Port, nic));
        }
        let mut hardware = Config::new(EthernetAddress(nic.mac()).into());
        hardware.random_seed = config.seed;
        let mut device = NicDevice::new(nic);
        let interface = Interface::new(hardware, &mut device, instant(now_ms));
        let mut sockets = SocketSet::new(Vec::with_capacity(SLOTS + 1));
        let slots = core::array::from_fn(|_| sockets.add(new_socket()));
        let dhcp = match config.addressing {
            Addressing::Dhcp { .. } => Some(sockets.add(dhcpv4::Socket::new())),
            Addressing::Static(_) => None,
        };
        let mut stack = Self {
            device,
            interface,
            sockets,
            slots,
            dhcp,
            provisional: dhcp.is_some() && lease.is_some(),
            lease: None,
            port: config.port,
            more: false,
            stuck_since: None,
            resets: 0,
        };
        stack.set_lease(lease);
        for slot in 0..SLOTS {
            stack.recycle(slot);
        }
        Ok(stack)
    }

    /// The address in use, to be handed over to the next image as
    /// [`Addressing::Dhcp`]'s `previous`.
    pub fn lease(&self) -> Option<Lease> {
        self.lease
    }

    /// How often the card hung and was reset.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// The network card.
    pub fn nic(&mut self) -> &mut N {
        &mut self.device.nic
    }

    /// Gives the network card back. Connections are dropped without a word to their clients.
    pub fn into_nic(self) -> N {
        self.device.nic
    }

    /// Acknowledges the card's interrupt and takes in what it has received.
    pub fn receive(&mut self, now_ms: u64) {
        let now = instant(now_ms);
        self.device.nic.acknowledge_interrupt();
        self.watch(now_ms);
        self.interface.poll_maintenance(now);
        self.more = true;
        for _ in 0..INGRESS_BUDGET {
            let result = self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets);
            if matches!(result, PollIngressSingleResult::None) {
                self.more = false;
                break;
            }
        }
        self.follow_dhcp();
    }

    /// Sends what the sockets hold. Returns after how many milliseconds the stack
    /// wants to be polled again, if no interrupt comes before.
    pub fn send(&mut self, now_ms: u64) -> Option<u64> {
        let now = instant(now_ms);
        for _ in 0..EGRESS_BUDGET {
            if matches!(self.interface.poll_egress(now, &mut self.device, &mut self.sockets), PollResult::None) {
                break;
            }
        }
        if !self.device.nic.transmit_ready() {
            return Some(NO_ROOM_MS);
        }
        if self.more {
            return Some(0);
        }
        self.interface.poll_delay(now, &self.sockets).map(|delay| delay.total_millis())
    }

    /// Where slot `slot` (below [`SLOTS`]) stands.
    pub fn slot_state(&self, slot: usize) -> SlotState {
        let Some(handle) = self.slots.get(slot) else {
            return SlotState::Closed;
        };
        match self.sockets.get::<tcp::Socket<'_>>(*handle).state() {
            tcp::State::Listen => SlotState::Listening,
            tcp::State::SynReceived | tcp::State::SynSent => SlotState::Opening,
            tcp::State::Closed | tcp::State::TimeWait => SlotState::Closed,
            _ => SlotState::Open,
        }
    }

    /// The byte stream of slot `slot`, if there is such a slot.
    pub fn channel(&mut self, slot: usize) -> Option<SocketChannel<'_>> {
        let handle = *self.slots.get(slot)?;
        Some(SocketChannel { socket: self.sockets.get_mut(handle) })
    }

    /// Drops whatever slot `slot` was doing and makes it listen.
    ///
    /// A socket in TIME-WAIT is taken as well: the slots are too few to let each
    /// rest for a minute, and a late segment of the old connection only earns a reset.
    pub fn recycle(&mut self, slot: usize) {
        let Some(handle) = self.slots.get(slot) else {
            return;
        };
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
        socket.abort();
        // Fails only for port 0 or an open socket; neither can be here.
        let _listening = socket.listen(self.port);
    }

    /// Resets a card that has a link but does not send.
    fn watch(&mut self, now_ms: u64) {
        if self.device.nic.transmit_ready() || !self.device.nic.link_up() {
            self.stuck_since = None;
            return;
        }
        let since = *self.stuck_since.get_or_insert(now_ms);
        if now_ms.saturating_sub(since) >= HANG_MS {
            self.stuck_since = None;
            self.resets += 1;
            // A card that cannot be started stays stuck, and is tried again after the same time.
            let _started = self.device.nic.start();
        }
    }

    fn follow_dhcp(&mut self) {
        let Some(handle) = self.dhcp else { return };
        let lease = match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            None => return,
            // The client starts by saying that it knows nothing; a handed-over lease outlives that.
            Some(dhcpv4::Event::Deconfigured) if self.provisional => return,
            Some(dhcpv4::Event::Deconfigured) => None,
            Some(dhcpv4::Event::Configured(config)) => {
                let lease = Lease {
                    address: config.address.address().octets(),
                    prefix: config.address.prefix_len(),
                    gateway: config.router.map(|router| router.octets()),
                };
                // The server's word is foreign data: a bad router is left out, a bad address refused.
                [lease, Lease { gateway: None, ..lease }].into_iter().find(|lease| lease.check().is_ok())
            }
        };
        self.provisional = false;
        self.set_lease(lease);
    }

    /// `lease` has been checked.
    fn set_lease(&mut self, lease: Option<Lease>) {
        if lease == self.lease {
            return;
        }
        self.lease = lease;
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(lease) = lease {
                // Empty, so there is room.
                let _pushed = addresses.push(IpCidr::Ipv4(lease.cidr()));
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(gateway) = lease.and_then(|lease| lease.gateway) {
            // The only route, so there is room.
            let _added = routes.add_default_ipv4_route(gateway.into());
        }
    }
}

fn new_socket() -> tcp::Socket<'static> {
    let receive = tcp::SocketBuffer::new(vec![0; RECEIVE_BUFFER]);
    let send = tcp::SocketBuffer::new(vec![0; SEND_BUFFER]);
    let mut socket = tcp::Socket::new(receive, send);
    socket.set_timeout(Some(PEER_TIMEOUT));
    socket.set_keep_alive(Some(KEEP_ALIVE));
    // Responses are written whole, and a poll acknowledges a batch of frames at once.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_congestion_control(tcp::CongestionControl::Reno);
    socket
}

/// A TCP connection as a [`Channel`].
pub struct SocketChannel<'a> {
    socket: &'a mut tcp::Socket<'static>,
}

impl Channel for SocketChannel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> ChannelResult<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.socket.recv_slice(buffer) {
            Ok(0) => Err(ChannelError::WouldBlock),
            Ok(read) => Ok(read),
            Err(_) => Err(ChannelError::Closed),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> ChannelResult<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.socket.send_slice(bytes) {
            Ok(0) => Err(ChannelError::WouldBlock),
            Ok(written) => Ok(written),
            Err(_) => Err(ChannelError::Closed),
        }
    }

    fn flushed(&self) -> bool {
        self.socket.send_queue() == 0 || !self.socket.is_open()
    }

    fn close(&mut self) {
        self.socket.close();
    }

    fn abort(&mut self) {
        self.socket.abort();
    }
}
