//! A guest without devices, which works the processor: a line now and then, `beat <n> t=<ns> timers=<n> ...`, for as long as everything is
//! what it was. Whatever is not ends it with `guest failed: ...`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![expect(unsafe_code, reason = "MSRs, control registers and page tables of its own")]

use bareguest::memory::Frames;
use bareguest::{clock, guest, interrupts, println};
use machine::cpu::{control, ids, msr, tlb};

guest!(run);

/// Between two lines.
const INTERVAL_MS: u64 = 50;
/// Naps in it.
const NAPS: u64 = 5;
/// Where KVM's leaves begin, and what they say: `KVMKVMKVM`.
const KVM_LEAF: u32 = 0x4000_0000;
const KVM: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
/// LSTAR: of a guest in one privilege level nobody else's.
const LSTAR: u32 = 0xc000_0082;
/// CR4.PGE: turned off, the TLB is flushed.
const PGE: u64 = 1 << 7;

fn run(_: &str) {
    let page = Frames::take(1);
    let mut last = clock::now_ns();
    for beat in 1u64.. {
        let stamp = beat.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let address = stamp & 0x7fff_ffff_f000;
        // SAFETY: nothing of the guest's uses SYSCALL.
        unsafe { msr::write(LSTAR, address) };
        (0..page.words()).for_each(|word| page.write(word, stamp ^ word as u64));
        (0..NAPS).for_each(|_| interrupts::sleep_ms(INTERVAL_MS / NAPS));
        // SAFETY: as above.
        assert_eq!(unsafe { msr::read(LSTAR) }, address, "an MSR has changed");
        assert!((0..page.words()).all(|word| page.read(word) == stamp ^ word as u64), "memory has changed");
        let kvm = ids::raw(KVM_LEAF, 0);
        assert_eq!([kvm.ebx, kvm.ecx, kvm.edx], KVM, "CPUID has changed");
        // SAFETY: global pages exist wherever long mode does; the guest has none.
        unsafe {
            let cr4 = control::cr4();
            control::set_cr4(cr4 ^ PGE);
            control::set_cr4(cr4);
            assert_eq!(control::cr4(), cr4, "CR4 has changed");
        }
        tlb::invalidate(page.address());
        let now = clock::now_ns();
        assert!(now > last, "time goes backwards: {last}, then {now}");
        println!("beat {beat} t={now} timers={} step_us={}", interrupts::count(interrupts::TIMER), (now - last) / 1000);
        last = now;
    }
}
