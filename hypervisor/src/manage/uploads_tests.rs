//! The course of uploads against an image that only counts.

extern crate std;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::*;

std::thread_local! {
    static DIARY: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note(line: String) {
    DIARY.with(|diary| diary.borrow_mut().push(line));
}

fn diary() -> Vec<String> {
    DIARY.with(|diary| core::mem::take(&mut *diary.borrow_mut()))
}

/// Refuses a chunk that holds a 0xff, and an end with less than was announced.
struct Counting {
    id: u64,
    due: u64,
    received: u64,
    dry_run: bool,
}

impl Upload for Counting {
    type Whole = u64;

    fn begin(length: u64, dry_run: bool) -> Result<Self, ApiError> {
        if length > 100 {
            return Err(ApiError::operator(Code::TooLarge, "more than 100").with_report(7));
        }
        Ok(Self { id: 7, due: length, received: 0, dry_run })
    }
    fn id(&self) -> UploadId {
        UploadId(self.id)
    }
    fn dry_run(&self) -> bool {
        self.dry_run
    }
    fn progress(&self) -> Progress {
        Progress { received: self.received, total: self.due }
    }
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        if bytes.contains(&0xff) {
            return Err(ApiError::operator(Code::BadImage, "0xff").with_report(self.id));
        }
        self.received += bytes.len() as u64;
        Ok(())
    }
    fn finish(&mut self) -> Result<u64, ApiError> {
        if self.received < self.due {
            return Err(ApiError::operator(Code::BadImage, "short").with_report(self.id));
        }
        Ok(self.received)
    }
    fn cancel(&self, reason: &str) {
        note(format!("cancel {}: {reason}", self.id));
    }
    fn plan(whole: &u64) -> Plan {
        let (objects, memory) = (Vec::new(), Vec::new());
        Plan { ok: true, objects, estimated_pause_ticks: 0, estimated_from: "", memory_bytes: *whole, memory }
    }
    fn withdraw(whole: u64, reason: &str) {
        note(format!("withdraw {whole}: {reason}"));
    }
}

const ID: UploadId = UploadId(7);

fn uploads() -> Uploads<Counting> {
    Uploads::new()
}

fn accepted() -> Uploads<Counting> {
    let mut uploads = uploads();
    assert_eq!(uploads.begin(3, false), Ok(ID));
    uploads.chunk(ID, b"abc").unwrap();
    let finished = uploads.finish(ID);
    assert_eq!(finished, Ok(Poll::Ready(Finished::Accepted(UpgradeState::Planning))));
    uploads
}

fn code<T: core::fmt::Debug>(result: Result<T, ApiError>) -> Code {
    result.unwrap_err().code
}

#[test]
fn the_straight_way_hands_the_image_over_once() {
    let mut uploads = accepted();
    assert!(uploads.take_due().is_none(), "its client has not been told yet");
    uploads.start(ID);
    assert_eq!(uploads.take_due(), Some(3));
    assert_eq!(uploads.take_due(), None);
    assert_eq!((uploads.id(), uploads.state()), (Some(ID), UpgradeState::Planning));
    assert_eq!(code(uploads.begin(3, false)), Code::Busy);
    assert!(!uploads.is_withdrawn());
    uploads.close();
    assert_eq!(code(uploads.cancel()), Code::TooLate);
    assert!(!uploads.is_withdrawn());
    uploads.ended();
    assert_eq!((uploads.id(), uploads.state()), (None, UpgradeState::Idle));
    assert!(diary().is_empty());
}

#[test]
fn law_22_a_second_upload_is_busy_and_the_first_goes_on() {
    let mut uploads = uploads();
    uploads.begin(3, false).unwrap();
    uploads.chunk(ID, b"ab").unwrap();
    let refusal = uploads.begin(200, true).unwrap_err();
    assert_eq!(refusal.code, Code::Busy);
    assert!(refusal.message.contains("upgrade 7"));
    assert_eq!(uploads.progress(), Progress { received: 2, total: 3 });
    uploads.chunk(ID, b"c").unwrap();
    assert!(uploads.finish(ID).is_ok());
    assert_eq!(code(uploads.begin(3, false)), Code::Busy);
}

#[test]
fn a_refusal_ends_the_upload_and_makes_room() {
    let mut uploads = uploads();
    assert_eq!(code(uploads.begin(101, false)), Code::TooLarge);
    assert_eq!(uploads.state(), UpgradeState::Idle);
    uploads.begin(3, false).unwrap();
    assert_eq!(code(uploads.chunk(ID, &[0xff])), Code::BadImage);
    assert_eq!(uploads.state(), UpgradeState::Idle);
    uploads.begin(3, false).unwrap();
    assert_eq!(code(uploads.finish(ID)), Code::BadImage);
    assert_eq!(uploads.state(), UpgradeState::Idle);
    // The server may still tell of its end.
    uploads.abort(ID);
    assert!(diary().is_empty());
}

#[test]
fn a_dry_run_leaves_nothing_behind() {
    let mut uploads = uploads();
    uploads.begin(2, true).unwrap();
    uploads.chunk(ID, b"ab").unwrap();
    match uploads.finish(ID) {
        Ok(Poll::Ready(Finished::Plan(plan))) => assert_eq!(plan.memory_bytes, 2),
        other => panic!("{other:?}"),
    }
    uploads.start(ID);
    assert_eq!(uploads.take_due(), None);
    assert_eq!(uploads.state(), UpgradeState::Idle);
}

#[test]
fn cancel_ends_what_has_not_begun() {
    let mut idle = uploads();
    assert_eq!(code(idle.cancel()), Code::NotRunning);
    idle.begin(3, false).unwrap();
    assert_eq!(idle.cancel(), Ok(ID));
    // Its client still sends.
    let refusal = idle.chunk(ID, b"a").unwrap_err();
    assert_eq!((refusal.code, refusal.report_id), (Code::Cancelled, Some(7)));
    assert_eq!(code(idle.finish(ID)), Code::Cancelled);
    assert_eq!(diary(), vec!["cancel 7: the operator cancelled it".to_string()]);

    for start in [false, true] {
        let mut uploads = accepted();
        if start {
            uploads.start(ID);
        }
        assert_eq!(uploads.cancel(), Ok(ID));
        uploads.start(ID);
        assert_eq!(uploads.take_due(), None);
        assert_eq!(diary(), vec!["withdraw 3: the operator cancelled it".to_string()]);
    }
}

#[test]
fn a_lost_client_cancels_its_own_upload_only() {
    let mut uploads = uploads();
    uploads.begin(3, false).unwrap();
    uploads.abort(UploadId(8));
    assert_eq!(uploads.state(), UpgradeState::Staging);
    uploads.abort(ID);
    assert_eq!(uploads.state(), UpgradeState::Idle);
    assert_eq!(diary(), vec!["cancel 7: the upload ended before the image was whole".to_string()]);
    uploads.abort(ID);
    assert!(diary().is_empty());
}

#[test]
fn withdrawing_spares_an_upgrade_that_has_begun() {
    let mut uploads = accepted();
    uploads.withdraw("the card stops");
    assert_eq!(uploads.state(), UpgradeState::Idle);
    assert_eq!(diary(), vec!["withdraw 3: the card stops".to_string()]);
    let mut uploads = accepted();
    uploads.start(ID);
    uploads.withdraw("the card stops");
    assert_eq!(uploads.take_due(), Some(3));
    assert!(diary().is_empty());
}

#[test]
fn law_8_what_is_under_way_can_be_withdrawn_until_it_is_closed() {
    let mut uploads = accepted();
    uploads.start(ID);
    assert_eq!(uploads.take_due(), Some(3));
    assert_eq!(uploads.cancel(), Ok(ID));
    assert!(uploads.is_withdrawn());
    uploads.warming();
    assert_eq!((uploads.state(), uploads.is_withdrawn()), (UpgradeState::Warming, true));
    assert_eq!(uploads.cancel(), Ok(ID), "asking again changes nothing");
    assert_eq!(code(uploads.begin(3, false)), Code::Busy, "it has not ended yet");
    // Whoever takes it back keeps the report.
    assert!(diary().is_empty());
    uploads.ended();
    assert!(!uploads.is_withdrawn());
    assert_eq!((uploads.id(), uploads.state()), (None, UpgradeState::Idle));

    let mut uploads = accepted();
    uploads.start(ID);
    uploads.take_due();
    uploads.warming();
    uploads.close();
    assert_eq!(code(uploads.cancel()), Code::TooLate);
    assert_eq!((uploads.is_withdrawn(), uploads.state()), (false, UpgradeState::Warming));
}
