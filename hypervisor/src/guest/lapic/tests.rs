//! The LAPIC against the SDM's rules, with the register writes Linux makes.

use super::*;
use crate::guest::message::{DeliveryMode, Destination, InterruptMessage};
use crate::vcpu::bus::GeneralProtection;
use proptest::prelude::*;

fn lapic() -> Lapic {
    let mut lapic = Lapic::new(0, 1, Arc::new(PendingVectors::new()));
    write(&mut lapic, 0x80F, 0x1FF);
    lapic
}

fn write(lapic: &mut Lapic, msr: u32, value: u64) {
    assert_eq!(lapic.msr_write(msr, value, 0), Ok(Effect::None), "{msr:#x}");
}

fn read(lapic: &mut Lapic, msr: u32) -> u64 {
    lapic.msr_read(msr, 0).expect("readable")
}

#[test]
fn power_on_state() {
    let mut bsp = Lapic::new(0, 1, Arc::new(PendingVectors::new()));
    assert_eq!(read(&mut bsp, 0x1B), 0xFEE0_0D00);
    assert_eq!(read(&mut bsp, 0x80F), 0xFF);
    assert_eq!(read(&mut bsp, 0x803) & 0xFF, 0x14);
    for msr in 0x832..=0x837 {
        assert_eq!(read(&mut bsp, msr), 0x1_0000);
    }
    let mut ap = Lapic::new(0x15, 1, Arc::new(PendingVectors::new()));
    assert_eq!(read(&mut ap, 0x1B), 0xFEE0_0C00);
    assert_eq!(read(&mut ap, 0x802), 0x15);
    assert_eq!(read(&mut ap, 0x80D), 0x0001_0020);
}

#[test]
fn nothing_that_waits_is_quiet() {
    let mut lapic = lapic();
    assert!(lapic.is_quiet());
    lapic.mailbox().post(0x31);
    assert!(!lapic.is_quiet(), "posted");
    lapic.set_task_priority(3);
    assert_eq!(lapic.pending_interrupt(), None);
    assert!(!lapic.is_quiet(), "it waits for its priority");
    lapic.set_task_priority(0);
    assert_eq!(lapic.pending_interrupt(), Some(0x31));
    lapic.interrupt_accepted(0x31);
    assert!(lapic.is_quiet(), "in service");
    lapic.mailbox().post(0x32);
    assert_eq!(lapic.pending_interrupt(), None);
    assert!(!lapic.is_quiet(), "it waits for the EOI of its class");
    write(&mut lapic, 0x80B, 0);
    assert_eq!(lapic.pending_interrupt(), Some(0x32));
    lapic.interrupt_accepted(0x32);
    write(&mut lapic, 0x80B, 0);
    for (post, take) in [
        (PendingVectors::post_nmi as fn(&PendingVectors), (|l: &mut Lapic| assert!(l.take_nmi())) as fn(&mut Lapic)),
        (PendingVectors::post_init, |l| assert_eq!(l.mailbox().take_startup(), Some(StartupEvent::Init))),
        (|m| m.post_startup(0), |l| assert_eq!(l.mailbox().take_startup(), Some(StartupEvent::Startup { page: 0 }))),
        (|m| m.post(3), |l| assert_eq!((l.pending_interrupt(), read(l, 0x828)), (None, 0))),
    ] {
        post(lapic.mailbox());
        assert!(!lapic.is_quiet());
        take(&mut lapic);
        assert!(lapic.is_quiet());
    }
    // Its own timer.
    write(&mut lapic, 0x832, 0x40);
    write(&mut lapic, 0x838, 100);
    assert!(lapic.is_quiet() && lapic.expire(1_000) && !lapic.is_quiet());
}

#[test]
fn priorities_and_nesting() {
    let mut lapic = lapic();
    lapic.mailbox().post(0x35);
    lapic.mailbox().post(0x31);
    assert_eq!(lapic.pending_interrupt(), Some(0x35));
    lapic.interrupt_accepted(0x35);
    // 0x31 is of the same class: it waits for the EOI. 0x41 does not.
    assert_eq!(lapic.pending_interrupt(), None);
    lapic.mailbox().post(0x41);
    assert_eq!(lapic.pending_interrupt(), Some(0x41));
    lapic.interrupt_accepted(0x41);
    assert_eq!(read(&mut lapic, 0x80A), 0x40);
    write(&mut lapic, 0x80B, 0);
    assert_eq!(read(&mut lapic, 0x80A), 0x30);
    write(&mut lapic, 0x80B, 0);
    assert_eq!(lapic.pending_interrupt(), Some(0x31));
    lapic.set_task_priority(3);
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(read(&mut lapic, 0x808), 0x30);
    assert_eq!(read(&mut lapic, 0x821), 1 << 0x11);
    lapic.set_task_priority(2);
    assert_eq!(lapic.pending_interrupt(), Some(0x31));
}

#[test]
fn level_interrupts_broadcast_their_end() {
    let mut lapic = lapic();
    lapic.mailbox().post_level(0x52);
    assert_eq!(lapic.pending_interrupt(), Some(0x52));
    lapic.interrupt_accepted(0x52);
    assert_eq!(read(&mut lapic, 0x81A), 1 << 0x12);
    assert_eq!(lapic.msr_write(0x80B, 0, 0), Ok(Effect::Eoi(0x52)));
    lapic.mailbox().post(0x52);
    assert_eq!(lapic.pending_interrupt(), Some(0x52));
    lapic.interrupt_accepted(0x52);
    assert_eq!(lapic.msr_write(0x80B, 0, 0), Ok(Effect::None));
}

#[test]
fn software_disable_drops_vectors_and_masks_lvts() {
    let mut lapic = lapic();
    write(&mut lapic, 0x832, 0xEC);
    write(&mut lapic, 0x80F, 0xFF);
    assert_eq!(read(&mut lapic, 0x832), 0x1_00EC);
    write(&mut lapic, 0x832, 0xEC);
    assert_eq!(read(&mut lapic, 0x832), 0x1_00EC);
    lapic.mailbox().post(0x40);
    lapic.mailbox().post_nmi();
    assert_eq!(lapic.pending_interrupt(), None);
    assert!(lapic.take_nmi());
    write(&mut lapic, 0x80F, 0x1FF);
    assert_eq!(lapic.pending_interrupt(), None);
}

#[test]
fn interprocessor_interrupts() {
    let mut lapic = Lapic::new(3, 1, Arc::new(PendingVectors::new()));
    write(&mut lapic, 0x80F, 0x1FF);
    let cases = [
        (0x0000_0002_0000_00FD, 0xFD, DeliveryMode::Fixed, Destination::Physical(2)),
        (0x0000_0003_0000_08FC, 0xFC, DeliveryMode::Fixed, Destination::Logical(3)),
        (0x0000_0000_000C_00FB, 0xFB, DeliveryMode::Fixed, Destination::AllBut(3)),
        (0x0000_0000_0008_00FA, 0xFA, DeliveryMode::Fixed, Destination::All),
        (0x0000_0000_0004_00F9, 0xF9, DeliveryMode::Fixed, Destination::Physical(3)),
        (0x0000_0001_0000_0400, 0x00, DeliveryMode::Nmi, Destination::Physical(1)),
        // Linux wakeup_secondary_cpu_via_init: assert INIT, then SIPI for page 0x9A.
        (0x0000_0001_0000_C500, 0x00, DeliveryMode::Init, Destination::Physical(1)),
        (0x0000_0001_0000_069A, 0x9A, DeliveryMode::Startup, Destination::Physical(1)),
    ];
    for (value, vector, mode, destination) in cases {
        let message = InterruptMessage { vector, mode, destination, level: false };
        assert_eq!(lapic.msr_write(0x830, value, 0), Ok(Effect::Ipi(message)), "{value:#x}");
        assert_eq!(read(&mut lapic, 0x830), value);
    }
    // INIT de-assert does nothing.
    write(&mut lapic, 0x830, 0x0000_0001_0000_8500);
    assert_eq!(lapic.msr_write(0x830, 1 << 13, 0), Err(GeneralProtection));
    write(&mut lapic, 0x83F, 0x77);
    assert_eq!(lapic.pending_interrupt(), Some(0x77));
}

#[test]
fn errors_are_latched_by_writing_esr() {
    let mut lapic = lapic();
    write(&mut lapic, 0x837, 0xFE);
    write(&mut lapic, 0x830, 0x05);
    assert_eq!(lapic.pending_interrupt(), Some(0xFE));
    assert_eq!(read(&mut lapic, 0x828), 0);
    write(&mut lapic, 0x828, 0);
    assert_eq!(read(&mut lapic, 0x828), 0x20);
    lapic.mailbox().post(3);
    assert_eq!(lapic.msr_read(0x828, 0), Ok(0x20));
    write(&mut lapic, 0x828, 0);
    assert_eq!(read(&mut lapic, 0x828), 0x40);
    write(&mut lapic, 0x828, 0);
    assert_eq!(read(&mut lapic, 0x828), 0);
}

#[test]
fn deadline_timer_as_linux_uses_it() {
    let mut lapic = lapic();
    write(&mut lapic, 0x832, 0x4_00EC);
    assert_eq!(lapic.msr_write(0x6E0, 5_000, 1_000), Ok(Effect::None));
    assert_eq!(lapic.msr_read(0x6E0, 1_000), Ok(5_000));
    assert_eq!(lapic.next_deadline(), Some(5_000));
    assert!(!lapic.expire(4_999));
    assert!(lapic.expire(5_000));
    assert_eq!(lapic.pending_interrupt(), Some(0xEC));
    assert_eq!(lapic.msr_read(0x6E0, 5_001), Ok(0));
    // Armed in the past: fires at once. Zero disarms.
    lapic.interrupt_accepted(0xEC);
    write(&mut lapic, 0x80B, 0);
    assert_eq!(lapic.msr_write(0x6E0, 5_500, 6_000), Ok(Effect::None));
    assert_eq!(lapic.pending_interrupt(), Some(0xEC));
    assert_eq!(lapic.msr_write(0x6E0, 9_000, 6_000), Ok(Effect::None));
    assert_eq!(lapic.msr_write(0x6E0, 0, 6_000), Ok(Effect::None));
    assert_eq!(lapic.next_deadline(), None);
    // In another mode the MSR reads zero and takes no value.
    write(&mut lapic, 0x832, 0x0_00EC);
    assert_eq!(lapic.msr_write(0x6E0, 9_000, 6_000), Ok(Effect::None));
    assert_eq!(lapic.next_deadline(), None);
}

#[test]
fn one_shot_as_linux_calibrates() {
    let mut lapic = lapic();
    write(&mut lapic, 0x83E, 0b0011);
    write(&mut lapic, 0x832, 0x1_00EC);
    assert_eq!(lapic.msr_write(0x838, 0xFFFF_FFFF, 1_000), Ok(Effect::None));
    assert_eq!(lapic.msr_read(0x839, 1_000 + 16 * 1_000), Ok(0xFFFF_FFFF - 1_000));
    // A masked timer counts but does not signal.
    write(&mut lapic, 0x838, 1);
    assert!(lapic.expire(100_000));
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(lapic.msr_read(0x839, 100_000), Ok(0));
}

#[test]
fn what_was_due_before_a_write_is_judged_by_what_stood_before_it() {
    // SDM 3A 11.5.4: at zero an interrupt is generated, if it is not masked then. Nobody has looked at the timer meanwhile.
    let at = |lapic: &mut Lapic, msr, value, now| assert_eq!(lapic.msr_write(msr, value, now), Ok(Effect::None));
    let armed = |entry: u64| {
        let mut lapic = lapic();
        at(&mut lapic, 0x83E, 0b1011, 0);
        at(&mut lapic, 0x832, entry, 0);
        at(&mut lapic, 0x838, 100, 0);
        lapic
    };
    // Masked until after it was due: gone.
    let mut lapic = armed(0x1_0020);
    at(&mut lapic, 0x832, 0x20, 101);
    assert!(!lapic.expire(1_000));
    assert_eq!(lapic.pending_interrupt(), None);
    // Masked, stopped, set anew, slowed down, switched off after it was due: it has fired.
    for (msr, value) in [(0x832, 0x1_0020), (0x838, 0), (0x838, 5), (0x83E, 0b0011), (0x832, 0x4_0020)] {
        let mut lapic = armed(0x20);
        at(&mut lapic, msr, value, 101);
        assert_eq!(lapic.pending_interrupt(), Some(0x20), "{msr:#x} = {value:#x}");
    }
    // So with a deadline that is moved or withdrawn too late.
    for value in [0, 1_000] {
        let mut lapic = armed(0x4_0020);
        at(&mut lapic, 0x6E0, 100, 0);
        at(&mut lapic, 0x6E0, value, 101);
        assert_eq!(lapic.pending_interrupt(), Some(0x20), "{value}");
    }
}

#[test]
fn reserved_and_read_only_registers_fault() {
    let mut lapic = lapic();
    for msr in [0x800, 0x801, 0x804, 0x80B, 0x80C, 0x80E, 0x829, 0x82F, 0x831, 0x83A, 0x83F] {
        assert_eq!(lapic.msr_read(msr, 0), Err(GeneralProtection), "{msr:#x}");
    }
    for (msr, value) in [(0x802, 0), (0x803, 0), (0x80A, 0), (0x80D, 0), (0x810, 0), (0x820, 0), (0x839, 0), (0x831, 0)]
    {
        assert_eq!(lapic.msr_write(msr, value, 0), Err(GeneralProtection), "{msr:#x}");
    }
    for (msr, value) in
        [(0x80B, 1), (0x828, 1), (0x808, 0x100), (0x832, 1 << 20), (0x83E, 4), (0x838, 1 << 32), (0x83F, 256)]
    {
        assert_eq!(lapic.msr_write(msr, value, 0), Err(GeneralProtection), "{msr:#x}");
    }
}

#[test]
fn what_is_posted_before_the_lapic_exists_is_kept() {
    let mailbox = Arc::new(PendingVectors::new());
    let mut old = lapic();
    mailbox.post(0x45);
    let mut new = Lapic::new(0, 1, mailbox);
    assert_eq!(new.restore(&old.save()), Ok(()));
    assert_eq!(new.pending_interrupt(), Some(0x45));
    new.mailbox().post(0x46);
    new.reset();
    write(&mut new, 0x80F, 0x1FF);
    assert_eq!(new.pending_interrupt(), None);
}

#[test]
fn mode_changes() {
    let mut lapic = lapic();
    // x2APIC to xAPIC, a moved page, x2APIC without enable: faults (SDM 3A figure 11-23).
    for value in [0xFEE0_0900_u64, 0xFED0_0D00, 0xFEE0_0500, 0xFEE0_0C00] {
        assert_eq!(lapic.msr_write(0x1B, value, 0), Err(GeneralProtection), "{value:#x}");
    }
    write(&mut lapic, 0x1B, 0xFEE0_0100);
    assert_eq!(lapic.msr_read(0x802, 0), Err(GeneralProtection));
    assert_eq!(lapic.msr_write(0x1B, 0xFEE0_0D00, 0), Err(GeneralProtection));
    write(&mut lapic, 0x1B, 0xFEE0_0900);
    write(&mut lapic, 0x1B, 0xFEE0_0D00);
    assert_eq!(read(&mut lapic, 0x80F), 0xFF);
}

#[test]
fn save_and_restore() {
    let mut old = lapic();
    write(&mut old, 0x832, 0x4_00EC);
    assert_eq!(old.msr_write(0x6E0, 5_000, 1_000), Ok(Effect::None));
    old.mailbox().post_level(0x52);
    assert_eq!(old.pending_interrupt(), Some(0x52));
    old.interrupt_accepted(0x52);
    old.mailbox().post(0x61);
    old.mailbox().post_nmi();
    old.mailbox().post_startup(0x9A);
    old.set_task_priority(1);
    let state = old.save();

    let mut new = Lapic::new(0, 1, Arc::new(PendingVectors::new()));
    new.restore(&state).expect("valid");
    assert_eq!(new.save(), state);
    assert_eq!(new.next_deadline(), Some(5_000));
    assert_eq!(new.pending_interrupt(), Some(0x61));
    assert!(new.take_nmi());
    assert_eq!(new.mailbox().take_startup(), Some(StartupEvent::Startup { page: 0x9A }));
    assert_eq!(new.msr_write(0x80B, 0, 0), Ok(Effect::Eoi(0x52)));

    let mut other = Lapic::new(1, 1, Arc::new(PendingVectors::new()));
    assert_eq!(other.restore(&state), Err(LapicStateError::WrongId { record: 0, expected: 1 }));
    let damaged = LapicState { irr: [1; 8], ..state };
    assert_eq!(new.restore(&damaged), Err(LapicStateError::LowVector));
    let damaged = LapicState { lvt: [u32::MAX; 6], ..state };
    assert!(matches!(new.restore(&damaged), Err(LapicStateError::Reserved { register: "LVT", .. })));
}

proptest! {
    #[test]
    fn nothing_a_guest_writes_panics(
        accesses in proptest::collection::vec((0usize..4, 0x7FEu32..0x842, any::<u64>(), 0u32..64, any::<u64>()), 1..200)
    ) {
        let mut lapic = lapic();
        for (kind, msr, value, shift, now) in accesses {
            let msr = if msr < 0x800 { if msr & 1 == 0 { 0x1B } else { 0x6E0 } } else { msr };
            match kind {
                0 => { let _ = lapic.msr_read(msr, now); }
                1 => { let _ = lapic.msr_write(msr, value >> shift, now); }
                2 => lapic.mailbox().post(value as u8),
                _ => {
                    lapic.expire(now);
                    if let Some(vector) = lapic.pending_interrupt() {
                        prop_assert!(vector >= 16);
                        lapic.interrupt_accepted(vector);
                    }
                }
            }
        }
        let state = lapic.save();
        prop_assert_eq!(lapic.restore(&state), Ok(()));
        prop_assert_eq!(lapic.save(), state);
    }
}
