//! Where the output of builds goes: one file a build, found again by package.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::fault::{self, fs};

use crate::key::Reference;
use crate::package::PackageName;

/// The logs of a store: `{store}/logs/{package}/{time}-{version}-{key}.log`, `.failed.log` for a failed build.
/// Names sort by time.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
}

impl Logs {
    /// Returns the logs of the store at `root`.
    pub fn new(root: &Path) -> Self {
        Self { dir: root.join("logs") }
    }

    /// Makes an empty log for a build that starts now. While the returned file is open the log is not evicted.
    pub(super) fn create(
        &self,
        package: &PackageName,
        version: &str,
        reference: Reference,
    ) -> io::Result<(PathBuf, fs::File)> {
        let dir = self.dir.join(package);
        fs::create_dir_all(&dir)?;
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string().replace(':', "");
        let path = dir.join(format!("{time}-{version}-{}.log", reference.config.short()));
        fault::point("log: create")?;
        loop {
            let file = fs::File::create(&path)?;
            // A file system without locks has no evictor that takes logs either.
            let _ = file.file().lock_shared();
            // Before it was locked it was anybody's.
            if path.exists() {
                return Ok((path, file));
            }
        }
    }

    /// Gives the log of a failed build the name by which it is found; returns the name that it has then.
    pub(super) fn mark_failed(log: &Path) -> PathBuf {
        let failed = log.with_extension("failed.log");
        if fs::rename(log, &failed).is_ok() { failed } else { log.to_owned() }
    }

    /// Returns the newest log, of one package or of all, of failed builds only or of all.
    pub fn newest(&self, package: Option<&PackageName>, only_failed: bool) -> io::Result<Option<PathBuf>> {
        let dirs = match package {
            Some(package) => vec![self.dir.join(package)],
            None => entries(&self.dir)?,
        };
        let mut newest: Option<PathBuf> = None;
        for dir in dirs {
            for log in entries(&dir)? {
                let is_wanted = !only_failed || log.to_string_lossy().ends_with(".failed.log");
                if is_wanted && newest.as_ref().is_none_or(|newest| newest.file_name() < log.file_name()) {
                    newest = Some(log);
                }
            }
        }
        Ok(newest)
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(items) => items.map(|item| Ok(item?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
