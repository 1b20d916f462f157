//! Sets that make no sense, each refused by the name of the record at fault.

mod common;

use common::{GUEST, GUEST_DOMAIN, NIC, NVME, OWN_DOMAIN, RAM, SPACE, sample};
use handover::State;
use handover::graph::{GraphError, validate, validate_rest};
use handover::state::device::{AliasV1, BAR_64, BAR_MAPPED, BAR_PORTS, BarV1};
use handover::state::interrupt::{IRTE_OWN, NO_IRTE};
use handover::state::machine::{OWNER_FREE, REGION_RESERVED};
use handover::state::memory::{ExtentV1, ReservedV1, SpaceV1};
use handover::state::page::VcpuPlaceV1;
use handover::state::unit::{DOMAIN_SHARES_NESTED, DomainIdV1, DomainV1};
use handover::state::vcpu::VcpuV1;

#[test]
fn the_sample_makes_sense() {
    assert_eq!(validate(&sample()), Ok(()));
    assert_eq!(validate_rest(&sample()), Ok(()));
}

#[test]
fn a_domain_may_share_the_nested_table() {
    let mut state = sample();
    state.domains[0].flags |= DOMAIN_SHARES_NESTED;
    assert!(matches!(validate(&state), Err(GraphError::Mismatch { .. })));
    state.domains[0].table_root = state.spaces[0].nested_root;
    assert_eq!(validate(&state), Ok(()));
}

/// Breaks the sample, and checks that the error is of that shape and names what it should.
#[track_caller]
fn refused(change: impl FnOnce(&mut State), shape: fn(&GraphError) -> bool, names: &str) {
    let mut state = sample();
    change(&mut state);
    let error = validate(&state).expect_err("a set that makes no sense is accepted");
    assert!(shape(&error), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(names), "`{text}` does not name `{names}`");
    assert!(text.contains("old image"), "`{text}` blames nobody");
}

macro_rules! is {
    ($variant:ident) => {
        |error| matches!(error, GraphError::$variant { .. })
    };
}

#[test]
fn law_6_duplicates_and_disorder() {
    refused(|state| state.devices.push(state.devices[1]), is!(Duplicate), "device 0000:03:00.0");
    refused(|state| state.devices.swap(0, 1), is!(Disorder), "device 0000:01:00.0");
    refused(|state| state.vcpus.push(state.vcpus[0]), is!(Duplicate), "vCPU 0x1001/0x0");
    refused(|state| state.objects[0].token = GUEST, is!(SameToken), "guest 0x1001");
    refused(|state| state.domains[0].token = 0, is!(Value), "token");
    refused(|state| state.machine.clear(), is!(NotOne), "machine");
    refused(|state| state.pcpus[1].apic_id = 0, is!(Mismatch), "pCPU 0x1");
    refused(|state| state.domains[1].table_root = state.domains[0].table_root, is!(Overlap), "domain 0x4002");
    refused(
        |state| state.spaces.push(SpaceV1 { token: 0x2002, nested_root: 0x1808_0000, ..state.spaces[0] }),
        is!(Mismatch),
        "address space 0x2002",
    );
}

#[test]
fn references_lead_somewhere() {
    refused(|state| state.devices[1].domain = 0x9999, is!(Dangling), "domain 0x9999");
    refused(|state| state.devices[1].unit = 1, is!(Dangling), "unit 0x1");
    refused(|state| state.devices[1].owner = 0x9999, is!(Dangling), "guest 0x9999");
    refused(|state| state.domains[0].space = 0x9999, is!(Dangling), "address space 0x9999");
    refused(|state| state.extents[2].object = 0x9999, is!(Count), "memory object 0x3001");
    refused(
        |state| state.extents.push(ExtentV1 { object: 0x9999, guest_base: 0, host_base: 0x3000_0000, bytes: 4096 }),
        is!(Dangling),
        "memory object 0x9999",
    );
    refused(|state| state.space_objects[0].object = 0x9999, is!(Dangling), "memory object 0x9999");
    refused(|state| state.msix[1].irte = 200, is!(Dangling), "IRTE 0x0/0xc8");
    refused(|state| state.domain_ids.truncate(1), is!(Dangling), "device 0000:01:00.0");
    refused(|state| state.xsave[1].vcpu = 1, is!(Count), "vCPU 0x1001/0x0");
    refused(|state| state.lapics.clear(), is!(Dangling), "LAPIC");
    refused(|state| state.unit_rests.clear(), is!(Dangling), "unit rest");
    refused(|state| state.uarts[0].guest = 0x9999, is!(Dangling), "guest 0x9999");
    refused(|state| state.vcpus[0].pcpu = 2, is!(Dangling), "pCPU 0x2");
}

/// Law 14.
#[test]
fn law_14_a_domain_id_is_claimed_once_per_unit() {
    refused(|state| state.domain_ids[1].did = 2, is!(SameDomainId), "both claim id 2 on unit 0");
    refused(|state| state.domain_ids[1].did = 1 << 16, is!(Value), "domain id");
    // The same number on another unit is no claim on this one.
    let mut state = sample();
    let mut unit = state.units[0];
    unit.index = 1;
    unit.register_base += 0x1000;
    unit.root_table = 0x1810_0000;
    unit.interrupt_table = 0x1811_0000;
    unit.queue = 0x1812_0000;
    state.units.push(unit);
    let mut rest = state.unit_rests[0];
    rest.index = 1;
    state.unit_rests.push(rest);
    state.domain_ids.push(DomainIdV1 { domain: OWN_DOMAIN, unit: 1, did: 2 });
    assert_eq!(validate(&state), Ok(()));
}

/// Law 17.
#[test]
fn law_17_a_device_has_one_domain_one_owner_and_its_own_requester_ids() {
    refused(
        |state| {
            let twin = handover::state::device::DeviceV1 { domain: OWN_DOMAIN, owner: 0, ..state.devices[1] };
            state.devices.push(twin);
        },
        is!(TwoDomains),
        "device 0000:03:00.0 is in the domains 0x4001 and 0x4002",
    );
    refused(|state| state.devices[0].owner = GUEST, is!(Mismatch), "device 0000:01:00.0");
    refused(|state| state.devices[1].owner = 0, is!(Mismatch), "device 0000:03:00.0");
    refused(|state| state.devices[1].domain = OWN_DOMAIN, is!(Mismatch), "domain 0x4002");
    refused(|state| state.aliases[0].requester = NIC, is!(SameRequester), "0000:01:00.0");
    refused(
        |state| state.aliases.insert(0, AliasV1 { device: NIC, requester: 0x0301 }),
        is!(SameRequester),
        "0000:03:00.1",
    );
    refused(|state| state.aliases[0].requester = 0x1_0301, is!(Value), "requester alias");
    refused(|state| state.devices[1].bdf = 0x1_0300, |_| true, "");
    refused(|state| state.management[0].nic = NVME, is!(Mismatch), "device 0000:03:00.0");
    refused(|state| state.guests[0].device_count = 2, is!(Count), "guest 0x1001 counts 2 devices");
}

#[test]
fn memory_is_its_owners() {
    refused(|state| state.extents[1].host_base = 0x2180_0000, is!(Overlap), "extent 0x3001/0x1e000000");
    refused(|state| state.extents[1].host_base = 0x5000_0000, is!(NotOwned), "extent");
    refused(|state| state.extents[1].host_base = 0x1000_0000, is!(NotOwned), "extent");
    refused(|state| state.extents[2].host_base = 0x3f80_0000, is!(NotOwned), "extent");
    refused(|state| state.extents[2].host_base = u64::MAX - 0xfff, is!(Value), "extent");
    refused(|state| state.extents[0].bytes += 4096, |_| true, "0x3001");
    refused(|state| state.extents[1].guest_base -= 4096, is!(Overlap), "extent");
    refused(
        |state| state.objects[0].extent_count = 2,
        is!(Count),
        "memory object 0x3001 counts 2 extents, 3 are there",
    );
    refused(|state| state.objects[0].bytes += 4096, is!(Value), "memory object 0x3001");
    refused(|state| state.regions[9].owner = OWNER_FREE, is!(NotOwned), "extent");
    refused(|state| state.regions[9].firmware_type = REGION_RESERVED, is!(Value), "memory region 0x30000000");
    refused(|state| state.regions[8].bytes += 4096, is!(Overlap), "memory region 0x30000000");
    refused(|state| state.domains[0].table_root = 0x2000_0000, is!(NotOwned), "domain 0x4001");
    refused(|state| state.units[0].root_table = 0x2000_0000, is!(NotOwned), "unit 0x0");
    refused(|state| state.units[0].interrupt_entries = 1 << 17, is!(Value), "unit 0x0");
    refused(|state| state.spaces[0].nested_root = 0x200_0000, is!(NotOwned), "address space 0x2001");
    refused(|state| state.arenas[0].frame_table_bytes -= 4, is!(Value), "arena");
    refused(|state| state.arenas.clear(), is!(NotOne), "arena");
    assert_eq!(sample().objects[0].token, RAM);
}

/// What firmware reserves for a guest's devices is no memory of anybody's, and no other guest's.
#[test]
fn reserved_ranges_are_their_guests_alone() {
    let range = ReservedV1 { space: SPACE, base: 0x4800_0000, bytes: 0x3_f000 };
    let with = |range: ReservedV1| move |state: &mut State| state.reserved.push(range);
    let mut state = sample();
    with(range)(&mut state);
    assert_eq!(validate(&state), Ok(()));
    refused(with(ReservedV1 { space: 0x9999, ..range }), is!(Dangling), "address space 0x9999");
    refused(with(ReservedV1 { base: 0x4800_0800, ..range }), is!(Value), "reserved range");
    refused(with(ReservedV1 { bytes: 0, ..range }), is!(Value), "reserved range");
    // A guest's RAM, Baton's arena, free memory; a unit; the message range; what the guest sees as its RAM or BAR.
    for base in [0x2000_0000, 0x1800_0000, 0x1000_0000, 0xfed9_0000] {
        refused(with(ReservedV1 { base, ..range }), is!(Overlap), "reserved range 0x2001");
    }
    refused(with(ReservedV1 { base: 0xfee0_0000, ..range }), is!(Value), "reserved range 0x2001");
    refused(
        |state| {
            with(range)(state);
            state.bars[1].guest_base = 0x4800_0000;
        },
        is!(Overlap),
        "BAR 0x0",
    );
    refused(
        |state| {
            with(range)(state);
            state.reserved.push(ReservedV1 { base: 0x4800_1000, ..range });
        },
        is!(Overlap),
        "reserved range",
    );
}

#[test]
fn bars_overlap_nothing() {
    refused(|state| state.bars[0].host_base = 0xfe40_0000, is!(Overlap), "BAR 0x0 of device 0000:0");
    refused(|state| state.bars[1].host_base = 0x2000_0000, is!(Overlap), "memory region 0x20000000");
    refused(|state| state.bars[1].host_base = 0xfed9_0000, is!(Overlap), "unit 0x0");
    refused(|state| state.bars[1].host_base = 0xfee0_0000, is!(Value), "BAR 0x0 of device 0000:03:00.0");
    refused(|state| state.bars[1].guest_base = 0x1f00_0000, is!(Overlap), "extent");
    refused(|state| state.bars[1].bytes = 0x3000, is!(Value), "BAR");
    refused(|state| state.bars[1].host_base += 0x1000, is!(Value), "BAR");
    refused(|state| state.bars[1].guest_base = u64::MAX - 0x3fff, is!(Value), "BAR");
    refused(|state| state.bars[1].index = 5, is!(Value), "BAR");
    refused(|state| state.bars[1].flags = BAR_PORTS, is!(Value), "BAR");
    refused(|state| state.bars[0].flags = BAR_MAPPED, is!(Dangling), "owner of a mapped BAR");
    refused(
        |state| state.bars.push(BarV1 { index: 1, host_base: 0xfe00_0000, guest_base: 0xe100_0000, ..state.bars[1] }),
        is!(Mismatch),
        "BAR 0x1 of device 0000:03:00.0",
    );
    assert_eq!(sample().bars[1].flags, BAR_64 | BAR_MAPPED);
}

#[test]
fn interrupts_are_their_devices() {
    refused(|state| state.irtes[2].owner = NIC, is!(Mismatch), "IRTE 0x0/0x5");
    refused(|state| state.irtes[2].owner = 0x0400, is!(Dangling), "device 0000:04:00.0");
    refused(|state| state.irtes[2].flags = IRTE_OWN, is!(Mismatch), "MSI-X entry 0x1 of device 0000:03:00.0");
    refused(|state| state.irtes[3].index = 256, is!(Value), "IRTE");
    refused(|state| state.msix[2].irte = 4, is!(Mismatch), "MSI-X entry");
    refused(|state| state.msix[2].index = 6, is!(Value), "MSI-X entry 0x6");
    refused(|state| state.msix[2].host_vector = 31, is!(Value), "host vector");
    refused(|state| state.msix[2].irte = NO_IRTE, is!(Value), "host vector without IRTE");
    refused(|state| state.devices[1].msix_table_offset = 0x3ff0, is!(Value), "MSI-X table");
    refused(|state| state.devices[1].msix_table_bar = 2, is!(Dangling), "MSI-X table");
    refused(|state| state.devices[1].msix_entries = 2049, is!(Value), "MSI-X entries");
}

#[test]
fn guests_are_whole() {
    refused(|state| state.guests[0].vcpu_count = 2, is!(Count), "guest 0x1001 counts 2 vCPUs, 1 are there");
    refused(|state| state.vcpus[0].index = 1, is!(Value), "vCPU 0x1001/0x1");
    refused(|state| state.guests[0].name = [0xff; 32], is!(Value), "name");
    refused(|state| state.guests[0].on_upgrade = 3, is!(Value), "upgrade policy");
    refused(|state| state.guests[0].space = 0x9999, is!(Mismatch), "address space 0x2001");
    refused(|state| state.guest_rests[0].state = 9, is!(Value), "state");
    refused(|state| state.vcpus[0].activity = 0, is!(Value), "activity");
    refused(|state| state.vcpus[0].event = 6, is!(Value), "event");
    refused(|state| state.vcpus[0].xsave_pieces = 3, is!(Count), "XSAVE pieces");
    refused(|state| state.vcpus[0].xsave_bytes = 768, is!(Value), "XSAVE piece");
    refused(|state| state.xsave[1].bytes[64] = 1, is!(Value), "past the end");
    refused(|state| state.vcpus[0].xsave_bytes = u32::MAX, is!(Value), "XSAVE bytes");
    refused(|state| state.uarts[0].input_bytes = 4097, is!(Value), "UART");
    refused(|state| state.uarts[0].input_bytes = 257, is!(Count), "pieces of input");
    refused(|state| state.uarts[0].input_bytes = 0, is!(Dangling), "UART input");
    refused(|state| state.uart_inputs[0].offset = 256, is!(Value), "UART input");
    refused(
        |state| state.functions[0].flags = handover::state::device::FUNCTION_MSI,
        is!(Value),
        "PCI function 0000:03:00.0: flags",
    );
    refused(|state| state.vcpu_msrs.clear(), is!(Dangling), "vCPU MSRs");
    refused(|state| state.guest_clocks[0].tsc_khz = 0, is!(Value), "guest clock");
    refused(|state| state.cpuids[1].guest = 0x9999, is!(Dangling), "CPUID entry");
    refused(|state| state.guest_rests[0].power = 3, is!(Value), "power");
    refused(|state| state.modules[0].bytes = 1 << 25, is!(NotOwned), "boot module");
    refused(|state| state.boot.push(state.boot[0]), is!(Duplicate), "boot");
    refused(|state| state.configs[0].offset = 8, is!(Value), "config space");
}

#[test]
fn buses_do_not_run_in_circles() {
    refused(|state| state.bridges[1].bdf = 0x0300, is!(Circle), "bridge 0000:03:00.0");
    refused(|state| state.bridges[1].subordinate = 2, is!(Value), "bridge");
    refused(|state| (state.bridges[1].secondary, state.bridges[1].subordinate) = (1, 3), is!(Mismatch), "bridge");
}

#[test]
fn law_12_the_queue_is_drained_and_the_unit_translates_as_planned() {
    refused(|state| state.unit_rests[0].queue_tail += 0x10, is!(Value), "drained");
    refused(|state| state.unit_rests[0].status = 0, is!(Mismatch), "unit rest 0x0");
}

/// What the pause looks at finds what the pause can break.
#[test]
fn the_short_validation_finds_what_a_refresh_can_break() {
    let breaks: [fn(&mut State); 8] = [
        |state| state.vcpus.clear(),
        |state| state.vcpus[0].guest = 0x9999,
        |state| state.lapics[0].vcpu = 1,
        |state| state.irtes.truncate(2),
        |state| state.msix[0].device = NIC,
        |state| state.xsave.truncate(1),
        |state| state.unit_rests[0].queue_head = 0,
        |state| state.irtes.swap(1, 2),
    ];
    for (index, change) in breaks.iter().enumerate() {
        let mut state = sample();
        change(&mut state);
        assert!(validate_rest(&state).is_err(), "break {index}");
    }
    let unused: DomainV1 = sample().domains[0];
    assert_eq!(unused.token, GUEST_DOMAIN);
}

/// The sample with its vCPU in a place of its own.
fn placed() -> State {
    let mut state = sample();
    let VcpuV1 { guest, pcpu, .. } = state.vcpus[0];
    let base = state.arenas[0].base + 0x3f_0000;
    state.vcpu_places.push(VcpuPlaceV1 { guest, base, vcpu: 0, pcpu, area_bytes: 832, page_offset: 832 });
    state.vcpus.clear();
    state.xsave.clear();
    state.lapics.clear();
    state.clocks.clear();
    state.vcpu_msrs.clear();
    state
}

#[test]
fn places_of_vcpus_are_whole_and_in_the_arena() {
    assert_eq!(validate(&placed()), Ok(()));
    let refused = |change: fn(&mut State), what: &str| {
        let mut state = placed();
        change(&mut state);
        let error = validate(&state).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(|state| state.vcpu_places[0].base += 8, "address");
    refused(|state| state.vcpu_places[0].base = 0x1000, "vCPU place");
    refused(|state| state.vcpu_places[0].base = !0xfff, "address");
    refused(|state| state.vcpu_places[0].pcpu = 99, "pCPU");
    refused(|state| state.vcpu_places[0].guest = 0x9999, "guest");
    refused(|state| state.vcpu_places[0].vcpu = 1, "number");
    refused(|state| state.vcpu_places[0].page_offset = 840, "offset of the page");
    refused(|state| state.vcpu_places[0].page_offset = 768, "offset of the page");
    refused(|state| state.vcpu_places[0].page_offset = !63, "offset of the page");
    refused(|state| state.vcpu_places[0].area_bytes = u32::MAX, "offset of the page");
    refused(|state| state.guests[0].vcpu_count = 2, "places of vCPUs");
    refused(
        |state| {
            state.guests[0].vcpu_count = 2;
            state.vcpu_places.push(VcpuPlaceV1 { vcpu: 1, ..state.vcpu_places[0] });
        },
        "overlap",
    );
    // A record besides the place: one of the two is too many.
    refused(|state| state.vcpus = sample().vcpus, "vCPUs");
}
