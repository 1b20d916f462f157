//! The connection against a channel in memory.

extern crate std;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Poll;

use proptest::prelude::*;

use super::http::{Begin, Connection, Handler, Timeouts};
use super::request::Request;
use super::response::Response;
use super::testing::MemoryChannel;

const TIMEOUTS: Timeouts =
    Timeouts { idle: 1_000, head: 500, body_gap: 300, body: 2_000, write: 400, response: 1_500, linger: 200 };

/// Takes bodies on POST, answers everything with the path.
#[derive(Default)]
struct Echo {
    path: String,
    body: Vec<u8>,
    aborted: u32,
    refuse_at: Option<usize>,
    pending: u32,
}

impl Handler for Echo {
    fn begin(&mut self, request: &Request) -> Begin {
        self.path = request.path.clone();
        if request.method == super::request::Method::Post && self.path != "/refused" {
            self.body.clear();
            return Begin::Body;
        }
        Begin::Respond(Response::new(200, "text/plain", self.path.clone().into_bytes()))
    }

    fn body(&mut self, chunk: &[u8]) -> Result<(), Response> {
        self.body.extend_from_slice(chunk);
        match self.refuse_at {
            Some(at) if self.body.len() >= at => Err(Response::new(413, "text/plain", vec![])),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Poll<Response> {
        if self.pending > 0 {
            self.pending -= 1;
            return Poll::Pending;
        }
        Poll::Ready(Response::new(200, "text/plain", self.body.clone()))
    }

    fn abort(&mut self) {
        self.aborted += 1;
    }
}

fn response(status: &str, body: &str, connection: &str) -> String {
    alloc::format!(
        "HTTP/1.1 {status}\r\nServer: baton\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: {connection}\r\n\r\n{body}",
        body.len()
    )
}

/// One exchange; returns what the client saw.
fn exchange(request: &[u8], handler: &mut Echo) -> (String, MemoryChannel) {
    let mut channel = MemoryChannel::with(request);
    let mut connection = Connection::new(TIMEOUTS, 0);
    for now in 0..50 {
        connection.poll(now, &mut channel, handler);
    }
    (channel.text(), channel)
}

fn refusal(request: &[u8]) -> (String, String) {
    let (text, channel) = exchange(request, &mut Echo::default());
    assert!(channel.closed, "{text}");
    let (head, body) = text.split_once("\r\n\r\n").expect("a response");
    assert!(head.contains("Connection: close") && head.contains("application/json"), "{head}");
    (head.lines().next().unwrap().into(), body.into())
}

#[test]
fn get_and_keep_alive() {
    let request = b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n";
    let (text, channel) = exchange(request, &mut Echo::default());
    assert_eq!(text, response("200 OK", "/a", "keep-alive"));
    assert!(!channel.closed);
}

#[test]
fn http_1_0_and_close() {
    for request in [&b"GET /a HTTP/1.0\r\n\r\n"[..], b"GET /a HTTP/1.1\r\nHost: b\r\nConnection: x, Close\r\n\r\n"] {
        let (text, channel) = exchange(request, &mut Echo::default());
        assert_eq!(text, response("200 OK", "/a", "close"));
        assert!(channel.closed);
    }
}

#[test]
fn head_has_a_length_but_no_body() {
    let (text, _) = exchange(b"HEAD /abc HTTP/1.1\r\nHost: b\r\n\r\n", &mut Echo::default());
    assert!(text.contains("Content-Length: 4\r\n") && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let request = b"GET /1 HTTP/1.1\r\nHost: b\r\n\r\nPOST /2 HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nxyz\
        GET /3 HTTP/1.1\r\nHost: b\r\n\r\n";
    let (text, _) = exchange(request, &mut Echo::default());
    let expected: String = ["/1", "xyz", "/3"].iter().map(|body| response("200 OK", body, "keep-alive")).collect();
    assert_eq!(text, expected);
}

#[test]
fn split_at_every_byte() {
    let request =
        b"POST /up HTTP/1.1\r\nHost: b\r\nContent-Length: 10\r\n\r\n0123456789GET /x HTTP/1.1\r\nHost: b\r\n\r\n";
    let expected = response("200 OK", "0123456789", "keep-alive") + &response("200 OK", "/x", "keep-alive");
    for split in 0..=request.len() {
        let mut handler = Echo::default();
        let mut connection = Connection::new(TIMEOUTS, 0);
        let mut channel = MemoryChannel::with(&request[..split]);
        connection.poll(1, &mut channel, &mut handler);
        channel.push(&request[split..]);
        connection.poll(2, &mut channel, &mut handler);
        assert_eq!(channel.text(), expected, "split at {split}");
    }
    // And byte by byte in both directions.
    let mut handler = Echo::default();
    let mut connection = Connection::new(TIMEOUTS, 0);
    let mut channel = MemoryChannel::with(request);
    channel.read_limit = 1;
    channel.write_limit = 1;
    for _ in 0..100 {
        connection.poll(3, &mut channel, &mut handler);
    }
    assert_eq!(channel.text(), expected);
}

#[test]
fn refused_heads() {
    for (request, status, code) in [
        (&b"GET http://a/b HTTP/1.1\r\nHost: b\r\n\r\n"[..], "400", "bad_request"),
        (b"GET /a HTTP/1.1\r\n\r\n", "400", "bad_request"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400", "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400", "bad_request"),
        (b"GET /a HTTP/2.0\r\nHost: b\r\n\r\n", "505", "http_version"),
        (b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400", "bad_request"),
        (b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: +1\r\n\r\nx", "400", "bad_request"),
        (b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: -1\r\n\r\nx", "400", "bad_request"),
        (b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length:\r\n\r\nx", "400", "bad_request"),
        (b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 18446744073709551616\r\n\r\nx", "400", "bad_request"),
        (b"POST /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "411", "length_required"),
        (
            b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400",
            "bad_request",
        ),
        (b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nExpect: tea\r\n\r\nx", "417", "expectation_failed"),
    ] {
        let (line, body) = refusal(request);
        assert!(line.starts_with(&alloc::format!("HTTP/1.1 {status} ")), "{line} for {request:?}");
        assert!(body.starts_with(&alloc::format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"")), "{body}");
        assert!(body.ends_with("\"blame\":\"operator\"}}"), "{body}");
    }
}

#[test]
fn huge_heads() {
    let mut long = b"GET / HTTP/1.1\r\nHost: b\r\nX: ".to_vec();
    long.resize(9_000, b'a');
    assert!(refusal(&long).0.starts_with("HTTP/1.1 431 "));

    let mut fields = b"GET / HTTP/1.1\r\nHost: b\r\n".to_vec();
    for _ in 0..32 {
        fields.extend_from_slice(b"X: y\r\n");
    }
    fields.extend_from_slice(b"\r\n");
    assert!(refusal(&fields).0.starts_with("HTTP/1.1 431 "));

    let empty_lines = vec![b'\n'; 20_000];
    assert!(refusal(&empty_lines).0.starts_with("HTTP/1.1 431 "));
}

#[test]
fn the_longest_head_passes() {
    let mut head = b"GET / HTTP/1.1\r\nHost: b\r\nX: ".to_vec();
    head.resize(8192 - 4, b'a');
    head.extend_from_slice(b"\r\n\r\n");
    assert_eq!(exchange(&head, &mut Echo::default()).0, response("200 OK", "/", "keep-alive"));
}

#[test]
fn expect_continue() {
    let mut handler = Echo::default();
    let mut connection = Connection::new(TIMEOUTS, 0);
    let mut channel =
        MemoryChannel::with(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    connection.poll(0, &mut channel, &mut handler);
    assert_eq!(channel.take_text(), "HTTP/1.1 100 Continue\r\n\r\n");
    channel.push(b"ok");
    connection.poll(1, &mut channel, &mut handler);
    assert_eq!(channel.take_text(), response("200 OK", "ok", "keep-alive"));

    // Refused before the body: no invitation to send it.
    let request = b"POST /refused HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let (text, channel) = exchange(request, &mut Echo::default());
    assert_eq!(text, response("200 OK", "/refused", "close"));
    assert!(channel.closed);
}

#[test]
fn a_refused_body_is_drained_so_that_the_response_arrives() {
    let mut handler = Echo { refuse_at: Some(100), ..Echo::default() };
    let mut connection = Connection::new(TIMEOUTS, 0);
    let mut channel = MemoryChannel::with(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 100000\r\n\r\n");
    channel.push(&[7; 50_000]);
    connection.poll(0, &mut channel, &mut handler);
    assert_eq!(channel.text(), response("413 Unknown", "", "close").replace("Unknown", "Content Too Large"));
    assert!(channel.closed && !channel.aborted && channel.incoming.is_empty());
    assert_eq!(handler.aborted, 0, "the handler itself ended the body");
    // The client goes on sending for a while: tolerated, but not for ever.
    let mut now = 0;
    while !channel.aborted {
        now += 150;
        assert!(now < 10_000);
        channel.push(b"more");
        connection.poll(now, &mut channel, &mut handler);
    }
    assert!((2_000..2_300).contains(&now), "{now}");
}

#[test]
fn a_pending_answer_is_asked_for_again() {
    let mut handler = Echo { pending: 3, ..Echo::default() };
    let mut connection = Connection::new(TIMEOUTS, 0);
    let mut channel = MemoryChannel::with(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nz");
    for now in [100, 110, 120] {
        assert_eq!(connection.poll(now, &mut channel, &mut handler), now + 10);
        assert!(channel.outgoing.is_empty());
    }
    connection.poll(130, &mut channel, &mut handler);
    assert_eq!(channel.text(), response("200 OK", "z", "keep-alive"));
}

#[test]
fn slow_clients() {
    // Nothing at all: closed without a word.
    let mut handler = Echo::default();
    let mut channel = MemoryChannel::default();
    let mut connection = Connection::new(TIMEOUTS, 0);
    assert_eq!(connection.poll(0, &mut channel, &mut handler), 1_000);
    connection.poll(999, &mut channel, &mut handler);
    assert!(!channel.closed);
    connection.poll(1_000, &mut channel, &mut handler);
    assert!(channel.closed && channel.outgoing.is_empty());

    // One byte of the head at a time: the deadline counts from the first.
    let mut channel = MemoryChannel::default();
    let mut connection = Connection::new(TIMEOUTS, 0);
    for (now, byte) in (0..).step_by(100).zip(b"GET / HTTP/1.1") {
        channel.push(&[*byte]);
        connection.poll(now, &mut channel, &mut handler);
        if channel.closed {
            break;
        }
    }
    assert!(channel.text().starts_with("HTTP/1.1 408 "));

    // A body that stops.
    let mut channel = MemoryChannel::with(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n123");
    let mut connection = Connection::new(TIMEOUTS, 0);
    assert_eq!(connection.poll(0, &mut channel, &mut handler), 300);
    connection.poll(300, &mut channel, &mut handler);
    assert!(channel.text().starts_with("HTTP/1.1 408 "));
    assert_eq!(handler.aborted, 1);

    // A body that trickles.
    let mut channel = MemoryChannel::with(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 999\r\n\r\n");
    let mut connection = Connection::new(TIMEOUTS, 0);
    for now in (0..2_500).step_by(250) {
        channel.push(b"x");
        connection.poll(now, &mut channel, &mut handler);
    }
    assert!(channel.text().starts_with("HTTP/1.1 408 "));
    assert_eq!(handler.aborted, 2);

    // A client that does not take its response.
    let mut channel = MemoryChannel::with(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n");
    channel.blocked = true;
    let mut connection = Connection::new(TIMEOUTS, 0);
    assert_eq!(connection.poll(0, &mut channel, &mut handler), 400);
    connection.poll(400, &mut channel, &mut handler);
    assert!(channel.aborted);

    // A client that takes it byte by byte: bounded as well.
    let mut channel = MemoryChannel::with(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n");
    let mut connection = Connection::new(TIMEOUTS, 0);
    channel.write_limit = 1;
    for now in (0..3_000).step_by(100) {
        channel.blocked = false;
        let sent = channel.outgoing.len();
        while channel.outgoing.len() == sent && !channel.aborted && now < 1_500 {
            connection.poll(now, &mut OneWrite(&mut channel), &mut handler);
        }
        channel.blocked = true;
        connection.poll(now, &mut channel, &mut handler);
    }
    assert!(channel.aborted);
}

/// Lets one write through, then blocks.
struct OneWrite<'a>(&'a mut MemoryChannel);

impl crate::net::channel::Channel for OneWrite<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> crate::net::channel::ChannelResult<usize> {
        self.0.read(buffer)
    }
    fn write(&mut self, bytes: &[u8]) -> crate::net::channel::ChannelResult<usize> {
        let result = self.0.write(bytes);
        self.0.blocked = true;
        result
    }
    fn flushed(&self) -> bool {
        self.0.flushed()
    }
    fn close(&mut self) {
        self.0.close();
    }
    fn abort(&mut self) {
        self.0.abort();
    }
}

#[test]
fn a_client_that_leaves() {
    // In the middle of a body.
    let mut handler = Echo::default();
    let mut channel = MemoryChannel::with(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n123");
    channel.client_done = true;
    let mut connection = Connection::new(TIMEOUTS, 0);
    connection.poll(0, &mut channel, &mut handler);
    assert!(channel.text().starts_with("HTTP/1.1 400 "));
    assert_eq!(handler.aborted, 1);

    // By a reset: the server abandons the connection.
    let mut channel = MemoryChannel::with(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n123");
    let mut connection = Connection::new(TIMEOUTS, 0);
    connection.poll(0, &mut channel, &mut handler);
    connection.abandon(&mut handler);
    connection.abandon(&mut handler);
    assert_eq!(handler.aborted, 2, "told once");

    // After its request: it still gets the answer.
    let mut channel = MemoryChannel::with(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n");
    channel.client_done = true;
    let mut connection = Connection::new(TIMEOUTS, 0);
    connection.poll(0, &mut channel, &mut handler);
    assert_eq!(channel.text(), response("200 OK", "/a", "keep-alive"));
    assert!(channel.closed);
}

#[test]
fn idleness() {
    let mut handler = Echo::default();
    let mut channel = MemoryChannel::default();
    let mut connection = Connection::new(TIMEOUTS, 5);
    assert_eq!((connection.idle_since(), connection.served()), (Some(5), 0));
    channel.push(b"GET");
    connection.poll(6, &mut channel, &mut handler);
    assert_eq!(connection.idle_since(), None);
    connection.end(6, &mut channel);
    assert!(!channel.closed, "not in the middle of a request");
    channel.push(b" / HTTP/1.1\r\nHost: b\r\n\r\n");
    connection.poll(7, &mut channel, &mut handler);
    assert_eq!((connection.idle_since(), connection.served()), (Some(7), 1));
    connection.end(8, &mut channel);
    assert!(channel.closed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20_000), limit in 0_usize..64) {
        let mut handler = Echo::default();
        let mut channel = MemoryChannel::with(&bytes);
        channel.read_limit = limit;
        let mut connection = Connection::new(TIMEOUTS, 0);
        let mut now = 0;
        for _ in 0..10_000 {
            let next = connection.poll(now, &mut channel, &mut handler);
            if next == u64::MAX {
                break;
            }
            now = next.max(now);
        }
        // However it went, it came to an end.
        prop_assert!(channel.closed || channel.aborted);
    }

    #[test]
    fn plausible_requests_never_panic(
        parts in proptest::collection::vec(prop_oneof![
            Just("GET "), Just("POST "), Just("/v1/upgrade"), Just("?dry_run=1"), Just(" HTTP/1.1\r\n"),
            Just("Host: x\r\n"), Just("Content-Length: 5\r\n"), Just("Content-Length: 99999999999\r\n"),
            Just("Expect: 100-continue\r\n"), Just("Transfer-Encoding: chunked\r\n"), Just("\r\n"), Just("12345"),
            Just("Connection: close\r\n"), Just("\0"), Just(" "), Just(":"),
        ], 0..40),
        limit in 0_usize..8,
    ) {
        let mut handler = Echo::default();
        let mut channel = MemoryChannel::with(parts.concat().as_bytes());
        channel.read_limit = limit;
        let mut connection = Connection::new(TIMEOUTS, 0);
        let mut now = 0;
        for _ in 0..10_000 {
            let next = connection.poll(now, &mut channel, &mut handler);
            if next == u64::MAX {
                break;
            }
            now = next.max(now);
        }
        prop_assert!(channel.closed || channel.aborted);
    }
}
