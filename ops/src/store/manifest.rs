//! What a tree consists of, as a text: the canonical form of which tree digests are taken.
//!
//! ```text
//! larder-tree 1
//! f 412 9f86d0...0a08 DESCRIPTION
//! d bin
//! x 88 2c26b4...66ae bin/tool
//! l ../bin/tool inst/tool
//! ```
//!
//! One line for each path, sorted bytewise: folders (`d`), files (`f`, or `x` if they may be executed) with size in
//! bytes and SHA-256, links (`l`) with their target. Names are relative to the tree; a byte that is not printable
//! ASCII, a blank or a backslash is written `\xNN`. So every tree has exactly one text, and other texts are refused.
//! Modes follow from the kind (0755, 0444, 0555); times and owners do not count.
//!
//! Knows nothing of disks; `scan` looks at those.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::digest::Sha256Digest;

/// The first line: which form this is.
const HEADER: &str = "larder-tree 1";

/// What a tree consists of. Every path is plain, and its parent is a folder of the same manifest: whoever makes a
/// tree by it writes nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// By path, in bytes, relative to the tree.
    items: BTreeMap<Vec<u8>, Item>,
}

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// Whether it may be executed.
        is_executable: bool,
        /// Its size in bytes.
        size: u64,
        /// The digest of its content.
        digest: Sha256Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, in bytes.
        target: Vec<u8>,
    },
}

/// Text that is not the manifest of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ManifestError {
    line: usize,
    why: &'static str,
}

impl Item {
    /// Returns the permission bits that it has in the store; links have none of their own.
    pub fn mode(&self) -> Option<u32> {
        match self {
            Self::Folder => Some(0o755),
            Self::File { is_executable: true, .. } => Some(0o555),
            Self::File { is_executable: false, .. } => Some(0o444),
            Self::Symlink { .. } => None,
        }
    }
}

impl Manifest {
    /// Joins what was found in a tree.
    pub(super) fn new(items: BTreeMap<Vec<u8>, Item>) -> Self {
        Self { items }
    }

    /// Reads a manifest; whatever [`Manifest::to_text`] would not have written is refused.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let mut items: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
        let error = |line, why| ManifestError { line, why };
        let body = text.strip_suffix(b"\n").ok_or(error(1, "it does not end with a line"))?;
        let mut lines = body.split(|byte| *byte == b'\n').zip(1..);
        if lines.next().is_none_or(|(line, _)| line != HEADER.as_bytes()) {
            return Err(error(1, "it does not start with `larder-tree 1`"));
        }
        for (text, line) in lines {
            let (path, item) = parse_line(text).ok_or(error(line, "it is not what a manifest consists of"))?;
            let parent = path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at]);
            if parent.is_some_and(|parent| items.get(parent) != Some(&Item::Folder)) {
                return Err(error(line, "its parent is not a folder of this tree"));
            }
            if items.last_key_value().is_some_and(|(last, _)| *last >= path) {
                return Err(error(line, "it is out of order"));
            }
            items.insert(path, item);
        }
        let manifest = Self { items };
        // Numbers and escapes have several spellings, of which one counts.
        if manifest.to_text() == text { Ok(manifest) } else { Err(error(1, "it is not in its canonical form")) }
    }

    /// Returns the canonical text.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = format!("{HEADER}\n").into_bytes();
        for (path, item) in &self.items {
            match item {
                Item::Folder => text.extend(b"d"),
                Item::File { is_executable, size, digest } => {
                    let kind = if *is_executable { 'x' } else { 'f' };
                    write!(text, "{kind} {size} {digest}").expect("memory takes everything");
                }
                Item::Symlink { target } => {
                    text.extend(b"l ");
                    escape_into(&mut text, target);
                }
            }
            text.push(b' ');
            escape_into(&mut text, path);
            text.push(b'\n');
        }
        text
    }

    /// Returns the digest of the tree: that of the canonical text.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.to_text())
    }

    /// Returns what is in the tree, by path, parents first.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Item)> {
        self.items.iter().map(|(path, item)| (to_path(path), item))
    }

    /// Returns what is at a path.
    pub fn get(&self, path: &Path) -> Option<&Item> {
        self.items.get(path.as_os_str().as_bytes())
    }

    /// Returns the bytes that all files hold together.
    pub fn size(&self) -> u64 {
        let sizes = self.items.values().map(|item| if let Item::File { size, .. } = item { *size } else { 0 });
        sizes.fold(0, u64::saturating_add)
    }

    /// Returns how many files there are.
    pub fn n_files(&self) -> u64 {
        self.items.values().filter(|item| matches!(item, Item::File { .. })).count() as u64
    }
}

fn to_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, Item)> {
    let line = std::str::from_utf8(line).ok()?;
    let fields: Vec<&str> = line.split(' ').collect();
    let (path, item) = match *fields {
        ["d", path] => (path, Item::Folder),
        [kind @ ("f" | "x"), size, digest, path] => {
            let (size, digest) = (size.parse().ok()?, digest.parse().ok()?);
            (path, Item::File { is_executable: kind == "x", size, digest })
        }
        ["l", target, path] => (path, Item::Symlink { target: unescape(target).filter(|target| !target.is_empty())? }),
        _ => return None,
    };
    let path = unescape(path)?;
    let is_plain = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
    path.split(|byte| *byte == b'/').all(is_plain).then_some((path, item))
}

fn escape_into(text: &mut Vec<u8>, name: &[u8]) {
    for &byte in name {
        if byte.is_ascii_graphic() && byte != b'\\' {
            text.push(byte);
        } else {
            write!(text, "\\x{byte:02x}").expect("memory takes everything");
        }
    }
}

/// Returns a name's bytes; `None` if it is not an escaped name, or has a zero byte, which no file system takes.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split('\\');
    let mut name = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (hex, rest) = piece.strip_prefix('x')?.split_at_checked(2)?;
        name.push(u8::from_str_radix(hex, 16).ok().filter(|byte| *byte != 0)?);
        name.extend(rest.as_bytes());
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> Item {
        let (size, digest) = (content.len() as u64, Sha256Digest::of(content.as_bytes()));
        Item::File { is_executable: false, size, digest }
    }

    fn manifest(items: impl IntoIterator<Item = (&'static [u8], Item)>) -> Manifest {
        Manifest::new(items.into_iter().map(|(path, item)| (path.to_vec(), item)).collect())
    }

    #[test]
    fn a_text_is_read_back_whatever_the_names() {
        let original = manifest([
            (b"a b\nc\\x20\xff".as_slice(), file("x")),
            (b"R", Item::Folder),
            (b"R/link", Item::Symlink { target: b"../a b".to_vec() }),
            (b"R.old", Item::File { is_executable: true, size: 0, digest: Sha256Digest::of(b"") }),
        ]);
        let text = original.to_text();
        let empty = Sha256Digest::of(b"");
        let expected = format!(
            "larder-tree 1\nd R\nx 0 {empty} R.old\nl ../a\\x20b R/link\nf 1 {} a\\x20b\\x0ac\\x5cx20\\xff\n",
            Sha256Digest::of(b"x")
        );
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        assert_eq!(Manifest::parse(&text), Ok(original.clone()));
        assert_eq!((original.size(), original.n_files()), (1, 2));
    }

    #[test]
    fn texts_that_lead_out_or_have_another_spelling_are_refused() {
        let digest = Sha256Digest::of(b"");
        let refused = [
            "d ..".to_owned(),
            "d /etc".to_owned(),
            "d a/".to_owned(),
            "d .".to_owned(),
            "d a/b".to_owned(),
            format!("l /etc a\nf 0 {digest} a/passwd"),
            "d b\nd a".to_owned(),
            "d a\nd a".to_owned(),
            "d \\x61".to_owned(),
            "d a\\x00b".to_owned(),
            "d \\x2e\\x2e".to_owned(),
            "d a\\x2".to_owned(),
            format!("f 00 {digest} a"),
            format!("f 0 {} a", digest.to_string().to_uppercase()),
            format!("f -1 {digest} a"),
            "d".to_owned(),
            "d a b".to_owned(),
            "l  a".to_owned(),
            "p a".to_owned(),
            String::new(),
        ];
        for body in refused {
            assert!(Manifest::parse(format!("{HEADER}\n{body}\n").as_bytes()).is_err(), "{body}");
        }
        for text in ["", "\n", "larder-tree 2\n", "larder-tree 1", "d a\n"] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Manifest::parse(b"larder-tree 1\n").is_ok(), "an empty tree is a tree");
    }
}
