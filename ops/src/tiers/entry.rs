//! One entry as one immutable object.
//!
//! ```text
//! zstd skippable frame     the label: what the entry says of itself, and who signed that
//! zstd frame               what `store/transfer.rs` writes of one entry: a tar of sidecar, manifest and files
//! ```
//!
//! `zstd -d | tar x` unpacks it, since decoders pass over the first frame. The label is read before anything else comes:
//! an entry that is not the wanted one, whose signature is missing, or that needs a shared library which this machine
//! lacks, costs one small read. It names the digests of sidecar and manifest, and the manifest those of all files; so
//! the signature covers everything, and everything is verified before anything is published.

use std::collections::BTreeSet;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::Tenant;
use super::trust::{SecretKey, Signed, Trust};
use crate::key::Reference;
use crate::package::PackageName;
use crate::sonames::SystemLibraries;
use crate::store::transfer::{self, ExportError, ImportError, Listed, Moved};
use crate::store::{Sidecar, Store};

const FORMAT: &str = "larder-entry 1";
/// One of the sixteen numbers that a skippable frame of zstd may start with.
const SKIPPABLE: [u8; 4] = 0x184D_2A5C_u32.to_le_bytes();
/// The most that a label may hold.
const LABEL_BYTES_MAX: u32 = 1 << 20;

/// What an entry says of itself, in its [`Signed`] label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Statement {
    format: String,
    tenant: Tenant,
    platform: String,
    #[serde(flatten)]
    listed: Listed,
    /// The system's shared libraries that its compiled code needs.
    #[serde(default)]
    sonames: BTreeSet<String>,
}

/// The entry that is wanted, by name.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) tenant: Tenant,
    pub(super) package: PackageName,
    pub(super) reference: Reference,
}

/// Why an object is not taken. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is no entry: {0}")]
    NotAnEntry(String),
    #[error("it is the entry of {0}")]
    Another(String),
    #[error("nobody who is trusted has signed it")]
    Unsigned,
    #[error("this machine has no {}", .0.join(", no "))]
    NoLibrary(Vec<String>),
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl Refusal {
    /// Says whether the bytes are at fault, and not whose they are or what this machine lacks.
    pub(super) fn is_damage(&self) -> bool {
        use ImportError::{Damaged, NotAnExport, Refused};
        matches!(self, Self::NotAnEntry(_) | Self::Import(Damaged(_) | NotAnExport(_) | Refused { .. }))
    }
}

/// Makes the object of an entry of `store`.
pub(super) fn pack(
    store: &Store,
    wanted: &Wanted,
    signer: Option<&SecretKey>,
) -> Result<(Vec<u8>, Sidecar), ExportError> {
    let packed = transfer::pack(store, &wanted.package, wanted.reference)?;
    let sidecar = packed.sidecar();
    let statement = Statement {
        format: FORMAT.to_owned(),
        tenant: wanted.tenant.clone(),
        platform: store.platform().to_owned(),
        listed: packed.listed().clone(),
        sonames: sidecar.sonames.clone(),
    };
    let statement = serde_json::to_string(&statement).map_err(io::Error::from)?;
    let label = serde_json::to_vec(&Signed::new(statement, signer)).map_err(io::Error::from)?;
    let mut object = SKIPPABLE.to_vec();
    object.extend(u32::try_from(label.len()).unwrap_or(u32::MAX).to_le_bytes());
    object.extend(label);
    transfer::write(store, vec![packed], &mut object)?;
    Ok((object, sidecar))
}

/// Makes an object the entry of `store` that was asked for, if it is that.
pub(super) fn unpack(
    store: &Store,
    wanted: &Wanted,
    trust: &Trust,
    libraries: &SystemLibraries,
    mut object: impl Read,
) -> Result<Moved, Refusal> {
    let statement = read_label(trust, &mut object)?;
    let Statement { listed, tenant, platform, sonames, .. } = statement;
    if (&tenant, &*platform) != (&wanted.tenant, store.platform()) {
        return Err(Refusal::Another(format!("tenant `{tenant}`, platform `{}`", platform.escape_debug())));
    }
    if (listed.package(), listed.reference()) != (&wanted.package, wanted.reference) {
        return Err(Refusal::Another(format!("{} {}", listed.package(), listed.reference())));
    }
    let missing = libraries.lacking(&sonames);
    if !missing.is_empty() {
        return Err(Refusal::NoLibrary(missing.into_iter().map(str::to_owned).collect()));
    }
    Ok(transfer::import_one(store, &listed, object)?)
}

fn read_label(trust: &Trust, object: &mut impl Read) -> Result<Statement, Refusal> {
    let damaged = |error: io::Error| Refusal::Import(ImportError::Damaged(error));
    let refused = |error: &dyn std::fmt::Display| Refusal::NotAnEntry(error.to_string());
    let (mut magic, mut size) = ([0; 4], [0; 4]);
    object.read_exact(&mut magic).and_then(|()| object.read_exact(&mut size)).map_err(damaged)?;
    let size = u32::from_le_bytes(size);
    if magic != SKIPPABLE || size > LABEL_BYTES_MAX {
        return Err(refused(&"it has no label"));
    }
    let mut label = vec![0; size as usize];
    object.read_exact(&mut label).map_err(damaged)?;
    let label: Signed = serde_json::from_slice(&label).map_err(|error| refused(&error))?;
    let statement = label.trusted_by(trust).ok_or(Refusal::Unsigned)?;
    let statement: Statement = serde_json::from_str(statement).map_err(|error| refused(&error))?;
    if statement.format != FORMAT {
        return Err(refused(&format!("its format is `{}`, not `{FORMAT}`", statement.format.escape_debug())));
    }
    Ok(statement)
}
