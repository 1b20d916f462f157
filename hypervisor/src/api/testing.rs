//! A channel in memory and a hypervisor that only keeps a diary.

extern crate std;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::task::Poll;

use crate::net::channel::{Channel, ChannelError, ChannelResult};

use super::control::{Control, Finished, UploadId};
use super::error::{ApiError, Code};
use super::types::{
    Boot, Devices, Guests, HandoverVersions, Iommu, Memory, Outcomes, Plan, PlanMemory, PlanObject, Progress,
    Resources, Status, Upgrade, UpgradeState,
};

/// A byte stream in memory.
#[derive(Default)]
pub(crate) struct MemoryChannel {
    pub incoming: VecDeque<u8>,
    /// The client has finished sending.
    pub client_done: bool,
    /// Most bytes of one read; 0: no limit.
    pub read_limit: usize,
    pub outgoing: Vec<u8>,
    /// Most bytes of one write; 0: no limit.
    pub write_limit: usize,
    /// Nothing can be written.
    pub blocked: bool,
    pub closed: bool,
    pub aborted: bool,
}

impl MemoryChannel {
    pub fn with(bytes: &[u8]) -> Self {
        Self { incoming: bytes.iter().copied().collect(), ..Self::default() }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.incoming.extend(bytes);
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.outgoing).to_string()
    }

    pub fn take_text(&mut self) -> String {
        let text = self.text();
        self.outgoing.clear();
        text
    }
}

fn limited(length: usize, limit: usize) -> usize {
    if limit == 0 { length } else { length.min(limit) }
}

impl Channel for MemoryChannel {
    fn read(&mut self, buffer: &mut [u8]) -> ChannelResult<usize> {
        if self.aborted {
            return Err(ChannelError::Closed);
        }
        let count = limited(buffer.len().min(self.incoming.len()), self.read_limit);
        if count == 0 && !buffer.is_empty() {
            return Err(if self.client_done { ChannelError::Closed } else { ChannelError::WouldBlock });
        }
        for (slot, byte) in buffer.iter_mut().zip(self.incoming.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> ChannelResult<usize> {
        if self.closed || self.aborted {
            return Err(ChannelError::Closed);
        }
        if self.blocked {
            return Err(ChannelError::WouldBlock);
        }
        let count = limited(bytes.len(), self.write_limit);
        self.outgoing.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flushed(&self) -> bool {
        true
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn abort(&mut self) {
        self.aborted = true;
    }
}

/// A hypervisor that writes down what it is told.
#[derive(Default)]
pub(crate) struct FakeControl {
    /// `begin 12 dry`, `finish 1`, `abort 1`, `start 1`, `cancel`.
    pub diary: Vec<String>,
    pub received: Vec<u8>,
    pub running: Option<UploadId>,
    pub next_id: u64,
    /// Answers `Pending` so often before it finishes.
    pub pending: u32,
    pub begin_error: Option<ApiError>,
    pub upload_error: Option<ApiError>,
    pub finish_error: Option<ApiError>,
    pub dry_run: bool,
    pub guests: Guests,
    pub iommu: Iommu,
    pub devices: Devices,
    pub outcomes: Outcomes,
}

impl FakeControl {
    fn note(&mut self, line: String) {
        self.diary.push(line);
    }
}

pub(crate) fn status() -> Status {
    Status {
        product: "baton",
        version: "0.1.0".into(),
        build_id: "ab".repeat(32),
        build_name: "first".into(),
        generation: 2,
        handover: HandoverVersions { writes: 1, reads: [1, 2] },
        uptime_ms: 12_345,
        tsc_khz: 1_000_000,
        pcpus: 2,
        boot: Boot { via: "ipxe".into(), ticks_to_guest: 77 },
        resources: Resources {
            arena_frames: 70,
            arena_unclaimed: 1,
            domain_ids: 2,
            interrupt_entries: 4,
            vectors: 3,
            heap_bytes: 5000,
        },
        memory: Memory { total_bytes: 1000, hypervisor_bytes: 100, guest_bytes: 500, free_bytes: 400 },
    }
}

impl Control for FakeControl {
    fn status(&self) -> Status {
        status()
    }

    fn guests(&self) -> Guests {
        self.guests.clone()
    }

    fn iommu(&self) -> Iommu {
        self.iommu.clone()
    }

    fn devices(&self) -> Devices {
        self.devices.clone()
    }

    fn upgrade_progress(&self) -> Upgrade {
        Upgrade {
            state: if self.running.is_some() { UpgradeState::Staging } else { UpgradeState::Idle },
            progress: Progress { received: self.received.len() as u64, total: 0 },
            id: self.running.map(|id| id.0),
            last: None,
            history: vec![],
        }
    }

    fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    fn begin_upgrade(&mut self, length: u64, dry_run: bool) -> Result<UploadId, ApiError> {
        self.note(alloc::format!("begin {length}{}", if dry_run { " dry" } else { "" }));
        if let Some(error) = self.begin_error.clone() {
            return Err(error);
        }
        if self.running.is_some() {
            return Err(ApiError::operator(Code::Busy, "an upgrade is running"));
        }
        self.next_id += 1;
        self.dry_run = dry_run;
        self.received.clear();
        self.running = Some(UploadId(self.next_id));
        Ok(UploadId(self.next_id))
    }

    fn upload(&mut self, id: UploadId, chunk: &[u8]) -> Result<(), ApiError> {
        assert_eq!(Some(id), self.running);
        assert!(!chunk.is_empty());
        if let Some(error) = self.upload_error.clone() {
            self.running = None;
            return Err(error);
        }
        self.received.extend_from_slice(chunk);
        Ok(())
    }

    fn finish_upload(&mut self, id: UploadId) -> Result<Poll<Finished>, ApiError> {
        assert_eq!(Some(id), self.running);
        if self.pending > 0 {
            self.pending -= 1;
            return Ok(Poll::Pending);
        }
        self.note(alloc::format!("finish {}", id.0));
        if let Some(error) = self.finish_error.clone() {
            self.running = None;
            return Err(error);
        }
        if self.dry_run {
            self.running = None;
            let object = PlanObject {
                kind: "device".into(),
                name: "0000:03:00.0".into(),
                preserved: true,
                reason: String::new(),
            };
            let plan = Plan {
                ok: true,
                objects: vec![object],
                estimated_pause_ticks: 5,
                estimated_from: "last_upgrade",
                memory_bytes: 6,
                memory: vec![PlanMemory { what: "records", needed_bytes: 6, available_bytes: 7 }],
            };
            return Ok(Poll::Ready(Finished::Plan(Box::new(plan))));
        }
        Ok(Poll::Ready(Finished::Accepted(UpgradeState::Planning)))
    }

    fn abort_upload(&mut self, id: UploadId) {
        self.note(alloc::format!("abort {}", id.0));
        self.running = None;
    }

    fn start_upgrade(&mut self, id: UploadId) {
        self.note(alloc::format!("start {}", id.0));
    }

    fn cancel(&mut self) -> Result<UploadId, ApiError> {
        self.note("cancel".into());
        self.running.take().ok_or_else(|| ApiError::operator(Code::NotRunning, "no upgrade is running"))
    }
}
