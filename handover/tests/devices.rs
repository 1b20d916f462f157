//! Devices beyond what format 1 can say: scalable mode, PASIDs, quarantine, virtual functions.
//! HANDOVER.md 7, 13 and 14 for these.

mod common;

use common::{
    GUEST, GUEST_DOMAIN, NESTED_DOMAIN, NIC, NVME, OWN_DOMAIN, PASID_DOMAIN, PHYSICAL, modern, read, sample, write,
    write_as,
};
use handover::State;
use handover::graph::{GraphError, validate, validate_plan};
use handover::header::HEADER_BYTES;
use handover::state::device::{PasidV1, PhysicalFunctionV1};
use handover::state::unit::{DOMAIN_SHARES_NESTED, DomainIdV1};
use handover::writer::Writer;

#[track_caller]
fn refused(change: impl FnOnce(&mut State), shape: fn(&GraphError) -> bool, names: &str) {
    let mut state = modern();
    change(&mut state);
    let error = validate(&state).expect_err("a set that makes no sense is accepted");
    assert!(shape(&error), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(names), "`{text}` does not name `{names}`");
}

macro_rules! is {
    ($variant:ident) => {
        |error| matches!(error, GraphError::$variant { .. })
    };
}

#[test]
fn it_makes_sense_and_travels_whole() {
    let state = modern();
    assert_eq!(validate(&state), Ok(()));
    let again = read(&write(&state)).unwrap();
    assert_eq!(again, state);
    assert_eq!(validate(&again), Ok(()));
}

/// What zero means in a late field is what format 1 knew.
#[test]
fn what_format_1_says_has_no_late_fields() {
    let state = read(&write_as(&sample(), 1)).unwrap();
    assert!(state.devices.iter().all(|device| (device.pasid_directory, device.state) == (0, 0)));
    assert!(state.domains.iter().all(|domain| (domain.parent, domain.address_bits) == (0, 0)));
    assert!(state.pasids.is_empty() && state.physical_functions.is_empty() && state.reserved.is_empty());
}

/// Law 7 for a downgrade: what an older format has no place for is refused by its name, never left out.
#[test]
fn law_7_a_downgrade_that_would_lose_something_is_refused_by_name() {
    let written = |change: fn(&mut State)| {
        let mut state = sample();
        change(&mut state);
        let mut region = vec![0; common::REGION];
        let mut writer = Writer::new(&mut region, common::BASE, common::GENERATION, 1).unwrap();
        state.write_plan(&mut writer).map_err(|error| error.to_string())
    };
    assert_eq!(written(|_| {}), Ok(()));
    type Loss = (fn(&mut State), &'static str);
    let losses: [Loss; 6] = [
        (|state| state.devices = modern().devices, "device 0000:01:00.0"),
        (|state| state.devices[0].state = 1, "device 0000:01:00.0"),
        (|state| state.pasids = modern().pasids, "PASID"),
        (|state| state.physical_functions = modern().physical_functions, "physical function"),
        (|state| state.reserved = modern().reserved, "reserved range"),
        (|state| state.posted = modern().posted, "posted interrupts"),
    ];
    for (change, name) in losses {
        let error = written(change).unwrap_err();
        assert!(error.contains(name), "`{error}` does not name `{name}`");
    }
    // What the operator wants of devices is as by default in an image that does not know it. Who leaves has left before such an
    // image looks, and whom earlier upgrades stopped is history.
    assert_eq!(written(|state| state.device_policy = modern().device_policy), Ok(()));
    assert_eq!(written(|state| (state.leaving, state.stopped) = (modern().leaving, modern().stopped)), Ok(()));
}

/// Law 13: the directory of each device, and every PASID in it.
#[test]
fn law_13_directories_and_pasids() {
    refused(|state| state.devices[0].pasid_directory = 0, is!(Value), "device 0000:01:00.0: PASID directory");
    refused(|state| state.units[0].root_table &= !(3 << 10), is!(Value), "PASID directory");
    refused(|state| state.devices[1].pasid_directory = state.devices[0].pasid_directory, is!(Overlap), "0000:03:00.0");
    refused(|state| state.devices[1].pasid_directory = 0x2000_0000, is!(NotOwned), "PASID directory");
    refused(|state| state.devices[1].pasid_directory += 8, is!(Value), "PASID directory");
    refused(|state| state.devices[1].state = 2, is!(Value), "device 0000:03:00.0: state");
    refused(|state| state.pasids[0].pasid = 0, is!(Value), "PASID 0x0 of device 0000:03:00.0");
    refused(|state| state.pasids[1].pasid = 1 << 20, is!(Value), "PASID 0x100000 of device 0000:03:00.0");
    refused(|state| state.pasids[1].pasid = 1, is!(Duplicate), "PASID 0x1 of device 0000:03:00.0");
    refused(|state| state.pasids[0].device = 0x0200, is!(Dangling), "device 0000:02:00.0");
    refused(|state| state.pasids[0].domain = 0x9999, is!(Dangling), "domain 0x9999");
    refused(|state| state.pasids[0].domain = OWN_DOMAIN, is!(Mismatch), "domain 0x4002");
    refused(
        |state| state.pasids.insert(0, PasidV1 { domain: PASID_DOMAIN, device: NIC, pasid: 1 }),
        is!(Mismatch),
        "PASID 0x1 of device 0000:01:00.0",
    );
    refused(|state| state.domain_ids.retain(|id| id.domain != PASID_DOMAIN), is!(Dangling), "domain id 0x4003/0x0");
}

/// Law 9: who leaves is nobody who stays, under none of its ids.
#[test]
fn law_9_who_leaves_does_not_stay() {
    refused(|state| state.leaving[0].requester = NVME, is!(SameRequester), "both send as 0000:03:00.0");
    refused(|state| state.leaving[0].requester = state.aliases[0].requester, is!(SameRequester), "both send as");
    refused(|state| state.leaving.push(state.leaving[0]), is!(Duplicate), "leaving requester");
    refused(|state| state.stopped[0].name = [0; 32], is!(Value), "stopped guest");
    refused(|state| state.stopped.push(state.stopped[0]), is!(Duplicate), "stopped guest");
}

#[test]
fn law_14_a_pasid_s_domain_has_its_own_id() {
    refused(|state| state.domain_ids[2].did = 2, is!(SameDomainId), "both claim id 2 on unit 0");
    refused(
        |state| state.domain_ids.push(DomainIdV1 { domain: 0x9999, unit: 0, did: 9 }),
        is!(Dangling),
        "domain 0x9999",
    );
}

#[test]
fn domains_without_table_and_over_another() {
    refused(|state| state.domains[1].table_root = 0x1806_0000, is!(Value), "domain 0x4002");
    refused(|state| state.domains[1].space = state.domains[0].space, is!(Value), "domain 0x4002: address space");
    refused(|state| state.domains[1].flags |= DOMAIN_SHARES_NESTED, is!(Value), "flags");
    refused(|state| state.domains[3].parent = 0, is!(Dangling), "domain 0x0");
    refused(|state| state.domains[3].parent = OWN_DOMAIN, is!(Value), "domain 0x4004: parent");
    refused(|state| state.domains[3].parent = NESTED_DOMAIN, is!(Value), "domain 0x4004: parent");
    refused(|state| state.domains[2].parent = GUEST_DOMAIN, is!(Value), "domain 0x4003: parent");
    refused(|state| state.domains[0].address_bits = 12, is!(Value), "address bits");
    refused(|state| state.domains[0].format = 6, is!(Value), "format");
}

#[test]
fn virtual_functions_have_ids_of_their_own() {
    let first = |change: fn(&mut PhysicalFunctionV1)| move |state: &mut State| change(&mut state.physical_functions[0]);
    refused(first(|physical| physical.count = 0), is!(Value), "physical function 0000:02:00.0");
    refused(first(|physical| physical.stride = 0), is!(Value), "stride");
    refused(first(|physical| physical.first = 0), is!(Value), "place of the functions");
    refused(first(|physical| physical.first = 0xfe00), is!(Value), "place of the functions");
    refused(first(|physical| physical.identity = u32::MAX), is!(Value), "identity");
    refused(first(|physical| physical.count = 0x1_0000), is!(Value), "number of functions");
    refused(first(|physical| physical.bdf = NVME), is!(Value), "function that a guest has");
    refused(
        |state| {
            let twin = PhysicalFunctionV1 { bdf: PHYSICAL + 1, first: 0x81, ..state.physical_functions[0] };
            state.physical_functions.push(twin);
        },
        is!(SameRequester),
        "0000:02:10.2",
    );
    refused(|state| state.device_policy.push(state.device_policy[0]), is!(Duplicate), "device policy");
    refused(|state| state.posted[0].frame = 0x2000_0000, is!(NotOwned), "posted interrupts");
    assert_eq!(modern().guests[0].token, GUEST);
}

#[test]
fn truncated_at_each_byte_it_is_refused() {
    let whole = write(&modern());
    let used = HEADER_BYTES + u64::from_le_bytes(whole[32..40].try_into().unwrap()) as usize;
    for length in 0..used {
        assert!(read_quietly(&whole[..length]).is_none(), "{length} bytes");
    }
}

#[test]
fn with_any_bit_of_the_new_records_flipped_it_is_refused() {
    let whole = write(&modern());
    let used = HEADER_BYTES + u64::from_le_bytes(whole[32..40].try_into().unwrap()) as usize;
    for bit in 0..used * 8 {
        let mut region = whole.clone();
        region[bit / 8] ^= 1 << (bit % 8);
        assert!(read_quietly(&region).is_none(), "bit {bit}");
    }
}

fn read_quietly(region: &[u8]) -> Option<State> {
    let stream = handover::reader::Stream::open(region, common::BASE).ok()?;
    State::decode(&stream).ok().filter(|state| validate_plan(state).is_ok())
}
