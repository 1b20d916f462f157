//! Whole requests through Ethernet, TCP, HTTP and the routes, between two stacks.

extern crate std;

use alloc::string::String;
use alloc::vec::Vec;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use crate::net::address::{Addressing, Lease};
use crate::net::loopback::{ClientHost, Switches, WireNic, wire};
use crate::net::stack::StackConfig;

use super::http::Timeouts;
use super::server::Management;
use super::testing::FakeControl;
use crate::net::stack::SLOTS;

struct World {
    client: ClientHost,
    server: Management<WireNic>,
    client_wire: alloc::rc::Rc<Switches>,
    server_wire: alloc::rc::Rc<Switches>,
    control: FakeControl,
    now: u64,
}

impl World {
    fn new() -> Self {
        let (client_nic, server_nic) = wire();
        let (client_wire, server_wire) = (client_nic.shared.clone(), server_nic.shared.clone());
        let lease = Lease { address: [10, 0, 2, 15], prefix: 24, gateway: None };
        let config = StackConfig { addressing: Addressing::Static(lease), port: 443, seed: 7 };
        let server = Management::new(server_nic, &config, Timeouts::default(), 0).map_err(|(error, _)| error).unwrap();
        let control = FakeControl::default();
        Self { client: ClientHost::new(client_nic), server, client_wire, server_wire, control, now: 0 }
    }

    fn step(&mut self) {
        self.client.poll(self.now);
        self.server.poll(self.now, &mut self.control);
        self.now += 1;
    }

    fn steps(&mut self, count: u32) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Sends `request` on a new connection and returns the response, once it is
    /// `complete` or the server has closed.
    fn exchange(&mut self, request: &[u8], complete: &str) -> (String, SocketHandle) {
        let handle = self.client.connect(443);
        self.exchange_on(handle, request, complete)
    }

    fn exchange_on(&mut self, handle: SocketHandle, request: &[u8], complete: &str) -> (String, SocketHandle) {
        let mut sent = 0;
        let mut response = Vec::new();
        for _ in 0..60_000 {
            self.step();
            sent += self.client.send(handle, &request[sent..]);
            self.client.receive(handle, &mut response);
            let text = String::from_utf8_lossy(&response);
            if !complete.is_empty() && text.ends_with(complete)
                || !self.client.socket(handle).may_recv() && self.client.socket(handle).may_send() && sent > 0
            {
                return (text.into(), handle);
            }
        }
        panic!("no response after {} ms: {}", self.now, String::from_utf8_lossy(&response));
    }

    fn get(&mut self, path: &str) -> (String, SocketHandle) {
        let request = alloc::format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        self.exchange(request.as_bytes(), "}")
    }
}

fn image(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

fn post(image: &[u8]) -> Vec<u8> {
    let head = alloc::format!("POST /v1/upgrade HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", image.len());
    [head.as_bytes(), image].concat()
}

#[test]
fn a_whole_get() {
    let mut world = World::new();
    let (text, handle) = world.get("/v1/status");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("\r\n\r\n{\"product\":\"baton\""), "{text}");
    // The same connection serves again.
    let (text, _) = world.exchange_on(handle, b"GET /v1/guests HTTP/1.1\r\nHost: h\r\n\r\n", "]}");
    assert!(text.ends_with("{\"guests\":[]}"), "{text}");
}

#[test]
fn an_upgrade_of_a_mebibyte_starts_after_its_response_arrived() {
    let mut world = World::new();
    let image = image(1 << 20);
    let (text, handle) = world.exchange(&post(&image), "");
    assert!(text.starts_with("HTTP/1.1 202 Accepted\r\n"), "{text}");
    assert!(text.ends_with("{\"id\":1,\"state\":\"planning\"}"), "{text}");
    assert!(world.control.received == image);
    world.client.socket(handle).close();
    world.steps(10);
    assert_eq!(world.control.diary, ["begin 1048576", "finish 1", "start 1"]);
    assert!(world.now < 1_000, "{} ms", world.now);
    world.steps(1_000);
    assert_eq!(world.control.diary.len(), 3, "started once");
}

#[test]
fn an_upload_survives_lost_frames() {
    let mut world = World::new();
    world.client_wire.lose_every.set(37);
    world.server_wire.lose_every.set(41);
    let image = image(300_000);
    let (text, _) = world.exchange(&post(&image), "");
    assert!(text.starts_with("HTTP/1.1 202 "), "{text}");
    assert!(world.control.received == image);
}

#[test]
fn an_accepted_upgrade_starts_even_if_the_client_vanishes() {
    let mut world = World::new();
    let handle = world.client.connect(443);
    world.steps(20);
    world.client.send(handle, &post(b"image"));
    world.client.poll(world.now);
    // From here on the client hears nothing, so the response is never acknowledged.
    let began = world.now;
    while !world.control.diary.iter().any(|line| line == "start 1") {
        world.server.poll(world.now, &mut world.control);
        world.now += 10;
        assert!(world.now < began + 2_000);
    }
    assert!((500..=520).contains(&(world.now - began)), "{}", world.now - began);
}

#[test]
fn a_cancelled_upgrade_does_not_start() {
    let mut world = World::new();
    let handle = world.client.connect(443);
    let other = world.client.connect(443);
    world.steps(20);
    world.client.send(handle, &post(b"image"));
    world.client.send(other, b"DELETE /v1/upgrade HTTP/1.1\r\nHost: h\r\n\r\n");
    world.steps(1_000);
    assert_eq!(world.control.diary, ["begin 5", "finish 1", "cancel"]);
}

#[test]
fn a_client_that_dies_in_an_upload_frees_it() {
    let mut world = World::new();
    let handle = world.client.connect(443);
    world.steps(20);
    world.client.send(handle, b"POST /v1/upgrade HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\npart");
    world.steps(20);
    world.client.socket(handle).abort();
    world.steps(20);
    assert_eq!(world.control.diary, ["begin 1000", "abort 1"]);

    // Without a reset: by silence.
    let mut world = World::new();
    let handle = world.client.connect(443);
    world.steps(20);
    world.client.send(handle, b"POST /v1/upgrade HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\npart");
    world.steps(20);
    world.client_wire.lose_every.set(1);
    world.steps(11_000);
    assert_eq!(world.control.diary, ["begin 1000", "abort 1"]);
    world.client_wire.lose_every.set(0);
    assert!(world.get("/v1/status").0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_client_that_dies_while_its_image_is_verified_is_noticed() {
    let mut world = World::new();
    world.control.pending = u32::MAX;
    let handle = world.client.connect(443);
    world.steps(20);
    world.client.send(handle, &post(b"image"));
    // Probes keep a living client, however long it takes.
    world.steps(30_000);
    assert_eq!(world.control.diary, ["begin 5"]);
    world.client_wire.lose_every.set(1);
    world.steps(14_000);
    assert_eq!(world.control.diary, ["begin 5", "abort 1"]);
}

#[test]
fn many_connections_one_after_the_other() {
    let mut world = World::new();
    for _ in 0..20 {
        let (text, handle) = world.exchange(b"GET /v1/guests HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "]}");
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        world.client.socket(handle).close();
        world.steps(10);
    }
    assert!(world.now < 2_000, "no slot rests in TIME-WAIT: {} ms", world.now);
}

#[test]
fn idle_clients_make_room() {
    let mut world = World::new();
    // As many as there can be, that have been served and keep the connection.
    let idle: Vec<_> = (0..SLOTS).map(|_| world.get("/v1/guests").1).collect();
    world.steps(50);
    let closed = |world: &mut World, handle| !world.client.socket(handle).may_recv();
    let gone: Vec<bool> = idle.iter().map(|handle| closed(&mut world, *handle)).collect();
    let due: Vec<bool> = (0..SLOTS).map(|number| number == 0).collect();
    assert_eq!(gone, due, "only the one that has been idle longest");
    // Its client does not react; the slot is taken from it, and another is served.
    world.steps(3_000);
    let (text, _) = world.get("/v1/guests");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[test]
fn silent_clients_do_not_hold_the_slots() {
    let mut world = World::new();
    for _ in 0..SLOTS {
        world.client.connect(443);
    }
    world.steps(5_000);
    assert!(world.get("/v1/status").0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_refused_upload_gets_its_answer_whole() {
    let mut world = World::new();
    world.control.running = Some(super::control::UploadId(9));
    let (text, handle) = world.exchange(&post(&image(400_000)), "}}");
    assert!(text.starts_with("HTTP/1.1 409 Conflict\r\n"), "{text}");
    assert!(text.contains("{\"error\":{\"code\":\"busy\""), "{text}");
    assert_ne!(world.client.socket(handle).state(), tcp::State::Closed, "no reset overtook it");
}

#[test]
fn stop_and_restart() {
    let mut world = World::new();
    let handle = world.client.connect(443);
    world.steps(20);
    world.client.send(handle, b"POST /v1/upgrade HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\npart");
    world.steps(20);
    world.server.stop(&mut world.control).expect("stops");
    assert!(world.server_wire.stopped.get());
    let (sent, polled) = (world.server_wire.sent.get(), world.server_wire.acknowledged.get());
    world.server_wire.hung.set(true);
    world.steps(10_000);
    assert_eq!(world.server_wire.sent.get(), sent);
    assert_eq!(world.server_wire.acknowledged.get(), polled);
    assert_eq!(world.server_wire.starts.get(), 0, "the watchdog leaves a stopped card alone");
    assert_eq!(world.control.diary, ["begin 1000", "abort 1"]);
    world.server.restart().expect("starts");
    assert!(!world.server_wire.stopped.get());
    assert!(world.get("/v1/status").0.starts_with("HTTP/1.1 200 "), "same address, new connections");
}
