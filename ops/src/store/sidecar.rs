//! Sidecars as they are read and written: what makes one believable.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Sidecar;
use super::manifest::Manifest;
use crate::digest::Sha256Digest;
use crate::facets;
use crate::fs::read_small;
use crate::key::Reference;
use crate::package::PackageName;

/// Why a sidecar is not believed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum SidecarError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("its checksum is not that of what it says")]
    Checksum,
}

/// The last field of a sidecar: the digest of every byte before its value.
const CHECKSUM: &str = ",\n  \"checksum\": \"";

/// What a sidecar says that whoever is about to use its entry has to know.
#[derive(Debug, Deserialize)]
pub(super) struct Glance {
    /// The system's shared libraries that its compiled code needs.
    #[serde(default)]
    pub(super) sonames: BTreeSet<String>,
}

impl Glance {
    /// Believes what [`Sidecar::parse`] does, and besides, where the checksum is right, that all is well which is not
    /// looked at: whoever wrote it meant it so.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, SidecarError> {
        if is_sealed(bytes) {
            return Ok(serde_json::from_slice(bytes)?);
        }
        Sidecar::parse(bytes).map(|sidecar| Self { sonames: sidecar.sonames })
    }
}

impl Sidecar {
    /// Reads a sidecar. One with the digest of a tree has a checksum, and that must be right; older ones, and those of
    /// other implementations, have neither.
    pub fn parse(bytes: &[u8]) -> Result<Self, SidecarError> {
        let sidecar: Self = serde_json::from_slice(bytes)?;
        let is_old = sidecar.tree.is_none() && sidecar.checksum.is_none();
        if is_old || is_sealed(bytes) { Ok(sidecar) } else { Err(SidecarError::Checksum) }
    }

    /// Reads the sidecar of the tree at `tree`, if it is there and whole.
    pub fn of_tree(tree: &Path) -> Option<Self> {
        Self::parse(&read_small(&tree.with_extension("json")).ok()?).ok()
    }
}

/// Says whether a text ends with the right checksum of what is before it.
fn is_sealed(bytes: &[u8]) -> bool {
    let Some(start) = bytes.len().checked_sub(64 + "\"\n}".len()) else { return false };
    let (before, rest) = bytes.split_at(start);
    let written = std::str::from_utf8(&rest[..64]).ok().and_then(|text| text.parse::<Sha256Digest>().ok());
    before.ends_with(CHECKSUM.as_bytes()) && &rest[64..] == b"\"\n}" && written == Some(Sha256Digest::of(before))
}

/// Returns the text of a sidecar: any JSON object, with the checksum at its end.
pub(super) fn seal(sidecar: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut value = serde_json::to_value(sidecar)?;
    value.as_object_mut().expect("a sidecar is an object").remove("checksum");
    let mut text = serde_json::to_vec_pretty(&value)?;
    text.truncate(text.len() - "\n}".len());
    text.extend(CHECKSUM.as_bytes());
    let checksum = Sha256Digest::of(&text);
    write!(text, "{checksum}\"\n}}")?;
    Ok(text)
}

impl Sidecar {
    /// Adds what follows from the manifest of its tree.
    pub(super) fn about(self, manifest: &Manifest) -> Self {
        Self {
            interface: Some(facets::interface(manifest)),
            tree: Some(manifest.digest()),
            size: manifest.size(),
            n_files: manifest.n_files(),
            ..self
        }
    }

    /// Says what in it contradicts where it lies, or what is known of the tree.
    pub(super) fn lie(
        &self,
        package: &PackageName,
        reference: Reference,
        manifest: Option<&Manifest>,
    ) -> Option<&'static str> {
        // Another implementation writes neither the package nor the configuration.
        if !self.package.is_empty() && self.package != package.as_str() {
            return Some("it is that of another package");
        }
        if !self.package.is_empty() && self.config.hash() != reference.config {
            return Some("its configuration is another than its name says");
        }
        let manifest = manifest.filter(|_| self.tree.is_some())?;
        if (self.size, self.n_files) != (manifest.size(), manifest.n_files()) {
            return Some("its size or number of files is not that of the manifest");
        }
        (self.interface != Some(facets::interface(manifest))).then_some("its interface is not that of the manifest")
    }
}
