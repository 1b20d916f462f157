//! The stream in two steps, and records of other releases.

mod common;

use common::{BASE, GENERATION, REGION, read, sample, write};
use handover::graph;
use handover::header::{CONSUMED, HEADER_BYTES, HeaderError};
use handover::reader::{ReadError, Stream};
use handover::record::{CRITICAL, Record};
use handover::state::guest::GuestV1;
use handover::state::machine::{MachineV1, PcpuV1};
use handover::state::vcpu::VcpuV1;
use handover::state::{RefreshError, State};
use handover::writer::{Draft, WriteError, Writer};
use zerocopy::{FromZeros, IntoBytes};

fn store(region: &mut [u8], header: [u8; HEADER_BYTES]) {
    region[..HEADER_BYTES].copy_from_slice(&header);
}

fn plan(state: &State, region: &mut [u8]) -> Draft {
    let mut writer = Writer::new(region, BASE, GENERATION, 1).unwrap();
    state.write_plan(&mut writer).unwrap();
    writer.mark().unwrap()
}

fn rest(state: &State, draft: &Draft, region: &mut [u8]) {
    let mut writer = draft.resume(region).unwrap();
    state.write_rest(&mut writer).unwrap();
    let header = writer.finish().unwrap();
    store(region, header);
}

/// Dry run at PLAN, the guest runs on, FREEZE: the new image refreshes what it read in the sandbox.
#[test]
fn law_11_the_rest_is_written_and_read_again_behind_the_plan() {
    let mut region = vec![0; REGION];
    let mut state = sample();
    let draft = plan(&state, &mut region);
    rest(&state, &draft, &mut region);

    let stream = Stream::open(&region, BASE).unwrap();
    let prefix = stream.prefix();
    let mut restored = State::decode(&stream).unwrap();
    graph::validate(&restored).unwrap();

    state.vcpus[0].rip += 2;
    state.vcpus[0].xsave_pieces = 3;
    let mut piece = state.xsave[1];
    piece.offset = 512;
    state.xsave.insert(1, piece);
    state.faults.push(handover::state::management::FaultV1 { sequence: 3, ..state.faults[1] });
    rest(&state, &draft, &mut region);

    let stream = prefix.reopen(&region, BASE).unwrap();
    let capacities = (restored.vcpus.capacity(), restored.xsave.capacity(), restored.faults.capacity());
    restored.refresh(&stream).unwrap();
    assert_eq!(
        capacities,
        (restored.vcpus.capacity(), restored.xsave.capacity(), restored.faults.capacity()),
        "it allocated"
    );
    graph::validate_rest(&restored).unwrap();
    assert_eq!(restored, state);
    // Reading the whole again gives the same.
    assert_eq!(read(&region).unwrap(), state);
}

#[test]
fn another_plan_under_a_remembered_prefix_is_refused() {
    let mut region = vec![0; REGION];
    let mut state = sample();
    let draft = plan(&state, &mut region);
    rest(&state, &draft, &mut region);
    let prefix = Stream::open(&region, BASE).unwrap().prefix();
    state.guests[0].memory_bytes += 4096;
    let other = plan(&state, &mut region);
    rest(&state, &other, &mut region);
    assert_eq!(prefix.reopen(&region, BASE).map(|_| ()), Err(ReadError::Replanned));
    assert!(matches!(draft.resume(&mut region), Err(WriteError::Draft)));
}

#[test]
fn damage_behind_the_mark_is_found_by_reopening() {
    let mut region = vec![0; REGION];
    let state = sample();
    let draft = plan(&state, &mut region);
    let rest_at = draft.bytes();
    rest(&state, &draft, &mut region);
    let prefix = Stream::open(&region, BASE).unwrap().prefix();
    let end = region.len() - region.iter().rev().take_while(|byte| **byte == 0).count();
    for at in rest_at..end {
        region[at] ^= 0x10;
        assert!(matches!(prefix.reopen(&region, BASE), Err(ReadError::Checksum { .. })), "byte {at}");
        region[at] ^= 0x10;
    }
}

#[test]
fn a_refresh_never_allocates() {
    let mut region = vec![0; 8 * REGION];
    let mut state = sample();
    let mut writer = Writer::new(&mut region, BASE, GENERATION, 1).unwrap();
    state.write_plan(&mut writer).unwrap();
    let draft = writer.mark().unwrap();
    rest(&state, &draft, &mut region);
    let stream = Stream::open(&region, BASE).unwrap();
    let prefix = stream.prefix();
    let mut restored = State::decode(&stream).unwrap();
    for sequence in 3..500 {
        state.faults.push(handover::state::management::FaultV1 { sequence, ..state.faults[1] });
    }
    rest(&state, &draft, &mut region);
    let stream = prefix.reopen(&region, BASE).unwrap();
    assert!(matches!(restored.refresh(&stream), Err(RefreshError::Room { kind: "fault", .. })));
}

#[test]
fn a_half_written_stream_is_none() {
    let mut region = write(&sample());
    let draft = plan(&sample(), &mut region);
    assert!(matches!(Stream::open(&region, BASE), Err(ReadError::Header(HeaderError::Magic { found: 0 }))));
    rest(&sample(), &draft, &mut region);
    assert!(read(&region).is_ok());
    drop(draft.resume(&mut region));
    assert!(matches!(Stream::open(&region, BASE), Err(ReadError::Header(HeaderError::Magic { found: 0 }))));
}

/// Law 15: the consumed magic is one store, and the stream is refused from then on.
#[test]
fn law_15_a_consumed_stream_is_refused() {
    let mut region = write(&sample());
    region[..8].copy_from_slice(&CONSUMED.to_le_bytes());
    assert_eq!(read(&region), Err(ReadError::Header(HeaderError::Consumed)));
}

#[test]
fn found_elsewhere_it_is_refused() {
    let region = write(&sample());
    assert!(matches!(Stream::open(&region, BASE + 4096), Err(ReadError::Header(HeaderError::Region { .. }))));
}

#[test]
fn the_writer_keeps_records_in_their_part_and_in_their_region() {
    let mut region = vec![0; 256];
    let mut writer = Writer::new(&mut region, BASE, 1, 1).unwrap();
    assert_eq!(writer.put(&VcpuV1::new_zeroed()), Err(WriteError::Part { kind: "vCPU" }));
    writer.put(&PcpuV1::new_zeroed()).unwrap();
    let before = writer.bytes();
    assert_eq!(writer.put_raw(9, 1, 0, &[0; 256]), Err(WriteError::Full { kind: "raw", bytes: 256 }));
    assert_eq!(writer.bytes(), before, "a refused record leaves nothing");
    let draft = writer.mark().unwrap();
    let mut writer = draft.resume(&mut region).unwrap();
    assert_eq!(writer.put(&PcpuV1::new_zeroed()), Err(WriteError::Part { kind: "pCPU" }));
    store_ok(writer.finish());
    let unmarked = Writer::new(&mut region, BASE, 1, 1).unwrap();
    assert_eq!(unmarked.finish(), Err(WriteError::Unmarked));
    assert!(matches!(Writer::new(&mut region, BASE + 4, 1, 1), Err(WriteError::Region { .. })));
    assert!(matches!(Writer::new(&mut region[..63], BASE, 1, 1), Err(WriteError::Region { .. })));
    assert!(matches!(Writer::new(&mut region, BASE, 1, 9), Err(WriteError::Version { version: 9 })));
}

fn store_ok(header: Result<[u8; HEADER_BYTES], WriteError>) {
    assert_eq!(&header.unwrap()[..8], b"BATONHO1");
}

/// Writes the sample with one more record in its planned part.
fn with_extra(kind: u32, version: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut region = vec![0; REGION];
    let state = sample();
    let mut writer = Writer::new(&mut region, BASE, GENERATION, 1).unwrap();
    state.write_plan(&mut writer).unwrap();
    writer.put_raw(kind, version, flags, body).unwrap();
    let draft = writer.mark().unwrap();
    rest(&state, &draft, &mut region);
    region
}

#[test]
fn an_unknown_record_is_skipped_and_reported() {
    let state = read(&with_extra(0x7777, 3, 0, &[1, 2, 3])).unwrap();
    assert_eq!(
        state.skipped.iter().map(|skipped| (skipped.kind, skipped.version, skipped.count)).collect::<Vec<_>>(),
        [(0x7777, 3, 1)]
    );
    graph::validate(&state).unwrap();
}

#[test]
fn an_unknown_critical_record_is_refused() {
    assert_eq!(
        read(&with_extra(0x7777, 3, CRITICAL, &[])),
        Err(ReadError::UnknownCritical { kind: 0x7777, version: 3 })
    );
}

#[test]
fn a_longer_record_of_a_newer_release_is_read() {
    let mut body = PcpuV1 { index: 2, apic_id: 9, acpi_uid: 2, flags: 0 }.as_bytes().to_vec();
    body.extend([0xff; 8]);
    let state = read(&with_extra(PcpuV1::KIND, 2, CRITICAL, &body)).unwrap();
    assert_eq!(state.pcpus[2].apic_id, 9);
    assert!(matches!(read(&with_extra(PcpuV1::KIND, 1, CRITICAL, &body)), Err(ReadError::Body { .. })));
}

#[test]
fn non_zero_padding_is_refused() {
    let object = handover::state::memory::ObjectV1 { reserved: [0, 0, 1, 0], ..sample().objects[0] };
    let error = read(&with_extra(0x0302, 1, CRITICAL, object.as_bytes())).unwrap_err();
    assert!(error.to_string().contains("memory object 0x3001"), "{error}");
    assert!(error.to_string().contains("padding"), "{error}");
}

#[test]
fn hostile_framing_is_refused() {
    assert!(matches!(
        Stream::open(&with_extra(0x7777, 1, 2, &[]), BASE),
        Err(ReadError::Frame { what: "unknown flag", .. })
    ));
    assert!(matches!(
        Stream::open(&with_extra(0x7777, 0, 0, &[]), BASE),
        Err(ReadError::Frame { what: "version is zero", .. })
    ));
    assert!(matches!(Stream::open(&with_extra(1, 1, CRITICAL, &[0; 24]), BASE), Err(ReadError::Count { .. })));
    // An end in the middle.
    assert!(matches!(Stream::open(&with_extra(2, 1, CRITICAL, &[0; 24]), BASE), Err(ReadError::Order { .. })));
    // A record of the rest in the plan.
    assert!(matches!(read(&with_extra(VcpuV1::KIND, 1, CRITICAL, &[0; 576])), Err(ReadError::Part { kind: "vCPU" })));
}

#[test]
fn thousands_of_unknown_kinds_are_counted_in_a_short_list() {
    let mut region = vec![0; 1 << 20];
    let mut writer = Writer::new(&mut region, BASE, 1, 1).unwrap();
    for kind in 0x1_0000..0x1_8000 {
        writer.put_raw(kind, 1, 0, &[]).unwrap();
    }
    let draft = writer.mark().unwrap();
    let header = draft.resume(&mut region).unwrap().finish().unwrap();
    store(&mut region, header);
    let state = read(&region).unwrap();
    assert_eq!(state.skipped.len(), 33);
    assert_eq!(state.skipped.iter().map(|skipped| skipped.count).sum::<u32>(), 0x8000);
}

#[test]
fn the_machine_and_the_header_agree_on_the_generation() {
    let mut region = vec![0; REGION];
    let mut writer = Writer::new(&mut region, BASE, 9, 1).unwrap();
    writer.put(&MachineV1 { generation: 8, ..MachineV1::new_zeroed() }).unwrap();
    writer.put(&GuestV1::new_zeroed()).unwrap();
    let draft = writer.mark().unwrap();
    let header = draft.resume(&mut region).unwrap().finish().unwrap();
    store(&mut region, header);
    assert_eq!(read(&region), Err(ReadError::Count { what: "generations", stored: 9, found: 8 }));
}
