//! The sample machine: one unit, two domains, one NVMe function with three MSI-X entries, one guest
//! with one vCPU, and the network card of the management interface.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use handover::State;
use handover::header::HEADER_BYTES;
use handover::reader::Stream;
use handover::state::{TEXT_BYTES, name_field, platform::*, report::*, unit::*, vcpu::*};
use handover::state::{device::*, guest::*, interrupt::*, lapic::*, machine::*, management::*, memory::*};
use handover::writer::Writer;
use zerocopy::FromZeros;

/// Where the sample's region lies.
pub const BASE: u64 = 0x1800_0000;
/// Bytes of the sample's region.
pub const REGION: usize = 12288;
/// Upgrades since power-on.
pub const GENERATION: u64 = 3;
/// Segment 0, bus 3, device 0, function 0.
pub const NVME: u32 = 0x0300;
/// Segment 0, bus 1, device 0, function 0.
pub const NIC: u32 = 0x0100;
pub const GUEST: u64 = 0x1001;
pub const SPACE: u64 = 0x2001;
pub const RAM: u64 = 0x3001;
pub const GUEST_DOMAIN: u64 = 0x4001;
pub const OWN_DOMAIN: u64 = 0x4002;

/// The sample machine.
pub fn sample() -> State {
    let mut state = State::default();
    machine(&mut state);
    iommu(&mut state);
    memory(&mut state);
    devices(&mut state);
    guest(&mut state);
    management(&mut state);
    state.faults.push(FaultV1 {
        sequence: 1,
        address: 0xdead_f000,
        tsc: 77,
        count: 3,
        reported: 3,
        unit: 0,
        source: NVME,
        reason: 5,
        access: FAULT_READ,
        entry: 0,
        pasid: NO_PASID,
    });
    state.set_planned();
    // What the pause adds to the logs.
    state.faults.push(FaultV1 {
        sequence: 2,
        address: 0,
        tsc: 99,
        count: 1,
        reported: 0,
        unit: 0,
        source: NIC,
        reason: 0x26,
        access: FAULT_INTERRUPT,
        entry: 5,
        pasid: NO_PASID,
    });
    let mut phase_tsc = [0; 12];
    phase_tsc[..4].copy_from_slice(&[10, 20, 30, 40]);
    let mut from_build = [0; 32];
    from_build[0] = 0xaa;
    let mut to_build = [0; 32];
    to_build[0] = 0xbb;
    state.reports.push(ReportV1 {
        sequence: 4,
        generation: GENERATION,
        phase_tsc,
        interrupts_pending: 1,
        from_build,
        to_build,
        from_version: name_field("0.1.0").unwrap(),
        to_version: name_field("0.1.1").unwrap(),
        format: 1,
        ..ReportV1::new_zeroed()
    });
    state
}

fn machine(state: &mut State) {
    state.machine.push(MachineV1 {
        boot_nonce: 0x0123_4567_89ab_cdef,
        generation: GENERATION,
        tsc_khz: 1_000_000,
        lapic_ticks_per_ms: 1_000_000,
        boot_tsc: 12_345,
        epoch_ns: 1_700_000_000_000_000_000,
        rsdp: 0xf_5a40,
        pcpu_count: 2,
        bsp_apic_id: 0,
        console_port: 0x3f8,
        flags: MACHINE_X2APIC,
    });
    state.pcpus.extend([0, 1].map(|index| PcpuV1 { index, apic_id: index, acpi_uid: index, flags: 0 }));
    let region = |base, end, firmware_type, owner, owner_id| RegionV1 {
        base,
        bytes: end - base,
        owner_id,
        firmware_type,
        owner,
    };
    state.regions.extend([
        region(0, 0x9_fc00, REGION_RAM, OWNER_FREE, 0),
        region(0x9_fc00, 0xa_0000, REGION_RESERVED, OWNER_FIRMWARE, 0),
        region(0x10_0000, 0x200_0000, REGION_RAM, OWNER_FREE, 0),
        region(0x200_0000, 0x300_0000, REGION_RAM, OWNER_SLOT, 0),
        region(0x300_0000, 0x400_0000, REGION_RAM, OWNER_SLOT, 1),
        region(0x400_0000, 0x500_0000, REGION_RAM, OWNER_SCRATCH, 0),
        region(0x1800_0000, 0x1900_0000, REGION_RAM, OWNER_ARENA, 0),
        region(0x1900_0000, 0x1a00_0000, REGION_RAM, OWNER_MODULE, 0),
        region(0x2000_0000, 0x3000_0000, REGION_RAM, OWNER_OBJECTS, RAM),
        region(0x3000_0000, 0x4000_0000, REGION_RAM, OWNER_OBJECTS, RAM),
        region(0x7ffe_0000, 0x8000_0000, REGION_ACPI, OWNER_FIRMWARE, 0),
    ]);
    state.arenas.push(ArenaV1 { base: BASE, bytes: 0x100_0000, frame_table: 0x1801_0000, frame_table_bytes: 0x4000 });
    let mut name = [0; TEXT_BYTES];
    name[..10].copy_from_slice(b"baton.toml");
    state.modules.push(ModuleV1 { base: 0x1900_0000, bytes: 777, name, index: 0, reserved: [0; 4] });
    let mut via = [0; TEXT_BYTES];
    via[..4].copy_from_slice(b"iPXE");
    state.boot.push(BootV1 { ticks_to_guest: 123_456_789, via });
    let bridge = |bdf, bus| BridgeV1 {
        bdf,
        identity: 0x000c_1b36,
        secondary: bus,
        subordinate: bus,
        bridge_control: 2,
        command: 7,
    };
    state.bridges.extend([bridge(0x10, 1), bridge(0x12, 3)]);
}

/// Domains of the sample machine's PASIDs.
pub const PASID_DOMAIN: u64 = 0x4003;
pub const NESTED_DOMAIN: u64 = 0x4004;
/// A physical function with two virtual ones, 0000:02:10.0 and 0000:02:10.2.
pub const PHYSICAL: u32 = 0x0200;

/// The sample machine with what format 1 can't say: a unit in scalable mode, two PASIDs on the NVMe function, one of them
/// nested, a pass-through domain, memory reserved for a device, virtual functions, posted interrupts, a quarantined device, a device and a guest that leave.
pub fn modern() -> State {
    let mut state = sample();
    // TTM 01b (VT-d 11.4.5), 256-bit descriptors (11.4.9.3).
    state.units[0].root_table |= 1 << 10;
    state.units[0].queue |= 1 << 11;
    state.domains[1] =
        DomainV1 { format: FORMAT_PASS_THROUGH, table_root: 0, levels: 0, leaf_mask: 1, width: 0, ..state.domains[1] };
    state.domains[0].address_bits = 48;
    let second = DomainV1 { token: PASID_DOMAIN, table_root: 0x1809_0000, ..state.domains[0] };
    // The guest's own table: an address of the guest's.
    let nested = DomainV1 {
        token: NESTED_DOMAIN,
        format: FORMAT_NESTED,
        parent: GUEST_DOMAIN,
        table_root: 0x10_0000,
        ..state.domains[0]
    };
    state.domains.extend([second, nested]);
    state.domain_ids.extend([(PASID_DOMAIN, 3), (NESTED_DOMAIN, 4)].map(|(domain, did)| DomainIdV1 {
        domain,
        unit: 0,
        did,
    }));
    for (device, directory) in state.devices.iter_mut().zip([0x180a_0000, 0x180b_0000]) {
        device.pasid_directory = directory;
    }
    state.devices[0].state = STATE_QUARANTINED;
    state.pasids.extend([(1, PASID_DOMAIN), (0xf_ffff, NESTED_DOMAIN)].map(|(pasid, domain)| PasidV1 {
        domain,
        device: NVME,
        pasid,
    }));
    state.physical_functions.push(PhysicalFunctionV1 {
        bdf: PHYSICAL,
        identity: 0x10c9_8086,
        device_id: 0x10ca,
        count: 2,
        first: 0x80,
        stride: 2,
    });
    state.device_policy.push(DevicePolicyV1 { fault_limit: 25, flags: 0 });
    state.reserved.push(ReservedV1 { space: SPACE, base: 0x4800_0000, bytes: 0x3_f000 });
    state.posted.push(PostedV1 { frame: 0x180c_0000, used: 5 });
    state.leaving.push(LeavingV1 { requester: 0x0420, reserved: [0; 4] });
    let name = handover::state::name_field("batch").unwrap();
    state.stopped.push(StoppedV1 { sequence: 3, name, number: 2, reserved: [0; 4] });
    state.set_planned();
    state
}

fn iommu(state: &mut State) {
    state.units.push(UnitV1 {
        register_base: 0xfed9_0000,
        cap: 0x00d2_008c_222f_0606,
        ecap: 0x00f0_0f5a,
        root_table: 0x1802_0000,
        interrupt_table: 0x1804_0000 | 1 << 11 | 7,
        queue: 0x1803_0000,
        status_word: 0x1803_1000,
        index: 0,
        segment: 0,
        version: 0x10,
        status: 0xc700_0000,
        interrupt_entries: 256,
        did_count: 1 << 16,
        fault_data: 0x31,
        fault_address: 0xfee0_0000,
        fault_upper_address: 0,
        flags: UNIT_FAULT_EVENT,
    });
    state.unit_rests.push(UnitRestV1 {
        queue_head: 0x40,
        queue_tail: 0x40,
        index: 0,
        status: 0xc700_0000,
        fault_control: 0,
        sequence: 41,
    });
    let domain = |token, space, table_root| DomainV1 {
        token,
        space,
        table_root,
        levels: 4,
        leaf_mask: 7,
        width: 48,
        format: FORMAT_SECOND_STAGE,
        flags: DOMAIN_COHERENT,
        ..DomainV1::new_zeroed()
    };
    state.domains.extend([domain(GUEST_DOMAIN, SPACE, 0x1805_0000), domain(OWN_DOMAIN, 0, 0x1806_0000)]);
    state.domain_ids.extend([(GUEST_DOMAIN, 2), (OWN_DOMAIN, 1)].map(|(domain, did)| DomainIdV1 {
        domain,
        unit: 0,
        did,
    }));
}

fn memory(state: &mut State) {
    state.spaces.push(SpaceV1 {
        token: SPACE,
        guest: GUEST,
        nested_root: 0x1807_0000,
        levels: 4,
        format: NESTED_NPT,
        leaf_mask: 7,
        reserved: [0; 4],
    });
    state.objects.push(ObjectV1 {
        token: RAM,
        owner: GUEST,
        bytes: 0x2000_0000,
        tag: name_field("ram").unwrap(),
        extent_count: 2,
        reserved: [0; 4],
    });
    state.extents.extend([
        ExtentV1 { object: RAM, guest_base: 0, host_base: 0x2100_0000, bytes: 0x1e00_0000 },
        ExtentV1 { object: RAM, guest_base: 0x1e00_0000, host_base: 0x2000_0000, bytes: 0x100_0000 },
        ExtentV1 { object: RAM, guest_base: 0x1f00_0000, host_base: 0x3f00_0000, bytes: 0x100_0000 },
    ]);
    state.objects[0].extent_count = 3;
    state.space_objects.push(SpaceObjectV1 { space: SPACE, object: RAM });
}

fn devices(state: &mut State) {
    state.devices.extend([
        DeviceV1 { domain: OWN_DOMAIN, bdf: NIC, identity: 0x10d3_8086, flags: 0, ..DeviceV1::new_zeroed() },
        DeviceV1 {
            domain: GUEST_DOMAIN,
            owner: GUEST,
            bdf: NVME,
            guest_bdf: 0x18,
            unit: 0,
            identity: 0x0010_1b36,
            msix_capability: 0x40,
            msix_entries: 6,
            msix_table_bar: 0,
            msix_table_offset: 0x2000,
            msix_pending_bar: 0,
            msix_pending_offset: 0x3000,
            msi_capability: 0,
            flags: DEVICE_RESETTABLE | DEVICE_ATS,
            ats_depth: 32,
            ..DeviceV1::new_zeroed()
        },
    ]);
    state.aliases.push(AliasV1 { device: NVME, requester: 0x0301 });
    let bar = |device, host_base, bytes, guest_base, flags| BarV1 {
        host_base,
        bytes,
        guest_base,
        device,
        index: 0,
        flags,
        reserved: [0; 4],
    };
    state.bars.extend([
        bar(NIC, 0xfe80_0000, 0x2_0000, 0, 0),
        bar(NVME, 0xfe40_0000, 0x4000, 0xe000_0000, BAR_64 | BAR_MAPPED),
    ]);
    let mut bytes = [0; CONFIG_PIECE];
    bytes[..8].copy_from_slice(&[0x36, 0x1b, 0x10, 0, 6, 4, 0x10, 0]);
    state.configs.push(ConfigV1 { device: NVME, offset: 0, bytes });
    state.functions.push(PciFunctionV1 {
        device: NVME,
        bars: [0xe000_0000, 0, 0, 0, 0, 0],
        command: 0x406,
        express_control: 0x2810,
        cache_line: 16,
        interrupt_line: 0xff,
        flags: FUNCTION_MSIX | FUNCTION_MSIX_ENABLED,
    });
    for index in 0..3 {
        state.irtes.push(IrteV1 {
            low: (0x31_0000 + u64::from(index) * 0x1_0000) | 1,
            high: 0x4_0300,
            unit: 0,
            index: 4 + index,
            owner: NVME,
            flags: 0,
        });
        state.msix.push(MsixV1 {
            guest_address: 0xfee0_0000,
            routed_address: 0xfee0_0000,
            host_address: 0xfee0_0090 + u64::from(index) * 0x20,
            device: NVME,
            index,
            guest_data: 0x22 + index,
            guest_control: 0,
            routed_data: 0x22 + index,
            host_data: 0,
            irte: 4 + index,
            host_vector: 0x31 + index,
            pcpu: 1,
            flags: MSIX_OPEN | if index == 2 { MSIX_PENDING } else { 0 },
        });
    }
    state.irtes.insert(0, IrteV1 { low: 0x30_0001, high: 0x4_00ff, unit: 0, index: 0, owner: 0, flags: IRTE_OWN });
}

fn guest(state: &mut State) {
    let mut kernel = [0; TEXT_BYTES];
    kernel[..7].copy_from_slice(b"vmlinuz");
    state.guests.push(GuestV1 {
        token: GUEST,
        memory_bytes: 0x2000_0000,
        space: SPACE,
        name: name_field("debian").unwrap(),
        kernel,
        vcpu_count: 1,
        device_count: 1,
        console: CONSOLE_COM1,
        on_upgrade: ON_UPGRADE_PRESERVE,
        number: 0,
        reserved: [0; 4],
    });
    state.guest_rests.push(GuestRestV1 {
        guest: GUEST,
        entries: 4711,
        interrupts: 815,
        started_tsc: 999,
        reason: [0; TEXT_BYTES],
        state: GUEST_RUNNING,
        power: POWER_NONE,
    });
    let segment = |selector, attributes| SegmentV1 { base: 0, limit: u32::MAX, selector, attributes };
    let mut segments = [segment(0x18, 0xc93); 8];
    segments[1] = segment(0x10, 0xa9b);
    segments[6] = SegmentV1 { attributes: SEGMENT_UNUSABLE, ..SegmentV1::default() };
    segments[7] = SegmentV1 { base: 0xffff_fe00_0000_3000, limit: 0x4087, selector: 0x40, attributes: 0x8b };
    state.vcpus.push(VcpuV1 {
        guest: GUEST,
        registers: core::array::from_fn(|index| 0x1111_1111_1111_1111 * index as u64),
        rip: 0xffff_ffff_8100_0000,
        rflags: 0x246,
        cr0: 0x8005_0033,
        cr3: 0x1a_2000,
        cr4: 0x37_06f0,
        efer: 0xd01,
        xcr0: 7,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        segments,
        gdt_base: 0xffff_fe00_0000_1000,
        idt_base: 0xffff_fe00_0000_0000,
        pat: 0x0407_0105_0007_0106,
        star: 0x0023_0010_0000_0000,
        lstar: 0xffff_ffff_8180_0080,
        sfmask: 0x4_7700,
        tsc_offset: 5_u64.wrapping_neg(),
        gdt_limit: 0x7f,
        idt_limit: 0xfff,
        index: 0,
        pcpu: 1,
        activity: ACTIVITY_HALTED,
        shadow: SHADOW_STI,
        event: EVENT_INTERRUPT,
        event_vector: 0x22,
        xsave_bytes: 832,
        xsave_pieces: 2,
        ..VcpuV1::new_zeroed()
    });
    let piece = |offset, byte| XsaveV1 {
        guest: GUEST,
        vcpu: 0,
        offset,
        bytes: core::array::from_fn(|index| if index < 64 { byte } else { 0 }),
    };
    state.xsave.extend([piece(0, 0x37), piece(768, 0xf0)]);
    let mut requested = [0; 8];
    requested[1] = 4;
    state.lapics.push(LapicV1 {
        guest: GUEST,
        base: 0xfee0_0d00,
        timer_deadline: 0x1_0000,
        timer_armed: 1,
        events: LAPIC_NMI,
        spurious: 0x1ff,
        lvt_timer: 0x4_00ec,
        lvt_lint0: 0x1_0700,
        lvt_lint1: 0x400,
        lvt_error: 0xfe,
        requested,
        ..LapicV1::new_zeroed()
    });
    state.clocks.push(KvmClockV1 {
        guest: GUEST,
        system_time_msr: 0x20_0001,
        wall_clock_msr: 0x20_1000,
        vcpu: 0,
        version: 8,
    });
    state.guest_clocks.push(GuestClockV1 {
        guest: GUEST,
        base_tsc: 1_000_000,
        base_ns: 1_000_000,
        wall_base_ns: 1_700_000_000_000_000_000,
        tsc_khz: 1_000_000,
        reserved: [0; 4],
    });
    state.vcpu_msrs.push(VcpuMsrsV1 {
        guest: GUEST,
        misc_enable: 0x1801,
        hwcr: 1 << 24,
        mtrr_default: 0xc06,
        mtrr_fixed: [0x0606_0606_0606_0606; 11],
        ..VcpuMsrsV1::new_zeroed()
    });
    state.cpuids.extend([
        CpuidV1 { guest: GUEST, leaf: 0, subleaf: 0, values: [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65] },
        CpuidV1 { guest: GUEST, leaf: 0x4000_0000, subleaf: 0, values: [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d] },
    ]);
    state.ioapics.push(IoapicV1 {
        guest: GUEST,
        redirection: [0x1_0000; 24],
        id: 0,
        select: 0x10,
        levels: 0x10,
        reserved: [0; 4],
    });
    state.uarts.push(UartV1 {
        guest: GUEST,
        port: 0x3f8,
        input_bytes: 2,
        ier: 5,
        lcr: 3,
        mcr: 0xb,
        msr: 0xb0,
        dll: 1,
        fcr: 1,
        ..UartV1::new_zeroed()
    });
    let mut input = UartInputV1 { guest: GUEST, port: 0x3f8, offset: 0, bytes: [0; UART_PIECE] };
    input.bytes[..2].copy_from_slice(b"ls");
    state.uart_inputs.push(input);
    state.pci_hosts.push(PciHostV1 { guest: GUEST, address: 0x8000_1810, reserved: [0; 4] });
    state.legacies.push(LegacyV1 {
        guest: GUEST,
        pit_loaded_ns: [0, 0, 5_000],
        pit_reload: [0, 0, 11_932],
        pit_access: [0, 0, 3],
        cmos_index: 0xd,
        port_61: 1,
        ..LegacyV1::new_zeroed()
    });
    state.totals.push(TotalsV1 { committed: 2, refused: 1, faults: 4, ..TotalsV1::new_zeroed() });
}

fn management(state: &mut State) {
    state.management.push(ManagementV1 {
        nic: NIC,
        port: 443,
        prefix: 24,
        flags: MANAGEMENT_DHCP,
        deadline_ms: 50,
        address: [10, 0, 2, 15],
        gateway: [10, 0, 2, 2],
        mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
        reserved: [0; 6],
    });
}

/// Writes a set as an image does: planned part, rest, header last. In the newest format.
pub fn write(state: &State) -> Vec<u8> {
    write_as(state, handover::version::WRITES_MAX)
}

/// Likewise, in a certain format.
pub fn write_as(state: &State, format: u16) -> Vec<u8> {
    let mut region = vec![0; REGION];
    write_to(state, &mut region, format);
    region
}

/// Likewise, into a region of the caller's.
pub fn write_to(state: &State, region: &mut [u8], format: u16) {
    let generation = state.machine.first().map_or(GENERATION, |machine| machine.generation);
    let mut writer = Writer::new(region, BASE, generation, format).unwrap();
    state.write_plan(&mut writer).unwrap();
    let draft = writer.mark().unwrap();
    let mut writer = draft.resume(region).unwrap();
    state.write_rest(&mut writer).unwrap();
    let header = writer.finish().unwrap();
    region[..HEADER_BYTES].copy_from_slice(&header);
}

/// Opens and decodes a region.
pub fn read(region: &[u8]) -> Result<State, handover::reader::ReadError> {
    State::decode(&Stream::open(region, BASE)?)
}
