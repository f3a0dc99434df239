//! The system packages of this machine, as far as a lockfile's wishes can be held against them.

use std::path::Path;

/// Returns those of `packages` that this machine lacks. Only Debian and its kin can be asked without starting a
/// process; elsewhere the answer is that nothing is known to be missing.
pub fn missing_packages(packages: &[String]) -> Vec<String> {
    let info = Path::new("/var/lib/dpkg/info");
    if !info.is_dir() {
        return Vec::new();
    }
    let is_name = |package: &&String| package.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let is_there = |package: &str| {
        info.join(format!("{package}.list")).exists() || info.join(format!("{package}:{architecture}.list")).exists()
    };
    packages.iter().filter(is_name).filter(|package| !is_there(package)).cloned().collect()
}
