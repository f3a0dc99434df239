//! A pak lockfile: text in, checked entries out. It opens no files and looks at no host.
//!
//! Whatever other parts rely on is checked here once: names that become paths, versions, digests, dependencies
//! that exist. Unknown fields are ignored, and missing optional ones are tolerated, as pak's fields come and go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use larder_ops::digest::Sha256Digest;
use larder_ops::package::{PackageName, PackageNameError};

mod r_values;
mod raw;

/// The packages that are R itself. Lockfiles never list them; every R has them.
pub const BASE_PACKAGES: [&str; 14] = [
    "base",
    "compiler",
    "datasets",
    "grDevices",
    "graphics",
    "grid",
    "methods",
    "parallel",
    "splines",
    "stats",
    "stats4",
    "tcltk",
    "tools",
    "utils",
];

/// A checked lockfile.
///
/// ```
/// use larder::lockfile::Lockfile;
///
/// let lockfile = Lockfile::parse(
///     r#"{"lockfile_version": 1, "packages": [
///           {"ref": "R6", "package": "R6", "version": "2.5.1", "type": "standard", "dependencies": [],
///            "sources": ["https://cran.r-project.org/src/contrib/R6_2.5.1.tar.gz"],
///            "target": "src/contrib/R6_2.5.1.tar.gz", "platform": "source", "rversion": "*"}]}"#,
/// )?;
/// let entry = &lockfile.entries()[0];
/// assert_eq!((entry.package.as_str(), entry.kind.as_str()), ("R6", "standard"));
///
/// let error = Lockfile::parse(r#"{"lockfile_version": 9, "packages": []}"#).unwrap_err();
/// println!("error: {error}\nhint: {}", error.hint());
/// # Ok::<(), larder::lockfile::LockfileError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lockfile {
    /// Shared by all who have the lockfile.
    entries: Arc<[Entry]>,
}

/// One package of a lockfile.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The package's name.
    pub package: PackageName,
    /// Its version, digits separated by `.` or `-`.
    pub version: String,
    /// Where it comes from.
    pub kind: Kind,
    /// The packages of this lockfile that it needs, without R's base packages: Depends, Imports and `LinkingTo` in one.
    pub dependencies: Arc<[PackageName]>,
    /// The packages it links to, where the lockfile tells (pak 0.11 and later do).
    pub linking_to: Option<Vec<PackageName>>,
    /// Where to download it, in the order to try.
    pub sources: Vec<String>,
    /// The digest of the bytes that the first source serves.
    pub sha256: Option<Sha256Digest>,
    /// The size of the download in bytes, if known.
    pub size_bytes: Option<u64>,
    /// `None` for a source package, else what the prebuilt binary is for.
    pub binary: Option<BinaryPlatform>,
    /// Says whether the package has code to compile; `false` for every binary.
    pub needs_compilation: bool,
    /// Arguments for `R CMD INSTALL`.
    pub install_args: Vec<String>,
    /// What goes into the installed DESCRIPTION, in this order.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// System packages that it asks for, as the lockfile's distribution names them.
    pub system_packages: Vec<String>,
}

/// What a prebuilt package was built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryPlatform {
    /// For example `x86_64-pc-linux-gnu-ubuntu-24.04`.
    pub platform: String,
    /// R's minor version, for example `4.5`.
    pub r_minor: String,
}

/// Where an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A CRAN-like repository (`standard`, `cran`, `any`).
    Repository,
    /// Bioconductor.
    Bioc,
    /// A commit in version control.
    Vcs {
        /// `github`, `gitlab`, `bitbucket` or `git`.
        host: &'static str,
        /// The commit.
        sha: String,
        /// The folder of the package in the repository; empty for the top.
        subdir: String,
    },
    /// An archive at some URL.
    Url,
    /// A directory or archive on this machine.
    Local,
    /// Expected in R's own library.
    Installed,
}

impl Kind {
    /// Returns pak's word for it, with `standard` for all CRAN-like repositories: the first field of a source hash.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Repository => "standard",
            Self::Bioc => "bioc",
            Self::Vcs { host, .. } => host,
            Self::Url => "url",
            Self::Local => "local",
            Self::Installed => "installed",
        }
    }
}

/// What is wrong with a lockfile.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant and field is")]
pub enum LockfileError {
    #[error("not a JSON document: {0}")]
    Json(#[source] serde_json::Error),
    #[error("this is an renv lockfile, not a pak lockfile")]
    Renv,
    #[error("there is no `lockfile_version`: not a pak lockfile")]
    NoVersion,
    #[error("`lockfile_version` is {0}; larder reads version 1")]
    Version(String),
    #[error("`packages` is missing or empty")]
    NoPackages,
    #[error("`packages` is no list: {0}")]
    NoList(#[source] serde_json::Error),
    #[error("entry {index} ({package}): `{field}`: {source}")]
    Shape { index: usize, package: String, field: String, source: serde_json::Error },
    #[error("entry {index} ({package}): there is no `{field}`")]
    MissingField { index: usize, package: String, field: &'static str },
    #[error("entry {index}: `package`: {source}")]
    Name { index: usize, source: PackageNameError },
    #[error("entry {index} (`{package}`): `{field}`: {problem}")]
    Field { index: usize, package: PackageName, field: &'static str, problem: String },
    #[error("entries {first} and {second} are both called `{package}`")]
    Duplicate { first: usize, second: usize, package: PackageName },
    #[error("entry {index} (`{package}`): `dependencies` names `{dependency}`, which is not in the lockfile")]
    UnknownDependency { index: usize, package: PackageName, dependency: String },
}

impl LockfileError {
    /// Returns what the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Json(_) => "the file may be truncated; write it again with `pak::lockfile_create()`",
            Self::Renv => "write a pak lockfile with `pak::lockfile_create()` in the project",
            Self::NoVersion | Self::Version(_) | Self::NoList(_) => {
                "write it again with `pak::lockfile_create()` of a current pak"
            }
            Self::NoPackages => "nothing to install; was `pak::lockfile_create()` given the right packages?",
            Self::Duplicate { .. } => "remove one of the two entries",
            Self::UnknownDependency { .. } => {
                "add an entry for it, or write the lockfile again with `pak::lockfile_create()`"
            }
            Self::Shape { .. } | Self::MissingField { .. } | Self::Name { .. } | Self::Field { .. } => {
                "correct the entry, or write the lockfile again with `pak::lockfile_create()`"
            }
        }
    }
}

impl Lockfile {
    /// Reads and checks a lockfile.
    pub fn parse(text: &str) -> Result<Self, LockfileError> {
        let entries = raw::parse(text)?;
        let mut index_of = HashMap::with_capacity(entries.len());
        for (index, entry) in &entries {
            if let Some(first) = index_of.insert(entry.package.clone(), *index) {
                return Err(LockfileError::Duplicate { first, second: *index, package: entry.package.clone() });
            }
        }
        for (index, entry) in &entries {
            if let Some(unknown) = entry.dependencies.iter().find(|name| !index_of.contains_key(*name)) {
                return Err(LockfileError::UnknownDependency {
                    index: *index,
                    package: entry.package.clone(),
                    dependency: unknown.to_string(),
                });
            }
        }
        Ok(Self { entries: entries.into_iter().map(|(_, entry)| entry).collect() })
    }

    /// Returns the entries in the lockfile's order, which is not an order of installation.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    /// Returns the source hash, or `None` where it is only known once the source was seen (`url`, `local`).
    pub fn source_hash(&self) -> Option<Sha256Digest> {
        let sha256 = self.sha256.map(|digest| digest.to_string()).unwrap_or_default();
        match &self.kind {
            Kind::Url | Kind::Local => None,
            Kind::Vcs { sha, subdir, .. } => Some(self.source_hash_of(&[sha, subdir])),
            Kind::Repository | Kind::Bioc | Kind::Installed => Some(self.source_hash_of(&[&self.version, &sha256])),
        }
    }

    /// Returns the source hash of a `url` or `local` entry whose content has this digest.
    pub fn source_hash_with_content(&self, content: &Sha256Digest) -> Sha256Digest {
        self.source_hash_of(&[&self.version, &content.to_string()])
    }

    fn source_hash_of(&self, fields: &[&str]) -> Sha256Digest {
        let head = [self.kind.as_str(), self.package.as_str()];
        Sha256Digest::of_fields(head.into_iter().chain(fields.iter().copied()))
    }
}
