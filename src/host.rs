//! The machine that a library is built for: its R, its distribution, and the platform that follows. Looked at once,
//! then an ordinary value.

use std::ffi::OsStr;
use std::path::Path;

use larder_ops::toolchain::{Distro, Toolchain, ToolchainError};

use crate::lockfile::BinaryPlatform;

mod memory;

pub use memory::memory_bytes;

/// The machine that a library is built for.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its R and compilers.
    pub toolchain: Toolchain,
    /// Its distribution; `None` where `/etc/os-release` does not tell.
    pub distro: Option<Distro>,
    /// What two machines must have in common to share what they built.
    pub platform: String,
    /// The text that the platform's digest stands for.
    pub description: String,
}

impl Host {
    /// Looks at this machine: R is `r`, or else the one on `path`. What was learned of R is kept in `memory`.
    pub fn probe(r: Option<&Path>, path: &OsStr, memory: &Path) -> Result<Self, ToolchainError> {
        let toolchain = Toolchain::find(r, path, memory)?;
        let distro = Self::distro();
        let platform = toolchain.platform(distro.as_ref());
        let description = toolchain.description();
        Ok(Self { toolchain, distro, platform, description })
    }

    /// Takes the platform of another machine.
    pub(crate) fn adopt(&mut self, platform: String, description: String) {
        (self.platform, self.description) = (platform, description);
    }

    /// Returns this machine's distribution.
    pub fn distro() -> Option<Distro> {
        let text = fs_err::read_to_string("/etc/os-release").or_else(|_| fs_err::read_to_string("/usr/lib/os-release"));
        Distro::parse(&text.ok()?)
    }

    /// Says whether a prebuilt package of the lockfile is for this machine. One that names a distribution is for
    /// that one only, since it needs its system libraries.
    pub fn takes(&self, binary: &BinaryPlatform) -> bool {
        let rest = binary.platform.strip_prefix(&self.toolchain.triple);
        let is_same_system = match (rest, &self.distro) {
            (Some(""), _) => true,
            (Some(rest), Some(distro)) => rest.strip_prefix('-') == Some(&distro.tag()),
            _ => false,
        };
        is_same_system && (binary.r_minor == "*" || binary.r_minor == self.toolchain.minor())
    }
}
