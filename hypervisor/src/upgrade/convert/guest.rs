//! Release 0.1, format 1: guests as wholes.

use alloc::string::String;

use handover::State;
use handover::state::guest::{
    CONSOLE_COM1, CONSOLE_COM2, CONSOLE_NONE, GUEST_RUNNING, GUEST_STOPPED, GuestRestV1, GuestV1, ON_UPGRADE_PRESERVE,
    ON_UPGRADE_STOP, POWER_RESET,
};

use super::{Converted, cut_text, find, name_of, name_text, narrow, read_text, refuse, require};
use crate::config::{Console, OnUpgrade};
use crate::vm::VmState;

/// A guest, as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestState {
    /// Name across images.
    pub token: u64,
    /// Number on this machine.
    pub number: u16,
    /// Name in `baton.toml`.
    pub name: String,
    /// The module its kernel came from.
    pub kernel: String,
    /// Token of its address space.
    pub space: u64,
    /// Bytes of memory, as configured.
    pub memory_bytes: u64,
    /// vCPUs, as configured.
    pub vcpus: u32,
    /// Devices it owns.
    pub devices: u32,
    /// Where its console is shown.
    pub console: Console,
    /// What an upgrade does with it.
    pub on_upgrade: OnUpgrade,
}

/// Appends a guest. Part of the plan.
///
/// # Errors
/// Its name, or its kernel's, has no place in the record.
pub fn save(state: &mut State, guest: &GuestState) -> Converted<()> {
    let record = || name_of::<GuestV1>([guest.token, 0]);
    state.guests.push(GuestV1 {
        token: guest.token,
        memory_bytes: guest.memory_bytes,
        space: guest.space,
        name: name_text(&record, "name", &guest.name)?,
        kernel: name_text(&record, "kernel", &guest.kernel)?,
        vcpu_count: guest.vcpus,
        device_count: guest.devices,
        console: match guest.console {
            Console::None => CONSOLE_NONE,
            Console::Com1 => CONSOLE_COM1,
            Console::Com2 => CONSOLE_COM2,
        },
        on_upgrade: match guest.on_upgrade {
            OnUpgrade::Preserve => ON_UPGRADE_PRESERVE,
            OnUpgrade::Stop => ON_UPGRADE_STOP,
        },
        number: guest.number.into(),
        reserved: [0; 4],
    });
    Ok(())
}

/// The guest with that token. All tokens are in `state.guests`.
///
/// # Errors
/// It is missing, or holds what this image cannot take over.
pub fn load(state: &State, token: u64) -> Converted<GuestState> {
    let record = find(&state.guests, [token, 0])?;
    require((1..=crate::config::MAX_VCPUS).contains(&record.vcpu_count), record, "vCPUs", record.vcpu_count)?;
    Ok(GuestState {
        token,
        number: narrow(record, "number", record.number)?,
        name: read_text(record, "name", &record.name)?,
        kernel: read_text(record, "kernel", &record.kernel)?,
        space: record.space,
        memory_bytes: record.memory_bytes,
        vcpus: record.vcpu_count,
        devices: record.device_count,
        console: match record.console {
            CONSOLE_NONE => Console::None,
            CONSOLE_COM1 => Console::Com1,
            CONSOLE_COM2 => Console::Com2,
            other => return refuse(record, "console", other),
        },
        on_upgrade: match record.on_upgrade {
            ON_UPGRADE_PRESERVE => OnUpgrade::Preserve,
            ON_UPGRADE_STOP => OnUpgrade::Stop,
            other => return refuse(record, "upgrade policy", other),
        },
    })
}

/// What a guest was doing at FREEZE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRest {
    /// Name across images.
    pub token: u64,
    /// What it does.
    pub state: VmState,
    /// Why it stopped; what does not fit 192 bytes is cut.
    pub reason: String,
    /// Its platform's power event that nobody took: 0 none, 1 off, 2 reset.
    pub power: u32,
    /// Times a vCPU of it was entered.
    pub entries: u64,
    /// Interrupts injected.
    pub interrupts: u64,
    /// TSC at which it started.
    pub started_tsc: u64,
}

/// Appends what a guest was doing. Part of the rest.
pub fn save_rest(state: &mut State, guest: &GuestRest) {
    state.guest_rests.push(GuestRestV1 {
        guest: guest.token,
        entries: guest.entries,
        interrupts: guest.interrupts,
        started_tsc: guest.started_tsc,
        reason: cut_text(&guest.reason),
        state: match guest.state {
            VmState::Running => GUEST_RUNNING,
            VmState::Stopped => GUEST_STOPPED,
        },
        power: guest.power,
    });
}

/// What the guest with that token was doing.
///
/// # Errors
/// It is missing, or in no state that this image knows.
pub fn load_rest(state: &State, token: u64) -> Converted<GuestRest> {
    let record = find(&state.guest_rests, [token, 0])?;
    Ok(GuestRest {
        token,
        state: match record.state {
            GUEST_RUNNING => VmState::Running,
            GUEST_STOPPED => VmState::Stopped,
            other => return refuse(record, "state", other),
        },
        reason: read_text(record, "reason", &record.reason)?,
        power: load_power(state, token)?,
        entries: record.entries,
        interrupts: record.interrupts,
        started_tsc: record.started_tsc,
    })
}

/// The power event of that guest's platform that nobody took: 0 none, 1 off, 2 reset.
///
/// # Errors
/// The record is missing, or tells of no such event.
pub fn load_power(state: &State, token: u64) -> Converted<u32> {
    let record = find(&state.guest_rests, [token, 0])?;
    require(record.power <= POWER_RESET, record, "power event", record.power)?;
    Ok(record.power)
}
