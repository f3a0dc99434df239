//! File systems in memory, for what only another file system or a full one shows.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

/// A file system in memory; unmounted when dropped.
pub(crate) struct Tmpfs(pub(crate) PathBuf);

impl Tmpfs {
    /// Mounts one with these options, such as `size=8m`. `Err` says why that is not possible here.
    pub(crate) fn mount(dir: &Path, options: &str) -> Result<Self, String> {
        fs::create_dir_all(dir).unwrap();
        let mounted = Self(dir.to_owned());
        mount(&["-t", "tmpfs", "-o", options, "larder-test"], dir).map(|()| mounted)
    }

    /// Mounts it anew with other options, such as `ro`.
    pub(crate) fn remount(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}")], &self.0).unwrap();
    }

    /// Returns how many bytes are free.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all room but this.
    pub(crate) fn leave(&self, bytes: u64) {
        fs::write(self.ballast(), vec![1; usize::try_from(self.free() - bytes).unwrap()]).unwrap();
    }

    /// Returns the file that takes the room.
    pub(crate) fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn mount(args: &[&str], dir: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(args).arg(dir).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}
