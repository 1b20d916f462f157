//! What a guest's platform asks of the hypervisor.

use alloc::sync::Arc;
use alloc::vec::Vec;

use machine::addr::GuestPhys;

use super::memory::GuestRam;
use crate::config::Console;
use crate::guest::message::IpiSink;
use crate::guest::platform;
use crate::guest::uart::ConsoleSink;
use crate::smp::pcpu;
use crate::vcpu::bus::NotMemory;
use crate::vcpu::frames::FrameSource;
use crate::{console, cpu, time};
use machine::addr::{HostPhys, PAGE_SIZE};

/// A guest's RAM behind its platform.
pub struct PlatformRam(pub Arc<GuestRam>);

impl platform::GuestRam for PlatformRam {
    fn read(&self, address: GuestPhys, buffer: &mut [u8]) -> Result<(), NotMemory> {
        if self.0.read(address, buffer) { Ok(()) } else { Err(NotMemory) }
    }
    fn write(&self, address: GuestPhys, bytes: &[u8]) -> Result<(), NotMemory> {
        if self.0.write(address, bytes) { Ok(()) } else { Err(NotMemory) }
    }
}

/// A guest's console on a serial port of the machine.
pub struct SerialConsole {
    console: Console,
    line: Vec<u8>,
    name: alloc::string::String,
}

/// A line of a guest that shares COM1 with the log is cut there.
const LINE_BYTES: usize = 240;

impl SerialConsole {
    /// The console of guest `name`.
    pub fn new(console: Console, name: &str) -> Self {
        Self { console, line: Vec::new(), name: name.into() }
    }
}

impl ConsoleSink for SerialConsole {
    fn write(&mut self, byte: u8) {
        match self.console {
            Console::None => {}
            Console::Com2 => console::guest_port().lock().send(byte),
            // Whole lines, so that the log stays readable.
            Console::Com1 => {
                if byte == b'\n' || self.line.len() == LINE_BYTES {
                    log::info!("{}: {}", self.name, alloc::string::String::from_utf8_lossy(&self.line));
                    self.line.clear();
                } else if byte != b'\r' {
                    self.line.push(byte);
                }
            }
        }
    }
}

/// Kicks go to the pCPU of the virtual CPU.
pub struct Kicks(pub Vec<u32>);

impl IpiSink for Kicks {
    fn kick(&self, vcpu: u32) {
        if let Some(pcpu) = self.0.get(vcpu as usize) {
            pcpu::kick(*pcpu);
        }
    }
}

/// Time as a virtual CPU sees it.
pub struct VcpuTime {
    /// Guest TSC minus host TSC.
    pub tsc_offset: u64,
}

impl platform::TimeSource for VcpuTime {
    fn tsc(&self) -> u64 {
        cpu::tsc().wrapping_add(self.tsc_offset)
    }
    fn wall_clock_ns(&self) -> u64 {
        time::wall_clock_ns()
    }
}

/// Frames of this image for the structures of virtual CPUs: from its heap, for ever.
pub struct HeapFrameSource;

impl FrameSource for HeapFrameSource {
    fn contiguous(&mut self, count: usize) -> Option<HostPhys> {
        crate::mem::heap::frames(count.checked_mul(PAGE_SIZE as usize)?)
    }
}
