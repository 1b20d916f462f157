//! The tables of `baton.toml` and their keys. Values are taken as they are and
//! checked later: one that is of the wrong type costs one guest, not all.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::message::{ConfigError, line_of};

/// A value and where it stands.
pub type Value<'a> = Spanned<DeValue<'a>>;

/// A value that may be missing.
pub type Field<'a> = Option<&'a Value<'a>>;

/// A table and where it stands.
pub struct Placed<T> {
    /// Where its header stands.
    pub at: Range<usize>,
    /// The table.
    pub table: T,
}

/// A table whose values are not checked yet.
trait Fields<'a>: Sized {
    /// Every key that it may have.
    const KEYS: &'static [&'static str];

    /// Takes the values of a table that has no other keys.
    fn take(table: &'a DeTable<'a>) -> Self;
}

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($key:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub struct $name<'a> {
            $(pub $key: Field<'a>),+
        }

        impl<'a> Fields<'a> for $name<'a> {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),+];

            fn take(table: &'a DeTable<'a>) -> Self {
                Self { $($key: table.get(stringify!($key))),+ }
            }
        }
    };
}

fields!(
    /// The file itself.
    Top { management, upgrade, iommu, sriov, guest }
);
fields!(
    /// `[management]`
    Management { nic, address, gateway, port }
);
fields!(
    /// `[upgrade]`
    Upgrade { deadline_ms, keys, images, unsigned }
);
fields!(
    /// `[iommu]`
    Iommu { mode, fault_limit }
);
fields!(
    /// `[[sriov]]`
    Sriov { device, vfs, namespaces }
);
fields!(
    /// `[[guest]]`
    Guest {
        name, memory_mib, vcpus, pcpus, kernel, entry, initrd, modules, command_line, devices, on_upgrade, console, page_size
    }
);

/// The file: tables with known keys only.
pub struct File<'a> {
    pub management: Option<Placed<Management<'a>>>,
    pub upgrade: Option<Placed<Upgrade<'a>>>,
    pub iommu: Option<Placed<Iommu<'a>>>,
    pub sriov: Vec<Placed<Sriov<'a>>>,
    pub guest: Vec<Placed<Guest<'a>>>,
}

/// Sorts the text's values by their places in the file.
///
/// # Errors
/// A key is unknown, or a value stands where a table has to.
pub fn read<'a>(text: &str, document: &'a DeTable<'a>) -> Result<File<'a>, ConfigError> {
    let top: Top<'a> = checked(text, document)?;
    Ok(File {
        management: one(text, top.management, "management", "write it below a line [management]")?,
        upgrade: one(text, top.upgrade, "upgrade", "write it below a line [upgrade]")?,
        iommu: one(text, top.iommu, "iommu", "write it below a line [iommu]")?,
        sriov: many(text, top.sriov, "sriov", "write [[sriov]] with two brackets")?,
        guest: many(text, top.guest, "guest", "write [[guest]] with two brackets")?,
    })
}

fn checked<'a, T: Fields<'a>>(text: &str, table: &'a DeTable<'a>) -> Result<T, ConfigError> {
    known_keys(text, table, T::KEYS)?;
    Ok(T::take(table))
}

/// Refuses the first unknown key.
fn known_keys(text: &str, table: &DeTable<'_>, known: &[&str]) -> Result<(), ConfigError> {
    let unknown = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
    let Some(first) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
    let expected = format!("expected one of `{}`", known.join("`, `"));
    // A key in quotes may hold anything; the message is one line.
    let cause = format!("unknown field `{}`, {expected}", first.get_ref().escape_debug());
    Err(ConfigError::new(Some(line_of(text, &first.span())), &cause, "correct the key or remove it"))
}

fn one<'a, T: Fields<'a>>(
    text: &str,
    field: Field<'a>,
    name: &str,
    remedy: &'static str,
) -> Result<Option<Placed<T>>, ConfigError> {
    field.map(|value| placed(text, value, name, remedy)).transpose()
}

fn many<'a, T: Fields<'a>>(
    text: &str,
    field: Field<'a>,
    name: &str,
    remedy: &'static str,
) -> Result<Vec<Placed<T>>, ConfigError> {
    let Some(value) = field else { return Ok(Vec::new()) };
    let DeValue::Array(list) = value.get_ref() else { return Err(no_table(text, value, name, remedy)) };
    list.iter().map(|value| placed(text, value, name, remedy)).collect()
}

fn placed<'a, T: Fields<'a>>(
    text: &str,
    value: &'a Value<'a>,
    name: &str,
    remedy: &'static str,
) -> Result<Placed<T>, ConfigError> {
    let DeValue::Table(table) = value.get_ref() else { return Err(no_table(text, value, name, remedy)) };
    Ok(Placed { at: value.span(), table: checked(text, table)? })
}

fn no_table(text: &str, value: &Value<'_>, name: &str, remedy: &'static str) -> ConfigError {
    let cause = format!("{name} is a {}", value.get_ref().type_str());
    ConfigError::new(Some(line_of(text, &value.span())), &cause, remedy)
}
