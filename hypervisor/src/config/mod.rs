//! `baton.toml`: what the operator wants.
//!
//! - `file`: the tables of the file and their keys
//! - `values`: from a value of the file to a checked, typed one
//! - `devices`: likewise, what concerns devices and the IOMMU
//! - `device`: how a device is named
//! - `checks`: what concerns more than one entry
//! - `placement`: which pCPU runs which vCPU
//! - `message`: refusals and warnings, one line each
//!
//! A syntax error or an unknown key refuses the file: nobody knows what was meant.
//! A bad value costs the guest that has it, and the others start.

mod checks;
mod device;
mod devices;
mod file;
mod message;
mod placement;
mod values;

#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use guest_loader::Start;
use guest_loader::layout::GuestMap;
use machine::paging::LeafSizes;
use toml::de::DeTable;

pub use device::{DeviceSelector, FunctionSelector, SelectorError};
pub use message::{ConfigError, ConfigWarning};

/// The most bytes `baton.toml` may have.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most virtual CPUs of a guest: APIC ids 0 to 254, which every guest understands.
pub const MAX_VCPUS: u32 = 255;
/// The default of `upgrade.deadline_ms`: a thousand times what a good image takes on bare metal. An emulator has to translate every
/// instruction that runs for the first time, and wants seconds.
pub const DEFAULT_DEADLINE_MS: u32 = 50;
/// The default of `iommu.fault_limit`: what a unit reports without a storm.
pub const DEFAULT_FAULT_LIMIT: u32 = 100;
/// The default of `management.port`.
pub const DEFAULT_PORT: u16 = 80;

/// The checked content of `baton.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The management network; without it there are no upgrades.
    pub management: Option<Management>,
    /// How upgrades behave.
    pub upgrade: Upgrade,
    /// How the machine's IOMMU is used.
    pub iommu: Iommu,
    /// Devices whose virtual functions Baton makes before guests start.
    pub sriov: Vec<Sriov>,
    /// The guests to start, in the order of the file, their names unique.
    pub guests: Vec<Guest>,
}

/// The management network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// The NIC that belongs to Baton.
    pub nic: DeviceSelector,
    /// Where its address comes from.
    pub address: Address,
    /// The TCP port of the API.
    pub port: u16,
}

/// Where the management address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// DHCP.
    Dhcp,
    /// The file.
    Static {
        /// The address.
        address: Ipv4Addr,
        /// The length of the network's prefix in bits.
        prefix: u8,
        /// The router, if other networks are to be reached.
        gateway: Option<Ipv4Addr>,
    },
}

/// How upgrades behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The longest the guests may stand still before an upgrade is rolled back, in milliseconds.
    pub deadline_ms: u32,
    /// The modules with the public keys by which images are signed.
    pub keys: Vec<String>,
    /// The modules that are kept as images to upgrade to, by a command on COM1.
    pub images: Vec<String>,
    /// Images without a signature may be staged as well.
    pub unsigned: bool,
}

/// How the machine's IOMMU is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iommu {
    /// Whether, and by which tables.
    pub mode: IommuMode,
    /// Faults of one device within a second that quarantine it; 0: none ever does.
    pub fault_limit: u32,
}

/// By which tables the machine's IOMMU works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IommuMode {
    /// By the best that each unit has.
    Auto,
    /// By context tables without PASIDs.
    Legacy,
    /// By scalable-mode tables; a machine without them gives no devices away.
    Scalable,
    /// Not at all; guests get no devices.
    None,
}

/// A device whose virtual functions Baton makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sriov {
    /// The physical function, which stays with Baton.
    pub device: DeviceSelector,
    /// How many virtual functions.
    pub vfs: u16,
    /// NVMe namespaces, one for each of them in order; empty: as the card has them.
    pub namespaces: Vec<u32>,
}

/// A device of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestDevice {
    /// Which one.
    pub selector: DeviceSelector,
    /// Memory that the firmware reserved for it may be mapped for it, and hidden from the guest.
    pub allow_rmrr: bool,
    /// Its translation cache (ATS) is believed and used.
    pub trusted_ats: bool,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name: 1 to 31 characters of a-z, 0-9 and '-'.
    pub name: String,
    /// Its memory.
    pub memory: GuestMap,
    /// How many virtual CPUs it has, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// The pCPU of each virtual CPU; empty until [`Config::place`] where the file names none.
    pub pcpus: Vec<u32>,
    /// The module with its kernel.
    pub kernel: String,
    /// In which mode its kernel is entered.
    pub entry: Start,
    /// The module with its initrd.
    pub initrd: Option<String>,
    /// What else a multiboot kernel is given: the module's name and what follows it.
    pub modules: Vec<String>,
    /// Its kernel's command line.
    pub command_line: String,
    /// The devices that are passed through to it.
    pub devices: Vec<GuestDevice>,
    /// What an upgrade does with it.
    pub on_upgrade: OnUpgrade,
    /// The machine's serial port that shows its console.
    pub console: Console,
    /// Page sizes that its memory may be mapped in, besides 4 KiB: for itself and for its devices.
    pub pages: LeafSizes,
}

/// What an upgrade does with a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUpgrade {
    /// It runs on.
    Preserve,
    /// It is stopped first.
    Stop,
}

/// The machine's serial port that shows a guest's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// COM1, where Baton's own log goes, too.
    Com1,
    /// COM2.
    Com2,
    /// None.
    None,
}

/// Reads the file as it was found among the modules.
///
/// # Errors
/// As [`parse`], and for bytes that are not UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
    match core::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(ConfigError::new(Some(line), "the text is not UTF-8", "save the file as UTF-8"))
        }
    }
}

/// Reads the text of the file. The warnings say what of it is left out, and why.
///
/// # Errors
/// [`ConfigError`] for what cannot be read as a whole: the syntax is broken or a key is unknown.
pub fn parse(text: &str) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(ConfigError::new(None, "the file has more than 1 MiB", "make it smaller"));
    }
    let document = DeTable::parse(text).map_err(|error| ConfigError::from_toml(text, &error))?;
    let file = file::read(text, document.get_ref())?;
    let mut warnings = Vec::new();
    let mut config = Config {
        management: values::management(text, file.management.as_ref(), &mut warnings),
        upgrade: values::upgrade(text, file.upgrade.as_ref(), &mut warnings),
        iommu: devices::iommu(text, file.iommu.as_ref(), &mut warnings),
        sriov: devices::sriov(text, &file.sriov, &mut warnings),
        guests: Vec::new(),
    };
    checks::add_guests(text, &file.guest, &mut config, &mut warnings);
    Ok((config, warnings))
}
