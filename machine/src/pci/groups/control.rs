//! Access control services, switched on.

use super::NEEDED;
use crate::pci::{Acs, Bdf, ConfigSpace, Enumeration};
use alloc::vec::Vec;

/// Switches on what isolation needs in every port and function that has it, and off the direct way for requests with
/// translated addresses; reads it back. At power-on only: after an upgrade the controls are as the image before left them,
/// and nothing is written. Returns those where it does not stay on; they count as without it.
pub fn enable_acs(config: &(impl ConfigSpace + ?Sized), found: &Enumeration) -> Vec<Bdf> {
    let mut stuck = Vec::new();
    for function in &found.functions {
        let bdf = function.bdf;
        let Some((offset, can)) = Acs::find(config, bdf) else { continue };
        let before = Acs::control(config, bdf, offset);
        let wanted = (before | NEEDED & can) - Acs::DIRECT_TRANSLATED;
        if wanted != before {
            wanted.set_control(config, bdf, offset);
        }
        if !Acs::control(config, bdf, offset).contains(NEEDED & can) {
            stuck.push(bdf);
        }
    }
    stuck
}
