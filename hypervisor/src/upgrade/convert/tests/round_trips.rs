//! Whatever the run-time state is, it comes back as it was.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use iommu::intel::spec::faults::{Qualifiers, Reason};
use iommu::state::{AliasState, DeviceState, IrteState};
use iommu::{Access, Fault, FaultLine};
use machine::addr::{GuestPhys, HostPhys, Iova};
use machine::paging::LeafSizes;
use machine::pci::Bdf;
use proptest::prelude::*;

use super::sample::{Everything, everything};
use crate::config::{Console, OnUpgrade};
use crate::guest::clock::{ClockState, VcpuClockState};
use crate::guest::cpuid::CpuidEntry;
use crate::guest::ioapic::IoapicState;
use crate::guest::lapic::{LapicState, LapicTimerState};
use crate::guest::legacy::{LegacyState, PitChannelState};
use crate::guest::message::MsiMessage;
use crate::guest::msr::MsrState;
use crate::guest::pci::access::{BarDescription, MSI_ENTRY};
use crate::guest::pci::{MsiState, MsixEntryState, MsixState};
use crate::guest::uart::UartState;
use crate::mem::regions::{Owner, Region};
use crate::upgrade::convert::machine::PcpuState;
use crate::upgrade::convert::management::{ManagementState, Totals};
use crate::upgrade::convert::pci::RouteState;
use crate::vcpu::event::{Event, EventKind};
use crate::vcpu::state::{Activity, Segment, TableRegister};
use crate::vm::VmState;
use crate::vm::memory::Extent;

/// The sample with `change` comes back.
fn returns(change: impl FnOnce(&mut Everything)) -> Result<(), TestCaseError> {
    let mut machine = everything();
    change(&mut machine);
    let loaded = Everything::load(&machine.save());
    prop_assert_eq!(loaded, Ok(machine));
    Ok(())
}

fn text(most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![prop::char::range(' ', '~').boxed(), Just('\u{e4}').boxed()], 0..=most / 2)
        .prop_map(|text| text.into_iter().collect())
}

fn page() -> impl Strategy<Value = u64> {
    (0..1u64 << 40).prop_map(|frame| frame << 12)
}

fn event() -> impl Strategy<Value = Option<Event>> {
    let kind = prop_oneof![Just(EventKind::Interrupt), Just(EventKind::Nmi), Just(EventKind::Exception)];
    let event = (kind, any::<u8>(), any::<Option<u32>>()).prop_map(|(kind, vector, error_code)| {
        let vector = match kind {
            EventKind::Interrupt => vector,
            EventKind::Nmi => 2,
            EventKind::Exception => vector % 32,
        };
        Event { kind, vector, error_code }
    });
    prop::option::of(event).prop_map(|event| event.filter(Event::is_valid))
}

fn segment() -> impl Strategy<Value = Segment> {
    (any::<u16>(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(selector, attributes, limit, base)| Segment {
        selector,
        attributes: attributes & 0x1_f0ff,
        limit,
        base,
    })
}

fn message() -> impl Strategy<Value = MsiMessage> {
    (any::<u64>(), any::<u32>()).prop_map(|(address, data)| MsiMessage { address, data })
}

/// An entry of a table, and its route but for its place.
fn entry() -> impl Strategy<Value = (MsixEntryState, Option<(u16, u8, u32, bool)>)> {
    let way = (any::<u16>(), 32u8.., any::<u32>(), any::<bool>());
    (message(), message(), message(), 0u32..2, 0u32..2, prop::option::of(way)).prop_map(
        |(guest, routed_guest, host, control, open, way)| {
            let entry = match way {
                Some(_) => MsixEntryState { guest, routed_guest, host, control, routed: 1, open },
                None => MsixEntryState { guest, control, ..MsixEntryState::default() },
            };
            (entry, way)
        },
    )
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        Just(Owner::Free),
        Just(Owner::Firmware),
        Just(Owner::Low),
        Just(Owner::Arena),
        Just(Owner::Scratch),
        (0u8..2).prop_map(Owner::Slot),
        any::<u8>().prop_map(Owner::Module),
        any::<u64>().prop_map(Owner::Object),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        Just(Access::Read),
        Just(Access::Write),
        Just(Access::Atomic),
        Just(Access::PageRequest),
        any::<u16>().prop_map(Access::Interrupt),
    ]
}

proptest! {
    #[test]
    fn machines(
        numbers in any::<[u64; 6]>(), rates in (1u64.., 1u64..), port in any::<u16>(), x2apic in any::<bool>(),
        pcpus in prop::collection::vec(any::<(u32, u32)>(), 1..9), via in text(192),
        owners in prop::collection::vec((owner(), 1u64..1 << 20), 0..20),
    ) {
        returns(|all| {
            let machine = &mut all.machine;
            [machine.boot_nonce, machine.generation, machine.epoch_ns, machine.rsdp, machine.ticks_to_guest, machine.rates.power_on] = numbers;
            (machine.rates.tsc_khz, machine.rates.lapic_khz) = rates;
            (machine.console_port, machine.x2apic, machine.via) = (port, x2apic, via);
            machine.pcpus = pcpus.into_iter().map(|(apic_id, acpi_uid)| PcpuState { apic_id, acpi_uid }).collect();
            let mut base = 0;
            all.regions = owners.into_iter().map(|(owner, frames)| {
                let region = Region { base, bytes: frames << 12, owner };
                base = region.end() + (frames & 1) * 4096;
                region
            }).collect();
        })?;
    }

    #[test]
    fn guests(
        name in text(32), kernel in text(192), reason in text(192), number in any::<u16>(), vcpus in 1u32..256,
        numbers in any::<[u64; 4]>(), console in 0usize..3, stop in any::<bool>(), stopped in any::<bool>(), power in 0u32..3,
    ) {
        returns(|all| {
            let guest = &mut all.guest;
            (guest.name, guest.kernel, guest.number, guest.vcpus) = (name, kernel, number, vcpus);
            guest.memory_bytes = numbers[0];
            guest.console = [Console::None, Console::Com1, Console::Com2][console];
            guest.on_upgrade = if stop { OnUpgrade::Stop } else { OnUpgrade::Preserve };
            let rest = &mut all.rest;
            [_, rest.entries, rest.interrupts, rest.started_tsc] = numbers;
            rest.state = if stopped { VmState::Stopped } else { VmState::Running };
            (rest.reason, rest.power, all.platform.power) = (reason, power, power);
        })?;
    }

    #[test]
    fn memories(
        token in any::<u64>(), root in page(), levels in 4u8..6, two_mib in any::<bool>(), one_gib in any::<bool>(),
        extents in prop::collection::vec((1u64..1 << 20, page()), 0..8),
    ) {
        returns(|all| {
            (all.space.root, all.space.levels) = (HostPhys(root), levels);
            all.space.leaves = LeafSizes { two_mib, one_gib };
            all.ram.token = token;
            let mut guest = 0;
            all.ram.extents = extents.into_iter().map(|(frames, host)| {
                let bytes = frames << 12;
                let extent = Extent { guest: GuestPhys(guest), host: HostPhys(host), bytes };
                guest += bytes;
                extent
            }).collect();
        })?;
    }

    #[test]
    fn vcpus(
        gprs in any::<[u64; 16]>(), control in any::<[u64; 8]>(), debug in any::<[u64; 6]>(), msrs in any::<[u64; 12]>(),
        segments in prop::array::uniform8(segment()), tables in any::<((u16, u64), (u16, u64))>(), cr8 in 0u64..16,
        flags in any::<(bool, bool)>(), pending in event(), activity in 0usize..3, pcpu in any::<u32>(),
        pieces in prop::collection::vec((any::<bool>(), any::<u8>()), 0..64), odd in 0usize..256,
    ) {
        returns(|all| {
            all.vcpu.pcpu = pcpu;
            let arch = &mut all.vcpu.arch;
            arch.gprs = gprs;
            [arch.rip, arch.rflags, arch.cr0, arch.cr2, arch.cr3, arch.cr4, arch.efer, arch.xcr0] = control;
            arch.cr8 = cr8;
            [arch.dr[0], arch.dr[1], arch.dr[2], arch.dr[3], arch.dr6, arch.dr7] = debug;
            [arch.pat, arch.star, arch.lstar, arch.cstar, arch.sfmask, arch.kernel_gs_base, arch.sysenter_cs, arch.sysenter_esp,
                arch.sysenter_eip, arch.tsc_offset, arch.tsc_aux, _] = msrs;
            arch.segments = segments;
            let ((limit, base), (idt_limit, idt_base)) = tables;
            arch.gdtr = TableRegister { limit, base };
            arch.idtr = TableRegister { limit: idt_limit, base: idt_base };
            (arch.interrupt_shadow, arch.nmi_blocked) = flags;
            arch.pending = pending;
            arch.activity = [Activity::Active, Activity::Halted, Activity::WaitForSipi][activity];
            let mut area: Vec<u8> = pieces.into_iter().flat_map(|(used, byte)| [if used { byte } else { 0 }; 256]).collect();
            area.truncate(area.len().saturating_sub(odd));
            all.vcpu.xsave = area;
        })?;
    }

    #[test]
    fn private_parts(
        base in any::<u64>(), icr in any::<u64>(), deadline in any::<u64>(), armed in 0u32..2, words in any::<[u32; 6]>(),
        lvt in any::<[u32; 6]>(), sets in any::<[[u32; 8]; 3]>(), events in any::<u32>(), priority in 0u32..256,
        clock in any::<(u64, u64, u32)>(), msrs in any::<[u64; 4]>(), fixed in any::<[u64; 11]>(), variable in any::<[u64; 16]>(),
    ) {
        returns(|all| {
            let [initial, divide, spurious, error_status, errors, _] = words;
            all.private.lapic = LapicState {
                base, icr, id: 0, task_priority: priority, spurious, error_status, errors, lvt,
                timer: LapicTimerState { deadline, armed, initial, divide },
                irr: sets[0], isr: sets[1], tmr: sets[2],
                events: events & 0xff00_000b,
            };
            all.private.clock = VcpuClockState { system_time: clock.0, wall_clock: clock.1, version: clock.2 & !1 };
            let [microcode, misc_enable, hwcr, mtrr_default] = msrs;
            all.private.msrs = MsrState { microcode, misc_enable, hwcr, mtrr_default, mtrr_fixed: fixed, mtrr_variable: variable };
        })?;
    }

    #[test]
    fn platforms(
        entries in any::<[u64; 24]>(), words in any::<[u32; 4]>(), clock in (any::<[u64; 3]>(), 1u32..),
        input in prop::collection::vec(any::<u8>(), 0..=4096), divisor in any::<u16>(), registers in any::<[u8; 6]>(),
        bits in (0u8..2, 0u8..2), channels in prop::array::uniform3((any::<(u64, u16, u16, u8)>(), 0u8..2, 0u8..4, 0u8..8, 0u8..2)),
        legacy in (0u8..128, 0u8..4, any::<bool>()), cpuid in prop::collection::btree_map(any::<(u32, u32)>(), any::<[u32; 4]>(), 0..40),
    ) {
        returns(|all| {
            let platform = &mut all.platform;
            let [lines, id, select, latch] = words;
            platform.ioapic = IoapicState { entries, lines, id, select };
            platform.pci.latch = latch;
            let [base_tsc, base_ns, wall_base_ns] = clock.0;
            platform.clock = ClockState { base_tsc, base_ns, wall_base_ns, tsc_khz: clock.1 };
            let [interrupt_enable, fifo_control, line_control, modem_control, modem_status, scratch] = registers;
            platform.uart = UartState {
                input, divisor, interrupt_enable, fifo_control, line_control, modem_control, modem_status, scratch,
                transmitter_pending: bits.0, overrun: bits.1,
            };
            let pit = channels.map(|((loaded_ns, reload, latched, low), is_latched, access, mode, high_next)| PitChannelState {
                loaded_ns, reload, latched, is_latched, access, mode, high_next, low,
            });
            platform.legacy = LegacyState { pit, cmos_index: legacy.0, port_61: legacy.1, refresh: if legacy.2 { 0x10 } else { 0 } };
            platform.cpuid = cpuid.into_iter().map(|((leaf, subleaf), values)| CpuidEntry { leaf, subleaf, values }).collect();
        })?;
    }

    #[test]
    fn functions(
        table in prop::collection::vec(entry(), 1..40), msi in prop::option::of((entry(), 0u32..2)),
        enabled in 0u32..2, function_masked in 0u32..2, bars in any::<[u32; 6]>(), registers in any::<(u32, u16, u8, u8)>(),
        mapped in prop::collection::vec(prop::option::of(0..u64::MAX), 6), identity in any::<u32>(), resettable in any::<bool>(),
        shape in any::<[(bool, u64, u64); 3]>(), places in any::<(u8, u32, u32)>(),
    ) {
        returns(|all| {
            let plan = &mut all.functions[1];
            let device = plan.device;
            (plan.identity, plan.resettable) = (identity, resettable);
            plan.bars = [0u8, 2, 4].into_iter().zip(shape).map(|(index, (wide, host, bytes))| BarDescription {
                index, wide, prefetchable: bytes & 1 != 0, host: HostPhys(host), bytes,
            }).collect();
            plan.mapped = [u64::MAX; 6];
            for bar in &plan.bars {
                plan.mapped[usize::from(bar.index)] = mapped[usize::from(bar.index)].unwrap_or(u64::MAX);
            }
            if let Some(msix) = &mut plan.msix {
                msix.entries = table.len() as u16;
                (msix.capability, msix.table_offset, msix.pending_offset) = (places.0 | 1, places.1, places.2);
            }
            plan.msi = msi.as_ref().map(|_| places.0 | 0x40);
            let mut routes = Vec::new();
            let mut route = |entry, state: &MsixEntryState, way: Option<(u16, u8, u32, bool)>| {
                routes.extend(way.map(|(irte, host_vector, pcpu, pending)| RouteState {
                    device, entry, guest: state.routed_guest, irte, host_vector, pcpu, pending,
                }));
            };
            for (index, (entry, way)) in (0..).zip(&table) {
                route(index, entry, *way);
            }
            let function = &mut all.platform.pci.functions[0];
            function.msix = Some(MsixState { entries: table.iter().map(|(entry, _)| *entry).collect(), enabled, function_masked });
            function.msi = msi.map(|((mut entry, way), enabled)| {
                entry.routed_guest = entry.guest;
                route(MSI_ENTRY, &entry, way);
                MsiState { guest: entry.guest, host: entry.host, enabled, masked: entry.control, routed: entry.routed }
            });
            (function.bars, function.mapped, function.identity) = (bars, plan.mapped, identity);
            (function.express_control, function.command, function.cache_line, function.interrupt_line) = registers;
            all.routes = routes;
        })?;
    }

    #[test]
    fn units(
        registers in any::<[u64; 5]>(), words in any::<[u32; 7]>(), base in page(), segment in any::<u16>(), event in 0u8..2,
        domains in prop::collection::vec((page(), 3u8..6, 0u8..4, 0u8..2), 2), dids in any::<(u16, u16)>(), depth in 1u8..33,
        irtes in prop::collection::btree_map(any::<u16>(), any::<(u64, u64)>(), 0..20), aliases in prop::collection::btree_set(any::<u16>(), 0..5),
        faults in prop::collection::vec((access(), any::<u8>(), any::<u64>(), prop::option::of(0u32..1 << 20), any::<(u64, u64, u64, u16)>()), 0..10),
    ) {
        returns(|all| {
            let snapshot = &mut all.snapshot;
            let unit = &mut snapshot.units[0];
            [unit.cap, unit.ecap, unit.rtaddr, unit.irta, unit.iqa] = registers;
            [unit.version, unit.gsts, unit.sequence, unit.fectl, unit.fedata, unit.feaddr, unit.feuaddr] = words;
            (unit.base, unit.segment, unit.fault_event) = (base, segment, event);
            unit.iqt = registers[0] ^ registers[1];
            for (domain, (root, levels, leaf_sizes, snoop)) in snapshot.domains.iter_mut().zip(domains) {
                (domain.root, domain.levels, domain.leaf_sizes, domain.snoop) = (root, levels, leaf_sizes, snoop);
            }
            for (id, did) in snapshot.dids.iter_mut().zip([dids.0, dids.1]) {
                (id.unit, id.did) = (base, did);
            }
            for device in &mut snapshot.devices {
                let DeviceState { unit, ats, ats_depth, .. } = device;
                (*unit, *ats_depth) = (base, if *ats != 0 { depth } else { 0 });
            }
            let source = 0x300;
            snapshot.aliases = aliases.into_iter().map(|alias| AliasState { segment: 0, source, alias }).collect();
            snapshot.irtes = irtes.into_iter().map(|(index, (low, high))| {
                let owner = (index % 2 == 0).then(|| Bdf::from_requester_id(0, source));
                IrteState { unit: base, low, high, index, owner }
            }).collect();
            snapshot.faults = faults.into_iter().map(|(access, reason, address, pasid, (a, b, reported_at, source))| FaultLine {
                fault: Fault {
                    unit: HostPhys(base), device: Bdf::from_requester_id(segment, source), reason: Reason(reason), access,
                    address: Iova(address), pasid, qualifiers: Qualifiers::default(),
                },
                count: a.max(b), reported: a.min(b), reported_at,
            }).collect();
        })?;
    }

    #[test]
    fn managements(
        nic in any::<Option<(u16, u16)>>(), mac in any::<[u8; 6]>(), dhcp in any::<bool>(), address in any::<[u8; 4]>(), prefix in 0u8..33,
        gateway in any::<[u8; 4]>(), port in any::<u16>(), deadline_ms in any::<u32>(), totals in any::<[u64; 7]>(),
    ) {
        returns(|all| {
            all.management = ManagementState {
                // The function with all bits set cannot be: there is no segment 65535 with a bus 255.
                nic: nic.map(|(segment, id)| Bdf::from_requester_id(segment & 0x7fff, id)),
                mac, dhcp, address: Ipv4Addr::from(address), prefix,
                gateway: Some(Ipv4Addr::from(gateway)).filter(|gateway| !gateway.is_unspecified()),
                port, deadline_ms,
            };
            let mut counted = Totals::default();
            let outcomes = &mut counted.outcomes;
            [outcomes.committed, outcomes.rolled_back, outcomes.refused, outcomes.cancelled, ..] = totals;
            [.., counted.faults, counted.faults_unlisted, counted.fault_overflows] = totals;
            all.totals = counted;
        })?;
    }
}
