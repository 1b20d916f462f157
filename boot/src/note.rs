//! What the image says about itself to the one that stages it (`handover::note`). The linker
//! places it unsealed; `./x image` fills in sizes and digest when the file is complete.
#![expect(unsafe_code, reason = "the note is placed by assembly and read where it lies")]

use core::arch::global_asm;

use handover::note::{NOTE_BYTES, Note};
use hypervisor::mem::layout::SLOT_BYTES;

const fn number(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let (mut index, mut value) = (0, 0u32);
    while index < bytes.len() {
        assert!(bytes[index].is_ascii_digit(), "versions are decimal numbers");
        value = value * 10 + (bytes[index] - b'0') as u32;
        index += 1;
    }
    value
}

/// Bytes of a build's name.
const NAME_BYTES: usize = 32;
/// Bytes from the words before the name to the end of what is behind it.
const BUILD_BYTES: usize = 16 + NAME_BYTES + 16;

// The fields of `Note` in order; zero is what the build fills in when the file is complete.
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
    ".long 0",                            // build number
    ".long 0",                            // flags
    ".short {major}, {minor}, {patch}",
    ".short {reads_min}, {reads_max}, {writes_min}, {writes_max}, {jump}",
    ".skip 32",
    // What only `./x image` knows of a build, in a place that it finds by these words: its name, and the fault
    // that is planted in it.
    "baton_build:",
    ".ascii \"BATON.BUILD.NAME\"",
    ".asciz \"dev\"",
    ".skip {name_bytes} - 4",
    ".skip 16",
    slot = const SLOT_BYTES,
    note_bytes = const NOTE_BYTES,
    name_bytes = const NAME_BYTES,
    major = const number(env!("CARGO_PKG_VERSION_MAJOR")),
    minor = const number(env!("CARGO_PKG_VERSION_MINOR")),
    patch = const number(env!("CARGO_PKG_VERSION_PATCH")),
    reads_min = const handover::version::READS_MIN,
    reads_max = const handover::version::READS_MAX,
    writes_min = const handover::version::WRITES_MIN,
    writes_max = const handover::version::WRITES_MAX,
    jump = const handover::jump::VERSION,
);

unsafe extern "C" {
    #[link_name = "baton_note"]
    static NOTE: [u8; NOTE_BYTES];
    #[link_name = "baton_build"]
    static BUILD: [u8; BUILD_BYTES];
}

const _: () = assert!(size_of::<Note>() == NOTE_BYTES);

/// The image's own note.
pub fn bytes() -> &'static [u8] {
    // SAFETY: the assembly above places NOTE_BYTES initialized bytes there, in memory that is only read.
    unsafe { &NOTE }
}

/// The name people gave this build.
pub fn build_name() -> &'static str {
    // SAFETY: as for the note; an extern static, so the compiler knows nothing of its bytes.
    let build: &'static [u8; BUILD_BYTES] = unsafe { &BUILD };
    let name = build.get(16..16 + NAME_BYTES).unwrap_or_default();
    core::ffi::CStr::from_bytes_until_nul(name).ok().and_then(|name| name.to_str().ok()).unwrap_or("unnamed")
}

/// The fault that is planted in this build: kind and place.
pub fn fault() -> [u8; 2] {
    // SAFETY: as for the name.
    let build: &'static [u8; BUILD_BYTES] = unsafe { &BUILD };
    [build[16 + NAME_BYTES], build[16 + NAME_BYTES + 1]]
}
