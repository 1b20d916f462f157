//! Why the book refuses.

use core::fmt;

use super::Run;

/// Why the book does not do what it was asked to. It is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError<I> {
    /// The object is frozen, preserved already, or a plan is under way.
    Busy {
        /// The object, or none when the whole book is.
        object: Option<I>,
    },
    /// No such object.
    Unknown {
        /// The object.
        object: I,
    },
    /// The object, or its token, is in the book already, or the token is zero.
    Taken {
        /// The object.
        object: I,
        /// The token.
        token: u64,
    },
    /// Something else needs the object.
    Needed {
        /// The object.
        object: I,
        /// By whom.
        by: I,
    },
    /// The operator did not mark the object.
    Unmarked {
        /// The object.
        object: I,
        /// The object that needs it, itself when it was asked for.
        needed_by: I,
    },
    /// The object cannot be preserved by this release.
    Unsupported {
        /// The object.
        object: I,
        /// What of it.
        what: &'static str,
    },
    /// The object maps memory that belongs to no preserved memory object.
    Uncovered {
        /// The object.
        object: I,
        /// The first such run.
        run: Run,
    },
    /// No plan is under way.
    NoPlan,
}

impl<I: fmt::Debug + PartialEq> fmt::Display for PlanError<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { object: Some(object) } => {
                write!(f, "{object:?} is busy: an upgrade holds it; try again after the upgrade's report")
            }
            Self::Busy { object: None } => {
                write!(f, "an upgrade is being planned; try again after its report")
            }
            Self::Unknown { object } => write!(f, "{object:?} does not exist"),
            Self::Taken { object, token } => write!(
                f,
                "{object:?} or its token {token:#x} is taken already, or the token is zero; this image is at fault"
            ),
            Self::Needed { object, by } => {
                write!(f, "{object:?} is needed by {by:?}; detach that first")
            }
            Self::Unmarked { object, needed_by } if object == needed_by => {
                write!(f, "{object:?} is not marked to be preserved; set on_upgrade = \"preserve\" for its guest")
            }
            Self::Unmarked { object, needed_by } => write!(
                f,
                "{needed_by:?} cannot be preserved: {object:?}, which it needs, is not marked to be; mark both or neither"
            ),
            Self::Unsupported { object, what } => write!(
                f,
                "{object:?} cannot be preserved: {what} is not supported by this release; stop its guest before the upgrade"
            ),
            Self::Uncovered { object, run } => write!(
                f,
                "{object:?} cannot be preserved: it maps {:#x}..{:#x}, which belongs to no preserved memory object",
                run.base,
                run.base.saturating_add(run.bytes)
            ),
            Self::NoPlan => write!(f, "no upgrade is being planned; this image is at fault"),
        }
    }
}

impl<I: fmt::Debug + PartialEq> core::error::Error for PlanError<I> {}
