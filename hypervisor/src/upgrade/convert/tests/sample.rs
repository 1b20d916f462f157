//! A q35 machine with VT-d, in run-time types, and what saves and loads all of it.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use guest_loader::layout::GuestRange;
use handover::State;
use handover::state::name_field;
use handover::state::page::VcpuPage;
use handover::state::report::ReportV1;
use iommu::intel::spec::faults::{Qualifiers, Reason};
use iommu::state::{AliasState, DeviceState, DidState, DomainState, IrteState, Snapshot, UnitState};
use iommu::{Access, Fault, FaultLine};
use machine::addr::{GuestPhys, HostPhys, Iova};
use machine::paging::LeafSizes;
use machine::pci::Bdf;
use zerocopy::FromZeros;

use crate::api::types::Outcomes;
use crate::boot_info::{Module, Text};
use crate::config::{Console, OnUpgrade};
use crate::guest::clock::{ClockState, VcpuClockState};
use crate::guest::cpuid::CpuidEntry;
use crate::guest::ioapic::{IoapicState, PINS};
use crate::guest::lapic::{LapicState, LapicTimerState};
use crate::guest::legacy::{LegacyState, PitChannelState};
use crate::guest::message::MsiMessage;
use crate::guest::msr::MsrState;
use crate::guest::pci::access::BarDescription;
use crate::guest::pci::{MsixEntryState, MsixState, PciFunctionState, PciState};
use crate::guest::platform::{PlatformState, VcpuPlatformState};
use crate::guest::uart::UartState;
use crate::mem::regions::{Owner, Region};
use crate::time::Rates;
use crate::upgrade::convert::guest::{GuestRest, GuestState};
use crate::upgrade::convert::machine::{ArenaState, BridgeState, MachineState, PcpuState};
use crate::upgrade::convert::management::{ManagementState, Totals};
use crate::upgrade::convert::memory::SpaceState;
use crate::upgrade::convert::pci::{FunctionPlan, MsixPlace, RouteState};
use crate::upgrade::convert::vcpu::VcpuState;
use crate::upgrade::convert::{
    Converted, guest, iommu as units, lapic, machine as host, management, memory, pci, platform, report, vcpu,
};
use crate::vcpu::event::Event;
use crate::vcpu::state::ArchState;
use crate::vm::VmState;
use crate::vm::memory::{Extent, GuestRam};

pub(super) const GUEST: u64 = 0x1001;
pub(super) const SPACE: u64 = 0x2001;
pub(super) const RAM: u64 = 0x3001;
pub(super) const GUEST_DOMAIN: u64 = 0x4001;
const OWN_DOMAIN: u64 = 0x4002;
const UNIT: u64 = 0xfed9_0000;
pub(super) const ARENA: u64 = 0x1800_0000;
pub(super) const NVME: Bdf = Bdf::from_requester_id(0, 0x0300);
pub(super) const NIC: Bdf = Bdf::from_requester_id(0, 0x0100);

/// Everything that is handed over. Modules are apart: their names cannot be compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Everything {
    pub machine: MachineState,
    pub regions: Vec<Region>,
    pub arena: ArenaState,
    pub bridges: Vec<BridgeState>,
    pub snapshot: Snapshot,
    pub functions: Vec<FunctionPlan>,
    pub guest: GuestState,
    pub rest: GuestRest,
    pub space: SpaceState,
    pub ram: GuestRam,
    pub platform: PlatformState,
    pub routes: Vec<RouteState>,
    pub vcpu: VcpuState,
    pub private: VcpuPlatformState,
    pub management: ManagementState,
    pub totals: Totals,
    pub reports: Vec<ReportV1>,
}

pub(super) fn modules() -> Vec<(u8, Module)> {
    let mut name = Text::default();
    for byte in *b"http://10.0.2.2/vmlinuz quiet" {
        assert!(name.push(byte));
    }
    vec![(0, Module { start: 0x1900_0000, bytes: 12_345, name })]
}

impl Everything {
    /// What goes into the plan, in no order.
    pub(super) fn save_plan(&self, state: &mut State) -> Converted<()> {
        host::save(state, &self.machine);
        host::save_regions(state, self.regions.iter());
        host::save_arena(state, self.arena);
        host::save_modules(state, modules().iter().map(|(index, module)| (*index, module)));
        host::save_bridges(state, &self.bridges);
        units::save_plan(state, &self.snapshot, |token| if token == GUEST_DOMAIN { SPACE } else { 0 })?;
        for function in &self.functions {
            pci::save_plan(state, function)?;
        }
        guest::save(state, &self.guest)?;
        memory::save(state, GUEST, &self.space, &self.ram);
        platform::save_plan(state, GUEST, &self.platform.cpuid);
        management::save(state, &self.management);
        report::save(state, &self.reports);
        Ok(())
    }

    /// What is written at FREEZE, in no order.
    pub(super) fn save_rest(&self, state: &mut State) -> Converted<()> {
        units::save_entries(state, &self.snapshot)?;
        units::save_rest(state, &self.snapshot)?;
        guest::save_rest(state, &self.rest);
        let mut page = VcpuPage::new_zeroed();
        vcpu::fill(&mut page.vcpu, (GUEST, 0, self.vcpu.pcpu), &self.vcpu.arch, self.vcpu.xsave.len() as u32)?;
        lapic::fill(&mut page, GUEST, 0, &self.private);
        vcpu::save(state, &page.vcpu, &self.vcpu.xsave)?;
        lapic::save(state, &page);
        platform::save(state, GUEST, &self.platform)?;
        pci::save(state, GUEST, &self.platform.pci.functions, &self.routes)?;
        management::save_totals(state, &self.totals);
        Ok(())
    }

    /// All records, in order.
    pub(super) fn save(&self) -> State {
        let mut state = State::default();
        self.save_plan(&mut state).unwrap();
        state.set_planned();
        self.save_rest(&mut state).unwrap();
        state.sort();
        state
    }

    pub(super) fn load(state: &State) -> Converted<Self> {
        let (space, ram) = memory::load(state, GUEST)?;
        let mut functions = pci::load_plan(state, 0)?;
        functions.extend(pci::load_plan(state, GUEST)?);
        host::load_modules(state)?;
        Ok(Self {
            machine: host::load(state)?,
            regions: host::load_regions(state)?,
            arena: host::load_arena(state)?,
            bridges: host::load_bridges(state).collect::<Converted<_>>()?,
            snapshot: units::load(state)?,
            functions,
            guest: guest::load(state, GUEST)?,
            rest: guest::load_rest(state, GUEST)?,
            space,
            ram,
            platform: platform::load(state, GUEST)?,
            routes: load_functions(state, GUEST)?.1,
            vcpu: vcpu::load(state, GUEST, 0)?,
            private: lapic::load(state, GUEST, 0)?,
            management: management::load(state)?.ok_or(crate::upgrade::convert::ConvertError::Missing {
                record: handover::record::RecordName { kind: "management", key: [0, 0] },
            })?,
            totals: management::load_totals(state)?,
            reports: report::load(state)?,
        })
    }
}

pub(super) fn everything() -> Everything {
    Everything {
        machine: MachineState {
            boot_nonce: 0x0123_4567_89ab_cdef,
            generation: 3,
            rates: Rates { tsc_khz: 2_400_000, lapic_khz: 1_000_000, power_on: 12_345 },
            epoch_ns: 1_700_000_000_000_000_000,
            rsdp: 0xf_5a40,
            console_port: 0x3f8,
            x2apic: true,
            pcpus: vec![PcpuState { apic_id: 0, acpi_uid: 1 }, PcpuState { apic_id: 2, acpi_uid: 2 }],
            via: "iPXE 1.21.1".into(),
            ticks_to_guest: 987_654_321,
        },
        regions: regions(),
        arena: ArenaState { base: ARENA, bytes: 0x100_0000, frame_table: ARENA },
        bridges: [(0x10, 1), (0x12, 3)]
            .map(|(place, bus)| BridgeState {
                bridge: Bdf::from_requester_id(0, place),
                identity: 0x000c_1b36,
                secondary: bus,
                subordinate: bus,
                control: 2,
                command: 0x507,
            })
            .to_vec(),
        snapshot: snapshot(),
        functions: functions(),
        guest: GuestState {
            token: GUEST,
            number: 0,
            name: "debian".into(),
            kernel: "vmlinuz".into(),
            space: SPACE,
            memory_bytes: 0x1000_0000,
            vcpus: 1,
            devices: 1,
            console: Console::Com1,
            on_upgrade: OnUpgrade::Preserve,
        },
        rest: GuestRest {
            token: GUEST,
            state: VmState::Running,
            reason: "".into(),
            power: 0,
            entries: 4711,
            interrupts: 815,
            started_tsc: 999,
        },
        space: SpaceState {
            token: SPACE,
            root: HostPhys(ARENA + 0x7_0000),
            levels: 4,
            leaves: LeafSizes { two_mib: true, one_gib: true },
        },
        ram: GuestRam {
            token: RAM,
            extents: [(0, 0x2000_0000), (0x800_0000, 0x2800_0000)]
                .map(|(guest, host)| Extent { guest: GuestPhys(guest), host: HostPhys(host), bytes: 0x800_0000 })
                .to_vec(),
            reserved: vec![GuestRange { start: GuestPhys(0x7b80_0000), bytes: 0x3_f000 }],
        },
        platform: platform_state(),
        routes: [0u16, 2].map(route).to_vec(),
        vcpu: vcpu_state(),
        private: private(),
        management: ManagementState {
            nic: Some(NIC),
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            dhcp: true,
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            port: 80,
            deadline_ms: 50,
        },
        totals: Totals {
            outcomes: Outcomes { committed: 2, rolled_back: 1, refused: 5, cancelled: 0 },
            faults: 9,
            faults_unlisted: 1,
            fault_overflows: 0,
        },
        reports: vec![finished_report()],
    }
}

/// A rolled back upgrade: VERIFY failed.
pub(super) fn finished_report() -> ReportV1 {
    let mut report = ReportV1::new_zeroed();
    report.sequence = 7;
    report.generation = 2;
    report.phase_tsc = [1_000, 5_000, 6_000, 9_000, 9_100, 9_150, 0, 0, 0, 9_400, 9_460, 0];
    report.from_build[31] = 0xab;
    report.from_version = name_field("0.1.0").unwrap();
    report.reason[..9].copy_from_slice(b"too late!");
    (report.outcome, report.failed_phase, report.format, report.blame) = (2, 5, 1, 3);
    report
}

fn regions() -> Vec<Region> {
    [
        (0x0, 0x1000, Owner::Low),
        (0x1000, 0x9_f000, Owner::Free),
        (0x9_f000, 0x10_0000, Owner::Firmware),
        (0x10_0000, 0x200_0000, Owner::Free),
        (0x200_0000, 0x300_0000, Owner::Slot(0)),
        (0x300_0000, 0x400_0000, Owner::Slot(1)),
        (0x400_0000, 0x500_0000, Owner::Scratch),
        (ARENA, ARENA + 0x100_0000, Owner::Arena),
        (0x1900_0000, 0x1a00_0000, Owner::Module(0)),
        (0x2000_0000, 0x3000_0000, Owner::Object(RAM)),
        (0x7ffe_0000, 0x8000_0000, Owner::Firmware),
    ]
    .map(|(base, end, owner)| Region { base, bytes: end - base, owner })
    .to_vec()
}

fn snapshot() -> Snapshot {
    let domain =
        |token, root| DomainState { token, root: ARENA + root, levels: 4, leaf_sizes: 3, ..DomainState::default() };
    let device = |device: Bdf, token, ats| DeviceState {
        unit: UNIT,
        token,
        directory: 0,
        segment: 0,
        source: device.requester_id(),
        ats: u8::from(ats > 0),
        ats_depth: ats,
        quarantined: 0,
        consumed: false,
    };
    let fault = |access, reason, address| FaultLine {
        fault: Fault {
            unit: HostPhys(UNIT),
            device: NVME,
            reason: Reason(reason),
            access,
            address: Iova(address),
            pasid: None,
            qualifiers: Qualifiers::default(),
        },
        count: 3,
        reported: 2,
        reported_at: 77,
    };
    let irte = |index, source: u64| IrteState {
        unit: UNIT,
        low: (0x31_0000 + u64::from(index) * 0x1_0000) | 1,
        high: 0x4_0000 | source,
        index,
        owner: [NIC, NVME].into_iter().find(|device| u64::from(device.requester_id()) == source & !1),
    };
    Snapshot {
        // QEMU's intel-iommu: 48 bits, 2 MiB and 1 GiB leaves, 16 bits of domain id, interrupt remapping.
        units: vec![UnitState {
            base: UNIT,
            segment: 0,
            version: 0x10,
            cap: 0x00d2_008c_222f_0686,
            ecap: 0x00f0_0f5a,
            gsts: 0xc700_0000,
            rtaddr: ARENA + 0x2_0000,
            irta: (ARENA + 0x4_0000) | 7,
            iqa: ARENA + 0x3_0000,
            iqt: 0x40,
            status: ARENA + 0x3_1000,
            sequence: 41,
            fectl: 0,
            fedata: 0x31,
            feaddr: 0xfee0_0000,
            feuaddr: 0,
            fault_event: 1,
            consumed: false,
        }],
        domains: vec![domain(GUEST_DOMAIN, 0x5_0000), domain(OWN_DOMAIN, 0x6_0000)],
        dids: [(GUEST_DOMAIN, 2), (OWN_DOMAIN, 1)].map(|(token, did)| DidState { unit: UNIT, token, did }).to_vec(),
        pasids: Vec::new(),
        devices: vec![device(NIC, OWN_DOMAIN, 0), device(NVME, GUEST_DOMAIN, 32)],
        leaving: Vec::new(),
        aliases: vec![AliasState { segment: 0, source: NVME.requester_id(), alias: 0x0301 }],
        // The first is the I/O APIC's.
        irtes: vec![irte(0, 0xff), irte(4, 0x300), irte(6, 0x301)],
        posted: Vec::new(),
        faults: vec![fault(Access::Write, 5, 0xdead_f000), fault(Access::Interrupt(4), 0x26, 0)],
    }
}

fn functions() -> Vec<FunctionPlan> {
    let unmapped = [u64::MAX; 6];
    let bar =
        |index, wide, host, bytes| BarDescription { index, wide, prefetchable: false, host: HostPhys(host), bytes };
    vec![
        FunctionPlan {
            device: NIC,
            owner: 0,
            slot: 0,
            identity: 0x10d3_8086,
            bars: vec![bar(0, false, 0xfe80_0000, 0x2_0000)],
            mapped: unmapped,
            msix: None,
            msi: Some(0xd0),
            resettable: false,
            ats: false,
        },
        FunctionPlan {
            device: NVME,
            owner: GUEST,
            slot: 1,
            identity: 0x0010_1b36,
            bars: vec![bar(0, true, 0xfe40_0000, 0x4000)],
            mapped: [0xe000_0000, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX],
            msix: Some(MsixPlace {
                capability: 0x40,
                entries: 6,
                table_bar: 0,
                table_offset: 0x2000,
                pending_bar: 0,
                pending_offset: 0x3000,
            }),
            msi: None,
            resettable: true,
            ats: true,
        },
    ]
}

fn guest_message(index: u16) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data: 0x22 + u32::from(index) }
}

fn route(entry: u16) -> RouteState {
    RouteState {
        device: NVME,
        entry,
        guest: guest_message(entry),
        irte: 4 + entry,
        host_vector: 0x31 + entry as u8,
        pcpu: 1,
        pending: entry == 2,
    }
}

fn platform_state() -> PlatformState {
    let entry = |index: u16| match index {
        0 | 2 => MsixEntryState {
            guest: guest_message(index),
            routed_guest: guest_message(index),
            host: MsiMessage { address: 0xfee0_0010 | u64::from(4 + index) << 5, data: 0 },
            control: 0,
            routed: 1,
            open: 1,
        },
        _ => MsixEntryState { control: 1, ..MsixEntryState::default() },
    };
    let nvme = PciFunctionState {
        msi: None,
        msix: Some(MsixState { entries: (0..6).map(entry).collect(), enabled: 1, function_masked: 0 }),
        mapped: functions()[1].mapped,
        bars: [0xe000_0000, 0, 0, 0, 0, 0],
        identity: 0x0010_1b36,
        express_control: 0x2810,
        segment: 0,
        requester_id: NVME.requester_id(),
        command: 0x406,
        cache_line: 16,
        interrupt_line: 0xff,
    };
    let mut entries = [1 << 16; PINS];
    entries[4] = 0x0100_0000_0000_0024;
    PlatformState {
        ioapic: IoapicState { entries, lines: 0x10, id: 0x0200_0000, select: 0x18 },
        uart: UartState {
            input: (0..300).map(|n| n as u8).collect(),
            divisor: 1,
            interrupt_enable: 5,
            fifo_control: 0xc1,
            line_control: 3,
            modem_control: 0xb,
            modem_status: 0xb0,
            scratch: 0x5a,
            transmitter_pending: 1,
            overrun: 0,
        },
        pci: PciState { functions: vec![nvme], latch: 0x8000_0810 },
        legacy: LegacyState {
            pit: [
                PitChannelState::default(),
                PitChannelState::default(),
                PitChannelState {
                    loaded_ns: 1_000,
                    reload: 11_932,
                    latched: 17,
                    is_latched: 1,
                    access: 3,
                    mode: 0,
                    high_next: 1,
                    low: 9,
                },
            ],
            cmos_index: 0xd,
            port_61: 1,
            refresh: 0x10,
        },
        clock: ClockState {
            base_tsc: 1_000_000,
            base_ns: 2_000_000,
            wall_base_ns: 1_700_000_000_123_456_789,
            tsc_khz: 2_400_000,
        },
        cpuid: [(0, 0, 0xd), (0xd, 0, 7), (0xd, 1, 1), (0x4000_0000, 0, 0x4000_0001)]
            .map(|(leaf, subleaf, eax)| CpuidEntry { leaf, subleaf, values: [eax, 2, 3, 4] })
            .to_vec(),
        power: 0,
    }
}

fn vcpu_state() -> VcpuState {
    let mut arch = ArchState::linux64(0xffff_ffff_8100_0000, 0x8000, 0x9000, 0x1a_2000, 0x1000, 0x7f);
    arch.pending = Some(Event::fault(14, 2));
    arch.interrupt_shadow = true;
    arch.tsc_offset = 5u64.wrapping_neg();
    arch.segments[6].attributes = 0x1_0000;
    let mut xsave = vec![0; 832];
    xsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    xsave[512] = 7;
    xsave[831] = 0xee;
    VcpuState { pcpu: 1, arch, xsave }
}

fn private() -> VcpuPlatformState {
    let mut irr = [0; 8];
    irr[1] = 4;
    VcpuPlatformState {
        lapic: LapicState {
            base: 0xfee0_0d00,
            icr: 0x0000_0001_0000_00fd,
            timer: LapicTimerState { deadline: 0x1234_5678_9abc, armed: 1, initial: 0, divide: 3 },
            id: 0,
            task_priority: 0x10,
            spurious: 0x1ff,
            error_status: 0x20,
            errors: 0x40,
            lvt: [0x4_00ec, 0x1_0000, 0x400, 0x1_0700, 0x401, 0xfe],
            irr,
            isr: [0, 0, 0, 0, 0, 0, 0, 1 << 12],
            tmr: [2, 3, 4, 5, 6, 7, 8, 9],
            events: 0x9a00_000b,
        },
        clock: VcpuClockState { system_time: 0x20_0001, wall_clock: 0x20_1000, version: 8 },
        msrs: MsrState {
            microcode: 0x0a20_120a_0000_0000,
            misc_enable: 0x1801,
            hwcr: 1 << 24,
            mtrr_default: 0xc06,
            mtrr_fixed: core::array::from_fn(|n| 0x0606_0606_0606_0600 + n as u64 % 2 * 6),
            mtrr_variable: core::array::from_fn(|n| (n as u64) << 12),
        },
    }
}

/// The functions of `owner` with the ways of their interrupts.
pub fn load_functions(state: &State, owner: u64) -> Converted<(Vec<PciFunctionState>, Vec<RouteState>)> {
    let (mut functions, mut routes) = (Vec::new(), Vec::new());
    pci::load(state, &pci::load_plan(state, owner)?, &mut functions, &mut routes)?;
    Ok((functions, routes))
}
