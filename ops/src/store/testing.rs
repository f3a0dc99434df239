//! Small stores for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;

use super::{OnExisting, Sidecar, Store};
use crate::digest::Sha256Digest;
use crate::key::{ConfigMap, PackageKey};
use crate::package::PackageName;

/// A store in a directory of its own, and what is published into it.
pub(crate) struct Shop {
    dir: tempfile::TempDir,
    pub(crate) store: Store,
}

pub(crate) fn name(text: &str) -> PackageName {
    PackageName::parse(text).unwrap()
}

pub(crate) fn key(package: &str, linked: &[&Arc<PackageKey>]) -> Arc<PackageKey> {
    let linked = linked.iter().map(|key| Arc::clone(key)).collect();
    let source = Sha256Digest::of(package.as_bytes());
    Arc::new(PackageKey::new(name(package), "1.0".to_owned(), source, linked, &ConfigMap::default()))
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self::on("some-platform")
    }

    pub(crate) fn on(platform: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), platform, "R 4.2\nsome system");
        fs::create_dir(store.root()).unwrap();
        Self { dir, store }
    }

    /// Keeps the directory, and gives up what was leased by publishing.
    pub(crate) fn end_of_lease(self) -> tempfile::TempDir {
        self.dir
    }

    /// Publishes a package of several files, one of which nobody else has.
    pub(crate) fn publish(&self, key: &PackageKey) -> PathBuf {
        let staging = self.store.stage().unwrap();
        let built = staging.path().join("built");
        let package = key.package();
        let put = |path: &str, content: &str| {
            let path = built.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put("DESCRIPTION", &format!("Package: {package}\nVersion: 1.0\nBuilt: R 4.2.2; ; today; unix\n"));
        put("R/code.rdb", &format!("the code of {package}, and some more of it"));
        put("include/a header.h", "int x;\n");
        put("bin/tool", "#!/bin/sh\n");
        fs::create_dir(built.join("empty")).unwrap();
        rustix::fs::symlink("../bin/tool", built.join("R/tool")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(built.join("bin/tool"), mode).unwrap();
        let sidecar = Sidecar::new(key, Duration::from_millis(7));
        self.store.publish(&built, key, &sidecar, OnExisting::Keep).unwrap()
    }
}

/// Returns all paths below a directory, sorted, relative to it.
pub(crate) fn paths(dir: &Path) -> Vec<PathBuf> {
    let items = walkdir::WalkDir::new(dir).min_depth(1).sort_by_file_name().into_iter();
    items.map(|item| item.unwrap().path().strip_prefix(dir).unwrap().to_owned()).collect()
}

/// Returns the text of a sidecar that was changed by hand, with the right checksum.
pub(crate) fn seal(sidecar: &serde_json::Value) -> Vec<u8> {
    super::sidecar::seal(sidecar).unwrap()
}
