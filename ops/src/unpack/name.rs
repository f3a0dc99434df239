//! Names and links in archives: which are harmless, which are refused.
//!
//! Pure functions over bytes; nothing here looks at a disk.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest path that Linux takes, less room for the directory it is unpacked into.
const PATH_BYTES_MAX: usize = 3000;
const COMPONENT_BYTES_MAX: usize = 255;
const DEPTH_MAX: usize = 128;

/// The rule that an entry breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name that starts with a slash.
    #[error("its path is absolute")]
    Absolute,
    /// A name with `..` in it.
    #[error("its path has `..` in it")]
    ParentFolder,
    /// A name with a zero byte in it.
    #[error("its name has a zero byte in it")]
    ZeroByte,
    /// A name that no file system takes.
    #[error("its path is too long or too deep")]
    TooLong,
    /// A top folder whose name is not UTF-8.
    #[error("the name of its top folder is not UTF-8")]
    NotText,
    /// A file beside the top folder instead of in it.
    #[error("it is not inside of a top folder, as everything in a package's archive is")]
    OutsideTopFolder,
    /// A second top folder.
    #[error("the archive has a second top folder, the first is `{first}`")]
    SecondTopFolder {
        /// The top folder that was seen first.
        first: String,
    },
    /// A symbolic link that leads out of the tree, or might.
    #[error("it is a link to `{target}`, which leaves the tree")]
    LinkLeaves {
        /// Where the link points, escaped.
        target: String,
    },
    /// A hard link to something that is not a file that came before it.
    #[error("it is a hard link to `{target}`, which is no earlier file of the archive")]
    HardLinkToNothing {
        /// Where the link points, escaped.
        target: String,
    },
    /// Two entries of different kinds in one place, such as a file below a symbolic link.
    #[error("another entry of another kind has the same place or lies in the way")]
    InTheWay,
    /// A device, a pipe or the like.
    #[error("it is a {0}, not a file, folder or link")]
    Special(&'static str),
}

/// Turns a name into a relative path of plain components; empty for `.` and the like.
pub(super) fn parse(name: &[u8]) -> Result<PathBuf, Refusal> {
    if name.first() == Some(&b'/') {
        return Err(Refusal::Absolute);
    }
    if name.contains(&0) {
        return Err(Refusal::ZeroByte);
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(Refusal::ParentFolder),
            _ if component.len() > COMPONENT_BYTES_MAX => return Err(Refusal::TooLong),
            _ => path.push(OsStr::from_bytes(component)),
        }
        depth += 1;
        if depth > DEPTH_MAX || path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
    }
    Ok(path)
}

/// Says whether archivers put this there for themselves: macOS metadata, git's comment on a tar.
pub(super) fn is_litter(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"._"))
        || path.starts_with("__MACOSX")
        || [Path::new("pax_global_header"), Path::new(".DS_Store")].contains(&path)
}

/// Checks that the symbolic link at `link`, a path below the top folder, stays in the tree wherever it is followed.
///
/// `..` is allowed at the front only. There it starts from a real folder, because nothing is unpacked below a link,
/// so counting is exact. Behind a name it would start from wherever that name leads, which may be another link.
pub(crate) fn check_link(link: &Path, target: &[u8]) -> Result<(), Refusal> {
    let leaves = || Refusal::LinkLeaves { target: shown(target) };
    if target.is_empty() || target[0] == b'/' || target.contains(&0) || target.len() > PATH_BYTES_MAX {
        return Err(leaves());
    }
    let mut depth = link.iter().count() - 1;
    let mut is_at_front = true;
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if is_at_front => depth = depth.checked_sub(1).ok_or_else(leaves)?,
            b".." => return Err(leaves()),
            _ => is_at_front = false,
        }
    }
    Ok(())
}

/// Takes bytes from an archive as a path, as they are.
pub(super) fn to_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Renders bytes from an archive for a message.
pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(200).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_names_become_plain_paths() {
        for (name, path) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("./", ""), ("a/./b", "a/b"), ("a/..b", "a/..b")] {
            assert_eq!(parse(name.as_bytes()), Ok(PathBuf::from(path)), "{name}");
        }
        assert_eq!(parse(b"a/\xe9").unwrap().as_os_str().as_bytes(), b"a/\xe9");
    }

    #[test]
    fn names_that_leave_are_refused() {
        assert_eq!(parse(b"/etc/passwd"), Err(Refusal::Absolute));
        assert_eq!(parse(b"//a"), Err(Refusal::Absolute));
        for name in ["..", "../a", "a/../../b", "a/.."] {
            assert_eq!(parse(name.as_bytes()), Err(Refusal::ParentFolder), "{name}");
        }
        assert_eq!(parse(b"a/b\0c"), Err(Refusal::ZeroByte));
        assert_eq!(parse(&[b'a'; 256]), Err(Refusal::TooLong));
        assert_eq!(parse("a/".repeat(129).as_bytes()), Err(Refusal::TooLong));
    }

    #[test]
    fn links_may_go_up_only_at_the_front_and_only_to_the_root() {
        let check = |link: &str, target: &str| check_link(Path::new(link), target.as_bytes()).is_ok();
        for (link, target) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e"), ("a", "./b/c"), ("a/b", "..")] {
            assert!(check(link, target), "{link} -> {target}");
        }
        for (link, target) in
            [("a", ".."), ("a", "../b"), ("a/b", "../../c"), ("a", "/b"), ("a/b/c", "d/../x"), ("a", "")]
        {
            assert!(!check(link, target), "{link} -> {target}");
        }
    }
}
