//! Trouble with the machine: seen before anything is built where that is possible, and told once at the end.

use std::path::Path;

use larder_ops::library::LibraryError;
use larder_ops::store::transfer::{ExportError, ImportError};
use larder_ops::store::{Store, StoreError};
use larder_ops::trouble::{Kind, Trouble, refusal};

use super::{Error, n_packages};
use crate::plan::{Action, Plan};

/// As much of a path below the store as packages have in practice, with the names that larder makes.
const BELOW_STORE: usize = 600;
/// What the kernel takes for a path, `PATH_MAX`.
const PATH_MAX: usize = 4096;

/// Looks whether the store can take what the plan is going to build, without writing. Returns what the user should
/// know of a store that is only good for loading.
pub(super) fn check(store: &Store, plan: &Plan) -> Result<Option<String>, Error> {
    let root = store.root();
    let n_built = plan.vertices().filter(|v| matches!(v.action, Action::Ingest | Action::Recompile)).count();
    let n_loaded = plan.vertices().filter(|vertex| vertex.action == Action::Load).count();
    // Of some it turns out only with their source whether they are to be built.
    let n_unknown = plan.vertices().filter(|vertex| vertex.action == Action::Unknown).count();
    let missing = || format!("{} not known to be in it", n_packages(n_built + n_unknown));
    if n_built + n_loaded > 0 && root.as_os_str().len() + BELOW_STORE > PATH_MAX {
        return Err(Error::Machine(Trouble::new(Kind::TooDeep, root, "File name too long")));
    }
    if let Some(error) = store.refusal() {
        if n_built > 0 {
            let cause = format!("{}, and {error}", missing());
            return Err(Trouble::of(&error, root, cause).map_or(Error::Io(error), Error::Machine));
        }
        let note = format!("the store is only read: {error}; when it was used is not recorded there");
        return Ok(Some(note).filter(|_| n_loaded > 0));
    }
    if n_built == 0 {
        return Ok(None);
    }
    let full = Trouble::new(Kind::Full, root, "No space left on device");
    match full.room {
        // Some file systems do not say how much they have.
        Some((0, all)) if all > 0 => {
            Err(Error::Machine(Trouble { cause: format!("{}: {}", missing(), full.cause), ..full }))
        }
        _ => Ok(None),
    }
}

/// Takes an error of work on a store and perhaps a library for what it is, if it is about the machine.
pub(super) fn in_place(error: Error, store: &Store, library: Option<&Path>) -> Error {
    let (io, place, refusal) = match (&error, library) {
        (Error::Library(LibraryError::Io(io)), Some(library)) => (io, library, refusal(library)),
        (
            Error::Io(io)
            | Error::Export(ExportError::Io(io))
            | Error::Import(ImportError::Io(io) | ImportError::Store(StoreError::Io(io))),
            _,
        ) => (io, store.root(), store.refusal()),
        _ => return error,
    };
    match Trouble::of(io, place, io.to_string()) {
        // A file that may not be read may be anywhere.
        Some(trouble) if trouble.kind != Kind::Forbidden || refusal.is_some() => Error::Machine(trouble),
        _ => error,
    }
}
