//! From a value of the file to a checked, typed one. A complaint says what is
//! wrong and what to write instead.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use guest_loader::Start;
use guest_loader::layout::{GuestMap, MAX_MEMORY, MIN_MEMORY};
use machine::paging::LeafSizes;
use toml::de::DeValue;

use super::file::{self, Field, Placed, Value};
use super::message::line_of;
use super::{
    Address, ConfigWarning, Console, DEFAULT_DEADLINE_MS, DEFAULT_PORT, DeviceSelector, Guest, MAX_VCPUS, Management,
    OnUpgrade, Upgrade, devices,
};

const MIB: u64 = 1 << 20;
/// The longest guest name in bytes.
const MAX_NAME: usize = 31;
/// The most signing keys, images that are kept, and modules of a guest.
const MAX_NAMES: usize = 16;
/// What `modules` of a guest may be.
const MODULES_REMEDY: &str =
    "write up to 16 names of modules, each with what its kernel is told of it, like [\"rootfs.img a=b\"]";
/// The longest upgrade deadline in milliseconds.
const MAX_DEADLINE_MS: i64 = 60_000;

/// What is wrong with a value, and where it stands if it is there at all.
#[derive(Debug)]
pub struct Complaint {
    pub at: Option<core::ops::Range<usize>>,
    pub text: String,
}

/// Reads the values of one table.
pub(super) struct Reader {
    /// Where the table stands.
    pub at: Option<core::ops::Range<usize>>,
}

impl Reader {
    pub fn missing(&self, key: &str, remedy: &str) -> Complaint {
        Complaint { at: self.at.clone(), text: format!("{key} is missing; {remedy}") }
    }
}

/// A complaint about a value that is there.
pub(super) fn wrong(value: &Value<'_>, key: &str, remedy: &str) -> Complaint {
    Complaint { at: Some(value.span()), text: format!("{key} = {}; {remedy}", shown(value.get_ref())) }
}

/// A value as the operator wrote it, kept short.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    const LONGEST: usize = 40;
    match value {
        DeValue::String(text) => {
            let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
            if text.chars().nth(LONGEST).is_some() {
                short.push_str("...");
            }
            format!("\"{short}\"")
        }
        DeValue::Integer(number) => format!("{number}"),
        DeValue::Float(number) => format!("{number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "[...]".to_owned(),
        DeValue::Table(_) => "{...}".to_owned(),
    }
}

/// A whole number that fits 64 bits.
pub(super) fn whole(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A whole number in `least..=most`.
fn integer(value: &Value<'_>, key: &str, least: i64, most: i64) -> Result<i64, Complaint> {
    let number = whole(value.get_ref()).filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| wrong(value, key, &format!("write a whole number from {least} to {most}")))
}

/// A whole number in `least..=most` that fits 32 bits, or `default` where there is none.
pub(super) fn number(field: Field<'_>, key: &str, least: u32, most: u32, default: u32) -> Result<u32, Complaint> {
    let Some(value) = field else {
        return Ok(default);
    };
    let number = integer(value, key, least.into(), most.into())?;
    u32::try_from(number).map_err(|_| wrong(value, key, "write a smaller number"))
}

pub(super) fn text<'a>(value: &'a Value<'_>, key: &str, remedy: &str) -> Result<&'a str, Complaint> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        _ => Err(wrong(value, key, remedy)),
    }
}

pub(super) fn selector(value: &Value<'_>, key: &str) -> Result<DeviceSelector, Complaint> {
    let remedy = |error| format!("{error}");
    let name = text(value, key, &remedy(super::SelectorError))?;
    name.parse().map_err(|error| wrong(value, key, &remedy(error)))
}

/// One of a few words, or the first one where there is none.
pub(super) fn word<T: Copy>(field: Field<'_>, key: &str, words: &[(&str, T)], default: T) -> Result<T, Complaint> {
    let Some(value) = field else {
        return Ok(default);
    };
    let found = match value.get_ref() {
        DeValue::String(text) => words.iter().find(|(word, _)| text == word),
        _ => None,
    };
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let allowed: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        wrong(value, key, &format!("write {}", allowed.join(" or ")))
    })
}

/// `[management]`, or a warning that there is none.
pub fn management(
    text: &str,
    table: Option<&Placed<file::Management<'_>>>,
    warnings: &mut Vec<ConfigWarning>,
) -> Option<Management> {
    const CONSEQUENCE: &str = "this machine cannot be managed or upgraded over the network";
    let Some(Placed { at, table }) = table else {
        warnings
            .push(ConfigWarning { line: None, message: format!("there is no [management] with a nic; {CONSEQUENCE}") });
        return None;
    };
    let reader = Reader { at: Some(at.clone()) };
    match read_management(&reader, table) {
        Ok(management) => {
            if let (Address::Dhcp, Some(gateway)) = (management.address, table.gateway) {
                warnings.push(ConfigWarning {
                    line: Some(line_of(text, &gateway.span())),
                    message: "management.gateway has no effect, DHCP gives the gateway; remove it".to_owned(),
                });
            }
            Some(management)
        }
        Err(Complaint { at, text: complaint }) => {
            warnings.push(ConfigWarning {
                line: at.map(|span| line_of(text, &span)),
                message: format!("{CONSEQUENCE}: management.{complaint}"),
            });
            None
        }
    }
}

fn read_management(reader: &Reader, table: &file::Management<'_>) -> Result<Management, Complaint> {
    let nic = match table.nic {
        Some(value) => selector(value, "nic")?,
        None => return Err(reader.missing("nic", "name the network card that Baton uses")),
    };
    let address = match table.address {
        Some(value) => read_address(value, table.gateway)?,
        None => return Err(reader.missing("address", ADDRESS_REMEDY)),
    };
    let port = number(table.port, "port", 1, u16::MAX.into(), DEFAULT_PORT.into())?;
    Ok(Management { nic, address, port: u16::try_from(port).unwrap_or(DEFAULT_PORT) })
}

const ADDRESS_REMEDY: &str = "write \"dhcp\" or an address with its prefix like \"10.0.2.15/24\"";

fn read_address(value: &Value<'_>, gateway: Field<'_>) -> Result<Address, Complaint> {
    let bad = || wrong(value, "address", ADDRESS_REMEDY);
    let written = text(value, "address", ADDRESS_REMEDY)?;
    if written == "dhcp" {
        return Ok(Address::Dhcp);
    }
    let (address, prefix) = written.split_once('/').ok_or_else(bad)?;
    let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
    let prefix: u8 = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix)).ok_or_else(bad)?;
    let network_mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let host = address.to_bits() & !network_mask;
    // The all-zero and all-one hosts are the network and its broadcast, but for /31 and /32 (RFC 3021).
    let is_host = prefix > 30 || (host != 0 && host != !network_mask);
    if !is_host || address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast()
    {
        return Err(wrong(value, "address", "it is not an address of a host; write this machine's own address"));
    }
    let gateway = match gateway {
        None => None,
        Some(field) => {
            const REMEDY: &str = "write the router's address, one in the network of address";
            let router: Ipv4Addr =
                text(field, "gateway", REMEDY)?.parse().map_err(|_| wrong(field, "gateway", REMEDY))?;
            if router == address || (router.to_bits() ^ address.to_bits()) & network_mask != 0 {
                return Err(wrong(field, "gateway", REMEDY));
            }
            Some(router)
        }
    };
    Ok(Address::Static { address, prefix, gateway })
}

/// `[upgrade]`; a bad deadline is replaced by the default, a bad key or policy lets no image in.
pub fn upgrade(text: &str, table: Option<&Placed<file::Upgrade<'_>>>, warnings: &mut Vec<ConfigWarning>) -> Upgrade {
    let mut warn = |consequence: &str, Complaint { at, text: why }| {
        warnings.push(ConfigWarning {
            line: at.map(|span| line_of(text, &span)),
            message: format!("{consequence}: upgrade.{why}"),
        });
    };
    let (deadline, keys, images, unsigned) = match table {
        Some(Placed { table, .. }) => (table.deadline_ms, table.keys, table.images, table.unsigned),
        None => (None, None, None, None),
    };
    let most = u32::try_from(MAX_DEADLINE_MS).unwrap_or(u32::MAX);
    let deadline_ms = number(deadline, "deadline_ms", 1, most, DEFAULT_DEADLINE_MS).unwrap_or_else(|complaint| {
        warn(&format!("the deadline of upgrades is {DEFAULT_DEADLINE_MS} ms"), complaint);
        DEFAULT_DEADLINE_MS
    });
    let keys = module_names(keys, "keys", "write the names of modules with public keys like [\"ops.pub\"]");
    let keys = keys.unwrap_or_else(|complaint| {
        warn("no signing key is taken", complaint);
        Vec::new()
    });
    let images = module_names(images, "images", "write the names of modules like [\"baton-next.img\"]");
    let images = images.unwrap_or_else(|complaint| {
        warn("no image is kept", complaint);
        Vec::new()
    });
    let unsigned =
        word(unsigned, "unsigned", &[("refuse", false), ("allow", true)], false).unwrap_or_else(|complaint| {
            warn("unsigned images are refused", complaint);
            false
        });
    Upgrade { deadline_ms, keys, images, unsigned }
}

/// Names of modules.
fn module_names(field: Field<'_>, key: &str, remedy: &str) -> Result<Vec<String>, Complaint> {
    let Some(value) = field else {
        return Ok(Vec::new());
    };
    let DeValue::Array(names) = value.get_ref() else {
        return Err(wrong(value, key, remedy));
    };
    let names: Option<Vec<String>> = names.iter().map(|name| name.get_ref().as_str().map(ToOwned::to_owned)).collect();
    // A zero byte would end a text of a guest's early.
    let good = |names: &Vec<String>| names.len() <= MAX_NAMES && !names.iter().any(|name| name.contains('\0'));
    names.filter(good).ok_or_else(|| wrong(value, key, remedy))
}

/// The name of a `[[guest]]`, if it has a good one.
pub fn guest_name<'a>(guest: &Placed<file::Guest<'a>>) -> Result<&'a str, Complaint> {
    const REMEDY: &str = "write 1 to 31 characters of a-z, 0-9 and '-'";
    let Some(value) = guest.table.name else {
        return Err(Reader { at: Some(guest.at.clone()) }.missing("name", REMEDY));
    };
    let name = text(value, "name", REMEDY)?;
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(good) {
        return Err(wrong(value, "name", REMEDY));
    }
    Ok(name)
}

/// A `[[guest]]` whose name is good.
pub fn guest(name: &str, Placed { at, table }: &Placed<file::Guest<'_>>) -> Result<Guest, Complaint> {
    let reader = Reader { at: Some(at.clone()) };
    let vcpus = number(table.vcpus, "vcpus", 1, MAX_VCPUS, 1)?;
    let module = |value: &Value<'_>, key| {
        const REMEDY: &str = "write the name of a module";
        let name = text(value, key, REMEDY)?;
        if name.is_empty() { Err(wrong(value, key, REMEDY)) } else { Ok(name.to_owned()) }
    };
    let kernel = match table.kernel {
        Some(value) => module(value, "kernel")?,
        None => {
            return Err(reader.missing("kernel", "write the name of the module with its kernel"));
        }
    };
    let initrd = match table.initrd {
        Some(value) => Some(module(value, "initrd")?),
        None => None,
    };
    let entries = [Start::Auto, Start::Bits64, Start::Bits32, Start::Bits16].map(|start| (start.name(), start));
    let consoles = [("com1", Console::Com1), ("com2", Console::Com2), ("none", Console::None)];
    let pages = [("4k", LeafSizes::ONLY_4K), ("2m", LeafSizes::UP_TO_2M), ("1g", LeafSizes::UP_TO_1G)];
    let on_upgrade = [("preserve", OnUpgrade::Preserve), ("stop", OnUpgrade::Stop)];
    Ok(Guest {
        name: name.to_owned(),
        memory: memory(&reader, table.memory_mib)?,
        vcpus,
        pcpus: pcpus(table.pcpus, vcpus)?,
        kernel,
        entry: word(table.entry, "entry", &entries, Start::Auto)?,
        initrd,
        modules: module_names(table.modules, "modules", MODULES_REMEDY)?,
        command_line: command_line(table.command_line)?,
        devices: devices::of_guest(table.devices)?,
        on_upgrade: word(table.on_upgrade, "on_upgrade", &on_upgrade, OnUpgrade::Preserve)?,
        console: word(table.console, "console", &consoles, Console::None)?,
        pages: word(table.page_size, "page_size", &pages, LeafSizes::UP_TO_1G)?,
    })
}

fn memory(reader: &Reader, field: Field<'_>) -> Result<GuestMap, Complaint> {
    let (least, most) = (MIN_MEMORY / MIB, MAX_MEMORY / MIB);
    let Some(value) = field else {
        return Err(reader.missing("memory_mib", "write the guest's memory in MiB"));
    };
    let mib = integer(value, "memory_mib", least as i64, most as i64)?;
    GuestMap::new(mib as u64 * MIB).map_err(|error| wrong(value, "memory_mib", &format!("{error}")))
}

fn pcpus(field: Field<'_>, vcpus: u32) -> Result<Vec<u32>, Complaint> {
    let Some(value) = field else {
        return Ok(Vec::new());
    };
    let remedy = format!("write a list of {vcpus} pCPU numbers, one for each of the vcpus");
    let DeValue::Array(list) = value.get_ref() else {
        return Err(wrong(value, "pcpus", &remedy));
    };
    let numbers: Option<Vec<u32>> =
        list.iter().map(|entry| whole(entry.get_ref()).and_then(|number| u32::try_from(number).ok())).collect();
    numbers.filter(|numbers| numbers.len() as u64 == u64::from(vcpus)).ok_or_else(|| wrong(value, "pcpus", &remedy))
}

fn command_line(field: Field<'_>) -> Result<String, Complaint> {
    const REMEDY: &str = "write a text in quotes";
    let Some(value) = field else {
        return Ok(String::new());
    };
    let line = text(value, "command_line", REMEDY)?;
    // A zero byte would end it early; a line break hides the rest from whoever reads the file.
    if line.contains(['\0', '\n', '\r']) {
        return Err(wrong(value, "command_line", "write it without zero bytes and line breaks"));
    }
    Ok(line.to_owned())
}
