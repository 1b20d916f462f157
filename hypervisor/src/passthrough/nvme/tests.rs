//! The driver against the model of a controller.

extern crate std;

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeSet;

use super::admin::Admin;
use super::error::NvmeError;
use super::formats::Flexible;
use super::model::{Card, Handle, IOVA, Virtual, card};

type Driver = Admin<Handle, Handle, Handle>;

fn start(card: &Rc<Card>) -> Result<Driver, NvmeError> {
    let handle = Handle(card.clone());
    Admin::start(handle.clone(), handle.clone(), handle).map_err(|(error, _)| error)
}

fn online(card: &Rc<Card>, count: u16, namespaces: &[u32]) -> Result<(), NvmeError> {
    start(card)?.bring_online(count, namespaces)
}

/// All but Identify.
fn commands(card: &Card) -> Vec<(u8, u32, u32, u32)> {
    card.commands.borrow().iter().copied().filter(|command| command.0 != 0x06).collect()
}

/// What QEMU's documentation (docs/system/devices/nvme.rst) gives as the minimum, as command lines of nvme-cli.
fn virt_mgmt(controller: u32, resource: u32, action: u32, count: u32) -> (u8, u32, u32, u32) {
    (0x1c, 0, action | resource << 8 | controller << 16, count)
}

#[test]
fn start_programs_the_controller() {
    let card = card(1);
    let _admin = start(&card).unwrap();
    assert_eq!((card.get(0x28), card.get(0x30)), (IOVA, IOVA + 4096), "ASQ, ACQ");
    assert_eq!(card.get(0x24), 0x000f_000f, "AQA: entries less one");
    assert_eq!(card.get(0x14), 0x0046_0001, "CC");
    assert_eq!(card.get(0x0c), 0xffff_ffff, "INTMS");
    assert!(card.memory.borrow()[..8192].iter().all(|byte| *byte == 0), "queues begin empty");
}

#[test]
fn one_function_is_brought_online_as_documented() {
    let card = card(1);
    assert_eq!(start(&card).unwrap().release_flexible(), Ok(true));
    assert_eq!(commands(&card), [virt_mgmt(0, 0, 1, 0), virt_mgmt(0, 1, 1, 0)]);
    // The reset has made it so: nothing is left to release.
    assert_eq!(start(&card).unwrap().release_flexible(), Ok(false));
    card.commands.borrow_mut().clear();
    online(&card, 1, &[]).unwrap();
    assert_eq!(commands(&card), [virt_mgmt(1, 1, 8, 1), virt_mgmt(1, 0, 8, 2), virt_mgmt(1, 0, 9, 0)]);
    let expected = Virtual { id: 1, function: 1, online: true, queues: 2, interrupts: 1 };
    assert_eq!(*card.virtuals.borrow(), [expected]);
}

/// More than a list has room for, and more commands than the queues have entries.
#[test]
fn many_functions_get_equal_shares() {
    let card = card(255);
    start(&card).unwrap().release_flexible().unwrap();
    online(&card, 200, &[]).unwrap();
    let virtuals = card.virtuals.borrow();
    assert!(virtuals[..200].iter().all(|one| (one.online, one.queues, one.interrupts) == (true, 2, 1)));
    assert!(virtuals[200..].iter().all(|one| !one.online));
}

#[test]
fn shares_are_multiples_of_the_step_and_leave_the_primary_something() {
    let flexible = |total: u32, private: u16, most: u16, step: u16| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        bytes[10..12].copy_from_slice(&private.to_le_bytes());
        bytes[12..14].copy_from_slice(&most.to_le_bytes());
        bytes[14..16].copy_from_slice(&step.to_le_bytes());
        Flexible::read(bytes)
    };
    assert_eq!(flexible(34, 2, 16, 4).share(3), 8);
    assert_eq!(flexible(34, 2, 6, 4).share(3), 4);
    assert_eq!((flexible(34, 0, 16, 4).kept(), flexible(34, 0, 16, 4).share(3)), (4, 8));
    assert_eq!((flexible(u32::MAX, 1, u16::MAX, 0).share(1), flexible(0, 0, 9, 9).share(4)), (u16::MAX, 0));
    assert_eq!(flexible(4, 1, 2, 1).share(0), 0);
}

#[test]
fn namespaces_go_to_one_function_each_and_to_no_other() {
    let card = card(2);
    start(&card).unwrap().release_flexible().unwrap();
    let seen = |namespace| card.namespaces.borrow()[&namespace].iter().copied().collect::<Vec<u16>>();
    // As another host left them: crossed, and one for all.
    *card.namespaces.borrow_mut() =
        [(1, BTreeSet::from([2])), (2, BTreeSet::from([1])), (3, BTreeSet::from([0, 1, 2]))].into();
    online(&card, 2, &[1, 2]).unwrap();
    assert_eq!((seen(1), seen(2), seen(3)), (vec![1], vec![2], vec![0]));
    // Once more, as after a restart: what is so already stays.
    card.commands.borrow_mut().clear();
    online(&card, 2, &[1, 2]).unwrap();
    assert_eq!((seen(1), seen(2), seen(3)), (vec![1], vec![2], vec![0]));
    let taken = online(&card, 2, &[3, 2]).unwrap_err();
    assert_eq!(taken, NvmeError::Namespace { namespace: 3, status: 0x119 });
    let absent = online(&card, 2, &[9, 2]).unwrap_err();
    assert!(absent.to_string().contains("namespace 9 can't be given") && absent.to_string().contains("0x00b"));
    assert!(card.virtuals.borrow().iter().all(|one| !one.online), "none is left online");
}

#[test]
fn a_start_that_fails_is_told_and_bounded() {
    let with = |set: &dyn Fn(&Card)| {
        let card = card(1);
        set(&card);
        start(&card).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(&|card| card.cap.set(u64::MAX)), NvmeError::Absent);
    assert_eq!(with(&|card| card.hangs.set(true)), NvmeError::NotReady { wanted: true, ms: 7_500 });
    assert_eq!(with(&|card| card.fatal.set(true)), NvmeError::Fatal);
    let large = with(&|card| card.cap.set(card.cap.get() | 1 << 48));
    assert!(large.to_string().contains("CAP.MPSMIN"), "{large}");
}

#[test]
fn a_command_that_fails_is_told_and_bounded() {
    let with = |set: &dyn Fn(&Card)| {
        let card = card(2);
        start(&card).unwrap().release_flexible().unwrap();
        set(&card);
        online(&card, 2, &[]).unwrap_err()
    };
    assert_eq!(with(&|card| card.silent.set(Some(0x1c))), NvmeError::Silent { opcode: 0x1c, ms: 10_000 });
    assert_eq!(with(&|card| card.confused.set(true)), NvmeError::Confused { opcode: 0x06 });
    assert_eq!(with(&|card| card.refuses.set(Some((0x06, 0x002)))), NvmeError::Refused { opcode: 0x06, status: 0x002 });
    assert_eq!(with(&|card| card.lies.set(true)), NvmeError::NotOnline { function: 0 });
    let few = with(&|card| card.flexible.set([(3, 0, 2), (2, 0, 1)]));
    assert_eq!(few, NvmeError::TooFew { what: "queues", each: 1, needed: 2 });
    assert!(few.to_string().contains("1 queues for each"));
}

/// What a list of secondary controllers can claim: none is believed beyond its room, and every walk ends.
#[test]
fn lists_that_cannot_be_end() {
    let with = |list: Vec<u8>| {
        let card = card(2);
        start(&card).unwrap().release_flexible().unwrap();
        *card.list.borrow_mut() = Some(list);
        let error = online(&card, 2, &[]).unwrap_err();
        (error, card.commands.borrow().len())
    };
    let entries = |count: u8, of: &dyn Fn(u8) -> (u16, u16)| {
        let mut list = vec![count; 32];
        for index in 0..127 {
            let (id, function) = of(index);
            let mut entry = [0; 32];
            entry[..2].copy_from_slice(&id.to_le_bytes());
            entry[8..10].copy_from_slice(&function.to_le_bytes());
            list.extend(entry);
        }
        list
    };
    assert_eq!(with(vec![0; 4096]).0, NvmeError::NoController { function: 0 });
    assert_eq!(with(vec![0xff; 4096]).0, NvmeError::NoController { function: 0 });
    assert_eq!(with(entries(2, &|index| (index.into(), 1))).0, NvmeError::NoController { function: 0 }, "two in one");
    let (error, asked) = with(entries(127, &|index| (u16::from(index) + 1, 1 + u16::from(index > 0) * 9)));
    assert_eq!((error, asked < 40), (NvmeError::NoController { function: 1 }, true), "{asked} commands");
}
