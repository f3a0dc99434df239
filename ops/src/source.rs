//! Source trees: what of a directory or repository belongs to the package, as `R CMD build` would decide it,
//! and the digest by which such a tree is known.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::fault::fs;

use crate::digest::{Hasher, Sha256Digest};
use crate::fs::{remove_all, walk};
use crate::metadata;
use crate::package::Description;
use crate::unpack::DESCRIPTION_BYTES_MAX;

/// Directories that never belong to a package.
const NEVER_DIRS: [&str; 10] =
    [".git", ".svn", ".hg", ".bzr", "_darcs", "CVS", ".arch-ids", ".Rproj.user", ".github", "autom4te.cache"];
/// Files at the top that never belong to a package.
const NEVER_AT_TOP: [&str; 7] =
    [".Rbuildignore", ".Rhistory", ".RData", ".gitignore", "config.log", "config.status", "config.cache"];
/// What compilers and editors leave, anywhere in the tree.
const NEVER_ENDINGS: [&str; 6] = ["~", ".bak", ".swp", ".DS_Store", ".Rcheck", ".gitattributes"];
/// What compiling in place leaves in `src`.
const OBJECT_ENDINGS: [&str; 4] = [".o", ".so", ".sl", ".dylib"];

/// The most that a compiled pattern may take. The usual ones take a few kilobytes.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// Decides which files of a tree belong to the package.
#[derive(Debug)]
pub struct BuildIgnore {
    patterns: Vec<fancy_regex::Regex>,
}

impl BuildIgnore {
    /// Reads the `.Rbuildignore` of a tree, if it has one: Perl expressions, matched without regard to case against
    /// paths below the tree.
    pub fn read(tree: &Path) -> io::Result<Self> {
        let bytes = match read_small(&tree.join(".Rbuildignore"), 64 << 10) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let lines = String::from_utf8_lossy(&bytes);
        let patterns = lines.lines().map(str::trim).filter(|line| !line.is_empty()).filter_map(|line| {
            fancy_regex::RegexBuilder::new(&format!("(?i){line}"))
                .delegate_size_limit(PATTERN_BYTES_MAX)
                .build()
                .inspect_err(|error| tracing::warn!(pattern = line, %error, "cannot be read in .Rbuildignore"))
                .ok()
        });
        Ok(Self { patterns: patterns.collect() })
    }

    /// Says whether the file or directory at `path`, relative to the tree, is left out.
    pub fn leaves_out(&self, path: &Path, is_dir: bool) -> bool {
        let text = path.to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_at_top = path.components().count() == 1;
        (is_dir && NEVER_DIRS.contains(&&*name))
            || (is_at_top && NEVER_AT_TOP.contains(&&*name))
            || NEVER_ENDINGS.iter().any(|ending| name.ends_with(ending))
            || name.starts_with(".#")
            || (!is_dir && text.starts_with("src/") && OBJECT_ENDINGS.iter().any(|ending| name.ends_with(ending)))
            || self.patterns.iter().any(|pattern| pattern.is_match(&text).unwrap_or(false))
    }
}

/// Yields what belongs to the package in `tree`, parents first, sorted, with paths relative to the tree.
fn members(tree: &Path) -> io::Result<impl Iterator<Item = io::Result<(PathBuf, walkdir::DirEntry)>>> {
    let ignore = BuildIgnore::read(tree)?;
    let root = tree.to_owned();
    let relative =
        move |item: &walkdir::DirEntry| item.path().strip_prefix(&root).map(Path::to_owned).unwrap_or_default();
    let paths = relative.clone();
    let items = walkdir::WalkDir::new(tree).min_depth(1).sort_by_file_name().into_iter();
    let kept = items.filter_entry(move |item| !ignore.leaves_out(&relative(item), item.file_type().is_dir()));
    Ok(kept.map(move |item| item.map(|item| (paths(&item), item)).map_err(io::Error::from)))
}

/// Returns the digest of what belongs to the package in `tree`: paths, executable bits, contents.
pub fn digest(tree: &Path) -> io::Result<Sha256Digest> {
    let mut hasher = Hasher::default();
    for member in members(tree)? {
        let (path, item) = member?;
        let (kind, content) = match item.file_type() {
            kind if kind.is_dir() => continue,
            kind if kind.is_symlink() => {
                ("link", Sha256Digest::of(fs::read_link(item.path())?.as_os_str().as_encoded_bytes()))
            }
            _ if item.metadata()?.permissions().mode() & 0o111 != 0 => ("executable", digest_of(item.path())?),
            _ => ("file", digest_of(item.path())?),
        };
        for field in [path.as_os_str().as_encoded_bytes(), kind.as_bytes(), content.to_string().as_bytes()] {
            hasher.update(field);
            hasher.update(&[0]);
        }
    }
    Ok(hasher.finish())
}

fn digest_of(file: &Path) -> io::Result<Sha256Digest> {
    Sha256Digest::of_reader(fs::File::open(file)?)
}

/// Copies what belongs to the package in `tree` into the new directory `into`.
pub fn copy(tree: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    for member in members(tree)? {
        let (path, item) = member?;
        let target = into.join(path);
        match item.file_type() {
            kind if kind.is_dir() => fs::create_dir(&target)?,
            kind if kind.is_symlink() => {
                let destination = fs::read_link(item.path())?;
                fs::os::unix::fs::symlink(destination, &target)?;
            }
            _ => drop(fs::copy(item.path(), &target)?),
        }
    }
    Ok(())
}

/// Removes from `tree`, an unpacked repository, what does not belong to the package.
pub fn prune(tree: &Path) -> io::Result<()> {
    let ignore = BuildIgnore::read(tree)?;
    let left_out: Vec<_> = walk(tree)
        .filter_map(Result::ok)
        .filter(|item| item.depth() > 0)
        .filter(|item| {
            let path = item.path().strip_prefix(tree).unwrap_or(item.path());
            ignore.leaves_out(path, item.file_type().is_dir())
        })
        .map(walkdir::DirEntry::into_path)
        .collect();
    left_out.iter().try_for_each(|path| remove_all(path))
}

/// Writes `fields` into the tree's DESCRIPTION and makes the scripts that R calls executable, which archives of
/// version control may have forgotten. Returns the DESCRIPTION as it is now.
pub fn finish(tree: &Path, fields: &BTreeMap<String, String>) -> io::Result<Description> {
    let path = tree.join("DESCRIPTION");
    let bytes = metadata::with_fields(&read_small(&path, DESCRIPTION_BYTES_MAX)?, fields);
    fs::write(&path, &bytes)?;
    let description = Description::parse(&bytes);
    if !description.is_built() {
        // R would say of a package that then fails that its DESCRIPTION has the wrong checksum.
        remove_all(&tree.join("MD5"))?;
    }
    for script in ["configure", "cleanup"] {
        let script = tree.join(script);
        if script.is_file() {
            fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
        }
    }
    Ok(description)
}

/// Reads a file of somebody else's, which may have at most `bytes_max` bytes: what is read here is kept in memory.
fn read_small(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let problem = format!("{}: has more than {bytes_max} bytes, which no R package's has", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    const MESSY: [(&str, &str); 9] = [
        ("DESCRIPTION", "Package: demo\n"),
        (".Rbuildignore", "^notes$\n^.*\\.Rproj$\n(?!x)^data-raw\n[broken\n"),
        (".git/HEAD", "x"),
        ("Demo.RPROJ", "x"),
        ("notes/secret.txt", "x"),
        ("data-raw/big.csv", "x"),
        ("src/code.c", "int x;"),
        ("src/code.o", "x"),
        ("R/code.R", "x <- 1"),
    ];

    #[test]
    fn checksums_that_no_longer_hold_are_left_out() {
        let dir = tree(&[("DESCRIPTION", "Package: demo\n"), ("MD5", "0123 *DESCRIPTION\n")]);
        finish(dir.path(), &BTreeMap::from([("RemoteType".to_owned(), "standard".to_owned())])).unwrap();
        assert!(!dir.path().join("MD5").exists());
    }

    #[test]
    fn only_what_belongs_to_the_package_is_copied() {
        let (messy, into) = (tree(&MESSY), tempfile::tempdir().unwrap());
        let copied = into.path().join("demo");
        copy(messy.path(), &copied).unwrap();
        prune(messy.path()).unwrap();
        for tree in [&copied, messy.path()] {
            let files: Vec<_> = walk(tree)
                .map(|item| item.unwrap())
                .filter(|item| item.file_type().is_file())
                .map(|item| item.path().strip_prefix(tree).unwrap().display().to_string())
                .collect();
            assert_eq!(files, ["DESCRIPTION", "R/code.R", "src/code.c"]);
        }
    }

    #[test]
    fn the_digest_sees_contents_and_not_what_is_left_out() {
        let before = digest(tree(&MESSY).path()).unwrap();
        let other = tree(&MESSY);
        fs::write(other.path().join("notes/secret.txt"), "y").unwrap();
        fs::write(other.path().join(".git/HEAD"), "y").unwrap();
        assert_eq!(digest(other.path()).unwrap(), before);
        fs::write(other.path().join("src/code.c"), "int y;").unwrap();
        assert_ne!(digest(other.path()).unwrap(), before);
    }
}
