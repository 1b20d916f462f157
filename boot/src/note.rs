//! What the image says about itself to the one that stages it (`handover::note`). The linker
//! places it unsealed; `./x image` fills in sizes and digest when the file is complete.
#![expect(unsafe_code, reason = "the note is placed by assembly and read where it lies")]

use core::arch::global_asm;

use handover::note::{NOTE_BYTES, Note};
use hypervisor::mem::layout::SLOT_BYTES;

const fn number(text: Option<&str>) -> u32 {
    let Some(text) = text else { return 0 };
    let bytes = text.as_bytes();
    let (mut index, mut value) = (0, 0u32);
    while index < bytes.len() {
        assert!(bytes[index].is_ascii_digit(), "versions and BATON_BUILD_NUMBER are decimal numbers");
        value = value * 10 + (bytes[index] - b'0') as u32;
        index += 1;
    }
    value
}

/// The name people gave this build.
pub const BUILD_NAME: &str = match option_env!("BATON_BUILD_NAME") {
    Some(name) => name,
    None => "dev",
};

// The fields of `Note` in order; zero is what sealing fills in.
global_asm!(
    ".section .head.note, \"a\"",
    ".balign 16",
    "baton_note:",
    ".ascii \"BATON.IMAGE.NOTE\"",
    ".skip 32 + 32 + 64 + 8",             // build id, digest, signature, key id
    ".quad 0",                            // file bytes
    ".quad __note_memory",               // from the linker script
    ".quad {slot}",
    ".long __note_multiboot",
    ".long 0",
    ".long __note_upgrade",
    ".long 0",
    ".long {note_bytes}",
    ".long 0",                            // note offset
    ".long {build_number}",
    ".long 0",                            // flags
    ".short {major}, {minor}, {patch}",
    ".short {reads_min}, {reads_max}, {writes_min}, {writes_max}, {jump}",
    ".skip 32",
    slot = const SLOT_BYTES,
    note_bytes = const NOTE_BYTES,
    build_number = const number(option_env!("BATON_BUILD_NUMBER")),
    major = const number(Some(env!("CARGO_PKG_VERSION_MAJOR"))),
    minor = const number(Some(env!("CARGO_PKG_VERSION_MINOR"))),
    patch = const number(Some(env!("CARGO_PKG_VERSION_PATCH"))),
    reads_min = const handover::version::READS_MIN,
    reads_max = const handover::version::READS_MAX,
    writes_min = const handover::version::WRITES_MIN,
    writes_max = const handover::version::WRITES_MAX,
    jump = const handover::jump::VERSION,
);

unsafe extern "C" {
    #[link_name = "baton_note"]
    static NOTE: [u8; NOTE_BYTES];
}

const _: () = assert!(size_of::<Note>() == NOTE_BYTES);

/// The image's own note.
pub fn bytes() -> &'static [u8] {
    // SAFETY: the assembly above places NOTE_BYTES initialized bytes there, in memory that is only read.
    unsafe { &NOTE }
}
