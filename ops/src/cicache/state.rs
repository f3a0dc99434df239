//! What is written under a key: which entries there are, and in which packs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Key;
use crate::digest::Sha256Digest;
use crate::key::Reference;
use crate::package::PackageName;
use crate::store::transfer::Listed;
use crate::tiers::Tenant;
use crate::tiers::trust::{SecretKey, Signed, Trust};

const FORMAT: &str = "larder-ci 1";

/// A saved state. It names the digests of its packs, so its signature covers all that comes from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    format: String,
    pub(super) tenant: Tenant,
    pub(super) platform: String,
    pub(super) key: String,
    /// In RFC 3339, to the nanosecond: sorts as text.
    pub(super) created_at: String,
    /// Whether everything is in it that was asked for.
    pub(super) is_complete: bool,
    pub(super) packs: Vec<Pack>,
    pub(super) entries: Vec<Entry>,
}

/// Some entries as one object, named by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pack {
    pub(super) sha256: Sha256Digest,
    pub(super) bytes: u64,
    /// Bytes in the files of all that is in it, whether this state needs it or not.
    pub(super) unpacked: u64,
}

/// An entry and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub(super) listed: Listed,
    /// Bytes in its files.
    pub(super) bytes: u64,
    /// The system's shared libraries that it needs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) sonames: BTreeSet<String>,
    /// Which of the packs has it.
    pub(super) pack: usize,
}

impl Entry {
    pub(super) fn place(&self) -> (PackageName, Reference) {
        (self.listed.package().clone(), self.listed.reference())
    }
}

impl State {
    pub(super) fn new(tenant: Tenant, platform: &str, key: &Key, created_at: String, is_complete: bool) -> Self {
        Self {
            format: FORMAT.to_owned(),
            tenant,
            platform: platform.to_owned(),
            key: key.to_string(),
            created_at,
            is_complete,
            packs: Vec::new(),
            entries: Vec::new(),
        }
    }

    pub(super) fn to_bytes(&self, signer: Option<&SecretKey>) -> Vec<u8> {
        let statement = serde_json::to_string(self).expect("a state is JSON");
        serde_json::to_vec(&Signed::new(statement, signer)).expect("a signed text is JSON")
    }

    /// Reads a state that is believed; the error says why it is not.
    pub(super) fn parse(bytes: &[u8], trust: &Trust) -> Result<Self, String> {
        let signed: Signed = serde_json::from_slice(bytes).map_err(|error| format!("it is damaged: {error}"))?;
        let statement = signed.trusted_by(trust).ok_or("nobody who is trusted has signed it")?;
        let state: Self = serde_json::from_str(statement).map_err(|error| format!("it is damaged: {error}"))?;
        if state.format != FORMAT {
            return Err(format!("its format is `{}`, not `{FORMAT}`", state.format.escape_debug()));
        }
        if state.entries.iter().any(|entry| entry.pack >= state.packs.len()) {
            return Err("it names a pack that it does not list".to_owned());
        }
        Ok(state)
    }

    /// Returns how many bytes its packs have.
    pub(super) fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.bytes).sum()
    }
}
