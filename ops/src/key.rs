//! Keys: what makes two builds of a package the same build.
//!
//! The definitions here are a file format: another implementation computes the same hashes, and a store that
//! larder filled must be readable by it. `tests/it/golden.rs` holds them to its vectors.
//!
//! ```
//! use std::sync::Arc;
//!
//! use larder_ops::digest::Sha256Digest;
//! use larder_ops::key::{ConfigMap, PackageKey, Reference};
//! use larder_ops::package::PackageName;
//!
//! let key = |name: &str, version: &str, linked: &[&Arc<PackageKey>]| {
//!     let source = Sha256Digest::of_fields(["standard", name, version, ""]);
//!     let linked = linked.iter().map(|key| Arc::clone(key)).collect();
//!     let name = PackageName::parse(name).expect("a good name");
//!     Arc::new(PackageKey::new(name, version.to_owned(), source, linked, &ConfigMap::default()))
//! };
//! let (old, new) = (key("Rcpp", "1.0.14", &[]), key("Rcpp", "1.0.15", &[]));
//! let (before, after) = (key("later", "1.4.2", &[&old]), key("later", "1.4.2", &[&new]));
//! // The same source, but not the same build.
//! assert_eq!(before.reference().source, after.reference().source);
//! assert_ne!(before.reference().config, after.reference().config);
//! // A manifest names it by its place in the store.
//! let text = after.reference().to_string();
//! assert_eq!(text.parse::<Reference>()?, after.reference());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{DigestParseError, Sha256Digest};
use crate::package::PackageName;

/// Everything besides the source that decides what a build yields: each `LinkingTo` package with its key, and
/// `@`-entries such as [`BINARY`] for what is not the plain case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigMap(BTreeMap<String, String>);

/// A prebuilt binary was taken; the value is its platform tag.
pub const BINARY: &str = "@binary";
/// Arguments to `R CMD INSTALL` from the lockfile.
pub const INSTALL_ARGS: &str = "@install-args";
/// Digest of the user's Makevars.
pub const MAKEVARS: &str = "@makevars";
/// Compiled code keeps its debug information.
pub const DEBUG_INFO: &str = "@debug-info";
/// Digest of the keys of the whole Depends/Imports closure (`--rebuild-when imports`).
pub const IMPORTS: &str = "@imports";

impl ConfigMap {
    /// Adds an entry.
    pub fn insert(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        self.0.insert(name.into(), value.to_string());
    }

    /// Returns the value of a `LinkingTo` package or an `@`-entry.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Says whether this is the plain case: links to nothing, nothing special.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the entries in the order in which they are hashed.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the config hash.
    pub fn hash(&self) -> Sha256Digest {
        Sha256Digest::of_fields(self.iter().flat_map(|(name, value)| [name, value]))
    }
}

impl<N: Into<String>, V: fmt::Display> FromIterator<(N, V)> for ConfigMap {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(name, value)| (name.into(), value.to_string())).collect())
    }
}

/// The identity of one build of one package: its source and what it was built with, down to the last header.
///
/// Written down it is what it is made of; the hashes are made again when it is read, so it cannot contradict itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Spelled", into = "Spelled")]
pub struct PackageKey {
    package: PackageName,
    version: String,
    reference: Reference,
    config: ConfigMap,
    linked: Vec<Arc<PackageKey>>,
}

/// A key as it is written down.
#[derive(Serialize, Deserialize)]
struct Spelled {
    package: PackageName,
    version: String,
    source: Sha256Digest,
    #[serde(default, skip_serializing_if = "ConfigMap::is_empty")]
    special: ConfigMap,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    linked: Vec<Arc<PackageKey>>,
}

impl From<Spelled> for PackageKey {
    fn from(spelled: Spelled) -> Self {
        let Spelled { package, version, source, special, linked } = spelled;
        Self::new(package, version, source, linked, &special)
    }
}

impl From<PackageKey> for Spelled {
    fn from(key: PackageKey) -> Self {
        let PackageKey { package, version, reference, mut config, linked } = key;
        config.0.retain(|name, _| !linked.iter().any(|linked| linked.package == *name.as_str()));
        Self { package, version, source: reference.source, special: config, linked }
    }
}

impl PackageKey {
    /// Joins a source with what it is built with: the packages it links to, and the `@`-entries in `special`.
    pub fn new(
        package: PackageName,
        version: String,
        source: Sha256Digest,
        linked: Vec<Arc<PackageKey>>,
        special: &ConfigMap,
    ) -> Self {
        let mut config = special.clone();
        for key in &linked {
            config.insert(key.package.as_str(), key.digest());
        }
        Self { package, version, reference: Reference { source, config: config.hash() }, config, linked }
    }

    /// Returns the package's name.
    pub fn package(&self) -> &PackageName {
        &self.package
    }

    /// Returns the package's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns where the result is kept, and what manifests hold.
    pub fn reference(&self) -> Reference {
        self.reference
    }

    /// Returns what the result is built with.
    pub fn config(&self) -> &ConfigMap {
        &self.config
    }

    /// Returns the keys of the packages that it links to.
    pub fn linked(&self) -> &[Arc<PackageKey>] {
        &self.linked
    }

    /// Returns the keys of all packages that it links to, through any number of steps, each once, by name.
    pub fn linked_closure(&self) -> BTreeMap<&PackageName, &PackageKey> {
        let mut closure = BTreeMap::new();
        let mut open: Vec<&PackageKey> = self.linked.iter().map(Arc::as_ref).collect();
        while let Some(key) = open.pop() {
            if closure.insert(&key.package, key).is_none() {
                open.extend(key.linked.iter().map(Arc::as_ref));
            }
        }
        closure
    }

    /// Returns the digest by which a dependant's [`ConfigMap`] names this build: the source hash in the plain
    /// case, else a digest over source hash and config hash.
    pub fn digest(&self) -> Sha256Digest {
        self.reference.digest()
    }
}

impl PartialEq for PackageKey {
    fn eq(&self, other: &Self) -> bool {
        self.package == other.package && self.reference == other.reference
    }
}

impl Eq for PackageKey {}

impl Hash for PackageKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reference.hash(state);
    }
}

/// A place in the store: `source_hash/config_hash`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    /// What was built.
    pub source: Sha256Digest,
    /// What it was built with.
    pub config: Sha256Digest,
}

/// Text that is not `source_hash/config_hash`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceParseError {
    /// There is no slash between two parts.
    #[error("`{0}` is not a reference (source_hash/config_hash)")]
    Parts(String),
    /// A part is not a digest.
    #[error("not a reference (source_hash/config_hash)")]
    Digest(#[from] DigestParseError),
}

impl Reference {
    /// Returns the digest by which the [`ConfigMap`] of what links to it names this build, see [`PackageKey::digest`].
    pub fn digest(self) -> Sha256Digest {
        let Self { source, config } = self;
        if config == ConfigMap::default().hash() {
            return source;
        }
        Sha256Digest::of(format!("{source}\0{config}").as_bytes())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: there are many.
        let mut text = [b'/'; 2 * Sha256Digest::HEX_BYTES + 1];
        self.source.write_hex(&mut text[..Sha256Digest::HEX_BYTES]);
        self.config.write_hex(&mut text[Sha256Digest::HEX_BYTES + 1..]);
        f.pad(std::str::from_utf8(&text).expect("hex digits are ASCII"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (source, config) =
            text.split_once('/').ok_or_else(|| ReferenceParseError::Parts(text.chars().take(140).collect()))?;
        Ok(Self { source: source.parse()?, config: config.parse()? })
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    #[test]
    fn config_hash_does_not_depend_on_the_order_of_insertion() {
        let forward: ConfigMap = [("Rcpp", "a"), ("BH", "b")].into_iter().collect();
        let backward: ConfigMap = [("BH", "b"), ("Rcpp", "a")].into_iter().collect();
        assert_eq!(forward.hash(), backward.hash());
        let changed: ConfigMap = [("BH", "b"), ("Rcpp", "c")].into_iter().collect();
        assert_ne!(forward.hash(), changed.hash());
        assert_eq!(ConfigMap::default().hash(), Sha256Digest::of(b""));
    }

    fn key(package: &str, linked: &[&Arc<PackageKey>]) -> Arc<PackageKey> {
        let linked = linked.iter().map(|key| Arc::clone(key)).collect();
        let name = PackageName::parse(package).unwrap();
        Arc::new(PackageKey::new(name, "1.0".to_owned(), source(package), linked, &ConfigMap::default()))
    }

    #[test]
    fn the_key_of_what_links_to_nothing_is_its_source_hash() {
        let (rcpp, plain) = (key("Rcpp", &[]), key("plyr", &[]));
        assert_eq!(plain.digest(), source("plyr"));
        let linked = key("plyr", &[&rcpp]);
        assert_ne!(linked.digest(), source("plyr"));
        assert_ne!(linked, plain);
        assert_eq!(linked.config().get("Rcpp"), Some(source("Rcpp").to_string().as_str()));
    }

    #[test]
    fn what_is_linked_through_others_is_in_the_closure_once() {
        let rcpp = key("Rcpp", &[]);
        let eigen = key("RcppEigen", &[&rcpp]);
        let closure: Vec<_> = key("top", &[&eigen, &rcpp]).linked_closure().keys().map(ToString::to_string).collect();
        assert_eq!(closure, ["Rcpp", "RcppEigen"]);
    }

    #[test]
    fn keys_are_written_as_what_they_are_made_of() {
        let (rcpp, special) = (key("Rcpp", &[]), ConfigMap::from_iter([(INSTALL_ARGS, "--no-docs")]));
        let name = PackageName::parse("plyr").unwrap();
        let wanted = PackageKey::new(name, "1.0".to_owned(), source("plyr"), vec![rcpp], &special);
        let json = serde_json::to_string(&wanted).unwrap();
        assert!(!json.contains(&wanted.reference().config.to_string()), "{json}");
        let read: PackageKey = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (read.reference(), read.config(), read.digest()),
            (wanted.reference(), wanted.config(), wanted.digest())
        );
    }

    #[test]
    fn references_round_trip_and_malformed_ones_are_refused() {
        let reference = key("aa", &[]).reference();
        assert_eq!(reference.to_string().parse(), Ok(reference));
        for bad in ["", "a", "/b", "a/", &format!("{}/", source("a")), &format!("{reference}/x")] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
