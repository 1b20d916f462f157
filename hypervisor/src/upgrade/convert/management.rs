//! Release 0.1, format 1: how Baton is reached, and what is counted since power-on.

use core::net::Ipv4Addr;

use handover::State;
use handover::state::management::{MANAGEMENT_DHCP, ManagementV1, NO_NIC, TotalsV1};

use machine::pci::Bdf;

use super::{Converted, narrow, optional, require};
use crate::api::types::Outcomes;

/// The management network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagementState {
    /// Its card.
    pub nic: Option<Bdf>,
    /// The card's Ethernet address.
    pub mac: [u8; 6],
    /// The address came by DHCP: it is used at once and asked for again.
    pub dhcp: bool,
    /// The address, 0.0.0.0 while there is none.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// The TCP port of the API.
    pub port: u16,
    /// The longest guests may stand still in an upgrade, in milliseconds.
    pub deadline_ms: u32,
}

/// Appends the management network. Part of the plan. TCP connections are not kept: clients come again.
pub fn save(state: &mut State, management: &ManagementState) {
    state.management.push(ManagementV1 {
        nic: management.nic.map_or(NO_NIC, super::iommu::bdf),
        port: management.port.into(),
        prefix: management.prefix.into(),
        flags: if management.dhcp { MANAGEMENT_DHCP } else { 0 },
        deadline_ms: management.deadline_ms,
        address: management.address.octets(),
        gateway: management.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
        mac: management.mac,
        reserved: [0; 6],
    });
}

/// The management network in a set, if there is one.
///
/// # Errors
/// It is there twice, or holds what cannot be.
pub fn load(state: &State) -> Converted<Option<ManagementState>> {
    let Some(record) = optional(&state.management)? else {
        return Ok(None);
    };
    require(record.flags & !MANAGEMENT_DHCP == 0, record, "flags", record.flags)?;
    require(record.prefix <= 32, record, "prefix", record.prefix)?;
    Ok(Some(ManagementState {
        nic: (record.nic != NO_NIC).then(|| super::iommu::function(record.nic)),
        mac: record.mac,
        dhcp: record.flags & MANAGEMENT_DHCP != 0,
        address: record.address.into(),
        prefix: narrow(record, "prefix", record.prefix)?,
        gateway: Some(Ipv4Addr::from(record.gateway)).filter(|gateway| !gateway.is_unspecified()),
        port: narrow(record, "port", record.port)?,
        deadline_ms: record.deadline_ms,
    }))
}

/// What is counted since power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Upgrades by outcome.
    pub outcomes: Outcomes,
    /// IOMMU faults: `FaultLog::total`.
    pub faults: u64,
    /// `FaultLog::unlisted`.
    pub faults_unlisted: u64,
    /// `FaultLog::overflows`.
    pub fault_overflows: u64,
}

/// Appends the totals. Part of the rest.
pub fn save_totals(state: &mut State, totals: &Totals) {
    state.totals.push(TotalsV1 {
        committed: totals.outcomes.committed,
        rolled_back: totals.outcomes.rolled_back,
        refused: totals.outcomes.refused,
        cancelled: totals.outcomes.cancelled,
        faults: totals.faults,
        faults_unlisted: totals.faults_unlisted,
        fault_overflows: totals.fault_overflows,
    });
}

/// The totals in a set; zero where an image wrote none.
///
/// # Errors
/// They are there twice.
pub fn load_totals(state: &State) -> Converted<Totals> {
    let totals = |record: &TotalsV1| Totals {
        outcomes: Outcomes {
            committed: record.committed,
            rolled_back: record.rolled_back,
            refused: record.refused,
            cancelled: record.cancelled,
        },
        faults: record.faults,
        faults_unlisted: record.faults_unlisted,
        fault_overflows: record.fault_overflows,
    };
    Ok(optional(&state.totals)?.map_or_else(Totals::default, totals))
}
