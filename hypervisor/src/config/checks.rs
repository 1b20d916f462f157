//! What concerns more than one entry: no name, device or serial port twice.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::file::{self, Placed};
use super::message::line_of;
use super::values::{self, Complaint};
use super::{Config, ConfigWarning, Console, Guest, GuestDevice, IommuMode};

/// Adds the guests that can be started; a warning names each of the others. The
/// management network goes before the guests, an earlier guest before a later one.
pub fn add_guests(
    text: &str,
    tables: &[Placed<file::Guest<'_>>],
    config: &mut Config,
    warnings: &mut Vec<ConfigWarning>,
) {
    if tables.is_empty() {
        warnings.push(ConfigWarning { line: None, message: "there is no [[guest]]; no guest is started".into() });
    }
    for (index, table) in tables.iter().enumerate() {
        let (who, guest) = match values::guest_name(table) {
            Ok(name) => (format!("guest '{name}'"), values::guest(name, table)),
            Err(complaint) => (format!("guest number {}", index + 1), Err(complaint)),
        };
        let checked = guest.and_then(|guest| {
            conflict(&guest, config).map_or(Ok(guest), |text| Err(Complaint { at: Some(table.at.clone()), text }))
        });
        match checked {
            Ok(mut guest) => {
                let line = Some(line_of(text, &table.at));
                share_console(&mut guest, line, config, warnings);
                config.guests.push(guest);
            }
            Err(Complaint { at, text: why }) => warnings.push(ConfigWarning {
                line: at.map(|span| line_of(text, &span)),
                message: format!("{who} is not started: {why}"),
            }),
        }
    }
}

/// Why the guest cannot go together with what is in `config` already.
fn conflict(guest: &Guest, config: &Config) -> Option<String> {
    if config.guests.iter().any(|other| other.name == guest.name) {
        return Some("another guest has this name; give it one of its own".into());
    }
    for GuestDevice { selector: device, .. } in &guest.devices {
        if config.iommu.mode == IommuMode::None {
            return Some(format!(
                "device {device} would reach all memory, since iommu.mode is \"none\"; remove it from devices, or the line from [iommu]"
            ));
        }
        if config.management.as_ref().is_some_and(|management| management.nic == *device) {
            return Some(format!("device {device} is the management network's; remove it from devices"));
        }
        if config.sriov.iter().any(|sriov| sriov.device == *device) {
            return Some(format!(
                "device {device} has virtual functions by [[sriov]] and stays with Baton; name one of these, {device}/vf0"
            ));
        }
        let has = |other: &&Guest| other.devices.iter().any(|known| known.selector == *device);
        if let Some(other) = config.guests.iter().find(has) {
            return Some(format!("device {device} is guest '{}''s already; remove it from one of them", other.name));
        }
    }
    None
}

/// A serial port shows one guest: a later one runs without.
fn share_console(guest: &mut Guest, line: Option<usize>, config: &Config, warnings: &mut Vec<ConfigWarning>) {
    let port = guest.console;
    if port == Console::None {
        return;
    }
    if let Some(other) = config.guests.iter().find(|other| other.console == port) {
        warnings.push(ConfigWarning {
            line,
            message: format!(
                "the console of guest '{}' is not shown: its serial port shows guest '{}'; write console = \"none\" or another port",
                guest.name, other.name
            ),
        });
        guest.console = Console::None;
    }
}
