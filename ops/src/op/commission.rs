//! What is one run's own, and by which keys the solver tells apart what runs may share and what they may not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use larder_graph::VertexId;

use super::Standing;
use crate::digest::Sha256Digest;
use crate::key::PackageKey;
use crate::library::{Lease, Record, ReferenceLibrary, has_package};
use crate::package::PackageName;
use crate::store::{Depth, Store};

/// What is one run's own. None of it may show in a result, since another run may come to share that.
#[derive(Debug)]
pub struct Commission {
    /// Tells runs apart.
    pub run: u64,
    /// The library's directory and what larder put there before.
    pub library: (Arc<Path>, Record),
    /// Keeps others from changing the library as long as anything that may read it is under way.
    pub lease: Lease,
    /// A library in use that the new one is made from.
    pub reference: Option<Arc<ReferenceLibrary>>,
    /// Which vertex is which package.
    pub ids: HashMap<PackageName, VertexId>,
    /// Says whether a change of Depends or Imports rebuilds a package too (`--rebuild-when imports`).
    pub rebuilds_when_imports_change: bool,
}

/// What the solver knows a package by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The definition key of a build.
    Build(Arc<PackageKey>),
    /// The definition key of a build that is in this library already: a result for who wants just that library.
    Kept {
        /// The build.
        wanted: Arc<PackageKey>,
        /// The library.
        library: Arc<Path>,
    },
    /// The definition key of a build that this reference library has, and the store no longer.
    InReference {
        /// The build.
        wanted: Arc<PackageKey>,
        /// The library.
        library: Arc<Path>,
    },
    /// The definition key of a build that one run wants if it can be had: what that run gives up, others may build.
    Extra {
        /// The build.
        wanted: Arc<PackageKey>,
        /// The run.
        run: u64,
    },
    /// The definition key of a build that one run wants made anew, whatever there is.
    Anew {
        /// The build.
        wanted: Arc<PackageKey>,
        /// The run.
        run: u64,
    },
    /// The content key of a build: its config hash, but with the interfaces of what it links to in place of their keys.
    Content {
        /// The build that is wanted.
        wanted: Arc<PackageKey>,
        /// The hash.
        digest: Sha256Digest,
    },
    /// What a package is to those that link to it.
    Interface(Sha256Digest),
}

impl Key {
    /// Returns the definition key of the build that this is about.
    pub fn wanted(&self) -> Option<&Arc<PackageKey>> {
        match self {
            Self::Build(wanted)
            | Self::Kept { wanted, .. }
            | Self::InReference { wanted, .. }
            | Self::Extra { wanted, .. }
            | Self::Anew { wanted, .. }
            | Self::Content { wanted, .. } => Some(wanted),
            Self::Interface(_) => None,
        }
    }
}

impl Commission {
    /// Returns what the solver is to know a build by: who keeps what they have, or want it made anew, share no result.
    pub(super) fn key(&self, wanted: Arc<PackageKey>, spec: (bool, Standing), store: &Store, depth: Depth) -> Key {
        let (package, (library, record)) = (wanted.package(), &self.library);
        let (is_rebuilt, is_extra) = (spec.0, spec.1 != Standing::Locked);
        // Of an extra there may be no source, so that nothing may depend on the store's having it still.
        let in_use = self.reference.as_ref().filter(|in_use| in_use.tree(package, wanted.reference()).is_some());
        // Nothing says any more what its bytes were; who wants to know has it built again.
        let is_lost = || depth == Depth::Glance && store.lookup(package, wanted.reference()).is_none();
        if is_rebuilt {
            Key::Anew { wanted, run: self.run }
        } else if record.get(package) == Some(wanted.reference()) && has_package(library, package) {
            Key::Kept { wanted, library: Arc::clone(library) }
        } else if let Some(in_use) = in_use.filter(|_| is_extra || is_lost()) {
            Key::InReference { wanted, library: in_use.root().into() }
        } else if is_extra {
            Key::Extra { wanted, run: self.run }
        } else {
            Key::Build(wanted)
        }
    }
}
