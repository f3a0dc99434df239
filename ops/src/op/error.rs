//! Why a package did not come to its end.

use std::io;
use std::path::PathBuf;

use crate::blobs::BlobError;
use crate::fetch::FetchError;
use crate::install::InstallError;
use crate::package::PackageName;
use crate::process::ProcessError;
use crate::store::{BrokenEntry, Store, StoreError};
use crate::trouble::{Kind, Trouble, Watch, is_environment};
use crate::unpack::UnpackError;

/// Why a package did not come to its end. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant and field is")]
pub enum OpError {
    #[error("the lockfile takes it from R's own library, but `{library}` does not have it")]
    NotProvided { library: PathBuf },
    #[error("it links to `{0}`, which is neither in the lockfile nor in R's own library")]
    LinkedNowhere(PackageName),
    #[error("its source is the package `{found}`")]
    WrongPackage { found: String },
    #[error("its source is version {found}; check the `sources` of its entry, or write the lockfile again")]
    WrongVersion { found: String },
    #[error("`{0}` does not exist or is no directory with a DESCRIPTION")]
    NoDirectory(PathBuf),
    #[error("its source changed while it was built; run once more")]
    SourceChanged,
    #[error("stopped")]
    Stopped,
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Binary(InstallError),
    #[error("{source}")]
    Build { log: PathBuf, source: InstallError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broken(#[from] BrokenEntry),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Every other package would meet it too.
    #[error(transparent)]
    Machine(Trouble),
}

impl OpError {
    /// Returns the last lines of the build's output, if there was a build.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Build { source: InstallError::Failed { tail, .. }, .. } => tail,
            _ => &[],
        }
    }

    /// Returns the log of the build, if there was one.
    pub fn log(&self) -> Option<&PathBuf> {
        match self {
            Self::Build { log, .. } => Some(log),
            _ => None,
        }
    }

    /// Says whether the machine is at fault, not the package: no compiler, disk full, no permission.
    pub fn is_environment(&self) -> bool {
        match self {
            Self::Machine(_)
            | Self::Fetch(FetchError::Store { .. })
            | Self::Build { source: InstallError::NoCompiler(_), .. } => true,
            _ => self.io().is_some_and(is_environment),
        }
    }

    /// Returns what the file system said, if it was the one to refuse.
    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error)
            | Self::Store(StoreError::Io(error))
            | Self::Unpack(UnpackError::Io(error))
            | Self::Fetch(FetchError::Store { source: BlobError::Io(error), .. })
            | Self::Build {
                source:
                    InstallError::Io(error)
                    | InstallError::Process(ProcessError::Io(error) | ProcessError::Spawn { source: error, .. }),
                ..
            } => Some(error),
            Self::Fetch(error) => error.refused(),
            _ => None,
        }
    }

    /// Takes the failure of one package for what it is, if any other would fail like it: trouble with the store, where
    /// all work is done.
    pub(super) fn in_store(self, store: &Store, package: &PackageName) -> Self {
        let trouble = self.io().and_then(|error| Trouble::of(error, store.root(), error.to_string()));
        // A file of the package's own that may not be read is nobody else's trouble.
        let is_general = |trouble: &Trouble| trouble.kind != Kind::Forbidden || store.refusal().is_some();
        trouble.filter(is_general).map_or(self, |trouble| Self::machine(trouble, package))
    }

    /// As [`OpError::in_store`], for a build that was watched.
    pub(super) fn of_build(self, watch: &Watch, package: &PackageName) -> Self {
        let said = match &self {
            Self::Build { source: InstallError::Shortcut { reason, .. }, .. } => std::slice::from_ref(reason),
            Self::Build { source: InstallError::Failed { tail, .. }, .. } => tail,
            _ => return self,
        };
        Trouble::of_build(watch, said).map_or(self, |trouble| Self::machine(trouble, package))
    }

    fn machine(trouble: Trouble, package: &PackageName) -> Self {
        Self::Machine(Trouble { cause: format!("{package}: {}", trouble.cause), ..trouble })
    }

    /// Returns the programs that building needed and this machine lacks.
    pub fn missing_programs(&self) -> &[String] {
        match self {
            Self::Build { source: InstallError::NoCompiler(programs), .. } => programs,
            _ => &[],
        }
    }
}
