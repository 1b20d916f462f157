//! The records' layouts as text: what `handover/abi/` keeps of each format, and `./x lint` compares.

use alloc::string::String;
use core::fmt::Write;

use crate::record::{Part, Record};

/// Every record of a stream of format `format`: kind, version, name, part, size, and each field with its offset and type.
#[must_use]
pub fn table(format: u16) -> String {
    let mut text = String::new();
    crate::state::set::describe(&mut text, format);
    text
}

/// Appends one type as that format has it; nothing when it came later.
pub(crate) fn describe<T: Record>(text: &mut String, format: u16) {
    let versions = T::LAYOUTS.iter().take_while(|layout| layout.format <= format);
    let Some((index, layout)) = versions.enumerate().last() else { return };
    let part = match T::PART {
        Part::Plan => "plan",
        Part::Settled | Part::Freeze => "rest",
        Part::Any => "either",
    };
    let critical = if T::CRITICAL { ", critical" } else { "" };
    // Writing to a string can't fail.
    _ = writeln!(
        text,
        "{:#06x} {:?} version {}, {part}{critical}, {} bytes",
        T::KIND,
        T::NAME,
        index + 1,
        layout.bytes
    );
    for (name, of, offset) in T::FIELDS.iter().filter(|(_, _, offset)| *offset < layout.bytes) {
        _ = writeln!(text, "    {offset:>3} {name}: {of}");
    }
}
