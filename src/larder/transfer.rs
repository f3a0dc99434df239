//! Moving entries of the store to another machine, which may have no network.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use larder_ops::key::Reference;
use larder_ops::library::Record;
use larder_ops::package::PackageName;
use larder_ops::store::transfer::{self, ExportError, Moved};

use super::trouble::in_place;
use super::{Error, Larder, Request};
use crate::lockfile::Lockfile;
use crate::plan::Action;

/// What says which build of a package is meant.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// The one that was used last.
    LastUsed,
    /// The one that a lockfile asks for.
    Lockfile(&'a Lockfile, &'a Request),
    /// The one that a library holds.
    Library(&'a Path),
}

impl Larder {
    /// Writes packages, with all that they were built against or need at run time, as one stream to `out`. No packages
    /// means all that the lockfile or library has.
    ///
    /// After an error the stream is not complete, and no import takes it.
    pub fn export(&self, packages: &[PackageName], from: From<'_>, out: impl Write) -> Result<Moved, Error> {
        let store = self.store();
        let (known, mut missing): (BTreeMap<PackageName, Reference>, Vec<PackageName>) = match from {
            From::LastUsed => (BTreeMap::new(), Vec::new()),
            From::Library(library) => {
                let record = Record::read(library, &self.host.platform)?;
                let held = record.packages().into_iter().filter_map(|name| Some((name.clone(), record.get(name)?)));
                (held.collect(), Vec::new())
            }
            From::Lockfile(lockfile, request) => {
                let plan = self.plan(lockfile, request)?;
                let built = || plan.vertices().filter(|vertex| vertex.action != Action::Provided);
                let key = |vertex: &crate::plan::Vertex| Some(vertex.key.as_ref()?.reference());
                let known = built().filter_map(|vertex| Some((vertex.spec.package.clone(), key(vertex)?)));
                let unknown = built().filter(|vertex| vertex.key.is_none()).map(|vertex| vertex.spec.package.clone());
                (known.collect(), unknown.filter(|package| packages.is_empty() || packages.contains(package)).collect())
            }
        };
        let mut wanted = BTreeMap::new();
        for package in packages {
            let reference = match from {
                From::LastUsed => store.last_used(package)?,
                From::Lockfile(..) | From::Library(_) => known.get(package).copied(),
            };
            match reference {
                Some(reference) => drop(wanted.insert(package.clone(), reference)),
                None if missing.contains(package) => {}
                None => missing.push(package.clone()),
            }
        }
        if !missing.is_empty() {
            return Err(ExportError::Missing(missing).into());
        }
        if packages.is_empty() {
            wanted.clone_from(&known);
        }
        if wanted.is_empty() {
            return Err(ExportError::Nothing.into());
        }
        let is_provided = |package: &PackageName| self.host.toolchain.provided(package).is_some();
        let closure = store.closure(wanted, &known, is_provided)?;
        Ok(transfer::export(&store, &closure, out)?)
    }

    /// Takes in what [`Larder::export`] wrote, on this machine or another. Everything is verified before the first
    /// package is published; what the store has already stays.
    pub fn import(&self, input: impl Read, is_any_platform: bool) -> Result<Moved, Error> {
        let store = self.store();
        transfer::import(&store, is_any_platform, input).map_err(|error| in_place(error.into(), &store, None))
    }
}
