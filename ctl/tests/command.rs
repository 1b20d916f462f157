//! The command against a server that plays a script: exit status, what is sent, what is printed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

/// One step: the request line expected, and what happens to it.
enum Step {
    /// Answer with a status and a JSON body.
    Answer(&'static str, u16, String),
    /// Close without an answer: the images change places.
    Silence(&'static str),
    /// Answer nothing and reset while the body is on its way.
    Break(&'static str),
}

/// What the machine was sent, request by request.
type Requests = Arc<Mutex<Vec<Vec<u8>>>>;

/// A machine that plays a script; gives its address and the bodies it received.
fn machine(script: Vec<Step>) -> (String, Requests, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let host = listener.local_addr().expect("bound").to_string();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&bodies);
    let mut script = VecDeque::from(script);
    let thread = thread::spawn(move || {
        while let Some(step) = script.pop_front() {
            let (mut stream, _) = listener.accept().expect("a request for every step");
            let mut reader = BufReader::new(stream.try_clone().expect("clone"));
            let mut line = String::new();
            reader.read_line(&mut line).expect("request line");
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).expect("header");
                if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("length");
                }
                if header.trim().is_empty() {
                    break;
                }
            }
            let (Step::Answer(expected, ..) | Step::Silence(expected) | Step::Break(expected)) = &step;
            assert_eq!(line.trim_end(), format!("{expected} HTTP/1.1"));
            if matches!(step, Step::Break(_)) {
                // Unread data makes the kernel reset the connection.
                drop(reader);
                continue;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("body");
            received.lock().expect("lock").push(body);
            match step {
                Step::Answer(_, status, text) => {
                    write!(
                        stream,
                        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                        text.len()
                    )
                    .expect("answer");
                }
                _ => _ = stream.shutdown(Shutdown::Both),
            }
        }
        script.len()
    });
    (host, bodies, thread)
}

fn batonctl(host: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_batonctl"))
        .args(["--host", host])
        .args(arguments)
        .env_remove("http_proxy")
        .output()
        .expect("runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn image(name: &str, bytes: usize) -> String {
    let path = std::env::temp_dir().join(format!("batonctl-{}-{name}", std::process::id()));
    let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    std::fs::write(&path, content).expect("temporary file");
    path.to_string_lossy().into_owned()
}

const IDLE: &str = r#"{"state":"idle","progress":{"received":0,"total":0},"id":null,"last":null,"history":[]}"#;

fn reported(id: u64, outcome: &str, reason: &str) -> String {
    let report = format!(
        r#"{{"id":{id},"from":"aa","to":"bb","from_version":"0.1.0","to_version":"0.1.1","generation":1,"outcome":"{outcome}",
           "reason":"{reason}","blame":"operator","pause_ticks":12345,"phases":{{"stage":7,"commit":1}},"iommu_faults":0,
           "interrupts_pending":2,"interrupts_delivered":2,"notes":[],"added_later":1}}"#
    );
    format!(
        r#"{{"state":"idle","progress":{{"received":0,"total":0}},"id":null,"last":{report},"history":[{report}]}}"#
    )
}

#[test]
fn an_upgrade_is_awaited_across_the_switch() {
    let (host, bodies, machine) = machine(vec![
        Step::Answer("GET /v1/upgrade", 200, IDLE.into()),
        Step::Answer("POST /v1/upgrade", 202, r#"{"id":5,"state":"staging"}"#.into()),
        Step::Answer("GET /v1/upgrade", 200, r#"{"state":"warming","id":5}"#.into()),
        Step::Silence("GET /v1/upgrade"),
        Step::Answer("GET /v1/upgrade", 200, reported(4, "refused", "an older one")),
        Step::Answer("GET /v1/upgrade", 200, reported(5, "committed", "")),
    ]);
    let file = image("committed", 300_000);
    let output = batonctl(&host, &["upgrade", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("5: committed") && text.contains("12,345 ticks"), "{text}");
    assert_eq!(machine.join().expect("script"), 0);
    assert_eq!(bodies.lock().expect("lock")[1], std::fs::read(&file).expect("image"), "sent byte for byte");
}

#[test]
fn what_is_asked_while_images_change_places_is_asked_again() {
    let (host, _, machine) = machine(vec![
        Step::Silence("GET /v1/upgrade"),
        Step::Answer("GET /v1/upgrade", 200, reported(3, "committed", "")),
    ]);
    let client = batonctl::client::Client::new(&host);
    assert_eq!(client.upgrade().expect("the second answer").last.expect("a report").id, 3);
    assert_eq!(machine.join().expect("script"), 0);
}

#[test]
fn who_never_answers_is_given_up() {
    let silences = || (0..5).map(|_| Step::Silence("GET /v1/upgrade"));
    let (host, _, machine) = machine(silences().collect());
    let error = batonctl::client::Client::new(&host).upgrade().expect_err("nobody answered");
    assert!(matches!(error, batonctl::client::Error::Unreachable { .. }), "{error}");
    assert_eq!(machine.join().expect("script"), 0);
}

#[test]
fn a_rolled_back_upgrade_is_a_failure_with_its_reason() {
    let (host, _, machine) = machine(vec![
        Step::Answer("GET /v1/upgrade", 200, IDLE.into()),
        Step::Answer("POST /v1/upgrade", 202, r#"{"id":1}"#.into()),
        Step::Answer("GET /v1/upgrade", 200, reported(1, "rolled_back", "root table differs")),
    ]);
    let output = batonctl(&host, &["--json", "upgrade", &image("rolled", 4096)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("root table differs"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
    assert_eq!(json["interrupts_delivered"], 2);
    machine.join().expect("script");
}

#[test]
fn a_refusal_names_cause_and_blame() {
    let refusal = r#"{"error":{"code":"bad_image","message":"the checksum differs","blame":"operator","report_id":3}}"#;
    let (host, _, machine) = machine(vec![
        Step::Answer("GET /v1/upgrade", 200, IDLE.into()),
        Step::Answer("POST /v1/upgrade", 422, refusal.into()),
    ]);
    let output = batonctl(&host, &["upgrade", &image("refused", 4096)]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("the checksum differs") && text.contains("operator"), "{text}");
    machine.join().expect("script");
}

#[test]
fn a_refusal_lost_on_the_way_is_found_in_the_reports() {
    let (host, _, machine) = machine(vec![
        Step::Answer("GET /v1/upgrade", 200, reported(2, "refused", "an older one")),
        Step::Break("POST /v1/upgrade"),
        Step::Answer("GET /v1/upgrade", 200, reported(3, "refused", "too large")),
    ]);
    let output = batonctl(&host, &["upgrade", &image("lost", 8 << 20)]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("too large"));
    machine.join().expect("script");
}

#[test]
fn a_dry_run_asks_and_changes_nothing() {
    let plan = r#"{"plan":{"ok":false,"objects":[{"kind":"device","name":"0000:01:00.0","preserved":false,"reason":"PASID"}],
                  "estimated_pause_ticks":1000,"estimated_from":"last_upgrade","memory_bytes":1048576,
                  "memory":[{"what":"records","needed_bytes":524288,"available_bytes":1048576}]}}"#;
    let (host, _, machine) = machine(vec![Step::Answer("POST /v1/upgrade?dry_run=1", 200, plan.into())]);
    let output = batonctl(&host, &["upgrade", "--dry-run", &image("dry", 4096)]);
    assert_eq!(output.status.code(), Some(1), "an upgrade that would be refused is no success");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("NO: PASID") && text.contains("records     0.5 MiB  1.0 MiB"), "{text}");
    assert!(text.contains("would be refused, the pause would be some 1,000 ticks, as the last one's"), "{text}");
    machine.join().expect("script");
}

#[test]
fn silence_ends_at_the_timeout() {
    let (host, _, machine) = machine(vec![
        Step::Answer("GET /v1/upgrade", 200, IDLE.into()),
        Step::Answer("POST /v1/upgrade", 202, r#"{"id":1}"#.into()),
        Step::Silence("GET /v1/upgrade"),
    ]);
    let output = batonctl(&host, &["upgrade", "--timeout", "0", &image("silent", 4096)]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    machine.join().expect("script");
}

#[test]
fn unreachable_strange_and_wrong_use_differ() {
    let unused = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound").to_string();
    let output = batonctl(&unused, &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("--host"), "names the remedy");

    let (host, _, machine) = machine(vec![Step::Answer("GET /v1/status", 200, "<html>".into())]);
    let output = batonctl(&host, &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("isn't Baton"));
    machine.join().expect("script");

    assert_eq!(batonctl(&unused, &["upgrade", "no-such-file"]).status.code(), Some(2));
    assert_eq!(batonctl(&unused, &["upgrade"]).status.code(), Some(2));
}

#[test]
fn faults_are_told_in_words() {
    let iommu = r#"{"units":[{"base":"0xfed90000","faults_total":12}],"faults":[{"unit":"0xfed90000","source":"0000:03:00.0",
        "owner":"web","address":"0x1000","reason":"0x5","type":"write","words":"no write permission","pasid":null,"count":11}],
        "faults_lost":2}"#;
    let (host, _, machine) = machine(vec![
        Step::Answer("GET /v1/iommu", 200, iommu.into()),
        Step::Answer("GET /v1/iommu", 200, iommu.into()),
    ]);
    let output = batonctl(&host, &["faults"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["0000:03:00.0", "web", "write", "0x1000", "11", "no write permission (0x5)", "12 faults", "2 times"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let json: serde_json::Value = serde_json::from_slice(&batonctl(&host, &["--json", "faults"]).stdout).expect("JSON");
    assert_eq!(json[0]["count"], 11);
    machine.join().expect("script");
}

#[test]
fn devices_show_their_group_and_why_they_are_refused() {
    let devices = r#"{"devices":[{"bdf":"0000:02:10.0","id":"8086:10ca","class":"020000","state":"assigned","owner":"web",
        "group":"0000:02:10.0","unit":"0xfed90000","reset":"function","ats":"off","physical":"0000:02:00.0","refused":""},
        {"bdf":"0000:00:05.0","id":"1234:11e8","state":"free","refused":"it can't be reset"}],
        "groups":[{"id":"0000:04:01.0","members":["0000:04:01.0","0000:04:02.0"],"why":["a bridge"]}]}"#;
    let (host, _, machine) = machine(vec![Step::Answer("GET /v1/devices", 200, devices.into())]);
    let output = batonctl(&host, &["devices"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["0000:02:10.0 of 0000:02:00.0", "web", "it can't be reset", "0000:04:01.0 0000:04:02.0: a bridge"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    machine.join().expect("script");
}

#[test]
fn cancel_deletes() {
    let (host, _, machine) =
        machine(vec![Step::Answer("DELETE /v1/upgrade", 200, r#"{"id":9,"state":"cancelled"}"#.into())]);
    let output = batonctl(&host, &["cancel"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    machine.join().expect("script");
}

/// Runs the command without a machine; its status and what it says on both outputs.
fn alone(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_batonctl")).args(arguments).output().expect("runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn keys_are_made_once_and_sign_images() {
    use handover::note::signature::{parse_public, verify};
    use handover::note::{NOTE_BYTES, Note, parse_note, seal_with, verify_digest};
    use zerocopy::IntoBytes;

    let directory = std::env::temp_dir().join(format!("batonctl-keys-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("temporary directory");
    let path = |name: &str| directory.join(name).to_str().expect("text").to_owned();
    let (name, key, image, signed) = (path("ops"), path("ops.key"), path("baton.img"), path("signed.img"));

    let (status, said) = alone(&["keys", "new", &name]);
    assert_eq!(status, Some(0), "{said}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&key).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let (status, said) = alone(&["keys", "new", &name]);
    assert!(status == Some(2) && said.contains("never overwritten"), "{said}");

    let mut bytes = vec![0; 4096];
    bytes[1024..1024 + NOTE_BYTES].copy_from_slice(Note::unsealed().as_bytes());
    let fill = |note: &mut Note| (note.memory_bytes, note.slot_bytes, note.entry_upgrade) = (4096, 4096, 16);
    seal_with(&mut bytes, fill).expect("sealed");
    std::fs::write(&image, &bytes).expect("written");
    let (status, said) = alone(&["sign", &image, "--key", &key, "--out", &signed, "--minimum-build", "7"]);
    assert!(status == Some(0) && said.contains("is signed by key"), "{said}");
    assert_eq!(std::fs::read(&image).expect("there"), bytes, "the original is left alone");
    let made = std::fs::read(&signed).expect("made");
    let public = parse_public(&std::fs::read_to_string(path("ops.pub")).expect("made")).expect("a key");
    let note = parse_note(&made).expect("an image");
    assert_eq!((verify(&note, &[public]), note.minimum_build), (Ok(()), 7));
    assert!(verify_digest(&made).is_ok());

    bytes[5] ^= 1;
    std::fs::write(&image, &bytes).expect("written");
    let (status, said) = alone(&["sign", &image, "--key", &key]);
    assert!(status == Some(2) && said.contains("digest"), "{said}");
    let (status, said) = alone(&["sign", &signed, "--key", &path("ops.pub")]);
    assert!(status == Some(2) && said.contains("baton-ed25519-secret"), "{said}");
    std::fs::remove_dir_all(&directory).expect("was created");
}
