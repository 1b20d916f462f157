//! More of Debian's kernels for guests: that of its backports, and the newest that its mirror has. Apt gets them, with lists and a
//! configuration of its own under `target/`, from the mirror that this machine uses, and checks them by Debian's keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use baton_tests::paths;

use super::{KERNEL_PACKAGE, only_file};
use crate::tool;

/// The keys of Debian's archive, from the package that every Debian has.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where the newest kernels are.
const NEWEST: [&str; 2] = ["sid", "experimental"];

/// Gets those that are missing; once, then no network is needed.
pub fn fetch() -> Result<()> {
    let backports = format!("{}-backports", codename()?);
    let wanted = [(paths::backports_kernel(), vec![backports.as_str()]), (paths::newest_kernel(), NEWEST.to_vec())];
    for (file, suites) in wanted {
        if !file.is_file() {
            let apt = Apt::new(&suites)?;
            apt.kernel(&file).with_context(|| format!("no kernel of {}", suites.join(", ")))?;
        }
    }
    fs::remove_dir_all(paths::target("guest/apt")).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error.into()),
    })
}

/// The name of the release that runs here.
fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("this is no Debian release: /etc/os-release names none")?.trim_matches('"').into())
}

/// The mirror that this machine gets its release from.
fn mirror<'a>(targets: &'a str, codename: &str) -> Result<&'a str> {
    let mut sites = targets.lines().filter_map(|line| line.split_once(' '));
    let main = sites.find(|(_, release)| [codename, "stable", "oldstable"].contains(release));
    main.map(|(site, _)| site)
        .with_context(|| format!("apt knows no mirror of {codename}: configure one, and run apt-get update"))
}

/// Apt with suites of its own.
struct Apt {
    options: Vec<String>,
    directory: PathBuf,
}

impl Apt {
    /// Reads the lists of the suites.
    fn new(suites: &[&str]) -> Result<Self> {
        let directory = paths::target("guest/apt").join(suites.join("-"));
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let format = ["indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"];
        let targets = tool::run(Command::new("apt-get").args(format))?;
        let sources = directory.join("debian.sources");
        let (uri, suites) = (mirror(&targets, &codename()?)?, suites.join(" "));
        fs::write(
            &sources,
            format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYS}\n"),
        )?;
        let at = |name: &str, path: &Path| format!("-oDir::{name}={}", path.display());
        let options = vec![
            at("Etc::sourcelist", &sources),
            at("Etc::sourceparts", &directory.join("parts")),
            // Nobody's pins but Debian's own decide what is newest.
            at("Etc::preferencesparts", &directory.join("parts")),
            at("State", &directory),
            at("State::lists", &directory.join("lists")),
            at("State::status", Path::new("/dev/null")),
            at("Cache", &directory.join("cache")),
            "-oAPT::Sandbox::User=root".into(),
            "-oAPT::Architecture=amd64".into(),
            "-oAcquire::Languages=none".into(),
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        ];
        let apt = Self { options, directory };
        eprintln!("x: reading the package lists of {suites}");
        apt.run("apt-get", &["update", "-qq", "-oAPT::Update::Error-Mode=any"])?;
        Ok(apt)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        tool::run(Command::new(program).args(&self.options).args(arguments).current_dir(&self.directory))
    }

    /// What a package depends on, each by its name with its version where one is named.
    fn depends(&self, package: &str) -> Result<Vec<String>> {
        Ok(dependencies(&self.run("apt-cache", &["show", "--no-all-versions", package])?))
    }

    /// The newest kernel for virtual machines, as `file`.
    fn kernel(&self, file: &Path) -> Result<()> {
        let versions = self.run("apt-cache", &["madison", KERNEL_PACKAGE])?;
        let newest = newest(&versions).with_context(|| format!("{KERNEL_PACKAGE} is in none of the lists"))?;
        let real = self.depends(&format!("{KERNEL_PACKAGE}={newest}"))?;
        let image =
            real.iter().find(|name| has_number(name, "linux-image-")).context("the metapackage names no kernel")?;
        // Newer releases have the kernel itself in a package that the image depends on.
        let parts = self.depends(image)?;
        let package = parts.iter().find(|name| has_number(name, "linux-binary-")).unwrap_or(image);
        eprintln!("x: downloading {package}");
        self.run("apt-get", &["download", "-qq", package])?;
        let unpacked = self.directory.join("unpacked");
        tool::run(Command::new("dpkg-deb").arg("-x").arg(only_file(&self.directory, "deb")?).arg(&unpacked))?;
        let kernel = find_kernel(&unpacked)?.with_context(|| format!("{package} has no kernel in it"))?;
        fs::copy(kernel, file)?;
        Ok(())
    }
}

/// The newest version of what `apt-cache madison` lists, which is its first.
fn newest(madison: &str) -> Option<&str> {
    madison.lines().find(|line| line.contains(" Packages")).and_then(|line| line.split('|').nth(1)).map(str::trim)
}

/// A package of one kernel, not a metapackage: a number follows the prefix.
fn has_number(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// The packages of a `Depends` field: `name (= version), other` gives `name=version` and `other`.
fn dependencies(show: &str) -> Vec<String> {
    let fields = show.lines().filter_map(|line| line.strip_prefix("Depends: ")).flat_map(|field| field.split(','));
    let named = fields.map(|field| {
        let mut words = field.split_whitespace();
        let name = words.next().unwrap_or_default();
        match (words.next(), words.next()) {
            (Some("(="), Some(version)) => format!("{name}={}", version.trim_end_matches(')')),
            _ => name.to_owned(),
        }
    });
    named.collect()
}

/// A file `vmlinuz` or `vmlinuz-...`, in whichever directory.
fn find_kernel(directory: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if let Some(found) = find_kernel(&entry.path())? {
                return Ok(Some(found));
            }
        } else if name.to_str().is_some_and(|name| name == "vmlinuz" || name.starts_with("vmlinuz-")) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_releases() {
        let targets =
            "http://mirror.example/debian-security bookworm-security\nhttp://mirror.example/debian bookworm\n";
        assert_eq!(mirror(targets, "bookworm").expect("there is one"), "http://mirror.example/debian");
        assert!(mirror(targets, "trixie").is_err());
    }

    /// As apt 2.6 prints it, with and without a package for the kernel itself.
    #[test]
    fn packages_are_found_through_their_metapackage() {
        let show = "Package: linux-image-cloud-amd64\n\
                    Depends: linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n";
        let found = dependencies(show);
        assert_eq!(found[1], "linux-image-7.2.13+deb14-cloud-amd64=7.2.13-1");
        assert!(has_number(&found[1], "linux-image-") && !has_number("linux-image-cloud-amd64", "linux-image-"));
        let show = "Depends: dracut | initramfs-tools (>= 0.120), linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n";
        assert_eq!(dependencies(show)[1], "linux-binary-7.2.13+deb14-cloud-amd64=7.2.13-1");
        let madison = "linux-image-cloud-amd64 | 7.3~rc7-1~exp1 | http://mirror.example/debian experimental/main amd64 Packages\n\
                       linux-image-cloud-amd64 | 7.2.13-1 | http://mirror.example/debian sid/main amd64 Packages\n";
        assert_eq!(newest(madison), Some("7.3~rc7-1~exp1"));
    }
}
