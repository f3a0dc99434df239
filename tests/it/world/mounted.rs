//! File systems of a test's own, for what only another file system or a full one shows.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

/// A file system; unmounted when dropped.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    /// Mounts one in memory with these options, such as `size=8m`. `Err` says why that is not possible here.
    pub(crate) fn tmpfs(dir: &Path, options: &str) -> Result<Self, String> {
        fs::create_dir_all(dir).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "larder-test"], dir).map(|()| Self(dir.to_owned()))
    }

    /// Mounts one of so many bytes in a file beside `dir`. Unlike in memory, a new directory there needs room.
    pub(crate) fn ext4(dir: &Path, bytes: u64) -> Result<Self, String> {
        fs::create_dir_all(dir).unwrap();
        let file = dir.with_extension("img");
        fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        // Without room that only root may use.
        run("mkfs.ext4", &["-q", "-m", "0"], &file)?;
        run("mount", &["-o", "loop", file.to_str().unwrap()], dir).map(|()| Self(dir.to_owned()))
    }

    /// Mounts it anew with other options, such as `ro`.
    pub(crate) fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}")], &self.0).unwrap();
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

    /// Takes all room, and what a file system hides of it.
    pub(crate) fn fill(&self) {
        use std::io::Write;
        let mut ballast = fs::OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        for size in [1 << 16, 1 << 10] {
            while ballast.write_all(&vec![1; size]).and_then(|()| ballast.sync_all()).is_ok() {}
        }
    }

    /// Returns the file that takes the room.
    pub(crate) fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn run(command: &str, args: &[&str], last: &Path) -> Result<(), String> {
    let output = Command::new(command).args(args).arg(last).output().map_err(|error| format!("{command}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command}: {said}")) }
}
