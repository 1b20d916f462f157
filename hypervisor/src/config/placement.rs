//! Which pCPU runs which virtual CPU.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::{Config, ConfigWarning, Guest};

impl Config {
    /// Gives every virtual CPU a pCPU of the `pcpu_count` there are. What the file
    /// says holds; a guest that asks for a pCPU that is not there is removed, with a
    /// warning. The others go where the fewest virtual CPUs are, from the last pCPU
    /// down, and to pCPU 0, which does management, only if there is no other.
    pub fn place(&mut self, pcpu_count: u32) -> Vec<ConfigWarning> {
        let pcpu_count = pcpu_count.max(1);
        let mut warnings = Vec::new();
        self.guests.retain(|guest| {
            let absent = guest.pcpus.iter().find(|pcpu| **pcpu >= pcpu_count);
            if let Some(pcpu) = absent {
                warnings.push(ConfigWarning { line: None, message: refusal(guest, *pcpu, pcpu_count) });
            }
            absent.is_none()
        });

        // How many virtual CPUs each pCPU has, pCPU 0 first.
        let mut loads = vec![0_u32; pcpu_count as usize];
        for pcpu in self.guests.iter().flat_map(|guest| &guest.pcpus) {
            if let Some(load) = loads.get_mut(*pcpu as usize) {
                *load += 1;
            }
        }
        let first = u32::from(pcpu_count > 1);
        for guest in self.guests.iter_mut().filter(|guest| guest.pcpus.is_empty()) {
            for _ in 0..guest.vcpus {
                let load = |pcpu: &u32| loads.get(*pcpu as usize).copied().unwrap_or(u32::MAX);
                // `min_by_key` takes the first of equals: the last pCPU, counted down.
                let Some(pcpu) = (first..pcpu_count).rev().min_by_key(load) else {
                    break;
                };
                if let Some(load) = loads.get_mut(pcpu as usize) {
                    *load += 1;
                }
                guest.pcpus.push(pcpu);
            }
        }
        warnings
    }
}

fn refusal(guest: &Guest, pcpu: u32, pcpu_count: u32) -> String {
    format!(
        "guest '{}' is not started: it asks for pCPU {pcpu} and this machine has {pcpu_count} (0 to {}); change its pcpus",
        guest.name,
        pcpu_count - 1
    )
}
