//! Requests through the routes: status, body and what the hypervisor was told.

extern crate std;

use alloc::format;
use alloc::string::String;

use super::control::UploadId;
use super::error::{ApiError, Blame, Code};
use super::http::{Connection, Timeouts};
use super::routes::{Exchange, Routes};
use super::testing::{FakeControl, MemoryChannel};

struct Client {
    control: FakeControl,
    exchange: Exchange,
    channel: MemoryChannel,
    connection: Connection,
}

impl Client {
    fn new(control: FakeControl) -> Self {
        Self {
            control,
            exchange: Exchange::default(),
            channel: MemoryChannel::default(),
            connection: Connection::new(Timeouts::default(), 0),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> (u16, String, String) {
        self.channel.push(bytes);
        for now in 0..20 {
            let mut routes = Routes::new(&mut self.control, &mut self.exchange);
            self.connection.poll(now, &mut self.channel, &mut routes);
        }
        let text = self.channel.take_text();
        let (head, body) = text.split_once("\r\n\r\n").expect("a response");
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        (status, head.into(), body.into())
    }
}

fn send(control: FakeControl, line: &str, body: &[u8]) -> (u16, String, String, Client) {
    let mut client = Client::new(control);
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut request = format!("{line} HTTP/1.1\r\nHost: h\r\n{length}\r\n").into_bytes();
    request.extend_from_slice(body);
    let (status, head, body) = client.send(&request);
    (status, head, body, client)
}

#[test]
fn every_get_answers() {
    for (path, start) in [
        ("/v1/status", "{\"product\":\"baton\""),
        ("/v1/guests", "{\"guests\":[]}"),
        ("/v1/iommu", "{\"units\":[]"),
        ("/v1/upgrade", "{\"state\":\"idle\""),
        ("/metrics", "# HELP baton_info"),
    ] {
        let (status, _, body, _) = send(FakeControl::default(), &format!("GET {path}"), b"");
        assert_eq!(status, 200);
        assert!(body.starts_with(start), "{body}");
        let (status, _, body, _) = send(FakeControl::default(), &format!("HEAD {path}"), b"");
        assert_eq!((status, body.as_str()), (200, ""));
    }
}

#[test]
fn unknown_paths_methods_and_parameters() {
    for path in ["/", "/v1", "/v1/status/", "/v1/Status", "/v1/../v1/status", "/v2/status", "/v1/status%00"] {
        let (status, _, body, _) = send(FakeControl::default(), &format!("GET {path}"), b"");
        assert_eq!(status, 404, "{path}");
        assert!(body.starts_with("{\"error\":{\"code\":\"not_found\""), "{body}");
    }
    let (status, head, _, _) = send(FakeControl::default(), "POST /v1/status", b"");
    assert_eq!(status, 405);
    assert!(head.contains("\r\nAllow: GET, HEAD"), "{head}");
    let (status, head, _, _) = send(FakeControl::default(), "PATCH /v1/upgrade", b"");
    assert_eq!(status, 405);
    assert!(head.contains("\r\nAllow: GET, HEAD, POST, DELETE"), "{head}");
    assert_eq!(send(FakeControl::default(), "GET /v1/status?x=1", b"").0, 400);
    assert_eq!(send(FakeControl::default(), "GET /v1/status", b"body").0, 400);
    // A misspelt dry run is not an upgrade.
    for query in ["dryrun=1", "dry_run", "dry_run=yes", "dry_run=1&x=2", "dry_run=1&dry_run=0"] {
        let (status, _, _, client) = send(FakeControl::default(), &format!("POST /v1/upgrade?{query}"), b"image");
        assert_eq!((status, client.control.diary.len()), (400, 0), "{query}");
    }
}

#[test]
fn an_upgrade_is_accepted_and_left_to_the_server_to_start() {
    let (status, head, body, client) = send(FakeControl::default(), "POST /v1/upgrade", b"image bytes");
    assert_eq!((status, body.as_str()), (202, "{\"id\":1,\"state\":\"planning\"}"));
    assert!(head.contains("Connection: close") && client.channel.closed);
    assert_eq!(client.control.received, b"image bytes");
    assert_eq!(client.control.diary, ["begin 11", "finish 1"]);
    assert_eq!(client.exchange.accepted, Some(UploadId(1)));
}

#[test]
fn a_dry_run_is_planned_only() {
    let (status, _, body, client) = send(FakeControl::default(), "POST /v1/upgrade?dry_run=1", b"image");
    assert_eq!(status, 200);
    assert_eq!(
        body,
        "{\"plan\":{\"ok\":true,\"objects\":[{\"kind\":\"device\",\"name\":\"0000:03:00.0\",\"preserved\":true,\
         \"reason\":\"\"}],\"estimated_pause_ticks\":5,\"estimated_from\":\"last_upgrade\",\"memory_bytes\":6,\
         \"memory\":[{\"what\":\"records\",\"needed_bytes\":6,\"available_bytes\":7}]}}"
    );
    assert_eq!(client.control.diary, ["begin 5 dry", "finish 1"]);
    assert_eq!(client.exchange.accepted, None);
}

#[test]
fn verification_may_take_its_time() {
    let control = FakeControl { pending: 5, ..FakeControl::default() };
    assert_eq!(send(control, "POST /v1/upgrade", b"image").0, 202);
}

#[test]
fn refusals_say_why_and_who() {
    let error = ApiError::new(Code::VersionRange, Blame::Operator, "reads 3 to 4, this image writes 1").with_report(9);
    let control = FakeControl { finish_error: Some(error), ..FakeControl::default() };
    let (status, _, body, client) = send(control, "POST /v1/upgrade", b"image");
    assert_eq!(status, 422);
    assert_eq!(
        body,
        "{\"error\":{\"code\":\"version_range\",\"message\":\"reads 3 to 4, this image writes 1\",\
         \"blame\":\"operator\",\"report_id\":9}}"
    );
    assert_eq!(client.exchange.accepted, None);
    assert!(!client.channel.closed, "a refusal after the whole body leaves the connection usable");

    let error = ApiError::new(Code::BadImage, Blame::Operator, "magic");
    let control = FakeControl { upload_error: Some(error), ..FakeControl::default() };
    let (status, _, _, client) = send(control, "POST /v1/upgrade", b"image");
    assert_eq!((status, client.channel.closed), (422, true));
    assert_eq!(client.control.diary, ["begin 5"], "the hypervisor ended the upload itself");

    let error = ApiError::new(Code::TooLarge, Blame::Operator, "slot");
    let control = FakeControl { begin_error: Some(error), ..FakeControl::default() };
    assert_eq!(send(control, "POST /v1/upgrade", b"image").0, 413);
}

#[test]
fn a_second_upgrade_is_refused_and_the_first_goes_on() {
    let control = FakeControl { running: Some(UploadId(7)), ..FakeControl::default() };
    let (status, _, body, client) = send(control, "POST /v1/upgrade", b"image");
    assert_eq!(status, 409);
    assert!(body.starts_with("{\"error\":{\"code\":\"busy\""), "{body}");
    assert_eq!(client.control.running, Some(UploadId(7)));
}

#[test]
fn length_is_required() {
    let (status, _, body, client) = send(FakeControl::default(), "POST /v1/upgrade", b"");
    assert_eq!(status, 411);
    assert!(body.starts_with("{\"error\":{\"code\":\"length_required\""), "{body}");
    assert!(client.control.diary.is_empty());
    let mut client = Client::new(FakeControl::default());
    assert_eq!(client.send(b"POST /v1/upgrade HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").0, 422);
}

#[test]
fn cancel() {
    let control = FakeControl { running: Some(UploadId(3)), ..FakeControl::default() };
    let (status, _, body, client) = send(control, "DELETE /v1/upgrade", b"");
    assert_eq!((status, body.as_str()), (200, "{\"id\":3,\"state\":\"cancelled\"}"));
    assert_eq!(client.exchange.cancelled, Some(UploadId(3)));
    let (status, _, body, _) = send(FakeControl::default(), "DELETE /v1/upgrade", b"");
    assert_eq!(status, 409);
    assert!(body.starts_with("{\"error\":{\"code\":\"not_running\""), "{body}");
}

#[test]
fn a_lost_upload_is_aborted_once() {
    let mut client = Client::new(FakeControl::default());
    client.channel.push(b"POST /v1/upgrade HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\npart");
    let mut routes = Routes::new(&mut client.control, &mut client.exchange);
    client.connection.poll(0, &mut client.channel, &mut routes);
    client.connection.abandon(&mut routes);
    client.connection.abandon(&mut routes);
    assert_eq!(client.control.diary, ["begin 100", "abort 1"]);
}
