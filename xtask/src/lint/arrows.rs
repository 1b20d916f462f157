//! Who may depend on whom. Nothing points back.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tool;

/// Each crate with the crates of this workspace that it may use (DESIGN.md, layout and dependencies).
const ARROWS: [(&str, &[&str]); 13] = [
    ("machine", &[]),
    ("iommu", &["machine"]),
    ("handover", &["machine"]),
    ("guest-loader", &["machine"]),
    ("hypervisor", &["iommu", "guest-loader", "handover", "machine"]),
    ("boot", &["hypervisor", "handover", "machine"]),
    ("batonctl", &["handover"]),
    // The harness talks to a machine as an operator does.
    ("baton-tests", &["handover", "batonctl"]),
    ("baton-protocol", &["handover"]),
    ("baton-fuzz", &["handover", "guest-loader", "hypervisor", "machine"]),
    ("ioload", &[]),
    // Guests see the same buses and registers as Baton does.
    ("bareguest", &["machine"]),
    ("xtask", &["handover", "batonctl", "baton-tests"]),
];

/// Every dependency inside the workspace that isn't allowed.
pub fn check() -> Result<Vec<String>> {
    let answer = tool::run(tool::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    judge(&serde_json::from_str(&answer).context("what cargo metadata says")?)
}

fn judge(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!(
                "crate {name} has no place in the order of dependencies: add it to xtask/src/lint/arrows.rs"
            ));
            continue;
        };
        let used = package["dependencies"].as_array().context("no dependencies")?;
        let ours = used.iter().filter(|used| used["path"].is_string()).filter_map(|used| used["name"].as_str());
        wrong.extend(
            ours.filter(|used| !allowed.contains(used)).map(|used| format!("{name} must not depend on {used}")),
        );
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, uses: &[&str]) -> Value {
        let uses: Vec<_> = uses.iter().map(|used| json!({"name": used, "path": "somewhere"})).collect();
        json!({"packages": [{"name": name, "dependencies": uses}]})
    }

    #[test]
    fn arrows_that_point_back_are_found() {
        assert!(judge(&package("hypervisor", &["iommu", "handover"])).expect("whole").is_empty());
        assert_eq!(judge(&package("iommu", &["handover"])).expect("whole"), ["iommu must not depend on handover"]);
        assert_eq!(judge(&package("newcomer", &[])).expect("whole").len(), 1);
    }

    #[test]
    fn libraries_of_others_are_free() {
        let metadata = json!({"packages": [{"name": "machine", "dependencies": [{"name": "bitflags", "path": null}]}]});
        assert!(judge(&metadata).expect("whole").is_empty());
    }
}
