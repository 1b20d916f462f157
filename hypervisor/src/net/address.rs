//! The management interface's IPv4 address, and where it comes from.

use core::fmt;

use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// An IPv4 address with its network and the way out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address of the management interface.
    pub address: [u8; 4],
    /// Bits of the network part, 1 to 32.
    pub prefix: u8,
    /// The router, in the same network.
    pub gateway: Option<[u8; 4]>,
}

/// How the management interface gets its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// From a DHCP server. A `previous` lease (of the image before this one) is used
    /// at once and until the server says something else.
    Dhcp {
        /// The lease handed over by the image before this one.
        previous: Option<Lease>,
    },
    /// From the operator.
    Static(Lease),
}

/// Why a stack cannot be built. All are the operator's to correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// Not the address of one machine.
    Address([u8; 4]),
    /// Prefix not in 1 to 32.
    Prefix(u8),
    /// The router is not a machine in the network.
    Gateway([u8; 4]),
    /// Port 0.
    Port,
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(a) => write!(
                f,
                "management address {} is not the address of one machine: correct it in baton.toml",
                Ipv4Address::from(*a)
            ),
            Self::Prefix(prefix) => {
                write!(f, "management prefix /{prefix} is not between 1 and 32: correct it in baton.toml")
            }
            Self::Gateway(a) => write!(
                f,
                "management gateway {} is not in the network of the management address: correct it in baton.toml",
                Ipv4Address::from(*a)
            ),
            Self::Port => write!(f, "management port 0 cannot be listened on: choose another in baton.toml"),
        }
    }
}

impl core::error::Error for StackError {}

impl Lease {
    /// Checks address, prefix and gateway.
    ///
    /// # Errors
    /// Says which of them cannot be right.
    pub fn check(&self) -> Result<(), StackError> {
        if !is_host(self.address) {
            return Err(StackError::Address(self.address));
        }
        if !(1..=32).contains(&self.prefix) {
            return Err(StackError::Prefix(self.prefix));
        }
        match self.gateway {
            Some(gateway)
                if !is_host(gateway) || gateway == self.address || !self.cidr().contains_addr(&gateway.into()) =>
            {
                Err(StackError::Gateway(gateway))
            }
            _ => Ok(()),
        }
    }

    /// Only for a checked lease: smoltcp panics on a prefix above 32.
    pub(super) fn cidr(&self) -> Ipv4Cidr {
        Ipv4Cidr::new(self.address.into(), self.prefix.min(32))
    }
}

fn is_host(address: [u8; 4]) -> bool {
    let address = Ipv4Address::from(address);
    let class_e = address.octets()[0] >= 240;
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || class_e)
        && address.octets()[0] != 0
}
