//! The keys of `baton.toml`, as serde reads them. Values are taken as they are and
//! checked later: one that is of the wrong type costs one guest, not all.

use alloc::vec::Vec;

use serde::Deserialize;
use toml::{Spanned, Value};

/// A value and where it stands.
pub type Field = Option<Spanned<Value>>;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub management: Option<Spanned<Management>>,
    pub upgrade: Option<Upgrade>,
    pub iommu: Option<Iommu>,
    #[serde(default)]
    pub sriov: Vec<Spanned<Sriov>>,
    #[serde(default)]
    pub guest: Vec<Spanned<Guest>>,
}

/// `[management]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Management {
    pub nic: Field,
    pub address: Field,
    pub gateway: Field,
    pub port: Field,
}

/// `[upgrade]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    pub deadline_ms: Field,
    pub keys: Field,
    pub unsigned: Field,
}

/// `[iommu]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iommu {
    pub mode: Field,
    pub fault_limit: Field,
}

/// `[[sriov]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sriov {
    pub device: Field,
    pub vfs: Field,
}

/// `[[guest]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    pub name: Field,
    pub memory_mib: Field,
    pub vcpus: Field,
    pub pcpus: Field,
    pub kernel: Field,
    pub initrd: Field,
    pub command_line: Field,
    pub devices: Field,
    pub on_upgrade: Field,
    pub console: Field,
}
