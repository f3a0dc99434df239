//! Where a run can be made to die or to fail, for tests: before each step that changes something on a disk.
//!
//! With the cargo feature `faults`, which no released command has, [`fs`] asks [`point`] before each of its steps, and
//! code that goes past it asks by itself. Without the feature all of this is nothing. It knows nothing of what the
//! steps are for.

use std::io;

#[cfg(not(feature = "faults"))]
pub use fs_err as fs;

/// Says that something is about to be changed on a disk. Without the feature `faults` nothing happens.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn point(_: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "faults")]
pub use armed::{arm, point};

#[cfg(feature = "faults")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use fs_err::OpenOptions;
    use rustix::io::Errno;

    use super::io;

    #[derive(Debug)]
    enum Fault {
        /// At this point the process gets SIGKILL.
        Kill(u64),
        /// This point fails with this error.
        Fail(u64, Errno),
        /// Points whose name begins like this fail with this error: the one of this number among them, or all, as
        /// what a file system cannot do at all.
        FailNamed(String, Option<u64>, Errno),
        /// Every point is written to this file, a line each.
        List(std::path::PathBuf),
    }

    static FAULT: OnceLock<Fault> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);

    /// The errors that can be asked for, by the names that C gives them.
    const ERRORS: [(&str, Errno); 14] = [
        ("EACCES", Errno::ACCESS),
        ("EDQUOT", Errno::DQUOT),
        ("EIO", Errno::IO),
        ("EMFILE", Errno::MFILE),
        ("EMLINK", Errno::MLINK),
        ("ENAMETOOLONG", Errno::NAMETOOLONG),
        ("ENOLCK", Errno::NOLCK),
        ("ENOSPC", Errno::NOSPC),
        ("ENOSYS", Errno::NOSYS),
        ("EOPNOTSUPP", Errno::OPNOTSUPP),
        ("EPERM", Errno::PERM),
        ("EROFS", Errno::ROFS),
        ("ESTALE", Errno::STALE),
        ("EXDEV", Errno::XDEV),
    ];

    /// Says what is to go wrong, and where: `kill:17`, `ENOSPC:17` or another error, `ENOLCK@lock` for all points whose
    /// names begin with `lock`, `ENOLCK@lock:3` for the third of them, or `list:FILE` to learn how many points there are and what they are called. Points are
    /// counted from 1. `Err` is a text that says none of these.
    pub fn arm(text: &str) -> Result<(), String> {
        let wrong = || format!("`{text}` is no fault");
        let error = |name| ERRORS.iter().find(|(known, _)| *known == name).map(|(_, error)| *error).ok_or_else(wrong);
        let number = |n: &str| n.parse().map_err(|_| wrong());
        let fault = match (text.split_once('@'), text.split_once(':')) {
            (Some((name, points)), _) => match points.rsplit_once(':').map(|(points, n)| (points, n.parse())) {
                Some((points, Ok(n))) => Fault::FailNamed(points.to_owned(), Some(n), error(name)?),
                _ => Fault::FailNamed(points.to_owned(), None, error(name)?),
            },
            (_, Some(("kill", n))) => Fault::Kill(number(n)?),
            (_, Some(("list", path))) => Fault::List(path.into()),
            (_, Some((name, n))) => Fault::Fail(number(n)?, error(name)?),
            (None, None) => return Err(wrong()),
        };
        FAULT.set(fault).map_err(|_| wrong())
    }

    /// Says that something is about to be changed on a disk: `Err`, or never back, if that is the point to fail at.
    pub fn point(name: &'static str) -> io::Result<()> {
        let Some(fault) = FAULT.get() else { return Ok(()) };
        if matches!(fault, Fault::FailNamed(points, ..) if !name.starts_with(points)) {
            return Ok(());
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        match fault {
            Fault::Kill(n) if *n == count => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                loop {
                    std::thread::park();
                }
            }
            Fault::Fail(n, error) if *n == count => Err((*error).into()),
            Fault::FailNamed(_, n, error) if n.is_none_or(|n| n == count) => Err((*error).into()),
            Fault::List(path) => {
                let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                // One write, so that lines of several threads do not mix.
                io::Write::write_all(&mut file, format!("{name}\n").as_bytes())
            }
            _ => Ok(()),
        }
    }
}

/// The file system as `fs_err` has it, with a point before each step that changes something.
#[cfg(feature = "faults")]
pub mod fs {
    use std::io::Result;
    use std::path::Path;

    pub use fs_err::*;

    use super::point;

    macro_rules! steps {
        ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
            #[doc = concat!("As `fs_err::", stringify!($name), "`, with a point before it.")]
            pub fn $name($($argument: $type),*) -> Result<$result> {
                point(stringify!($name))?;
                fs_err::$name($($argument),*)
            }
        )*};
    }

    steps! {
        create_dir(path: impl AsRef<Path>) -> ();
        create_dir_all(path: impl AsRef<Path>) -> ();
        rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> ();
        remove_file(path: impl AsRef<Path>) -> ();
        set_permissions(path: impl AsRef<Path>, permissions: std::fs::Permissions) -> ();
        copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> u64;
    }

    /// As `fs_err::write`, with a point before the file is there, and one before it is complete.
    pub fn write(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
        let bytes = contents.as_ref();
        point("write")?;
        fs_err::write(path.as_ref(), &bytes[..bytes.len() / 2])?;
        point("write: half of it")?;
        fs_err::write(path, bytes)
    }

    /// As `fs_err::remove_dir_all`, with a point before each thing that goes.
    pub fn remove_dir_all(path: impl AsRef<Path>) -> Result<()> {
        for item in walkdir::WalkDir::new(path.as_ref()).contents_first(true) {
            let item = item?;
            point("remove_dir_all: one thing")?;
            if item.file_type().is_dir() { fs_err::remove_dir(item.path()) } else { fs_err::remove_file(item.path()) }?;
        }
        Ok(())
    }

    /// As `fs_err::os`, with points.
    pub mod os {
        /// As `fs_err::os::unix`, with points.
        pub mod unix {
            /// As `fs_err::os::unix::fs`, with points.
            pub mod fs {
                pub use fs_err::os::unix::fs::*;

                /// As `fs_err::os::unix::fs::symlink`, with a point before it.
                pub fn symlink(
                    target: impl AsRef<std::path::Path>,
                    link: impl AsRef<std::path::Path>,
                ) -> std::io::Result<()> {
                    super::super::super::super::point("symlink")?;
                    fs_err::os::unix::fs::symlink(target, link)
                }
            }
        }
    }
}
