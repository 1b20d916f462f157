//! This image's replacement by the next, and this image's arrival in the place of the one before.
//!
//! The old image's side, in the order of its phases:
//! - `stage`: the image arrives in the free slot and is checked
//! - `gather`: from the living machine to records
//! - `walk`: what preserved guests reach, by the live tables
//! - `dry_run`: what PLAN would say, object by object
//! - `plan`: every preserved object says yes or no; the records that can be written before the pause
//! - `warm`: the sandbox
//! - `leave`: who is not preserved, and its end
//! - `freeze`: every pCPU takes its virtual CPUs out of their guests
//! - `switch`: the rest of the records, the jump, and what happens when it comes back
//!
//! The new image's side:
//! - `ready`: in the sandbox, reads the records and makes everything that can be made before the pause
//! - `arrive`: after SWITCH, reads the rest, adopts, verifies, commits, runs
//! - `restore`: from records to the living machine
//! - `follow`: the other pCPUs' arrival
//! - `retire`: what is done once the guests run
//!
//! Both:
//! - `block`, `jump`: the memory and the instructions between them
//! - `rescue`, `watchdog`: what leads back when the new image fails, and when it is silent
//! - `pages`: where virtual CPUs' state lies in the pause
//! - `last_words`: what the new image said before
//! - `convert`: run-time state to records and back
//! - `fault`: faults planted for the tests of the rollback, in images built for that
//! - `report`: what became of upgrades
//! - `trust`: whose images may be staged
//! - `settings`: what management wants the next image to know

pub mod arrive;
pub mod block;
pub mod convert;
pub mod dry_run;
#[cfg(feature = "fault")]
pub mod fault;
pub mod follow;
pub mod freeze;
pub mod gather;
pub mod jump;
pub mod last_words;
pub mod leave;
pub mod pages;
pub mod plan;
pub mod ready;
pub mod report;
pub mod rescue;
pub mod restore;
pub mod retire;
pub mod settings;
pub mod stage;
pub mod switch;
pub mod trust;
pub mod walk;
pub mod warm;
pub mod watchdog;
