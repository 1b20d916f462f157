use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use machine::paging::LeafSizes;
use proptest::prelude::*;

use super::*;

/// The example of the operator's guide.
const EXAMPLE: &str = r#"
[management]
nic = "8086:10d3"
address = "10.0.2.15/24"
gateway = "10.0.2.2"
port = 8080

[upgrade]
deadline_ms = 20
keys = ["ops.pub", "spare.pub"]
unsigned = "refuse"

[iommu]
mode = "scalable"
fault_limit = 5

[[sriov]]
device = "8086:10c9"
vfs = 2
namespaces = [3, 1]

[[guest]]
name = "debian"
memory_mib = 512
vcpus = 2
pcpus = [1, 2]
kernel = "vmlinuz"
initrd = "initrd.cpio"
command_line = "console=ttyS0"
devices = ["1b36:0010", { device = "0000:03:00.0", allow_rmrr = true, ats = "trusted" }, "8086:10c9/vf1"]
on_upgrade = "stop"
console = "com2"
page_size = "4k"
entry = "32-bit"
modules = ["one", "two a=b"]
"#;

const MANAGEMENT: &str = "[management]\nnic = \"8086:10d3\"\naddress = \"dhcp\"\n";

fn guest(name: &str, rest: &str) -> String {
    format!("[[guest]]\nname = \"{name}\"\nmemory_mib = 64\nkernel = \"k\"\n{rest}\n")
}

/// Names of the guests that start, and the warnings as the operator reads them.
fn outcome(text: &str) -> (Vec<String>, Vec<String>) {
    let (config, warnings) = parse(text).unwrap();
    (config.guests.iter().map(|guest| guest.name.clone()).collect(), warnings.iter().map(ToString::to_string).collect())
}

/// The warning for one guest with these lines; guests before and after it start.
fn complaint(lines: &str) -> String {
    let text = format!("{MANAGEMENT}{}[[guest]]\n{lines}\n{}", guest("first", ""), guest("last", ""));
    let (names, warnings) = outcome(&text);
    assert_eq!((names.as_slice(), warnings.len()), (&["first".into(), "last".into()][..], 1), "{warnings:?}");
    warnings[0].clone()
}

fn management_warning(lines: &str) -> String {
    let (config, warnings) = parse(&format!("[management]\n{lines}\n{}", guest("a", ""))).unwrap();
    assert_eq!((config.management, config.guests.len(), warnings.len()), (None, 1, 1), "{warnings:?}");
    warnings[0].to_string()
}

#[test]
fn the_example_says_everything() {
    let (config, warnings) = parse(EXAMPLE).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let management = config.management.unwrap();
    assert_eq!(
        management.nic,
        DeviceSelector { function: FunctionSelector::Id { vendor: 0x8086, device: 0x10D3, nth: 0 }, vf: None }
    );
    assert_eq!(
        management.address,
        Address::Static { address: Ipv4Addr::new(10, 0, 2, 15), prefix: 24, gateway: Some(Ipv4Addr::new(10, 0, 2, 2)) }
    );
    assert_eq!((management.port, config.upgrade.deadline_ms), (8080, 20));
    assert_eq!(config.iommu, Iommu { mode: IommuMode::Scalable, fault_limit: 5 });
    let sriov: Vec<_> =
        config.sriov.iter().map(|sriov| (sriov.device.to_string(), sriov.vfs, &sriov.namespaces[..])).collect();
    assert_eq!(sriov, [("8086:10c9".to_string(), 2, &[3, 1][..])]);
    assert_eq!(
        (&config.upgrade.keys[..], config.upgrade.unsigned),
        (&["ops.pub".into(), "spare.pub".into()][..], false)
    );
    let guest = &config.guests[0];
    assert_eq!((guest.memory.memory_bytes(), guest.vcpus, &guest.pcpus[..]), (512 << 20, 2, &[1, 2][..]));
    assert_eq!((guest.kernel.as_str(), guest.initrd.as_deref()), ("vmlinuz", Some("initrd.cpio")));
    assert_eq!(guest.command_line, "console=ttyS0");
    let devices: Vec<_> = guest
        .devices
        .iter()
        .map(|device| (device.selector.to_string(), device.allow_rmrr, device.trusted_ats))
        .collect();
    let expected = [("1b36:0010", false, false), ("0000:03:00.0", true, true), ("8086:10c9/vf1", false, false)];
    assert_eq!(devices, expected.map(|(name, rmrr, ats)| (name.to_string(), rmrr, ats)));
    assert_eq!((guest.on_upgrade, guest.console), (OnUpgrade::Stop, Console::Com2));
    assert_eq!(guest.pages, LeafSizes::ONLY_4K);
    assert_eq!(
        (guest.entry, guest.modules.as_slice()),
        (Start::Bits32, &["one".to_string(), "two a=b".to_string()][..])
    );
}

#[test]
fn defaults() {
    let (config, warnings) = parse(&format!("{MANAGEMENT}{}", guest("a", ""))).unwrap();
    assert!(warnings.is_empty());
    let management = config.management.unwrap();
    assert_eq!((management.address, management.port), (Address::Dhcp, 80));
    assert_eq!(config.upgrade.deadline_ms, 50);
    assert_eq!(config.iommu, Iommu { mode: IommuMode::Auto, fault_limit: DEFAULT_FAULT_LIMIT });
    assert!(config.sriov.is_empty());
    let guest = &config.guests[0];
    assert_eq!((guest.vcpus, guest.pcpus.len(), guest.initrd.as_deref()), (1, 0, None));
    assert_eq!((guest.command_line.as_str(), guest.devices.len()), ("", 0));
    assert_eq!((guest.on_upgrade, guest.console), (OnUpgrade::Preserve, Console::None));
    assert_eq!(guest.pages, LeafSizes::UP_TO_1G);
    assert!(guest.entry == Start::Auto && guest.modules.is_empty());
}

#[test]
fn a_bad_signing_policy_lets_nothing_in() {
    for (lines, word) in [
        ("keys = \"ops.pub\"", "no signing key is taken: upgrade.keys = \"ops.pub\"; write the names"),
        ("keys = [1]", "no signing key is taken"),
        ("unsigned = true", "unsigned images are refused: upgrade.unsigned = true; write \"refuse\" or \"allow\""),
        ("unsigned = \"yes\"", "unsigned images are refused"),
    ] {
        let (config, warnings) = parse(&format!("{MANAGEMENT}[upgrade]\n{lines}\n{}", guest("a", ""))).unwrap();
        assert_eq!((config.upgrade.keys.len(), config.upgrade.unsigned, warnings.len()), (0, false, 1), "{lines}");
        assert!(warnings[0].to_string().contains(word), "{}", warnings[0]);
    }
    let (config, warnings) =
        parse(&format!("{MANAGEMENT}[upgrade]\nunsigned = \"allow\"\n{}", guest("a", ""))).unwrap();
    assert!(config.upgrade.unsigned && warnings.is_empty());
}

#[test]
fn unknown_keys_and_syntax_errors_refuse_the_file() {
    let refusal = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(
        refusal("[upgrade]\n\ndeadline = 5\n"),
        "baton.toml line 3: unknown field `deadline`, expected one of `deadline_ms`, `keys`, `images`, `unsigned`; correct the key or remove it"
    );
    let text = refusal(&guest("a", "memory = 5"));
    assert!(
        text.starts_with("baton.toml line 5: unknown field `memory`, expected one of `name`, `memory_mib`"),
        "{text}"
    );
    let text = refusal("[managment]\n");
    assert!(text.contains("line 1: unknown field `managment`, expected one of `management`"), "{text}");
    assert!(refusal("[guest]\nname = \"a\"\n").ends_with("write [[guest]] with two brackets"));
    assert!(refusal("[upgrade\n").starts_with("baton.toml line 1: "));
    assert!(refusal("[upgrade]\ndeadline_ms = 1\ndeadline_ms = 2\n").starts_with("baton.toml line 3: duplicate key"));
    for text in ["[upgrade\n", "a = \"\"\"\n\n", "[[guest]]\nname = 'a\nb'\n", "x"] {
        assert!(!refusal(text).contains('\n'));
    }
}

#[test]
fn broken_bytes() {
    assert_eq!(
        parse_bytes(b"[upgrade]\n# \xFF\n").unwrap_err().to_string(),
        "baton.toml line 2: the text is not UTF-8; save the file as UTF-8"
    );
    assert!(parse_bytes(EXAMPLE.as_bytes()).is_ok());
    assert!(parse(&" ".repeat(MAX_FILE_BYTES + 1)).is_err());
}

#[test]
fn nothing_at_all() {
    let (names, warnings) = outcome("");
    assert!(names.is_empty());
    assert_eq!(
        warnings,
        [
            "baton.toml: there is no [management] with a nic; this machine cannot be managed or upgraded over the network",
            "baton.toml: there is no [[guest]]; no guest is started"
        ]
    );
}

#[test]
fn a_bad_value_costs_one_guest() {
    let with = |line: &str| complaint(&format!("name = \"b\"\nmemory_mib = 64\nkernel = \"k\"\n{line}"));
    assert_eq!(
        complaint("name = \"b\"\nmemory_mib = 0\nkernel = \"k\""),
        "baton.toml line 11: guest 'b' is not started: memory_mib = 0; write a whole number from 2 to 261120"
    );
    assert_eq!(
        complaint("name = \"b\"\nmemory_mib = \"512\"\nkernel = \"k\""),
        "baton.toml line 11: guest 'b' is not started: memory_mib = \"512\"; write a whole number from 2 to 261120"
    );
    assert!(
        complaint("name = \"b\"\nkernel = \"k\"").contains("line 9: guest 'b' is not started: memory_mib is missing")
    );
    assert!(complaint("name = \"b\"\nmemory_mib = 64").contains("kernel is missing; write the name of the module"));
    assert!(
        with("vcpus = 0").contains("line 13: guest 'b' is not started: vcpus = 0; write a whole number from 1 to 255")
    );
    assert!(with("vcpus = 256").contains("vcpus = 256"));
    assert!(with("vcpus = 2\npcpus = [1]").contains("pcpus = [...]; write a list of 2 pCPU numbers"));
    assert!(with("pcpus = [-1]").contains("pcpus"));
    assert!(with("pcpus = 1").contains("pcpus = 1;"));
    assert!(with("initrd = \"\"").contains("initrd = \"\"; write the name of a module"));
    assert!(with("command_line = 5").contains("command_line = 5; write a text"));
    assert!(with("command_line = \"a\\u0000b\"").contains("without zero bytes"));
    assert!(with("entry = 16").contains("entry = 16; write \"auto\" or \"64-bit\" or \"32-bit\" or \"16-bit\""));
    assert!(with("modules = \"one\"").contains("modules = \"one\"; write up to 16 names of modules"));
    assert!(with("page_size = 4096").contains("page_size = 4096; write \"4k\" or \"2m\" or \"1g\""));
    assert!(with("on_upgrade = \"restart\"").contains("on_upgrade = \"restart\"; write \"preserve\" or \"stop\""));
    assert!(with("console = true").contains("console = true; write \"com1\" or \"com2\" or \"none\""));
    assert!(with("devices = \"03:00.0\"").contains("write a list"));
    assert!(with("devices = [\"03:00\"]").contains("devices has an entry = \"03:00\"; write a place like"));
    assert!(with("devices = [\"03:00.0\", \"0000:03:00.0\"]").contains("0000:03:00.0 is in it twice"));
}

#[test]
fn names() {
    for name in ["", "Upper", "white space", "under_score", "a-name-that-is-longer-than-31-byte", "ä"] {
        let text = complaint(&format!("name = \"{name}\"\nmemory_mib = 64\nkernel = \"k\""));
        assert!(text.contains("line 10: guest number 2 is not started: name = "), "{text}");
    }
    let longest = "a-name-with-just-31-characters-";
    assert_eq!(longest.len(), 31);
    assert_eq!(outcome(&format!("{MANAGEMENT}{}", guest(longest, ""))).0, [longest]);
    assert!(complaint("memory_mib = 64\nkernel = \"k\"").contains("guest number 2 is not started: name is missing"));
    assert!(complaint("name = \"first\"\nmemory_mib = 64\nkernel = \"k\"").contains("another guest has this name"));
}

#[test]
fn a_device_has_one_owner() {
    let text = format!(
        "{MANAGEMENT}{}{}{}",
        guest("a", "devices = [\"1b36:0010\"]"),
        guest("b", "devices = [\"1B36:0010#0\"]"),
        guest("c", "devices = [\"8086:10d3\"]")
    );
    let (names, warnings) = outcome(&text);
    assert_eq!(names, ["a"]);
    assert!(warnings[0].contains("guest 'b' is not started: device 1b36:0010 is guest 'a''s already"), "{warnings:?}");
    assert!(warnings[1].contains("guest 'c' is not started: device 8086:10d3 is the management network's"));
}

#[test]
fn entries_of_devices() {
    let with = |entry: &str| complaint(&format!("name = \"b\"\nmemory_mib = 64\nkernel = \"k\"\ndevices = [{entry}]"));
    assert!(with("{ device = \"03:00.0\", rmrr = true }").contains("with rmrr = true; a device has the keys device, "));
    assert!(with("{ allow_rmrr = true }").contains("entry without device; write { device = "));
    assert!(with("{ device = 3 }").contains("device = 3; write the device's name in quotes"));
    assert!(with("{ device = \"03:00.0\", allow_rmrr = 1 }").contains("allow_rmrr = 1; write true or false"));
    assert!(with("{ device = \"03:00.0\", ats = \"on\" }").contains("ats = \"on\"; write \"off\" or \"trusted\""));
    assert!(with("\"03:00.0\", { device = \"3:0.0\" }").contains("0000:03:00.0 is in it twice"));
}

#[test]
fn virtual_functions() {
    let with = |lines: &str| {
        let (config, warnings) = parse(&format!("{MANAGEMENT}[[sriov]]\n{lines}\n{}", guest("a", ""))).unwrap();
        assert_eq!((config.sriov.len(), config.guests.len(), warnings.len()), (0, 1, 1), "{warnings:?}");
        warnings[0].to_string()
    };
    assert!(with("vfs = 2").contains("line 4: no virtual functions are made: sriov.device is missing"));
    assert!(with("device = \"8086:10c9\"").contains("sriov.vfs is missing; write how many"));
    assert!(with("device = \"8086:10c9\"\nvfs = 0").contains("vfs = 0; write a whole number from 1 to 255"));
    assert!(with("device = \"8086:10c9/vf0\"\nvfs = 1").contains("name the physical function, not one of its"));
    let namespaces = |list: &str| with(&format!("device = \"1b36:0010\"\nvfs = 2\nnamespaces = {list}"));
    for bad in ["3", "[1]", "[1, 2, 3]", "[0, 1]", "[1, \"2\"]", "[1, 4294967295]"] {
        assert!(namespaces(bad).contains("write a list of 2 namespace ids"), "{bad}: {}", namespaces(bad));
    }
    assert!(namespaces("[7, 7]").contains("namespaces = [...]; 7 is in it twice; remove one"));
    let sriov = "[[sriov]]\ndevice = \"8086:10c9\"\nvfs = 2\n";
    let text = format!("{MANAGEMENT}{sriov}{sriov}{}", guest("a", "devices = [\"8086:10c9\"]"));
    let (names, warnings) = outcome(&text);
    assert!(names.is_empty());
    assert!(
        warnings[0].contains("line 7: no virtual functions are made: sriov.device 8086:10c9 has an [[sriov]] already")
    );
    assert!(warnings[1].contains("stays with Baton; name one of these, 8086:10c9/vf0"), "{warnings:?}");
}

#[test]
fn a_serial_port_shows_one_guest() {
    let text = format!("{MANAGEMENT}{}{}", guest("a", "console = \"com2\""), guest("b", "console = \"com2\""));
    let (config, warnings) = parse(&text).unwrap();
    assert_eq!((config.guests[0].console, config.guests[1].console), (Console::Com2, Console::None));
    assert!(warnings[0].to_string().contains("line 9: the console of guest 'b' is not shown"), "{warnings:?}");
}

#[test]
fn without_good_management_guests_start() {
    assert!(management_warning("address = \"dhcp\"").contains("management.nic is missing"));
    assert!(management_warning("nic = \"8086:10d3\"").contains("management.address is missing; write \"dhcp\""));
    let text = management_warning("nic = \"8086:10d\"\naddress = \"dhcp\"");
    assert!(text.contains("line 2: this machine cannot be managed"), "{text}");
    let with = |lines: &str| management_warning(&format!("nic = \"8086:10d3\"\n{lines}"));
    for address in ["10.0.2.15", "10.0.2.15/0", "10.0.2.15/33", "10.0.2/24", "", "fe80::1/64"] {
        let text = with(&format!("address = \"{address}\""));
        assert!(text.contains("write \"dhcp\" or an address with its prefix"), "{text}");
    }
    for address in ["10.0.2.0/24", "10.0.2.255/24", "127.0.0.1/8", "224.0.0.5/24", "0.0.0.0/32"] {
        let text = with(&format!("address = \"{address}\""));
        assert!(text.contains("not an address of a host"), "{text}");
    }
    for gateway in ["10.0.3.1", "10.0.2.15", "router"] {
        let text = with(&format!("address = \"10.0.2.15/24\"\ngateway = \"{gateway}\""));
        assert!(text.contains("line 4: ") && text.contains("management.gateway = "), "{text}");
    }
    assert!(with("address = \"dhcp\"\nport = 0").contains("port = 0; write a whole number from 1 to 65535"));
}

#[test]
fn a_gateway_beside_dhcp_is_ignored() {
    let (config, warnings) = parse(&format!("{MANAGEMENT}gateway = \"10.0.2.2\"\n{}", guest("a", ""))).unwrap();
    assert_eq!(config.management.unwrap().address, Address::Dhcp);
    assert_eq!(
        warnings[0].to_string(),
        "baton.toml line 4: management.gateway has no effect, DHCP gives the gateway; remove it"
    );
}

/// The file that the operator's guide shows is one that works.
#[test]
fn the_guides_example_is_good() {
    let guide = include_str!("../../../docs/adding-a-guest.md");
    let (_, behind) = guide.split_once("```toml\n").unwrap();
    let (example, _) = behind.split_once("```").unwrap();
    let (config, warnings) = parse(example).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((config.guests.len(), config.guests[0].kernel.as_str()), (1, "vmlinuz"));
}

#[test]
fn a_bad_choice_falls_back_to_the_safe_one() {
    let text = format!("{MANAGEMENT}[upgrade]\ndeadline_ms = 0\n[iommu]\nmode = \"off\"\n{}", guest("a", ""));
    let (config, warnings) = parse(&text).unwrap();
    assert_eq!((config.upgrade.deadline_ms, config.iommu.mode, config.guests.len()), (50, IommuMode::Auto, 1));
    assert!(warnings[0].to_string().contains("line 5: the deadline of upgrades is 50 ms"));
    assert!(warnings[1].to_string().contains("line 7: the IOMMU is used if there is one: iommu.mode = \"off\""));
    assert_eq!(parse("[iommu]\nmode = \"none\"\n").unwrap().0.iommu.mode, IommuMode::None);
}

#[test]
fn without_an_iommu_no_guest_has_devices() {
    let text = |mode: &str| {
        format!("[iommu]\nmode = \"{mode}\"\n{}{}", guest("bare", ""), guest("disk", "devices = [\"01:00.0\"]"))
    };
    let (names, warnings) = outcome(&text("none"));
    assert_eq!(names, ["bare"]);
    let line = warnings.iter().find(|line| line.contains("guest 'disk' is not started")).unwrap();
    assert!(line.contains("0000:01:00.0") && line.contains("iommu.mode"), "{line}");
    assert_eq!(outcome(&text("auto")).0, ["bare", "disk"]);
}

#[test]
fn selectors() {
    let parse = |text: &str| text.parse::<DeviceSelector>().map(|selector| selector.to_string());
    assert_eq!(parse("03:00.0").as_deref(), Ok("0000:03:00.0"));
    assert_eq!(parse("0001:FF:1f.7").as_deref(), Ok("0001:ff:1f.7"));
    assert_eq!(parse("8086:10D3#12").as_deref(), Ok("8086:10d3#12"));
    assert_eq!(parse("8086:10c9#1/vf3").as_deref(), Ok("8086:10c9#1/vf3"));
    assert_eq!(parse("2:0.1/vf0").as_deref(), Ok("0000:02:00.1/vf0"));
    for text in ["8086:10c9/vf", "8086:10c9/vf-1", "/vf0", "8086:10c9/vf0/vf1", "8086:10c9/vf0#1", "8086:10c9/vf65536"]
    {
        assert_eq!(parse(text), Err(SelectorError), "{text}");
    }
    for text in
        ["", ":", "8086", "8086:10d3#", "8086:10d3#-1", "8086:10d3#65536", "8086:10d3#+1", "+086:10d3", "ffff:0000"]
    {
        assert_eq!(parse(text), Err(SelectorError), "{text}");
    }
    for text in ["03:20.0", "03:00.8", "3:0.", ".", "0:1:2:3.4", "03:00.0#1", "100:00.0"] {
        assert_eq!(parse(text), Err(SelectorError), "{text}");
    }
}

#[test]
fn placement() {
    let place = |pcpus: u32, guests: &[&str]| {
        let guests: String =
            (b'a'..).zip(guests).map(|(name, rest)| guest(&(name as char).to_string(), rest)).collect();
        let (mut config, _) = parse(&format!("{MANAGEMENT}{guests}")).unwrap();
        let warnings: Vec<_> = config.place(pcpus).iter().map(ToString::to_string).collect();
        (config.guests.iter().map(|guest| guest.pcpus.clone()).collect::<Vec<_>>(), warnings)
    };
    assert_eq!(place(1, &["", "vcpus = 2"]).0, [&[0][..], &[0, 0]]);
    assert_eq!(place(4, &["vcpus = 2", "", ""]).0, [&[3, 2][..], &[1], &[3]]);
    // What is asked for comes first, wherever it stands.
    assert_eq!(place(4, &["", "pcpus = [3]", "vcpus = 2"]).0, [&[2][..], &[3], &[1, 3]]);
    let (placed, warnings) = place(2, &["pcpus = [2]", "pcpus = [0]"]);
    assert_eq!(placed, [[0]]);
    assert_eq!(
        warnings,
        ["baton.toml: guest 'a' is not started: it asks for pCPU 2 and this machine has 2 (0 to 1); change its pcpus"]
    );
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn damaged_example_never_panics(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6)
    ) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match parse_bytes(&bytes) {
            Ok((_, warnings)) => {
                for warning in warnings {
                    prop_assert!(!warning.to_string().contains('\n'));
                }
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }

    #[test]
    fn any_value_for_any_key_never_panics(key in 0..11_usize, value in "[0-9a-z\"\\[\\], .:#-]{0,12}") {
        let keys = ["name", "memory_mib", "vcpus", "pcpus", "kernel", "initrd", "command_line", "devices", "on_upgrade", "console", "page_size", "entry", "modules"];
        let _ = parse(&format!("[[guest]]\n{} = {value}\n", keys[key]));
    }
}
