//! Virtualization enhancements, NVM Express base specification 1.4 [8.5]: a virtual function is a secondary controller,
//! offline until its primary controller has given it queues and interrupts.

use alloc::vec::Vec;

use machine::access::{Clock, Registers};

use super::admin::{Admin, Command};
use super::error::NvmeError;
use super::formats::{Flexible, INTERRUPTS_AT, LIST_ENTRIES, LIST_ENTRY, QUEUES_AT, Secondary};
use crate::net::dma::DmaMemory;

/// Opcodes [5].
const VIRTUALIZATION_MANAGEMENT: u8 = 0x1c;
const NAMESPACE_ATTACHMENT: u8 = 0x15;
/// Actions of Virtualization Management [5.22].
const PRIMARY_FLEXIBLE: u32 = 1;
const SECONDARY_OFFLINE: u32 = 7;
const SECONDARY_ASSIGN: u32 = 8;
const SECONDARY_ONLINE: u32 = 9;
/// Actions of Namespace Attachment [5.19].
const ATTACH: u32 = 0;
const DETACH: u32 = 1;
/// Its status for what is so already [5.19.2]: type 1, code 18h.
const ALREADY_ATTACHED: u16 = 0x118;
/// Structures of Identify [5.15.1].
const ALLOCATED_NAMESPACES: u8 = 0x10;
const ATTACHED_CONTROLLERS: u8 = 0x12;
const PRIMARY: u8 = 0x14;
const SECONDARIES: u8 = 0x15;
/// Ids in a list of namespaces, and of controllers, its count apart.
const NAMESPACES: usize = 1024;
const CONTROLLERS: usize = 2047;
/// Lists of secondary controllers that are looked through: more than there can be virtual functions.
const LISTS: usize = 16;
/// What a secondary controller needs at least: an admin and an I/O queue, an interrupt.
const QUEUES_NEEDED: u16 = 2;
const INTERRUPTS_NEEDED: u16 = 1;

/// A kind of resource, as commands name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Queues = 0,
    Interrupts = 1,
}

/// The primary controller's.
struct Primary {
    controller: u16,
    queues: Option<Flexible>,
    interrupts: Option<Flexible>,
}

impl Primary {
    fn each(&self) -> impl Iterator<Item = (Kind, Flexible)> {
        let queues = self.queues.map(|queues| (Kind::Queues, queues));
        queues.into_iter().chain(self.interrupts.map(|interrupts| (Kind::Interrupts, interrupts)))
    }
}

impl<R: Registers, M: DmaMemory, C: Clock> Admin<R, M, C> {
    fn primary(&mut self) -> Result<Primary, NvmeError> {
        self.identify(PRIMARY, 0, 0)?;
        let [c0, c1, _, _, kinds] = self.data(0);
        let of = |bit: u8, at| (kinds & bit != 0).then(|| Flexible::read(self.data(at)));
        Ok(Primary {
            controller: u16::from_le_bytes([c0, c1]),
            queues: of(1, QUEUES_AT),
            interrupts: of(2, INTERRUPTS_AT),
        })
    }

    fn manage(&mut self, controller: u16, kind: Kind, action: u32, count: u16) -> Result<(), NvmeError> {
        let words = [action | (kind as u32) << 8 | u32::from(controller) << 16, count.into()];
        self.command(Command { opcode: VIRTUALIZATION_MANAGEMENT, words, ..Command::default() })?;
        Ok(())
    }

    /// Takes the flexible resources from the primary controller. Whether it was changed: then a reset makes it so.
    ///
    /// # Errors
    /// The controller refuses or does not answer.
    pub fn release_flexible(&mut self) -> Result<bool, NvmeError> {
        let primary = self.primary()?;
        let mut changed = false;
        for (kind, flexible) in primary.each().filter(|(_, flexible)| flexible.primary > flexible.kept()) {
            self.manage(primary.controller, kind, PRIMARY_FLEXIBLE, flexible.kept())?;
            changed = true;
        }
        Ok(changed)
    }

    /// The secondary controllers of the first `count` virtual functions, in their order.
    fn secondaries(&mut self, count: u16) -> Result<Vec<Secondary>, NvmeError> {
        let mut found: Vec<Option<Secondary>> = Vec::new();
        found.resize(count.into(), None);
        let mut next = 0u16;
        // Controllers stand in ascending order: each list begins behind the last.
        for _ in 0..LISTS {
            self.identify(SECONDARIES, next, 0)?;
            let [entries] = self.data(0);
            let entries = entries.min(LIST_ENTRIES);
            let mut last = None;
            for index in 1..=usize::from(entries) {
                let entry = Secondary::read(self.data(index * LIST_ENTRY));
                last = last.max(Some(entry.controller));
                let Some(number) = entry.function.checked_sub(1) else { continue };
                let Some(slot) = found.get_mut(usize::from(number)) else { continue };
                if slot.replace(entry).is_some_and(|other| other.controller != entry.controller) {
                    return Err(NvmeError::NoController { function: number });
                }
            }
            let following = last.and_then(|last| last.checked_add(1)).filter(|following| *following > next);
            match following {
                Some(following) if entries == LIST_ENTRIES => next = following,
                _ => break,
            }
        }
        let each = (0..).zip(found).map(|(function, entry)| entry.ok_or(NvmeError::NoController { function }));
        each.collect()
    }

    /// Brings the controllers of all `count` virtual functions online, each with its share of what there is. Where
    /// `namespaces` names any, the first goes to the first, and so on, and to no other virtual function; one that none is left
    /// for sees none.
    ///
    /// # Errors
    /// There is too little, a namespace can't be attached, or the controller refuses.
    pub fn bring_online(&mut self, count: u16, namespaces: &[u32]) -> Result<(), NvmeError> {
        let primary = self.primary()?;
        let share = |flexible: &Option<Flexible>, what, needed| match flexible.map(|flexible| flexible.share(count)) {
            Some(each) if each < needed => Err(NvmeError::TooFew { what, each, needed }),
            share => Ok(share),
        };
        let queues = share(&primary.queues, "queues", QUEUES_NEEDED)?;
        let interrupts = share(&primary.interrupts, "interrupts", INTERRUPTS_NEEDED)?;
        let secondaries = self.secondaries(count)?;
        for secondary in secondaries.iter().filter(|secondary| secondary.online) {
            self.manage(secondary.controller, Kind::Queues, SECONDARY_OFFLINE, 0)?;
        }
        if !namespaces.is_empty() {
            self.distribute(&secondaries, namespaces)?;
        }
        for secondary in &secondaries {
            for (kind, share) in [(Kind::Interrupts, interrupts), (Kind::Queues, queues)] {
                if let Some(share) = share {
                    self.manage(secondary.controller, kind, SECONDARY_ASSIGN, share)?;
                }
            }
            self.manage(secondary.controller, Kind::Queues, SECONDARY_ONLINE, 0)?;
        }
        // Whether the card has done what it said.
        for (function, now) in (0..).zip(self.secondaries(count)?) {
            let as_given = |share: Option<u16>, found| share.is_none_or(|share| share == found);
            if !now.online || !as_given(queues, now.queues) || !as_given(interrupts, now.interrupts) {
                return Err(NvmeError::NotOnline { function });
            }
        }
        Ok(())
    }

    /// Attaches the namespaces in order, and detaches every other from these controllers.
    fn distribute(&mut self, secondaries: &[Secondary], wanted: &[u32]) -> Result<(), NvmeError> {
        self.identify(ALLOCATED_NAMESPACES, 0, 0)?;
        let allocated: Vec<u32> = (0..NAMESPACES).map(|index| u32::from_le_bytes(self.data(index * 4))).collect();
        // A full list may go on.
        if allocated.last().is_some_and(|last| *last != 0) {
            return Err(NvmeError::Unsupported("a list of its namespaces that ends (1,023 at most)"));
        }
        for namespace in allocated.into_iter().take_while(|namespace| *namespace != 0) {
            self.identify(ATTACHED_CONTROLLERS, 0, namespace)?;
            let count = usize::from(u16::from_le_bytes(self.data(0))).min(CONTROLLERS);
            let attached: Vec<u16> = (1..=count).map(|index| u16::from_le_bytes(self.data(index * 2))).collect();
            for (index, secondary) in secondaries.iter().enumerate() {
                let is_its_own = wanted.get(index) == Some(&namespace);
                if attached.contains(&secondary.controller) && !is_its_own {
                    self.attachment(namespace, DETACH, secondary.controller)?;
                }
            }
        }
        for (secondary, namespace) in secondaries.iter().zip(wanted) {
            match self.attachment(*namespace, ATTACH, secondary.controller) {
                Ok(()) | Err(NvmeError::Refused { status: ALREADY_ATTACHED, .. }) => {}
                Err(NvmeError::Refused { status, .. }) => {
                    return Err(NvmeError::Namespace { namespace: *namespace, status });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn attachment(&mut self, namespace: u32, action: u32, controller: u16) -> Result<(), NvmeError> {
        // A controller list [4.9]: how many, then their ids.
        self.fill(&[1 | u64::from(controller) << 16]);
        let words = [action, 0];
        self.command(Command { opcode: NAMESPACE_ATTACHMENT, namespace, data: true, words })?;
        Ok(())
    }
}
