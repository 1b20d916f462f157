//! The stack: configuration, DHCP, a hung card.

extern crate std;

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol,
    Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use super::address::{Addressing, Lease, StackError};
use super::loopback::{WireNic, wire};
use super::nic::{MAX_FRAME, Nic};
use super::stack::{Stack, StackConfig};

const LEASE: Lease = Lease { address: [10, 0, 2, 15], prefix: 24, gateway: Some([10, 0, 2, 2]) };

fn stack(nic: WireNic, addressing: Addressing) -> Result<Stack<WireNic>, StackError> {
    Stack::new(nic, &StackConfig { addressing, port: 80, seed: 1 }, 0).map_err(|(error, _)| error)
}

#[test]
fn configuration_is_checked() {
    let refused = |lease| stack(wire().0, Addressing::Static(lease)).err();
    assert_eq!(refused(LEASE), None);
    assert_eq!(refused(Lease { gateway: None, prefix: 32, ..LEASE }), None);
    for address in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
        assert_eq!(refused(Lease { address, ..LEASE }), Some(StackError::Address(address)));
    }
    for prefix in [0, 33, 255] {
        assert_eq!(refused(Lease { prefix, ..LEASE }), Some(StackError::Prefix(prefix)));
    }
    for gateway in [[10, 0, 3, 2], [10, 0, 2, 15], [0, 0, 0, 0], [224, 0, 0, 1]] {
        assert_eq!(refused(Lease { gateway: Some(gateway), ..LEASE }), Some(StackError::Gateway(gateway)));
    }
    let error = Stack::new(wire().0, &StackConfig { addressing: Addressing::Static(LEASE), port: 0, seed: 1 }, 0).err();
    let (error, _nic) = error.expect("refused, the NIC given back");
    assert_eq!(error, StackError::Port);
    assert!(error.to_string().contains("baton.toml"));
}

#[test]
fn a_handed_over_lease_is_used_at_once_unless_it_is_nonsense() {
    let mut good = stack(wire().0, Addressing::Dhcp { previous: Some(LEASE) }).unwrap();
    assert_eq!(good.lease(), Some(LEASE));
    good.receive(1);
    good.send(1);
    assert_eq!(good.lease(), Some(LEASE), "kept while the server has not answered");
    let bad = Lease { address: [255; 4], prefix: 99, gateway: None };
    let mut none = stack(wire().0, Addressing::Dhcp { previous: Some(bad) }).unwrap();
    none.receive(1);
    assert_eq!(none.lease(), None);
}

/// Answers one DHCP message, if a frame is one; `router` is what the server says.
fn dhcp_answer(frame: &[u8], router: [u8; 4]) -> Option<Vec<u8>> {
    let caps = ChecksumCapabilities::default();
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let server = Ipv4Address::new(10, 0, 2, 2);
    let answer = DhcpRepr {
        message_type: match request.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => DhcpMessageType::Ack,
            _ => return None,
        },
        your_ip: Ipv4Address::new(10, 0, 2, 77),
        server_ip: server,
        router: Some(router.into()),
        subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
        server_identifier: Some(server),
        lease_duration: Some(3600),
        requested_ip: None,
        client_identifier: None,
        parameter_request_list: None,
        ..request
    };
    let udp = UdpRepr { src_port: 67, dst_port: 68 };
    let ip = Ipv4Repr {
        src_addr: server,
        dst_addr: Ipv4Address::BROADCAST,
        next_header: IpProtocol::Udp,
        payload_len: 8 + answer.buffer_len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut bytes = vec![0; 14 + 20 + 8 + answer.buffer_len()];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[14..]), &caps);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[34..]),
        &server.into(),
        &Ipv4Address::BROADCAST.into(),
        answer.buffer_len(),
        |payload| answer.emit(&mut DhcpPacket::new_unchecked(payload)).unwrap(),
        &caps,
    );
    Some(bytes)
}

fn lease_from(router: [u8; 4], previous: Option<Lease>) -> Option<Lease> {
    let (server_nic, mut wire_end) = wire();
    let mut stack = stack(server_nic, Addressing::Dhcp { previous }).unwrap();
    let mut frame = [0; MAX_FRAME];
    for now in 0..50 {
        stack.receive(now * 10);
        stack.send(now * 10);
        while let Some(length) = wire_end.receive(&mut frame) {
            if let Some(answer) = dhcp_answer(&frame[..length], router) {
                wire_end.transmit(&answer);
            }
        }
    }
    stack.lease()
}

#[test]
fn dhcp_gives_the_address() {
    let expected = Lease { address: [10, 0, 2, 77], prefix: 24, gateway: Some([10, 0, 2, 2]) };
    assert_eq!(lease_from([10, 0, 2, 2], None), Some(expected));
    assert_eq!(lease_from([10, 0, 2, 2], Some(LEASE)), Some(expected), "the server's word replaces the old lease");
    assert_eq!(lease_from([224, 0, 0, 9], None), Some(Lease { gateway: None, ..expected }), "no such router");
}

#[test]
fn a_hung_card_is_reset_after_five_seconds() {
    let (nic, _other) = wire();
    let shared = nic.shared.clone();
    let mut stack = stack(nic, Addressing::Static(LEASE)).unwrap();
    shared.hung.set(true);
    for now in [0, 1_000, 4_999] {
        stack.receive(now);
        assert_eq!(stack.send(now), Some(1), "looked at again soon, but not in a busy loop");
    }
    assert_eq!((shared.starts.get(), stack.resets()), (0, 0));
    stack.receive(5_000);
    assert_eq!((shared.starts.get(), stack.resets()), (1, 1));
    assert_eq!(shared.acknowledged.get(), 4, "acknowledged at each poll");
}

#[test]
fn a_flood_is_taken_in_portions() {
    let (nic, mut other) = wire();
    let mut stack = stack(nic, Addressing::Static(LEASE)).unwrap();
    for _ in 0..100 {
        other.transmit(&[0xff; 60]);
    }
    stack.receive(0);
    assert_eq!(stack.send(0), Some(0), "36 are left: at once again");
    stack.receive(0);
    assert_eq!(stack.send(0), None, "nothing to do until an interrupt");
}
