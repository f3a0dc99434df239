//! What larder does to one R package: fetch, unpack, install, ingest, link.
//!
//! Each step can be used alone. All of them, for one package without dependencies:
//!
//! ```no_run
//! use std::collections::BTreeMap;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use larder_graph::Stop;
//! use larder_ops::blobs::Blobs;
//! use larder_ops::digest::Sha256Digest;
//! use larder_ops::fetch::{FetchConfig, Fetcher, Request};
//! use larder_ops::install::{Build, Builder, DebugInfo, Way};
//! use larder_ops::key::{ConfigMap, PackageKey};
//! use larder_ops::library::{Change, Library, Put, What};
//! use larder_ops::link::Linker;
//! use larder_ops::package::PackageName;
//! use larder_ops::source;
//! use larder_ops::store::{OnExisting, Sidecar, Store};
//! use larder_ops::toolchain::{Distro, Toolchain};
//! use larder_ops::unpack::{Options, unpack};
//!
//! # async fn example(sha256: Sha256Digest, distro: Option<Distro>) -> Result<(), Box<dyn std::error::Error>> {
//! let (package, stop) = (PackageName::parse("R6")?, Stop::new());
//!
//! // R, and the store for what it builds.
//! let toolchain = Toolchain::find(None, "/usr/bin:/bin".as_ref(), "store/.probes".as_ref())?;
//! let platform = toolchain.platform(distro.as_ref());
//! let store = Store::open("store", platform.clone(), toolchain.description());
//!
//! // The source: fetched and verified, unpacked where nothing in it can get out, made ready.
//! let fetcher = Fetcher::new(FetchConfig::new(Blobs::open("store/blobs")?));
//! let sources = ["https://cran.r-project.org/src/contrib/R6_2.5.1.tar.gz".to_owned()];
//! let request = Request { what: "R6 2.5.1", identity: "R6 2.5.1".to_owned(), sources: &sources, sha256: Some(sha256) };
//! let fetched = fetcher.fetch(request, |_, _| {}, stop.token()).await?;
//! let staging = store.stage()?;
//! let unpacked = unpack(&fetched.path, &staging.path().join("source"), &Options::default(), &|| false)?;
//! source::finish(&unpacked.package_dir, &BTreeMap::new())?;
//!
//! // The build, in a view of nothing but R's own library.
//! let builder = Builder { toolchain, env: vec![], makevars: None, timeout: Duration::from_secs(600), warm: None };
//! let build = Build {
//!     package: &package,
//!     source: &unpacked.package_dir,
//!     view: &BTreeMap::new(),
//!     install_args: &[],
//!     debug_info: DebugInfo::Drop,
//!     scratch: staging.path(),
//!     log: "R6.log".as_ref(),
//!     output: Arc::new(|_, text| print!("{text}")),
//!     core: None,
//! };
//! let built = builder.install(&build, Way::Plain, &stop).await?;
//!
//! // Into the store, and from there into a library.
//! let source = Sha256Digest::of_fields(["standard", "R6", "2.5.1", &sha256.to_string()]);
//! let key = PackageKey::new(package.clone(), "2.5.1".to_owned(), source, vec![], &ConfigMap::default());
//! let sidecar = Sidecar::new(&key, Duration::from_secs(1));
//! let tree = store.publish(&built, &key, &sidecar, OnExisting::Keep)?;
//! let mut library = Library::open("library".as_ref(), &platform)?;
//! let put = vec![Put { package, tree, what: What::Stored(key.reference()) }];
//! library.apply(&Change { put, ..Change::default() }, &Linker::new(None))?;
//! # Ok(())
//! # }
//! ```

pub mod blobs;
mod blocking;
pub mod budget;
pub mod cicache;
pub mod digest;
pub mod explain;
pub mod facets;
pub mod fault;
pub mod fetch;
pub mod fs;
pub mod install;
pub mod key;
pub mod library;
pub mod link;
pub mod lock;
pub mod metadata;
pub mod op;
pub mod package;
pub mod process;
pub mod recipe;
pub mod sonames;
pub mod source;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tiers;
pub mod toolchain;
pub mod trouble;
pub mod unpack;
pub mod wire;
pub mod workers;

pub use blocking::blocking;
