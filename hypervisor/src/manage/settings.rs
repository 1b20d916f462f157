//! How Baton is reached: from `baton.toml`, or from the image before this one.

use alloc::format;
use alloc::string::String;

use machine::pci::Bdf;

use crate::config;
use crate::net::address::{Addressing, Lease};
use crate::passthrough::inventory;
use crate::upgrade::convert::management::ManagementState;

/// The card and the address, from `baton.toml` or from the image before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The card.
    pub nic: Bdf,
    /// TCP port of the API.
    pub port: u16,
    /// Where the address comes from.
    pub addressing: Addressing,
}

impl Settings {
    /// What `[management]` asks for.
    ///
    /// # Errors
    /// There is no such card.
    pub fn from_config(management: &config::Management) -> Result<Self, String> {
        let function = inventory::select(&management.nic)
            .map_err(|_| format!("there is no PCI device {}: correct management.nic in baton.toml", management.nic))?;
        let addressing = match management.address {
            config::Address::Dhcp => Addressing::Dhcp { previous: None },
            config::Address::Static { address, prefix, gateway } => Addressing::Static(Lease {
                address: address.octets(),
                prefix,
                gateway: gateway.map(|gateway| gateway.octets()),
            }),
        };
        Ok(Self { nic: function.bdf, port: management.port, addressing })
    }

    /// What the image before this one used; `None` when it had no card.
    #[must_use]
    pub fn from_state(state: &ManagementState) -> Option<Self> {
        let lease = (!state.address.is_unspecified()).then(|| Lease {
            address: state.address.octets(),
            prefix: state.prefix,
            gateway: state.gateway.map(|gateway| gateway.octets()),
        });
        let addressing = match (state.dhcp, lease) {
            (true, previous) => Addressing::Dhcp { previous },
            (false, Some(lease)) => Addressing::Static(lease),
            (false, None) => return None,
        };
        Some(Self { nic: state.nic?, port: state.port, addressing })
    }

    /// Whether the address comes by DHCP.
    #[must_use]
    pub const fn dhcp(&self) -> bool {
        matches!(self.addressing, Addressing::Dhcp { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn state() -> ManagementState {
        ManagementState {
            nic: Bdf::new(0, 1, 0, 0),
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            dhcp: true,
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            port: 80,
            deadline_ms: 50,
        }
    }

    #[test]
    fn the_address_before_an_upgrade_is_used_after_it() {
        let lease = Lease { address: [10, 0, 2, 15], prefix: 24, gateway: Some([10, 0, 2, 2]) };
        let dhcp = Settings::from_state(&state()).unwrap();
        assert!(dhcp.dhcp());
        assert_eq!(dhcp.addressing, Addressing::Dhcp { previous: Some(lease) });
        let fixed = Settings::from_state(&ManagementState { dhcp: false, ..state() }).unwrap();
        assert_eq!(fixed.addressing, Addressing::Static(lease));
    }

    #[test]
    fn without_a_lease_dhcp_starts_anew_and_a_static_address_is_missed() {
        let nowhere = ManagementState { address: Ipv4Addr::UNSPECIFIED, ..state() };
        let dhcp = Settings::from_state(&nowhere).unwrap();
        assert_eq!(dhcp.addressing, Addressing::Dhcp { previous: None });
        assert_eq!(Settings::from_state(&ManagementState { dhcp: false, ..nowhere }), None);
        assert_eq!(Settings::from_state(&ManagementState { nic: None, ..state() }), None);
    }
}
