//! Guest memory for the tests: sparse, zero where never written.

extern crate std;

use std::boxed::Box;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec;
use std::vec::Vec;
use std::{env, format, fs, process};

use machine::addr::GuestPhys;

use crate::layout::GuestMap;
use crate::memory::{GuestMemory, OutOfGuestMemory};

const PAGE: u64 = 4096;

pub struct Ram {
    map: GuestMap,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Ram {
    pub fn new(map: GuestMap) -> Self {
        Self { map, pages: BTreeMap::new() }
    }

    pub fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        for (address, byte) in (at..).zip(&mut out) {
            if let Some(page) = self.pages.get(&(address / PAGE)) {
                *byte = page[(address % PAGE) as usize];
            }
        }
        out
    }

    pub fn u8(&self, at: u64) -> u8 {
        self.read(at, 1)[0]
    }

    pub fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    pub fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(at, 4).try_into().unwrap())
    }

    pub fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.read(at, 8).try_into().unwrap())
    }
}

impl GuestMemory for Ram {
    fn write(&mut self, at: GuestPhys, bytes: &[u8]) -> Result<(), OutOfGuestMemory> {
        if !self.map.is_ram(at, bytes.len() as u64) {
            return Err(OutOfGuestMemory { at, bytes: bytes.len() as u64 });
        }
        let mut at = at.get();
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (at % PAGE) as usize;
            let (part, behind) = rest.split_at(rest.len().min(PAGE as usize - offset));
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[offset..offset + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }
}

/// Writes `bytes` at `offset` of a hand-made image.
pub fn poke(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// What GNU as and ld make of 32-bit (or, by `.code16`, 16-bit) assembly.
pub fn assemble(source: &str, link: &[&str]) -> Vec<u8> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = env::temp_dir().join(format!("baton-assembled-{}-{number}", process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (object, linked) = (directory.join("it.o"), directory.join("it"));
    let mut assembler = Command::new("as").arg("--32").arg("-o").arg(&object).stdin(Stdio::piped()).spawn().unwrap();
    assembler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(assembler.wait().unwrap().success());
    let mut linker = Command::new("ld");
    linker.args(["-m", "elf_i386", "-z", "noexecstack"]).args(link).arg("-o").arg(&linked).arg(&object);
    assert!(linker.status().unwrap().success());
    let made = fs::read(&linked).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    made
}
