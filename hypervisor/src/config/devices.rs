//! From values of the file to checked, typed ones: `[iommu]`, `[[sriov]]` and the devices of a guest.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::vec::Vec;

use toml::de::DeValue;

use super::file::{self, Field, Placed, Value};
use super::message::line_of;
use super::values::{Complaint, Reader, number, selector, shown, text, whole, word, wrong};
use super::{ConfigWarning, DEFAULT_FAULT_LIMIT, GuestDevice, Iommu, IommuMode, Sriov};

/// The most virtual functions that `[[sriov]]` may ask for: what fits on one bus.
const MAX_VFS: u32 = 255;

/// `[iommu]`; what is bad is replaced by the safe default.
pub fn iommu(text: &str, table: Option<&Placed<file::Iommu<'_>>>, warnings: &mut Vec<ConfigWarning>) -> Iommu {
    let mut used = Iommu { mode: IommuMode::Auto, fault_limit: DEFAULT_FAULT_LIMIT };
    let Some(Placed { table, .. }) = table else { return used };
    let words = [
        ("auto", IommuMode::Auto),
        ("legacy", IommuMode::Legacy),
        ("scalable", IommuMode::Scalable),
        ("none", IommuMode::None),
    ];
    let mut warn = |consequence: &str, complaint: Complaint| {
        let line = complaint.at.map(|span| line_of(text, &span));
        warnings.push(ConfigWarning { line, message: format!("{consequence}: iommu.{}", complaint.text) });
    };
    match word(table.mode, "mode", &words, IommuMode::Auto) {
        Ok(mode) => used.mode = mode,
        Err(complaint) => warn("the IOMMU is used if there is one", complaint),
    }
    match number(table.fault_limit, "fault_limit", 0, 1_000_000, DEFAULT_FAULT_LIMIT) {
        Ok(limit) => used.fault_limit = limit,
        Err(complaint) => warn("a device is quarantined after the usual number of faults", complaint),
    }
    used
}

/// `[[sriov]]`; a bad one is left out: guests that name its virtual functions are refused later.
pub fn sriov(text: &str, tables: &[Placed<file::Sriov<'_>>], warnings: &mut Vec<ConfigWarning>) -> Vec<Sriov> {
    let mut all: Vec<Sriov> = Vec::new();
    for table in tables {
        let read = one_sriov(table).and_then(|sriov| {
            let twice = all.iter().any(|other| other.device == sriov.device);
            let complaint = || format!("device {} has an [[sriov]] already; remove one", sriov.device);
            if twice { Err(Complaint { at: Some(table.at.clone()), text: complaint() }) } else { Ok(sriov) }
        });
        match read {
            Ok(sriov) => all.push(sriov),
            Err(Complaint { at, text: why }) => warnings.push(ConfigWarning {
                line: at.map(|span| line_of(text, &span)),
                message: format!("no virtual functions are made: sriov.{why}"),
            }),
        }
    }
    all
}

fn one_sriov(placed: &Placed<file::Sriov<'_>>) -> Result<Sriov, Complaint> {
    let reader = Reader { at: Some(placed.at.clone()) };
    let file::Sriov { device, vfs, namespaces } = placed.table;
    let named = device.ok_or_else(|| reader.missing("device", "name the physical function"))?;
    let device = selector(named, "device")?;
    if device.vf.is_some() {
        return Err(wrong(named, "device", "name the physical function, not one of its virtual functions"));
    }
    if vfs.is_none() {
        return Err(reader.missing("vfs", "write how many virtual functions there shall be"));
    }
    let vfs = number(vfs, "vfs", 1, MAX_VFS, 0)?;
    let namespaces = match namespaces {
        Some(value) => namespaces_of(value, vfs as usize)?,
        None => Vec::new(),
    };
    Ok(Sriov { device, vfs: u16::try_from(vfs).unwrap_or_default(), namespaces })
}

/// NVMe namespaces: one for each virtual function, none for two.
fn namespaces_of(value: &Value<'_>, vfs: usize) -> Result<Vec<u32>, Complaint> {
    let remedy = || format!("write a list of {vfs} namespace ids, one for each of the vfs, like [1, 2]");
    let bad = || wrong(value, "namespaces", &remedy());
    let DeValue::Array(list) = value.get_ref() else {
        return Err(bad());
    };
    let mut namespaces = Vec::new();
    for entry in list {
        // FFFFFFFFh stands for all of them (NVMe 1.4 6.1.1).
        let id = whole(entry.get_ref()).and_then(|id| u32::try_from(id).ok()).filter(|id| (1..u32::MAX).contains(id));
        let id = id.ok_or_else(bad)?;
        if namespaces.contains(&id) {
            return Err(wrong(value, "namespaces", &format!("{id} is in it twice; remove one")));
        }
        namespaces.push(id);
    }
    if namespaces.len() == vfs { Ok(namespaces) } else { Err(bad()) }
}

/// `devices` of a `[[guest]]`.
pub fn of_guest(field: Field<'_>) -> Result<Vec<GuestDevice>, Complaint> {
    let Some(value) = field else {
        return Ok(Vec::new());
    };
    let DeValue::Array(list) = value.get_ref() else {
        return Err(wrong(value, "devices", "write a list like [\"0000:03:00.0\"]"));
    };
    let mut devices: Vec<GuestDevice> = Vec::new();
    for entry in list {
        let device = of_entry(entry)?;
        if devices.iter().any(|other| other.selector == device.selector) {
            return Err(wrong(value, "devices", &format!("{} is in it twice; remove one", device.selector)));
        }
        devices.push(device);
    }
    Ok(devices)
}

/// An entry of the list: a name, or a table with one and what is allowed to the device.
fn of_entry(entry: &Value<'_>) -> Result<GuestDevice, Complaint> {
    const KEY: &str = "devices has an entry";
    let DeValue::Table(table) = entry.get_ref() else {
        return Ok(GuestDevice { selector: selector(entry, KEY)?, allow_rmrr: false, trusted_ats: false });
    };
    let known = ["device", "allow_rmrr", "ats"];
    if let Some((key, value)) = table.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
        let (key, value) = (key.get_ref().escape_debug(), shown(value.get_ref()));
        let text = format!("{KEY} with {key} = {value}; a device has the keys {}", known.join(", "));
        return Err(Complaint { at: Some(entry.span()), text });
    }
    let device = table.get("device").ok_or_else(|| Complaint {
        at: Some(entry.span()),
        text: "devices has an entry without device; write { device = \"0000:03:00.0\", ... }".to_owned(),
    })?;
    text(device, "device", "write the device's name in quotes")?;
    let allow_rmrr = match table.get("allow_rmrr") {
        None => false,
        Some(value) => value.get_ref().as_bool().ok_or_else(|| wrong(value, "allow_rmrr", "write true or false"))?,
    };
    let trusted_ats = word(table.get("ats"), "ats", &[("off", false), ("trusted", true)], false)?;
    Ok(GuestDevice { selector: selector(device, KEY)?, allow_rmrr, trusted_ats })
}
