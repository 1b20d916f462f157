//! What is impossible is refused by name; nothing panics.

extern crate std;

use alloc::collections::BTreeSet;

use handover::State;
use handover::state::guest::{ON_UPGRADE_STOP, POWER_RESET};
use handover::state::interrupt::NO_IRTE;
use handover::state::unit::FORMAT_PASS_THROUGH;
use iommu::state::AliasState;
use proptest::prelude::*;
use std::string::{String, ToString};
use zerocopy::{FromBytes, IntoBytes};

use super::sample::{Everything, GUEST, GUEST_DOMAIN, NIC, NVME, everything, load_functions};
use crate::upgrade::convert::{report, vcpu};
use crate::upgrade::{gather, leave};

/// The sample with `change` is refused with a message that contains `name`.
fn refused(change: fn(&mut State), name: &str) {
    let mut state = everything().save();
    change(&mut state);
    match Everything::load(&state) {
        Ok(_) => panic!("accepted: {name}"),
        Err(error) => {
            let message: String = error.to_string();
            assert!(message.contains(name), "'{message}' does not say '{name}'");
            assert!(message.contains("at fault"), "{message}");
        }
    }
}

/// The guest's objects are kept, Baton's own are not; a guest's device in a domain that is not is refused by name.
#[test]
fn law_9_who_is_left_out_is_named_under_every_id() {
    let mut all = everything();
    let tokens = BTreeSet::from([GUEST_DOMAIN]);
    let alias = AliasState { segment: NIC.segment(), source: NIC.requester_id(), alias: 0x0777 };
    all.snapshot.aliases.push(alias);
    let named = leave::requesters(&all.snapshot, &tokens).into_iter().map(|one| one.source);
    assert_eq!(named.collect::<BTreeSet<_>>(), BTreeSet::from([NIC.requester_id(), alias.alias]));
    let all_stay = all.snapshot.domains.iter().map(|domain| domain.token).collect();
    assert!(leave::requesters(&all.snapshot, &all_stay).is_empty());
    // A reader of format 1 is told of nobody.
    assert_eq!([1, 2, 3].map(leave::is_said_in), [false, true, true]);
}

#[test]
fn law_1_only_what_is_marked_is_gathered() {
    let mut all = everything();
    let kept = gather::Kept {
        tokens: BTreeSet::from([GUEST_DOMAIN]),
        sources: BTreeSet::from([(NVME.segment(), NVME.requester_id())]),
    };
    assert!(all.snapshot.domains.iter().any(|domain| domain.token != GUEST_DOMAIN));
    kept.retain_in(&mut all.snapshot);
    assert!(all.snapshot.domains.iter().all(|domain| domain.token == GUEST_DOMAIN));
    assert!(all.snapshot.dids.iter().all(|did| did.token == GUEST_DOMAIN));
    assert!(all.snapshot.devices.iter().all(|device| device.source == NVME.requester_id()));
    assert!(!all.snapshot.devices.is_empty() && !all.snapshot.irtes.is_empty());
    assert!(all.snapshot.irtes.iter().all(|entry| entry.high as u16 != NIC.requester_id()));

    let mut all = everything();
    all.functions.retain(|function| function.device == NVME);
    for device in all.snapshot.devices.iter_mut().filter(|device| device.source == NVME.requester_id()) {
        device.token = GUEST_DOMAIN + 1;
    }
    kept.retain_in(&mut all.snapshot);
    let refused = all.save_plan(&mut State::default()).unwrap_err().to_string();
    assert!(refused.contains("0000:03:00.0") || refused.contains("0x300"), "{refused}");
}

#[test]
fn the_machine() {
    refused(|state| state.machine.clear(), "machine 0x0 is missing");
    refused(|state| state.machine.push(state.machine[0]), "machine");
    refused(|state| state.machine[0].flags = 2, "flags");
    refused(|state| state.machine[0].tsc_khz = 0, "TSC frequency");
    refused(|state| state.machine[0].lapic_ticks_per_ms = 0, "LAPIC timer frequency");
    refused(|state| state.machine[0].pcpu_count = 3, "3 pCPUs");
    refused(|state| state.machine[0].bsp_apic_id = 1, "LAPIC id of pCPU 0");
    refused(|state| state.machine[0].console_port = 1 << 16, "console port");
    refused(|state| state.pcpus[1].index = 2, "pCPU 0x2");
    refused(|state| state.pcpus[1].flags = 1, "pCPU 0x1: flags");
    refused(|state| state.boot[0].via[191] = 1, "way in is not text");
    refused(|state| state.boot[0].via[0] = 0xff, "way in is not text");
    refused(|state| state.modules[0].index = 256, "boot module");
    refused(|state| state.modules[0].bytes = u64::MAX, "boot module 0x0: range");
    refused(|state| state.modules[0].name[0] = 7, "boot module 0x0: name");
    refused(|state| state.bridges[0].secondary = 256, "secondary bus");
    refused(|state| state.bridges[0].subordinate = 256, "subordinate bus");
    refused(|state| state.bridges[0].command = 1 << 16, "command register");
    refused(|state| state.bridges[0].bridge_control = 1 << 16, "bridge control");
}

#[test]
fn the_memory_map() {
    refused(|state| state.regions[0].owner = 8, "memory region 0x0: owner");
    refused(|state| state.regions[1].owner_id = 1, "owner's number");
    refused(|state| state.regions[4].owner_id = 2, "slot");
    refused(|state| state.regions[8].owner_id = 256, "module");
    refused(|state| state.regions[4].firmware_type = 2, "type of owned memory");
    refused(|state| state.regions[4].bytes = 0, "range");
    refused(|state| state.regions[4].bytes += 1, "range");
    refused(|state| state.regions[4].base = u64::MAX - 0xfff, "range");
    refused(|state| state.arenas.clear(), "arena 0x0 is missing");
    refused(|state| state.arenas[0].frame_table_bytes += 4, "frame table length");
    refused(|state| state.arenas[0].frame_table = 0, "frame table");
    refused(|state| state.arenas[0].bytes = u64::MAX - 0xfff, "range");
}

#[test]
fn guests_and_their_memory() {
    refused(|state| state.guests.clear(), "guest 0x1001 is missing");
    refused(|state| state.guests[0].console = 3, "console");
    refused(|state| state.guests[0].on_upgrade = ON_UPGRADE_STOP + 1, "upgrade policy");
    refused(|state| state.guests[0].number = 1 << 16, "number");
    refused(|state| state.guests[0].vcpu_count = 0, "vCPUs");
    refused(|state| state.guests[0].vcpu_count = 256, "vCPUs");
    refused(|state| state.guests[0].name[0] = 0xc0, "name is not text");
    refused(|state| state.guests[0].kernel[0] = 0xc0, "kernel is not text");
    refused(|state| state.guests[0].space = 9, "address space 0x9 is missing");
    refused(|state| state.guest_rests.clear(), "guest rest 0x1001 is missing");
    refused(|state| state.guest_rests[0].state = 3, "state");
    refused(|state| state.guest_rests[0].power = POWER_RESET + 1, "power event");
    refused(|state| state.guest_rests[0].reason[0] = 0xff, "reason is not text");
    refused(|state| state.spaces[0].guest = 9, "address space 0x2001: guest");
    refused(|state| state.spaces[0].format = 2, "format");
    refused(|state| state.spaces[0].levels = 6, "levels");
    refused(|state| state.spaces[0].levels = 260, "levels");
    refused(|state| state.spaces[0].leaf_mask = 6, "leaf sizes");
    refused(|state| state.spaces[0].leaf_mask = 9, "leaf sizes");
    refused(|state| state.spaces[0].nested_root += 1, "root");
    refused(|state| state.objects.clear(), "memory object");
    refused(|state| state.objects[0].tag[0] = b'x', "tag");
    refused(|state| state.objects[0].bytes += 4096, "bytes");
    refused(|state| state.objects[0].extent_count = 3, "3 extents");
    refused(|state| state.space_objects.clear(), "mapping of an object");
    refused(|state| state.space_objects[0].object = 9, "mapping of an object");
    refused(|state| state.extents[0].guest_base = 1, "guest range");
    refused(|state| state.extents[0].host_base = u64::MAX - 0xfff, "host range");
    refused(|state| state.extents[0].bytes = 0, "bytes");
    refused(
        |state| {
            let mut other = state.objects[0];
            other.token += 1;
            state.objects.push(other);
        },
        "memory object 0x3002 is nothing",
    );
}

#[test]
fn vcpus() {
    refused(|state| state.vcpus.clear(), "vCPU 0x1001/0x0 is missing");
    refused(|state| state.vcpus[0].activity = 0, "activity");
    refused(|state| state.vcpus[0].shadow = 4, "interrupt shadow");
    refused(|state| state.vcpus[0].nmi = 1, "NMI state");
    refused(|state| state.vcpus[0].xss = 1, "IA32_XSS");
    refused(|state| state.vcpus[0].debugctl = 1, "IA32_DEBUGCTL");
    refused(|state| state.vcpus[0].spec_ctrl = 1, "IA32_SPEC_CTRL");
    refused(|state| state.vcpus[0].cr8 = 16, "CR8");
    refused(|state| state.vcpus[0].gdt_limit = 1 << 16, "limit of the GDT");
    refused(|state| state.vcpus[0].idt_limit = 1 << 16, "limit of the IDT");
    refused(|state| state.vcpus[0].segments[3].attributes = 1 << 13, "access rights");
    refused(|state| state.vcpus[0].event = 4, "event");
    refused(|state| state.vcpus[0].event = 1 << 31, "event");
    refused(|state| state.vcpus[0].event = 0, "without event");
    refused(|state| state.vcpus[0].event = 3, "error code without use");
    refused(|state| state.vcpus[0].event_vector = 3, "event with this vector");
    refused(|state| state.vcpus[0].event_vector = 256, "vector");
    refused(|state| state.vcpus[0].event_instruction_bytes = 1, "instruction length");
    refused(|state| state.vcpus[0].xsave_bytes = u32::MAX, "XSAVE bytes");
    refused(|state| state.vcpus[0].xsave_bytes = 600, "XSAVE piece");
    refused(|state| state.vcpus[0].xsave_pieces = 2, "2 XSAVE pieces");
    refused(|state| state.xsave[0].offset = 1, "XSAVE piece");
    refused(|state| state.xsave[2].bytes[64] = 1, "bytes past the end");
    refused(|state| state.lapics.clear(), "LAPIC 0x1001/0x0 is missing");
    refused(|state| state.lapics[0].id = 1, "APIC id");
    refused(|state| state.lapics[0].events = 4, "pending events");
    refused(|state| state.lapics[0].timer_armed = 2, "armed timer");
    refused(|state| state.lapics[0].task_priority = 256, "task priority");
    refused(|state| state.clocks.clear(), "kvmclock");
    refused(|state| state.clocks[0].version = 7, "kvmclock 0x1001/0x0: version");
    refused(|state| state.vcpu_msrs.clear(), "vCPU MSRs");
}

#[test]
fn platforms() {
    refused(|state| state.guest_clocks.clear(), "guest clock 0x1001 is missing");
    refused(|state| state.guest_clocks[0].tsc_khz = 0, "TSC frequency");
    refused(|state| state.ioapics.clear(), "I/O APIC");
    refused(
        |state| {
            let mut other = state.ioapics[0];
            other.id += 1;
            state.ioapics.push(other);
        },
        "I/O APIC 0x1001/0x2000001 is nothing",
    );
    refused(|state| state.pci_hosts.clear(), "PCI host");
    refused(|state| state.uarts.clear(), "UART 0x1001/0x3f8 is missing");
    refused(
        |state| {
            let mut other = state.uarts[0];
            other.port = 0x2f8;
            state.uarts.insert(0, other);
        },
        "UART 0x1001/0x2f8 is nothing",
    );
    refused(|state| state.uarts[0].input_bytes = 4097, "bytes of input");
    refused(|state| state.uarts[0].input_bytes = 256, "1 pieces of input");
    refused(|state| state.uarts[0].input_bytes = 299, "bytes past the end");
    refused(|state| state.uarts[0].thr_pending = 2, "transmitter interrupt");
    refused(|state| state.uarts[0].overrun = 2, "overrun");
    refused(|state| state.uart_inputs[1].offset = 257, "offset");
    refused(|state| state.uart_inputs[1].port = 0x3f9, "port");
    refused(|state| state.legacies.clear(), "legacy ports 0x1001 is missing");
    refused(|state| state.legacies[0].pit_is_latched[1] = 2, "latch");
    refused(|state| state.legacies[0].pit_high_next[1] = 2, "byte order");
    refused(|state| state.legacies[0].pit_access[1] = 4, "access");
    refused(|state| state.legacies[0].pit_mode[1] = 8, "mode");
    refused(|state| state.legacies[0].cmos_index = 128, "CMOS address");
    refused(|state| state.legacies[0].port_61 = 4, "port 0x61");
    refused(|state| state.legacies[0].refresh = 1, "refresh");
}

#[test]
fn functions() {
    refused(|state| state.functions.clear(), "PCI function 0000:03:00.0 is missing");
    refused(|state| state.functions[0].flags = 8, "flags");
    refused(|state| state.functions[0].flags |= 1, "flags");
    refused(|state| state.functions[0].flags |= 32, "flags");
    refused(|state| state.functions[0].command = 1 << 16, "command register");
    refused(|state| state.functions[0].cache_line = 256, "cache line");
    refused(|state| state.functions[0].interrupt_line = 256, "interrupt line");
    refused(|state| state.devices[1].guest_bdf = 0x10, "device 0000:03:00.0: place in the guest");
    refused(|state| state.devices[1].guest_bdf = 9, "place in the guest");
    refused(|state| state.devices[1].guest_bdf = 32 << 3, "place in the guest");
    refused(|state| state.devices[1].flags |= 2, "device 0000:03:00.0: flags");
    refused(|state| state.devices[1].msix_entries = 2049, "MSI-X entries");
    refused(|state| state.devices[1].msix_entries = 0, "MSI-X entries");
    refused(|state| state.devices[1].msix_entries = 2, "MSI-X entry 0x2 of device 0000:03:00.0: number");
    refused(|state| state.devices[0].msix_entries = 1, "MSI-X entries");
    refused(|state| state.devices[1].msix_capability = 256, "MSI-X capability");
    refused(|state| state.devices[0].msi_capability = 256, "MSI capability");
    refused(|state| state.devices[1].msix_table_bar = 6, "BAR of the MSI-X table");
    refused(|state| state.devices[1].msix_pending_bar = 6, "BAR of the MSI-X pending bits");
    refused(|state| state.bars[1].index = 6, "BAR 0x6 of device 0000:03:00.0: number");
    refused(|state| state.bars[1].flags |= 1, "flags");
    refused(|state| state.bars[1].guest_base = u64::MAX, "guest address");
    refused(|state| state.bars[0].guest_base = 1, "guest address without use");
    refused(
        |state| {
            state.configs.push(handover::state::device::ConfigV1 { device: 0x300, offset: 0, bytes: [0; 256] });
        },
        "config space",
    );
    refused(|state| state.msix[0].flags = 8, "flags");
    refused(|state| state.msix[0].guest_control = 2, "vector control");
    refused(|state| state.msix[0].host_vector = 31, "host vector");
    refused(|state| state.msix[0].host_vector = 256, "host vector");
    refused(|state| state.msix[0].irte = 1 << 16, "remapping entry");
    refused(|state| state.msix[0].irte = NO_IRTE, "routed address");
    refused(|state| state.msix[1].flags |= 4, "MSI of device 0000:03:00.0 is nothing");
}

#[test]
fn units() {
    refused(|state| state.units[0].flags |= 8, "unit 0x0: flags");
    refused(|state| state.units[0].flags |= 4 | 32, "unit 0x0: flags");
    refused(|state| state.units[0].flags &= !4, "unit 0x0: flags");
    refused(|state| state.units[0].segment = 1 << 16, "segment");
    refused(|state| state.units[0].register_base += 1, "register base");
    refused(|state| state.units[0].interrupt_entries = 255, "interrupt entries");
    refused(|state| state.units[0].did_count = 256, "number of domain ids");
    refused(|state| state.unit_rests.clear(), "unit rest 0x0 is missing");
    refused(|state| state.unit_rests[0].queue_head = 0, "drained queue");
    refused(|state| state.unit_rests[0].status = 0, "status");
    refused(|state| state.domains[0].format = 3, "format");
    refused(|state| state.domains[0].format = FORMAT_PASS_THROUGH, "levels");
    refused(|state| state.domains[0].address_bits = 256, "address bits");
    refused(|state| state.devices[1].state = 2, "state");
    refused(|state| state.domains[0].levels = 2, "levels");
    refused(|state| state.domains[0].width = 39, "width");
    refused(|state| state.domains[0].flags = 4, "flags");
    refused(|state| state.domains[0].leaf_mask = 0, "leaf sizes");
    refused(|state| state.domain_ids[0].did = 1 << 16, "domain id");
    refused(|state| state.domain_ids[0].unit = 1, "unit 0x1 is missing");
    refused(|state| state.devices[0].unit = 1, "unit 0x1 is missing");
    refused(|state| state.devices[0].ats_depth = 1, "queue depth without ATS");
    refused(|state| state.devices[1].ats_depth = 33, "queue depth");
    refused(|state| state.aliases[0].requester |= 1 << 16, "segment");
    refused(|state| state.irtes[0].flags = 2, "flags");
    refused(|state| state.irtes[0].index = 1 << 16, "index");
    refused(|state| state.irtes[0].unit = 1, "unit 0x1 is missing");
    refused(|state| state.faults[0].access = 0, "access");
    refused(|state| state.faults[0].entry = 1, "remapping entry without use");
    refused(|state| state.faults[1].entry = 1 << 16, "remapping entry");
    refused(|state| state.faults[0].pasid = 1 << 20, "PASID");
    refused(|state| state.faults[0].reason = 256, "reason");
    refused(|state| state.faults[0].reported = 4, "number told of");
    refused(|state| state.faults[0].unit = 1, "unit 0x1 is missing");
}

#[test]
fn management_and_reports() {
    refused(|state| state.management.clear(), "management");
    refused(|state| state.management.push(state.management[0]), "management");
    refused(|state| state.management[0].flags = 2, "flags");
    refused(|state| state.management[0].prefix = 33, "prefix");
    refused(|state| state.management[0].port = 1 << 16, "port");
    refused(|state| state.totals.push(state.totals[0]), "totals");
    refused(|state| state.reports[0].outcome = 5, "report 0x7: outcome");
    refused(|state| state.reports[0].outcome = 9, "outcome");
    refused(|state| state.reports[0].blame = 6, "blame");
    refused(|state| state.reports[0].failed_phase = 10, "failed phase");
    refused(|state| state.reports[0].reason[95] = 1, "reason");
    refused(|state| state.reports[0].from_version[31] = 1, "version of the old image");
    refused(|state| state.reports[0].to_version[0] = 0xff, "version of the new image");
}

/// Saving, too, refuses what it cannot keep.
#[test]
fn nothing_is_lost_in_silence() {
    let refused = |change: fn(&mut Everything), name: &str| {
        let mut machine = everything();
        change(&mut machine);
        let mut state = State::default();
        let result = machine.save_plan(&mut state).and_then(|()| machine.save_rest(&mut state));
        let message = result.unwrap_err().to_string();
        assert!(message.contains(name), "'{message}' does not say '{name}'");
    };
    refused(|m| m.vcpu.arch.segments[2].attributes = 1 << 8, "access rights 0x100");
    refused(|m| m.vcpu.xsave.resize(20_000, 0), "XSAVE area");
    refused(|m| m.platform.uart.input.resize(4097, 0), "input of length 0x1001");
    refused(|m| m.platform.pci.functions[0].mapped[0] = 0xe001_0000, "a BAR moved");
    refused(|m| m.platform.pci.functions[0].identity = 1, "another owner or identity");
    refused(|m| m.platform.pci.functions[0].requester_id = 0x400, "device 0000:04:00.0 is missing");
    refused(|m| m.platform.pci.functions[0].msix = None, "number of MSI-X entries");
    refused(|m| m.routes.truncate(1), "MSI-X entry 0x2 of device 0000:03:00.0");
    refused(|m| m.routes[0].guest.data = 9, "router knows differently");
    refused(|m| m.routes[0].entry = 1, "MSI-X entry 0x0");
    refused(|m| m.guest.name = "n".repeat(33), "name");
    refused(|m| m.guest.kernel = "a\0b".into(), "kernel");
    refused(|m| m.snapshot.devices[0].unit = 0x1000, "unit");
    refused(|m| m.functions[0].device = machine::pci::Bdf::from_requester_id(0, 0x900), "device 0000:09:00.0");
}

#[test]
fn long_reasons_are_cut_between_characters() {
    let mut machine = everything();
    machine.rest.reason = "\u{e4}".repeat(100);
    let loaded = Everything::load(&machine.save()).unwrap();
    assert_eq!(loaded.rest.reason, "\u{e4}".repeat(96));
}

/// Loads whatever can be loaded, in every way there is.
fn load_all(state: &State) {
    let _ = Everything::load(state);
    for guest in [0, 1, GUEST, u64::MAX] {
        for index in [0, 1, u32::MAX] {
            let _ = vcpu::load(state, guest, index);
            let _ = crate::upgrade::convert::lapic::load(state, guest, index);
        }
        let _ = crate::upgrade::convert::platform::load(state, guest);
        let _ = load_functions(state, guest);
        let _ = crate::upgrade::convert::memory::load(state, guest);
        let _ = crate::upgrade::convert::guest::load_rest(state, guest);
    }
    let _ = crate::upgrade::convert::iommu::load(state);
    let _ = crate::upgrade::convert::machine::load_regions(state);
    let _ = crate::upgrade::convert::machine::load_modules(state);
    for record in &state.reports {
        let _ = report::shown(record);
    }
}

proptest! {
    /// The sample with words of any records replaced: refused or not, nothing panics.
    #[test]
    fn damaged_records(changes in prop::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xff)]), 1..6)
    ) {
        let mut state = everything().save();
        for (list, at, byte) in changes {
            let target = list.index(41);
            let mut number = 0;
            let mut damage = |bytes: &mut [u8]| {
                if number == target && !bytes.is_empty() {
                    bytes[at.index(bytes.len())] = byte;
                }
                number += 1;
            };
            fn bytes<T: FromBytes + IntoBytes>(list: &mut [T]) -> &mut [u8] { list.as_mut_bytes() }
            macro_rules! on { ($list:expr) => { damage(bytes($list.as_mut_slice())) }; }
            on!(state.machine); on!(state.pcpus); on!(state.regions); on!(state.arenas); on!(state.modules); on!(state.boot);
            on!(state.bridges); on!(state.units); on!(state.domains); on!(state.domain_ids); on!(state.spaces);
            on!(state.objects); on!(state.extents); on!(state.space_objects); on!(state.guests); on!(state.cpuids);
            on!(state.devices); on!(state.aliases); on!(state.bars); on!(state.management); on!(state.faults);
            on!(state.reports); on!(state.unit_rests); on!(state.irtes); on!(state.configs); on!(state.functions);
            on!(state.msix); on!(state.guest_rests); on!(state.vcpus); on!(state.vcpu_msrs); on!(state.xsave);
            on!(state.lapics); on!(state.clocks); on!(state.guest_clocks); on!(state.ioapics); on!(state.uarts);
            on!(state.uart_inputs); on!(state.pci_hosts); on!(state.legacies); on!(state.totals);
        }
        load_all(&state);
    }

    /// Records of any bytes at all.
    #[test]
    fn arbitrary_records(seed in prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8), Just(1u8)], 1..700), count in 0usize..4, skew in any::<usize>()) {
        let mut state = State::default();
        let mut at = skew % seed.len();
        let mut fill_from = |bytes: &mut [u8]| {
            for byte in bytes {
                *byte = seed[at % seed.len()];
                at += 1;
            }
        };
        struct Filler<'a>(&'a mut dyn FnMut(&mut [u8]), usize);
        impl Filler<'_> {
            fn fill<T: FromBytes + IntoBytes>(&mut self, list: &mut alloc::vec::Vec<T>) {
                for _ in 0..self.1 {
                    let mut record = T::new_zeroed();
                    (self.0)(record.as_mut_bytes());
                    list.push(record);
                }
            }
        }
        let mut filler = Filler(&mut fill_from, count);
        macro_rules! fill { ($list:expr) => { filler.fill($list) }; }
        macro_rules! all { ($($list:ident)*) => { $( fill!(&mut state.$list); )* }; }
        all!(machine pcpus regions arenas modules boot bridges units domains domain_ids spaces objects extents
            space_objects guests cpuids devices aliases bars management faults reports unit_rests irtes functions msix
            guest_rests vcpus vcpu_msrs xsave lapics clocks guest_clocks ioapics uarts uart_inputs pci_hosts legacies totals);
        load_all(&state);
        for guest in &state.guests {
            let _ = crate::upgrade::convert::platform::load(&state, guest.token);
            let _ = load_functions(&state, guest.token);
        }
        let owner = state.devices.first().map_or(0, |device| device.owner);
        let _ = load_functions(&state, owner);
    }
}
