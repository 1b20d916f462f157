//! Every reader of foreign bytes, as a function that must neither panic nor hang, whatever it is given.
//!
//! `cargo test -p baton-fuzz` runs each over its corpus and over mutations of it, for a bounded number of rounds;
//! `./x fuzz TARGET SECONDS` lets libFuzzer look for new ways through the code, from `corpus/TARGET` on.
#![forbid(unsafe_code)]

use guest_loader::layout::GuestMap;
use guest_loader::{GuestMemory, Module, OutOfGuestMemory, Plan, Problem, Start};
use handover::header::{HEADER_BYTES, Header, MAGIC};
use handover::state::page::{VcpuPage, VcpuPlaceV1};
use handover::state::vcpu::VcpuV1;
use handover::{State, crc32c, graph, note, reader};
use hypervisor::upgrade::convert::{self, vcpu::VcpuState};
use hypervisor::vcpu::state::ArchState;
use machine::access::Width;
use machine::addr::GuestPhys;
use machine::pci::{self, Bdf, Buses, ConfigSpace};
use zerocopy::{FromZeros, IntoBytes};

/// A reader.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Reads the bytes.
    pub run: fn(&[u8]),
}

/// All readers.
pub const TARGETS: [Target; 9] = [
    Target { name: "stream", run: stream },
    Target { name: "page", run: page },
    Target { name: "note", run: image_note },
    Target { name: "dmar", run: dmar },
    Target { name: "pci", run: buses },
    Target { name: "kernel", run: kernel },
    Target { name: "cpio", run: cpio },
    Target { name: "http", run: http },
    Target { name: "toml", run: toml },
];

/// The reader of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Where the region of the streams lies.
const BASE: u64 = 0x1800_0000;

/// The bytes are a payload; header and checksum are made to fit, so that they reach the decoder. The mark's own checksum is
/// left to the fuzzer's luck and the corpus.
fn stream(payload: &[u8]) {
    let mut header = Header {
        magic: MAGIC,
        generation: 3,
        region_base: BASE,
        region_bytes: (HEADER_BYTES + payload.len()) as u64,
        payload_bytes: payload.len() as u64,
        header_bytes: HEADER_BYTES as u32,
        version: handover::version::WRITES_MAX,
        minimum_reader: 1,
        payload_crc: crc32c(payload),
        reserved: [0; 2],
        header_crc: 0,
    };
    header.header_crc = header.checksum();
    let region = [header.as_bytes(), payload].concat();
    let Ok(stream) = reader::Stream::open(&region, BASE) else { return };
    if let Ok(mut state) = State::decode(&stream) {
        _ = graph::validate(&state).map_err(|error| error.to_string());
        // As in the pause: from the mark on, or from what is settled on.
        if let Ok(rest) = stream.prefix().reopen(&region, BASE)
            && state.refresh(&rest).is_ok()
        {
            _ = graph::validate_rest(&state).map_err(|error| error.to_string());
        }
    }
}

/// The bytes are a vCPU's page; it is sealed, so that its fields are looked at.
fn page(bytes: &[u8]) {
    let mut page = VcpuPage::new_zeroed();
    page.as_mut_bytes().iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    let VcpuV1 { guest, index: vcpu, pcpu, .. } = page.vcpu;
    let place = VcpuPlaceV1 { guest, base: BASE, vcpu, pcpu, area_bytes: 832, page_offset: 832 };
    _ = page.check(3, &place).map_err(|error| error.to_string());
    page.seal(3);
    if page.check(3, &place).is_ok() {
        let mut vcpu = VcpuState { pcpu: 0, arch: ArchState::reset(), xsave: Vec::new() };
        _ = convert::vcpu::read(&page.vcpu, &mut vcpu).map_err(|error| error.to_string());
        _ = convert::lapic::read(&page.lapic, &page.clock, &page.msrs).map_err(|error| error.to_string());
    }
}

fn image_note(image: &[u8]) {
    _ = note::verify_digest(image).map_err(|error| error.to_string());
    if let Ok(note) = note::parse_note(image) {
        _ = note::signature::verify(&note, &[[7; 32]]);
    }
}

fn dmar(table: &[u8]) {
    _ = machine::acpi::dmar::Dmar::parse(table).map_err(|error| error.to_string());
}

/// Configuration space that reads as the bytes, the same for every function but for where they start.
struct Noise<'a>(&'a [u8]);

impl ConfigSpace for Noise<'_> {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        let start = usize::from(bdf.requester_id()).wrapping_mul(64).wrapping_add(offset.into());
        let byte = |at: usize| u32::from(*self.0.get(start.wrapping_add(at)).unwrap_or(&0xff));
        match width {
            Width::Byte => byte(0),
            Width::Word => byte(0) | byte(1) << 8,
            _ => byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24,
        }
    }

    fn write(&self, _bdf: Bdf, _offset: u16, _width: Width, _value: u32) {}
}

fn buses(bytes: &[u8]) {
    let config = Noise(bytes);
    let found = pci::enumerate(&config, &[Buses { segment: 0, first: 0, last: 3 }]);
    drop(found);
    if let Some(bdf) = Bdf::new(0, 0, 0, 0) {
        assert!(pci::capabilities(&config, bdf).count() <= 64, "a circle of capabilities is followed for ever");
        assert!(pci::extended_capabilities(&config, bdf).count() <= 1024, "a circle of extended capabilities");
    }
}

fn kernel(bytes: &[u8]) {
    let kernel = Module { name: "kernel", bytes };
    _ = guest_loader::bzimage::BzImage::parse(kernel).map_err(|error| error.to_string());
    _ = guest_loader::pvh::PvhImage::parse(kernel).map_err(|error| error.to_string());
    _ = guest_loader::multiboot::MultibootImage::parse(kernel).map_err(|error| error.to_string());
    // Whatever the format, and in every mode: all that is written is RAM of the guest's.
    let Ok(map) = GuestMap::new(GUEST_BYTES) else { return };
    let modules = [(Module { name: "module", bytes: b"module" }, "module with=words")];
    for start in [Start::Auto, Start::Bits64, Start::Bits32, Start::Bits16] {
        for modules in [&modules[..], &[]] {
            let initrd = Some(Module { name: "initrd", bytes: b"initrd" });
            let (seed, apic_ids) = (Some([7; 32]), &[0, 1][..]);
            let plan = Plan { map: &map, kernel, initrd, modules, start, command_line: "a=b", seed, apic_ids };
            if let Err(error) = guest_loader::load(&plan, &mut Discarded(map)) {
                assert!(!matches!(error.problem, Problem::Memory(_)), "{error}");
            }
        }
    }
}

/// Memory of the guest that kernels are loaded to.
const GUEST_BYTES: u64 = 64 << 20;

/// Memory that checks where it is written to, and forgets what.
struct Discarded(GuestMap);

impl GuestMemory for Discarded {
    fn write(&mut self, at: GuestPhys, bytes: &[u8]) -> Result<(), OutOfGuestMemory> {
        let bytes = bytes.len() as u64;
        if self.0.is_ram(at, bytes) { Ok(()) } else { Err(OutOfGuestMemory { at, bytes }) }
    }
}

fn cpio(archive: &[u8]) {
    _ = guest_loader::cpio::modules(archive).map_err(|error| error.to_string());
}

fn http(head: &[u8]) {
    _ = hypervisor::api::request::parse(head);
}

fn toml(text: &[u8]) {
    _ = hypervisor::config::parse_bytes(text).map_err(|error| error.to_string());
}
