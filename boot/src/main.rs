//! Every way into the image. Each entry ends in [`hypervisor::run`] with a
//! [`BootInfo`](hypervisor::boot_info::BootInfo); behind it nobody knows which one it was.
//!
//! - `multiboot`: iPXE, GRUB, QEMU `-kernel` (32-bit entry)
//! - `upgrade`: the jump from the image before this one (64-bit entry)
//! - `ap`: the real-mode start of application processors
//! - `note`: what the image says about itself to the one that stages it
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod ap;
#[cfg(target_os = "none")]
mod image;
#[cfg(target_os = "none")]
mod multiboot;
#[cfg(target_os = "none")]
mod note;
#[cfg(target_os = "none")]
mod upgrade;

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hypervisor::panic(info)
}

/// On the host there is nothing to boot; the binary exists so that the workspace builds as a whole.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("baton boots bare machines: build the image with ./x image");
    std::process::exit(2);
}
