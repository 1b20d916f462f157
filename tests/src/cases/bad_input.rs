//! What operators, firmware and hardware get wrong. Each costs one line that names the cause, and nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Bed;
use crate::config::Config;
use crate::log::wait_for;
use crate::machine::Machine;
use crate::spec::Spec;

/// A wrong input.
struct Wrong {
    name: &'static str,
    spec: Spec,
    /// What the line has to contain.
    words: &'static [&'static str],
    /// Whether the management API must still answer.
    manageable: bool,
}

fn toml(text: String) -> Vec<(String, String)> {
    vec![("baton.toml".into(), text)]
}

fn inputs() -> Vec<Wrong> {
    let good = Config::default();
    let spec = Spec::default;
    let with = |config: Config| Spec { texts: toml(config.to_string()), ..spec() };
    let entry = |name, spec, words| Wrong { name, spec, words, manageable: false };
    vec![
        entry("no baton.toml", Spec { texts: Vec::new(), ..spec() }, &["baton.toml"]),
        entry("a broken baton.toml", Spec { texts: toml("[[guest]\nname".into()), ..spec() }, &["baton.toml line 1"]),
        entry(
            "an unknown key",
            Spec { texts: toml(good.to_string().replace("memory_mib", "memory_mb")), ..spec() },
            &["baton.toml line", "unknown field", "memory_mb"],
        ),
        Wrong {
            manageable: true,
            ..entry(
                "an absent device",
                with(Config { devices: vec!["1b36:00ff".into()], ..good.clone() }),
                &["debian", "1b36:00ff"],
            )
        },
        Wrong {
            manageable: true,
            ..entry(
                "a function of the chipset without its neighbours",
                with(Config { devices: vec!["00:1f.2".into()], ..good.clone() }),
                &["debian", "0000:00:1f.2 can't be told apart from", "give all of them to this guest"],
            )
        },
        Wrong {
            manageable: true,
            ..entry(
                "a bridge",
                with(Config { devices: vec!["00:02.0".into()], ..good.clone() }),
                &["debian", "0000:00:02.0 is a bridge"],
            )
        },
        Wrong {
            manageable: true,
            ..entry(
                "a function that has nothing but an interrupt line",
                with(Config { devices: vec!["00:1f.3".into()], ..good.clone() }),
                &["debian", "0000:00:1f.3 interrupts by the line INTA# only (INTx)"],
            )
        },
        Wrong {
            manageable: true,
            ..entry(
                "an entry that the kernel does not have",
                {
                    let text =
                        good.to_string().replace("kernel = \"vmlinuz\"", "kernel = \"sector.bin\"\nentry = \"64-bit\"");
                    let modules = vec![crate::paths::legacy_guest("sector.bin"), crate::paths::initrd()];
                    Spec { modules, texts: toml(text), ..spec() }
                },
                &["debian", "kernel 'sector.bin' is a boot sector, which has no 64-bit entry", "entry = \"16-bit\""],
            )
        },
        Wrong {
            manageable: true,
            ..entry(
                "a kernel that is no kernel",
                with(Config { kernel: "initrd.cpio".into(), ..good.clone() }),
                &["initrd.cpio", "no kernel"],
            )
        },
        Wrong {
            manageable: true,
            ..entry(
                "a kernel that isn't there",
                with(Config { kernel: "nothing".into(), ..good.clone() }),
                &["debian", "nothing"],
            )
        },
        Wrong {
            manageable: true,
            ..entry("too little memory", with(Config { memory_mib: 4096, ..good.clone() }), &["debian", "memory"])
        },
        Wrong { manageable: true, ..entry("no IOMMU", Spec { iommu: None, ..spec() }, &["IOMMU"]) },
        entry("no SVM", Spec { cpu: "max,-svm".into(), ..spec() }, &["SVM"]),
    ]
}

pub fn run(bed: &mut Bed) -> Result<()> {
    let mut wrong = Vec::new();
    for input in inputs() {
        let machine = bed.start("bad-input", &input.spec)?;
        if let Err(error) = judge(&machine, &input) {
            wrong.push(format!("with {}: {error:#}\n{}", input.name, machine.baton.tail(5)));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn judge(machine: &Machine, input: &Wrong) -> Result<()> {
    let clear = |line: &String| {
        let loud = line.contains(" error ") || line.contains(" warning ");
        loud && input.words.iter().all(|word| line.contains(word))
    };
    let what = format!("warning or error with all of {:?}", input.words);
    let told = || machine.baton.lines().into_iter().find(clear);
    wait_for(&what, Duration::from_secs(30), || machine.alive(), told)?;
    if input.manageable {
        let guests = machine.wait_api(30)?.guests()?.guests;
        ensure!(guests.iter().all(|guest| guest.state != "running"), "the guest runs all the same: {guests:?}");
    }
    let lines = machine.baton.lines();
    let panicked = lines.iter().find(|line| line.contains("PANIC") || line.contains("panicked"));
    ensure!(panicked.is_none(), "{panicked:?}");
    Ok(())
}
