//! What a controller says of its virtual functions: NVM Express base specification 1.4.

/// Primary controller capabilities, Identify 14h [5.15.2.10]: where each kind of resource begins.
pub const QUEUES_AT: usize = 32;
/// Likewise the interrupts.
pub const INTERRUPTS_AT: usize = 64;
/// Entries that a secondary controller list, Identify 15h [5.15.2.11], has room for.
pub const LIST_ENTRIES: u8 = 127;
/// Bytes of an entry of it, and of what stands before the first.
pub const LIST_ENTRY: usize = 32;

/// Flexible resources of one kind, virtual queues or virtual interrupts [8.5].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flexible {
    /// All of them.
    pub total: u32,
    /// The primary controller gets so many at its next reset.
    pub primary: u16,
    /// The primary controller's own, besides these.
    pub private: u16,
    /// A secondary controller can have so many.
    pub most: u16,
    /// They come in multiples of this.
    pub step: u16,
}

impl Flexible {
    /// From the bytes at [`QUEUES_AT`] or [`INTERRUPTS_AT`].
    pub const fn read(bytes: [u8; 16]) -> Self {
        let [t0, t1, t2, t3, _, _, _, _, a0, a1, p0, p1, m0, m1, g0, g1] = bytes;
        let step = u16::from_le_bytes([g0, g1]);
        Self {
            total: u32::from_le_bytes([t0, t1, t2, t3]),
            primary: u16::from_le_bytes([a0, a1]),
            private: u16::from_le_bytes([p0, p1]),
            most: u16::from_le_bytes([m0, m1]),
            step: if step == 0 { 1 } else { step },
        }
    }

    /// What the primary controller keeps: nothing, unless it has no private ones to work with.
    pub const fn kept(&self) -> u16 {
        if self.private == 0 { self.step } else { 0 }
    }

    /// What each of `count` secondary controllers gets: as much as each can have.
    pub fn share(&self, count: u16) -> u16 {
        let left = self.total.saturating_sub(self.kept().into());
        let each = left.checked_div(count.into()).unwrap_or(0).min(self.most.into()) as u16;
        each - each % self.step
    }
}

/// A secondary controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secondary {
    /// Its id.
    pub controller: u16,
    /// Whether it is online.
    pub online: bool,
    /// The virtual function it is in, from 1; 0 for none.
    pub function: u16,
    /// Virtual queues that it has, the admin queue among them.
    pub queues: u16,
    /// Virtual interrupts.
    pub interrupts: u16,
}

impl Secondary {
    /// From an entry of the list.
    pub const fn read(bytes: [u8; LIST_ENTRY]) -> Self {
        let [c0, c1, _, _, state, _, _, _, f0, f1, q0, q1, i0, i1, ..] = bytes;
        Self {
            controller: u16::from_le_bytes([c0, c1]),
            online: state & 1 != 0,
            function: u16::from_le_bytes([f0, f1]),
            queues: u16::from_le_bytes([q0, q1]),
            interrupts: u16::from_le_bytes([i0, i1]),
        }
    }
}
