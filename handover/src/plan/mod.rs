//! Which objects an upgrade preserves, and what is immutable meanwhile: pure bookkeeping.
//!
//! A [`Book`] knows objects (address spaces, domains, devices, memory objects, guests) by an id of
//! the caller's, with the token, and with what each of them needs: a device needs its domain, a domain its
//! address space. The operator marks objects. A plan begins, preserves marked objects one by one,
//! and is frozen or cancelled.
//!
//! Preserving an object makes it and all it needs immutable, by one count each; taking the
//! object out of the plan takes exactly those counts back, so what two domains share stays immutable until both
//! let go of it. Nothing is counted apart from being there: after [`Book::freeze`] the set cannot change, and
//! its length is its count.

mod error;

use alloc::vec::Vec;
use core::fmt;

use machine::sorted::SortedMap;

pub use error::PlanError;

/// What callers name objects by: a BDF, an index, a token.
pub trait Id: Copy + Ord + fmt::Debug {}
impl<T: Copy + Ord + fmt::Debug> Id for T {}

/// A contiguous run of host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What the object itself says when it is to be preserved. Asked live, once per plan however many
/// others need it; never remembered from earlier.
pub trait Verdict<I> {
    /// Whether `object` can be preserved.
    fn verdict(&mut self, object: I) -> Result<(), PlanError<I>>;
}

impl<I, F: FnMut(I) -> Result<(), PlanError<I>>> Verdict<I> for F {
    fn verdict(&mut self, object: I) -> Result<(), PlanError<I>> {
        self(object)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<I> {
    token: u64,
    needs: Vec<I>,
    marked: bool,
    preserved: bool,
    /// How many preserved objects hold it, itself included.
    holds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Planning,
    Frozen,
}

/// The book; see the module's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book<I> {
    entries: SortedMap<I, Entry<I>>,
    tokens: SortedMap<u64, I>,
    /// Preserved objects in the order they were, with what each holds.
    log: Vec<(I, Vec<I>)>,
    stage: Stage,
}

impl<I> Default for Book<I> {
    fn default() -> Self {
        Self { entries: SortedMap::new(), tokens: SortedMap::new(), log: Vec::new(), stage: Stage::Open }
    }
}

impl<I: Id> Book<I> {
    /// An empty book.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters an object. What it needs must be there already, so needs never form a circle.
    pub fn register(&mut self, object: I, token: u64, needs: &[I]) -> Result<(), PlanError<I>> {
        self.open()?;
        if token == 0 || self.entries.contains_key(&object) || self.tokens.contains_key(&token) {
            return Err(PlanError::Taken { object, token });
        }
        if let Some(missing) = needs.iter().find(|need| !self.entries.contains_key(need)) {
            return Err(PlanError::Unknown { object: *missing });
        }
        let entry = Entry { token, needs: needs.to_vec(), marked: false, preserved: false, holds: 0 };
        self.entries.insert(object, entry);
        self.tokens.insert(token, object);
        Ok(())
    }

    /// Takes an object out.
    pub fn unregister(&mut self, object: I) -> Result<(), PlanError<I>> {
        self.open()?;
        self.mutable(object)?;
        if let Some((by, _)) = self.entries.iter().find(|(_, entry)| entry.needs.contains(&object)) {
            return Err(PlanError::Needed { object, by: *by });
        }
        if let Some(entry) = self.entries.remove(&object) {
            self.tokens.remove(&entry.token);
        }
        Ok(())
    }

    /// The operator's wish for an object.
    pub fn mark(&mut self, object: I, marked: bool) -> Result<(), PlanError<I>> {
        self.open()?;
        self.entries.get_mut(&object).ok_or(PlanError::Unknown { object })?.marked = marked;
        Ok(())
    }

    /// Begins a plan.
    pub fn begin(&mut self) -> Result<(), PlanError<I>> {
        self.open()?;
        self.stage = Stage::Planning;
        Ok(())
    }

    /// Preserves an object and holds all it needs.
    ///
    /// `verdict` is asked for each object that this call makes immutable and that was not before.
    pub fn preserve(&mut self, object: I, verdict: &mut impl Verdict<I>) -> Result<(), PlanError<I>> {
        match self.stage {
            Stage::Planning => {}
            Stage::Open => return Err(PlanError::NoPlan),
            Stage::Frozen => {
                return Err(PlanError::Busy { object: Some(object) });
            }
        }
        let entry = self.entries.get(&object).ok_or(PlanError::Unknown { object })?;
        if entry.preserved {
            return Err(PlanError::Busy { object: Some(object) });
        }
        let held = self.closure(object)?;
        for (member, needed_by) in &held {
            let entry = self.entries.get(member).ok_or(PlanError::Unknown { object: *member })?;
            if !entry.marked {
                return Err(PlanError::Unmarked { object: *member, needed_by: *needed_by });
            }
        }
        for (member, _) in &held {
            if self.entries.get(member).is_some_and(|entry| entry.holds == 0) {
                verdict.verdict(*member)?;
            }
        }
        // Nothing fails from here on.
        let held: Vec<I> = held.into_iter().map(|(member, _)| member).collect();
        for member in &held {
            if let Some(entry) = self.entries.get_mut(member) {
                entry.holds = entry.holds.saturating_add(1);
            }
        }
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.preserved = true;
        }
        self.log.push((object, held));
        Ok(())
    }

    /// Takes one object out of the plan again.
    pub fn release(&mut self, object: I) -> Result<(), PlanError<I>> {
        match self.stage {
            Stage::Planning => {}
            Stage::Open => return Err(PlanError::NoPlan),
            Stage::Frozen => {
                return Err(PlanError::Busy { object: Some(object) });
            }
        }
        let at =
            self.log.iter().position(|(preserved, _)| *preserved == object).ok_or(PlanError::Unknown { object })?;
        let (object, held) = self.log.remove(at);
        self.let_go(object, &held);
        Ok(())
    }

    /// Freezes the set: from here on it neither grows nor shrinks until [`Book::end`].
    pub fn freeze(&mut self) -> Result<usize, PlanError<I>> {
        if self.stage != Stage::Planning {
            return Err(PlanError::NoPlan);
        }
        self.stage = Stage::Frozen;
        Ok(self.log.len())
    }

    /// Cancels a plan that is not frozen: the book is as before [`Book::begin`].
    pub fn cancel(&mut self) -> Result<(), PlanError<I>> {
        match self.stage {
            Stage::Open => Err(PlanError::NoPlan),
            Stage::Frozen => Err(PlanError::Busy { object: None }),
            Stage::Planning => {
                self.undo();
                Ok(())
            }
        }
    }

    /// Ends a frozen plan: after ROLLBACK in the old image, after COMMIT in the new one.
    pub fn end(&mut self) -> Result<(), PlanError<I>> {
        if self.stage != Stage::Frozen {
            return Err(PlanError::NoPlan);
        }
        self.undo();
        Ok(())
    }

    /// Whether the object may change: map, unmap, attach, detach, assign. Ask before the first
    /// step of a change, so that none is left half done.
    pub fn mutable(&self, object: I) -> Result<(), PlanError<I>> {
        match self.entries.get(&object) {
            None => Err(PlanError::Unknown { object }),
            Some(entry) if entry.holds > 0 => Err(PlanError::Busy { object: Some(object) }),
            Some(_) => Ok(()),
        }
    }

    /// The preserved objects with their tokens, in the order they were preserved.
    pub fn preserved(&self) -> impl Iterator<Item = (I, u64)> {
        self.log.iter().filter_map(|(object, _)| self.entries.get(object).map(|entry| (*object, entry.token)))
    }

    /// The object with that token.
    #[must_use]
    pub fn by_token(&self, token: u64) -> Option<I> {
        self.tokens.get(&token).copied()
    }

    /// How many preserved objects hold an object.
    #[must_use]
    pub fn holds(&self, object: I) -> u32 {
        self.entries.get(&object).map_or(0, |entry| entry.holds)
    }

    fn open(&self) -> Result<(), PlanError<I>> {
        if self.stage == Stage::Open { Ok(()) } else { Err(PlanError::Busy { object: None }) }
    }

    /// An object and all it needs, each once, each with one that needs it; what is needed comes later.
    fn closure(&self, object: I) -> Result<Vec<(I, I)>, PlanError<I>> {
        let mut members: Vec<(I, I)> = alloc::vec![(object, object)];
        let mut at = 0;
        while let Some((member, _)) = members.get(at).copied() {
            let entry = self.entries.get(&member).ok_or(PlanError::Unknown { object: member })?;
            for need in &entry.needs {
                if !members.iter().any(|(known, _)| known == need) {
                    members.push((*need, member));
                }
            }
            at += 1;
        }
        Ok(members)
    }

    fn undo(&mut self) {
        while let Some((object, held)) = self.log.pop() {
            self.let_go(object, &held);
        }
        self.stage = Stage::Open;
    }

    fn let_go(&mut self, object: I, held: &[I]) {
        for member in held {
            if let Some(entry) = self.entries.get_mut(member) {
                entry.holds = entry.holds.saturating_sub(1);
            }
        }
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.preserved = false;
        }
    }
}

/// The first part of `mapped` that lies in none of `objects`, which are sorted and disjoint.
/// The caller walks the live page table and asks for each run it maps.
#[must_use]
pub fn uncovered(mapped: Run, objects: &[Run]) -> Option<Run> {
    let end = mapped.base.saturating_add(mapped.bytes);
    let mut at = mapped.base;
    let first = objects.partition_point(|run| run.base.saturating_add(run.bytes) <= at);
    for run in objects.get(first..).unwrap_or_default() {
        if at >= end {
            return None;
        }
        if run.base > at {
            return Some(Run { base: at, bytes: run.base.min(end) - at });
        }
        at = run.base.saturating_add(run.bytes);
    }
    (at < end).then(|| Run { base: at, bytes: end - at })
}
