//! What a guest of our own is made of: freestanding, entered by PVH, on one vCPU or more, up within milliseconds.
//!
//! - `entry`: from the loader's 32-bit entry to [`start`]
//! - `console`: the 16550, lines out and lines in
//! - `memory`: the heap, and frames for devices
//! - `apic`: the local APIC: messages to other processors, the timer
//! - `interrupts`: IDT, handlers that count, waiting
//! - `smp`: further processors
//! - `clock`: time since power-on
//! - `devices`: the PCI functions that the guest was given
//! - `nvme`, `virtio`, `edu`, `igb`: drivers, which do what a guest's owner tells them, however wrong
//! - `exits`: instructions that leave the guest
//! - `paging`: a window of small pages; `trial`: code with registers and exceptions of one's choice, for the matrices
//! - `load`: the disk kept busy and checked, in the words of the Linux guest's program
//!
//! A guest trusts Baton: what does not work ends it with a line on its console. On the host the crate only
//! compiles, so that the workspace is checked as a whole.
#![no_std]

extern crate alloc;

pub mod apic;
pub mod clock;
pub mod console;
pub mod devices;
pub mod edu;
#[cfg(target_os = "none")]
mod entry;
pub mod exits;
pub mod igb;
pub mod interrupts;
pub mod load;
pub mod memory;
pub mod nvme;
pub mod paging;
pub mod smp;
pub mod trial;
pub mod virtio;

/// Brings the kit up and runs `main` with the kernel's command line.
#[cfg(target_os = "none")]
pub fn start(info: u64, main: fn(&str)) -> ! {
    console::init();
    smp::enlist(0);
    interrupts::init();
    main(entry::command_line(info));
    machine::cpu::interrupts::stop()
}

/// Makes a function what the guest runs. On the host the program says what it is for.
#[macro_export]
macro_rules! guest {
    ($main:ident) => {
        #[cfg(target_os = "none")]
        mod entry {
            #![expect(unsafe_code, reason = "the entry code calls it by this name")]

            // SAFETY: nothing else of the guest has this name.
            #[unsafe(no_mangle)]
            extern "C" fn guest_main(info: u64) -> ! {
                $crate::start(info, super::$main)
            }
        }

        #[cfg(not(target_os = "none"))]
        fn main() {
            // The guest's own code is compiled here, and never run.
            let _: fn(&str) = $main;
        }
    };
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("guest failed: {info}");
    machine::cpu::interrupts::stop()
}
