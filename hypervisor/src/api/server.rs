//! The management server: connections over the network stack, polled.

use crate::net::address::{Lease, StackError};
use crate::net::channel::Channel;
use crate::net::nic::{Nic, NicError};
use crate::net::stack::{SLOTS, SlotState, Stack, StackConfig};

use super::control::{Control, UploadId};
use super::http::{Connection, Timeouts};
use super::routes::{Exchange, Routes};

/// Longest delay between the response that accepts an upgrade and its start, in milliseconds.
pub const START_DELAY_MS: u64 = 500;
/// A handshake that takes longer is dropped, in milliseconds.
const HANDSHAKE_MS: u64 = 3_000;
/// A new client that asks nothing for so long makes room for another, in milliseconds.
const SILENT_MS: u64 = 1_000;

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    exchange: Exchange,
    /// When the handshake must be done, while it is under way.
    handshake_until: Option<u64>,
}

#[derive(Clone, Copy)]
struct PendingStart {
    id: UploadId,
    slot: usize,
    deadline: u64,
}

/// The management server over a NIC.
pub struct Management<N: Nic> {
    stack: Stack<N>,
    slots: [Slot; SLOTS],
    timeouts: Timeouts,
    pending: Option<PendingStart>,
    /// Between [`Management::stop`] and [`Management::restart`]: nothing touches the card.
    stopped: bool,
}

impl<N: Nic> Management<N> {
    /// A server over a started NIC. `now_ms` is the time since any moment, monotonic.
    ///
    /// # Errors
    /// When the configuration cannot be used; the NIC is given back.
    pub fn new(nic: N, config: &StackConfig, timeouts: Timeouts, now_ms: u64) -> Result<Self, (StackError, N)> {
        let stack = Stack::new(nic, config, now_ms)?;
        Ok(Self { stack, slots: Default::default(), timeouts, pending: None, stopped: false })
    }

    /// The address in use, for the console and for the next image.
    pub fn lease(&self) -> Option<Lease> {
        self.stack.lease()
    }

    /// How often the card hung and was reset.
    pub fn nic_resets(&self) -> u64 {
        self.stack.resets()
    }

    /// Does what there is to do. Returns after how many milliseconds to poll again if
    /// the card raises no interrupt before; `None`: only then.
    ///
    /// May call [`Control::start_upgrade`], as the last thing it does. Does nothing
    /// while stopped.
    pub fn poll(&mut self, now_ms: u64, control: &mut dyn Control) -> Option<u64> {
        if self.stopped {
            return None;
        }
        self.stack.receive(now_ms);
        let mut next = u64::MAX;
        for slot in 0..SLOTS {
            next = next.min(self.poll_slot(slot, now_ms, control));
        }
        let delay = self.stack.send(now_ms);
        for slot in 0..SLOTS {
            if self.stack.slot_state(slot) == SlotState::Closed {
                self.abandon(slot, control);
                self.stack.recycle(slot);
            }
        }
        next = next.min(self.make_room(now_ms)).min(self.start_pending(now_ms, control));
        let own = (next != u64::MAX).then(|| next.saturating_sub(now_ms));
        match (delay, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }

    /// Stops the card. Uploads under way are aborted, clients hear nothing more.
    /// An accepted upgrade that has not started yet is not started.
    ///
    /// # Errors
    /// The card may still access its DMA memory, which must stay in its domain and unused.
    pub fn stop(&mut self, control: &mut dyn Control) -> Result<(), NicError> {
        self.stopped = true;
        self.pending = None;
        for slot in 0..SLOTS {
            self.abandon(slot, control);
            self.stack.recycle(slot);
        }
        self.stack.nic().stop()
    }

    /// Starts the card again after [`stop`](Self::stop), with the address it had.
    ///
    /// # Errors
    /// The card is left stopped.
    pub fn restart(&mut self) -> Result<(), NicError> {
        self.stack.nic().start()?;
        self.stopped = false;
        Ok(())
    }

    /// Gives the card back.
    pub fn into_nic(self) -> N {
        self.stack.into_nic()
    }

    /// Polls one slot; returns when it wants to be polled again.
    fn poll_slot(&mut self, index: usize, now: u64, control: &mut dyn Control) -> u64 {
        let state = self.stack.slot_state(index);
        let (Some(slot), Some(mut channel)) = (self.slots.get_mut(index), self.stack.channel(index)) else {
            return u64::MAX;
        };
        if state != SlotState::Opening {
            slot.handshake_until = None;
        }
        match state {
            SlotState::Listening | SlotState::Closed => u64::MAX,
            SlotState::Opening => {
                let until = *slot.handshake_until.get_or_insert(now.saturating_add(HANDSHAKE_MS));
                if now >= until {
                    channel.abort();
                }
                until
            }
            SlotState::Open => {
                let timeouts = self.timeouts;
                let connection = slot.connection.get_or_insert_with(|| Connection::new(timeouts, now));
                let mut routes = Routes::new(control, &mut slot.exchange);
                let next = connection.poll(now, &mut channel, &mut routes);
                if let Some(cancelled) = slot.exchange.cancelled.take() {
                    self.pending = self.pending.filter(|pending| pending.id != cancelled);
                }
                if let Some(id) = slot.exchange.accepted.take() {
                    self.pending = Some(PendingStart { id, slot: index, deadline: now.saturating_add(START_DELAY_MS) });
                }
                next
            }
        }
    }

    /// The connection of a slot is over, whatever it was doing.
    fn abandon(&mut self, index: usize, control: &mut dyn Control) {
        if let Some(slot) = self.slots.get_mut(index) {
            if let Some(mut connection) = slot.connection.take() {
                connection.abandon(&mut Routes::new(control, &mut slot.exchange));
            }
            *slot = Slot::default();
        }
    }

    /// When no slot listens, the client that has been idle longest gives way. Returns
    /// when to look again.
    fn make_room(&mut self, now: u64) -> u64 {
        if (0..SLOTS).any(|slot| self.stack.slot_state(slot) == SlotState::Listening) {
            return u64::MAX;
        }
        // One that is on its way out will do.
        if self.slots.iter().any(|slot| slot.connection.as_ref().is_some_and(Connection::responded)) {
            return u64::MAX;
        }
        let mut oldest: Option<(u64, usize)> = None;
        let mut look_again = u64::MAX;
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(connection) = &slot.connection else {
                continue;
            };
            let Some(since) = connection.idle_since() else {
                continue;
            };
            let ripe = if connection.served() > 0 { since } else { since.saturating_add(SILENT_MS) };
            if now < ripe {
                look_again = look_again.min(ripe);
            } else if oldest.is_none_or(|(other, _)| since < other) {
                oldest = Some((since, index));
            }
        }
        let Some((_, index)) = oldest else {
            return look_again;
        };
        if let (Some(slot), Some(mut channel)) = (self.slots.get_mut(index), self.stack.channel(index))
            && let Some(connection) = &mut slot.connection
        {
            connection.end(now, &mut channel);
        }
        // At once, so that the end is sent.
        now
    }

    /// Starts an accepted upgrade when its response has arrived, its connection is
    /// over or the deadline has passed. Returns when to look again.
    fn start_pending(&mut self, now: u64, control: &mut dyn Control) -> u64 {
        let Some(pending) = self.pending else {
            return u64::MAX;
        };
        let responded = match self.slots.get(pending.slot).and_then(|slot| slot.connection.as_ref()) {
            Some(connection) => {
                connection.responded() && self.stack.channel(pending.slot).is_none_or(|channel| channel.flushed())
            }
            // The slot is another client's by now, or nobody's.
            None => true,
        };
        if !responded && now < pending.deadline {
            return pending.deadline;
        }
        self.pending = None;
        control.start_upgrade(pending.id);
        now
    }
}
