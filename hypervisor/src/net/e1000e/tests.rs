//! The driver against the model of its card.

extern crate std;

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::nic::{MAX_FRAME, Nic, NicError};
use super::model::{Card, Handle, IOVA, card};
use super::{DMA_BYTES, E1000e};

type Driver = E1000e<Handle, Handle, Handle>;

fn start(card: &Rc<Card>) -> Result<Driver, NicError> {
    let handle = Handle(card.clone());
    E1000e::new(handle.clone(), handle.clone(), handle)
}

fn running() -> (Rc<Card>, Driver) {
    let card = card(DMA_BYTES);
    let nic = start(&card).expect("starts");
    (card, nic)
}

fn frame(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (seed * 31 + index) as u8).collect()
}

fn receive(nic: &mut Driver) -> Option<Vec<u8>> {
    let mut buffer = [0; MAX_FRAME];
    nic.receive(&mut buffer).map(|length| buffer[..length].to_vec())
}

#[test]
fn start_programs_the_card() {
    let (card, nic) = running();
    assert_eq!(nic.mac(), card.mac);
    assert!(nic.link_up());
    assert_eq!(card.get(0x100), 0x0400_8002, "RCTL: EN, BAM, SECRC, 2 KiB");
    assert_eq!(card.get(0x400), 0x0003_f0fa, "TCTL: EN, PSP, CT 15, COLD 63");
    assert_eq!(card.get(0x3828), 0x0141_0000, "TXDCTL");
    assert_eq!(card.get(0x2808), 1024, "RDLEN");
    assert_eq!(card.get(0x3808), 1024, "TDLEN");
    assert_eq!(u64::from(card.get(0x2804)) << 32 | u64::from(card.get(0x2800)), IOVA);
    assert_eq!(u64::from(card.get(0x3804)) << 32 | u64::from(card.get(0x3800)), IOVA + 1024);
    assert_eq!((card.get(0x2810), card.get(0x2818)), (0, 63), "all descriptors but one are the card's");
    assert_eq!(card.get(0xd0), 0xd4, "IMS: LSC, RXDMT0, RXO, RXT0");
    assert_eq!((card.get(0x5200), card.get(0x53fc)), (0, 0), "MTA cleared to its ends");
    assert_eq!(card.get(0) & (1 << 2 | 1 << 31), 0, "mastering on, PHY not in reset");
    assert_ne!(card.get(0x18) & 1 << 28, 0, "DRV_LOAD");
    // Interrupts are let in last.
    assert_eq!(card.writes.borrow().last(), Some(&0xd0));
}

#[test]
fn start_errors_are_told_and_bounded() {
    let on = |prepare: &dyn Fn(&Card)| {
        let card = card(DMA_BYTES);
        prepare(&card);
        let error = start(&card).err().expect("refused");
        // 10 ticks make a millisecond; no wait exceeds 100 ms.
        assert!(card.time.get() < 4_000);
        assert_eq!(card.get(0x100) & 2, 0, "receiver off");
        assert!(error.to_string().contains("hardware"), "{error}");
        error
    };
    assert_eq!(on(&|card| card.absent.set(true)), NicError::Absent);
    assert_eq!(on(&|card| card.reset_hangs.set(true)), NicError::ResetTimeout(100));
    assert_eq!(on(&|card| card.eeprom_hangs.set(true)), NicError::EepromTimeout(100));
    let error = on(&|card| card.address_valid.set(false));
    assert_eq!(error, NicError::NoAddress([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]));
    let error = start(&card(DMA_BYTES - 1)).err();
    assert_eq!(error, Some(NicError::DmaTooSmall { needed: 266_240, given: 266_239 }));
}

#[test]
fn a_card_that_is_not_quiet_is_reset_all_the_same() {
    let card = card(DMA_BYTES);
    card.never_quiet.set(true);
    assert!(start(&card).is_ok());
}

#[test]
fn frames_are_received_round_the_ring() {
    let (card, mut nic) = running();
    assert_eq!(receive(&mut nic), None);
    for number in 0..200 {
        let frame = frame(number, 60 + number);
        assert!(card.deliver(&frame));
        assert_eq!(receive(&mut nic), Some(frame), "frame {number}");
    }
    assert_eq!(receive(&mut nic), None);
    assert_eq!(card.overruns.get(), 0);
}

#[test]
fn a_full_ring_holds_63_frames_and_recovers() {
    let (card, mut nic) = running();
    for round in 0..3 {
        for number in 0..63 {
            assert!(card.deliver(&frame(number + round, 100)), "{round} {number}");
        }
        assert!(!card.deliver(&frame(0, 100)));
        for number in 0..63 {
            assert_eq!(receive(&mut nic), Some(frame(number + round, 100)));
        }
        assert_eq!(receive(&mut nic), None);
    }
}

#[test]
fn frames_are_sent_round_the_ring() {
    let (card, mut nic) = running();
    for number in 0..200 {
        assert!(nic.transmit(&frame(number, 14 + number)));
    }
    let sent = card.sent.borrow();
    assert_eq!(sent.len(), 200);
    for (number, sent) in sent.iter().enumerate() {
        assert_eq!(*sent, frame(number, 14 + number));
    }
}

#[test]
fn a_card_that_reports_nothing_as_sent_fills_up() {
    let (card, mut nic) = running();
    card.tx_hangs.set(true);
    for _ in 0..63 {
        assert!(nic.transmit_ready() && nic.transmit(&[1; 60]));
    }
    assert!(!nic.transmit_ready() && !nic.transmit(&[1; 60]));
    // Reported out of order: the oldest one decides.
    let at = |index: usize| 1024 + 16 * index + 8;
    card.poke(at(1), 1 << 32);
    assert!(!nic.transmit_ready());
    card.poke(at(0), 1 << 32);
    assert!(nic.transmit_ready());
    // A restart empties the ring.
    card.tx_hangs.set(false);
    nic.start().expect("starts");
    for _ in 0..100 {
        assert!(nic.transmit(&[2; 60]));
    }
}

#[test]
fn frames_that_cannot_be_sent_are_not_taken() {
    let (card, mut nic) = running();
    assert!(!nic.transmit(&[]));
    assert!(!nic.transmit(&[0; MAX_FRAME + 1]));
    assert!(nic.transmit(&[0; MAX_FRAME]));
    assert_eq!(card.sent.borrow().len(), 1);
}

#[test]
fn hostile_descriptors_are_dropped() {
    let (card, mut nic) = running();
    let good = frame(9, 64);
    let bytes = vec![0x55; 2000];
    // Lengths no frame can have; CE, SE, SEQ, CXE and RXE errors.
    for (length, errors) in [(0, 0), (13, 0), (1515, 0), (2048, 0), (0xffff, 0)]
        .into_iter()
        .chain([0x01, 0x02, 0x04, 0x10, 0x80].map(|errors| (64, errors)))
    {
        assert!(card.deliver_as(&bytes, length, 3, errors));
        assert!(card.deliver(&good));
        assert_eq!(receive(&mut nic), Some(good.clone()), "{length} {errors:#x}");
        assert_eq!(receive(&mut nic), None);
    }
    // A frame in three parts: none of them is a frame.
    for status in [1, 1, 3] {
        assert!(card.deliver_as(&bytes, 600, status, 0));
    }
    assert!(card.deliver(&good));
    assert_eq!(receive(&mut nic), Some(good.clone()));
    // Checksum errors of the payload are TCP/IP's business.
    assert!(card.deliver_as(&good, 64, 3, 0x60));
    assert_eq!(receive(&mut nic), Some(good));
}

#[test]
fn a_ring_full_of_bad_descriptors_is_left_after_one_round() {
    let (card, mut nic) = running();
    for index in 0..64 {
        card.poke(16 * index + 8, 3 << 32);
    }
    // All 64 claim to be done; the driver clears each and comes to an end.
    assert_eq!(receive(&mut nic), None);
    for index in 0..64 {
        assert_eq!(card.memory.borrow()[16 * index + 8..16 * index + 16], [0; 8]);
    }
}

#[test]
fn every_frame_raises_an_interrupt_again_after_the_acknowledgement() {
    let (card, mut nic) = running();
    assert!(card.raise(1 << 7));
    assert!(!card.raise(1 << 7), "pending: no second message");
    nic.acknowledge_interrupt();
    assert!(card.raise(1 << 7));
}

#[test]
fn stop_is_quiet() {
    let (card, mut nic) = running();
    nic.stop().expect("quiet");
    assert_eq!((card.get(0x100) & 2, card.get(0x400) & 2), (0, 0), "engines off");
    assert_eq!(card.get(0xd0), 0, "all masked");
    assert_eq!(card.get(0x18) & 1 << 28, 0, "DRV_LOAD given back");
    assert!(!card.deliver(&frame(0, 64)));
    assert!(!card.raise(1 << 7));
    let before = card.sent.borrow().len();
    nic.transmit(&[0; 60]);
    assert_eq!(card.sent.borrow().len(), before);

    // And back, as after a rollback.
    nic.start().expect("starts");
    assert!(card.deliver(&frame(1, 64)));
    assert_eq!(receive(&mut nic), Some(frame(1, 64)));
    assert!(nic.transmit(&frame(2, 64)));
    assert_eq!(card.sent.borrow().last(), Some(&frame(2, 64)));
}

#[test]
fn stop_tells_when_the_card_does_not_rest() {
    let (card, mut nic) = running();
    card.never_quiet.set(true);
    let before = card.time.get();
    assert_eq!(nic.stop(), Err(NicError::NotQuiet(80)));
    assert!(card.time.get() - before < 2_000);
    assert_eq!(card.get(0xd0), 0, "interrupts are masked all the same");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_memory_contents_are_survived(
        words in proptest::collection::vec((0_usize..256, any::<u64>()), 0..300),
    ) {
        let (card, mut nic) = running();
        for (index, value) in words {
            card.poke(8 * index, value);
            if let Some(frame) = receive(&mut nic) {
                prop_assert!((14..=MAX_FRAME).contains(&frame.len()));
            }
            nic.transmit_ready();
        }
    }
}
