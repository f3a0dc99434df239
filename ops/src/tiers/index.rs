//! What a tier has of one source: a small object beside its entries, so that a machine which has never seen the source
//! can make its key without downloading it.
//!
//! It is the `configs.json` of the store with more in it, and a convenience: an entry that a lost update left out is
//! found by its name. What it says is not believed further than that: an entry that comes by it must be the one whose
//! name was asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::store::{Configs, Sidecar};

/// Its name, beside the entries.
pub(super) const NAME: &str = "configs.json";

/// What a tier has of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// What the store would know of it.
    #[serde(flatten)]
    pub configs: Configs,
    /// Its entries, by config hash.
    #[serde(default)]
    pub entries: BTreeMap<Sha256Digest, Held>,
}

/// What is known of an entry without bringing it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// The bytes of its object.
    pub size: u64,
    /// How long its build took, in milliseconds.
    pub build_ms: u64,
    /// Its content key.
    pub content: Option<Sha256Digest>,
    /// The digest of what packages that link to it compile against.
    pub interface: Option<Sha256Digest>,
}

impl Index {
    /// Describes one entry.
    pub(super) fn of(config: Sha256Digest, sidecar: &Sidecar, size: u64) -> Self {
        let (content, interface) = (sidecar.content, sidecar.interface);
        Self {
            configs: Configs {
                source_compiled: sidecar.source_compiled,
                linkingto: sidecar.linkingto.clone(),
                configs: BTreeMap::from([(config, sidecar.config.clone())]),
            },
            entries: BTreeMap::from([(config, Held { size, build_ms: sidecar.build_ms, content, interface })]),
        }
    }

    /// Adds what another one knows. Returns whether something was new.
    pub(super) fn take_in(&mut self, other: &Self) -> bool {
        let before = self.clone();
        self.configs.source_compiled |= other.configs.source_compiled;
        if self.entries.is_empty() {
            self.configs.linkingto.clone_from(&other.configs.linkingto);
        }
        self.configs.configs.extend(other.configs.configs.clone());
        self.entries.extend(other.entries.clone());
        *self != before
    }

    /// Says whether an entry is listed.
    pub(super) fn has(&self, config: Sha256Digest) -> bool {
        self.entries.contains_key(&config)
    }

    /// Returns the entry with this content key.
    pub(super) fn with_content(&self, content: Sha256Digest) -> Option<Sha256Digest> {
        self.entries.iter().find(|(_, held)| held.content == Some(content)).map(|(config, _)| *config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_reads_an_index_as_its_own_configs() {
        let config = Sha256Digest::of(b"");
        let index = Index {
            configs: Configs { source_compiled: true, ..Configs::default() },
            entries: BTreeMap::from([(config, Held { size: 7, ..Held::default() })]),
        };
        let json = serde_json::to_string(&index).unwrap();
        assert_eq!(serde_json::from_str::<Configs>(&json).unwrap(), index.configs);
        assert_eq!(serde_json::from_str::<Index>(&json).unwrap(), index);
        assert_eq!(serde_json::from_str::<Index>("{}").unwrap(), Index::default());
    }

    #[test]
    fn two_writers_lose_nothing_of_each_other() {
        let [one, two] = [b"1", b"2"].map(|text| Sha256Digest::of(text));
        let index = |config| Index { entries: BTreeMap::from([(config, Held::default())]), ..Index::default() };
        let mut both = index(one);
        assert!(both.take_in(&index(two)));
        assert!(!both.take_in(&index(one)));
        assert_eq!(both.entries.len(), 2);
    }
}
