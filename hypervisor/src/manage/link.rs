//! The management server and its card together: polled, stopped for a jump, started again after a rollback.

use alloc::string::{String, ToString};
use core::net::Ipv4Addr;

use super::control::Machine;
use super::nic::{self, Card, Server};
use super::settings::Settings;
use crate::net::address::Lease;
use crate::time;
use crate::upgrade::convert::management::ManagementState;

/// A card without interrupts is looked at so often, in milliseconds.
const POLL_MS: u64 = 5;
/// A card that did not start again after a rollback gets another chance so often, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// The server on its card.
pub struct Link {
    card: Card,
    server: Server,
    settings: Settings,
    lease: Option<Lease>,
    /// The card works; else it waits for [`Link::restart`].
    up: bool,
    /// When to poll, in ticks of the TSC.
    due: u64,
}

impl Link {
    /// Takes the card over and starts the server.
    ///
    /// # Errors
    /// There is no management on this machine.
    pub fn open(settings: Settings) -> Result<Self, String> {
        let (card, server) = nic::open(&settings)?;
        log::info!("management NIC {card}");
        if !card.isolated() {
            log::warn!("no IOMMU translates for the management NIC: it reaches all memory");
        }
        let mut link = Self { card, server, settings, lease: None, up: true, due: 0 };
        link.watch_lease();
        Ok(link)
    }

    /// Polls the server if it is due or `told`. Returns when to come back, in ticks of the TSC. `true`
    /// beside it: [`Link::state`] has changed.
    pub fn poll(&mut self, now: u64, told: bool, machine: &mut Machine) -> (u64, bool) {
        if now < self.due && !(told && self.up) {
            return (self.due, false);
        }
        if !self.up {
            self.restart(now);
            return (self.due, false);
        }
        let delay = self.server.poll(time::uptime_ms(), machine);
        let delay = if self.card.interrupts() { delay } else { Some(delay.unwrap_or(POLL_MS).min(POLL_MS)) };
        self.due = delay.map_or(u64::MAX, |ms| now.saturating_add(time::ms_to_ticks(ms)));
        (self.due, self.watch_lease())
    }

    /// Tells of an address that is new; whether there was one.
    fn watch_lease(&mut self) -> bool {
        let lease = self.server.lease();
        if lease == self.lease {
            return false;
        }
        self.lease = lease;
        match lease {
            Some(lease) => log::info!(
                "management: address {}/{}, port {}",
                Ipv4Addr::from(lease.address),
                lease.prefix,
                self.settings.port
            ),
            None => log::warn!("management: the address has expired, waiting for DHCP"),
        }
        true
    }

    /// Nothing of the card reaches memory or interrupts any more, and no unit knows it. Clients hear nothing more.
    ///
    /// # Errors
    /// It can't be made sure: this is no moment to jump.
    pub fn stop(&mut self, machine: &mut Machine) -> Result<(), String> {
        self.up = false;
        // Only `restart` brings it back: the next image gets ready meanwhile.
        self.due = u64::MAX;
        let isolated = self.card.isolated();
        let quiet = self.server.stop(machine);
        self.card.disconnect()?;
        match quiet {
            Ok(()) => Ok(()),
            // It was cut off by the IOMMU: what it still tries is blocked.
            Err(error) if isolated => {
                log::warn!("{error}; it is cut off");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether the card works.
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// Brings all of it back, with the same memory and address.
    pub fn restart(&mut self, now: u64) {
        let connected = self.card.connect();
        let started = connected.and_then(|()| self.server.restart().map_err(|error| error.to_string()));
        match started {
            Ok(()) => {
                self.up = true;
                self.due = 0;
            }
            Err(error) => {
                log::error!("the management NIC does not start again, another attempt follows: {error}");
                if let Err(left) = self.card.disconnect() {
                    log::error!("the management NIC can't be taken out of the IOMMU: {left}");
                }
                self.due = now.saturating_add(time::ms_to_ticks(RETRY_MS));
            }
        }
    }

    /// What the next image must know.
    pub fn state(&self, deadline_ms: u32) -> ManagementState {
        let lease = self.lease;
        ManagementState {
            nic: Some(self.card.bdf()),
            mac: self.card.mac(),
            dhcp: self.settings.dhcp(),
            address: lease.map_or(Ipv4Addr::UNSPECIFIED, |lease| lease.address.into()),
            prefix: lease.map_or(0, |lease| lease.prefix),
            gateway: lease.and_then(|lease| lease.gateway).map(Ipv4Addr::from),
            port: self.settings.port,
            deadline_ms,
        }
    }
}
