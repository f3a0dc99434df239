//! The names of saved states, and the templates that make them.

use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use crate::digest::{Hasher, Sha256Digest};

/// What `{hash(...)}` is when no file matches.
const NO_FILES: &str = "no-files";
/// What `{lock}` is without a lockfile.
const NO_LOCK: &str = "no-lock";
/// The longest key, in bytes; as a file name it has at most three times as many.
const BYTES_MAX: usize = 200;
/// The longest file name that any storage takes.
const NAME_BYTES_MAX: usize = 240;
/// How many hex digits of a digest are in a key.
const DIGITS: usize = 16;

/// The name of a saved state: printable ASCII without commas, which GitHub would not take.
///
/// ```
/// use larder_ops::cicache::Key;
///
/// assert!("larder-4.2.2-linux-x86_64-0123".parse::<Key>().is_ok());
/// assert!("".parse::<Key>().is_err());
/// assert!("one,two".parse::<Key>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Text that is no key, or makes none.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum KeyError {
    #[error("the key `{0}` is empty, longer than {BYTES_MAX} bytes, or not printable ASCII without commas")]
    Key(String),
    #[error("the key template `{template}`: {why}")]
    Template { template: String, why: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Key {
    /// Returns it as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key of a state that lacks something and is saved now.
    pub(super) fn partial(&self, now: SystemTime) -> Result<Self, KeyError> {
        let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("{}{nanos:024x}", self.partial_prefix()).parse()
    }

    /// Returns how all of these start.
    pub(super) fn partial_prefix(&self) -> String {
        format!("{self}-partial-")
    }

    /// Returns it as one component of a path.
    pub(super) fn to_component(&self) -> String {
        let mut name = String::new();
        for (n, byte) in self.0.bytes().enumerate() {
            if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || byte == b'.' && n > 0 {
                name.push(char::from(byte));
            } else {
                let _ = write!(name, "~{byte:02x}");
            }
        }
        name
    }

    /// Reads it from a component of a path.
    pub(super) fn of_component(name: &str) -> Option<Self> {
        let mut parts = name.split('~');
        let mut key = parts.next()?.to_owned();
        for part in parts {
            let (digits, rest) = part.split_at_checked(2)?;
            key.push(char::from(u8::from_str_radix(digits, 16).ok()?));
            key.push_str(rest);
        }
        key.parse().ok()
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_fine = |byte: u8| byte.is_ascii_graphic() && byte != b',' || byte == b' ';
        let key = Self(text.to_owned());
        let is_good = !text.trim().is_empty() && text.len() <= BYTES_MAX && text.bytes().all(is_fine);
        if is_good && key.to_component().len() <= NAME_BYTES_MAX {
            Ok(key)
        } else {
            Err(KeyError::Key(text.chars().take(BYTES_MAX).collect::<String>().escape_debug().to_string()))
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a template may speak of.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// R's version.
    pub r: &'a str,
    /// The lockfile's content; `None` without one.
    pub lockfile: Option<&'a [u8]>,
    /// Where relative patterns of files start.
    pub dir: &'a Path,
}

impl Surroundings<'_> {
    /// The key of who says nothing else, and the start of it that other lockfiles share.
    pub const DEFAULT: (&'static str, &'static str) = ("larder-{r}-{os}-{arch}-{lock}", "larder-{r}-{os}-{arch}-");

    /// Fills in a template: `{os}`, `{arch}`, `{r}`, `{lock}` (of the lockfile), `{hash(PATTERN, ...)}` (of all files
    /// that match, `*`, `?` and `**` as usual).
    pub fn fill(&self, template: &str) -> Result<Key, KeyError> {
        let wrong = |why: String| KeyError::Template { template: template.escape_debug().to_string(), why };
        let (mut key, mut rest) = (String::new(), template);
        while let Some((before, after)) = rest.split_once('{') {
            let Some((word, after)) = after.split_once('}') else {
                return Err(wrong("a `{` has no `}`".to_owned()));
            };
            key.push_str(before);
            match word.trim() {
                "os" => key.push_str(std::env::consts::OS),
                "arch" => key.push_str(std::env::consts::ARCH),
                "r" => key.push_str(self.r),
                "lock" => match self.lockfile {
                    Some(bytes) => key.push_str(&short(Sha256Digest::of(bytes))),
                    None => key.push_str(NO_LOCK),
                },
                word => match word.strip_prefix("hash(").and_then(|patterns| patterns.strip_suffix(')')) {
                    Some(patterns) if patterns.split(',').all(|pattern| !pattern.trim().is_empty()) => {
                        key.push_str(&self.hash(patterns.split(',').map(str::trim))?);
                    }
                    Some(_) => return Err(wrong("`hash()` needs patterns of files".to_owned())),
                    None => return Err(wrong(format!("`{word}` is not among os, arch, r, lock, hash(FILES)"))),
                },
            }
            rest = after;
        }
        if rest.contains('}') {
            return Err(wrong("a `}` has no `{`".to_owned()));
        }
        key.push_str(rest);
        key.parse()
    }

    /// Digests the files that match, sorted by name: the digest of their digests.
    fn hash<'p>(&self, patterns: impl Iterator<Item = &'p str>) -> io::Result<String> {
        let mut files = Vec::new();
        for pattern in patterns {
            let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
            let parts: Vec<&str> = pattern.split('/').collect();
            // What comes before the first part with a pattern is one directory to look in.
            let n_plain = parts.iter().take_while(|part| !part.contains(['*', '?'])).count();
            let base = self.dir.join(parts[..n_plain.min(parts.len())].join("/"));
            let base = if pattern.starts_with('/') && n_plain <= 1 { PathBuf::from("/") } else { base };
            if n_plain == parts.len() {
                files.extend(base.is_file().then_some(base));
                continue;
            }
            for item in walkdir::WalkDir::new(&base).into_iter().filter_map(Result::ok) {
                let inner = item.path().strip_prefix(&base).expect("it was found below");
                let inner: Vec<String> =
                    inner.iter().map(|component| component.to_string_lossy().into_owned()).collect();
                if item.file_type().is_file() && matches(&parts[n_plain..], &inner) {
                    files.push(item.into_path());
                }
            }
        }
        files.sort();
        files.dedup();
        if files.is_empty() {
            return Ok(NO_FILES.to_owned());
        }
        let mut all = Hasher::default();
        for file in files {
            all.update(Sha256Digest::of_reader(fs_err::File::open(file)?)?.to_string().as_bytes());
        }
        Ok(short(all.finish()))
    }
}

fn short(digest: Sha256Digest) -> String {
    digest.to_string()[..DIGITS].to_owned()
}

/// Says whether the components of a path match those of a pattern.
fn matches(pattern: &[&str], path: &[String]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=path.len()).any(|n| matches(rest, &path[n..])),
        ([first, rest @ ..], [name, inner @ ..]) => is_like(first.as_bytes(), name.as_bytes()) && matches(rest, inner),
        _ => false,
    }
}

fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|n| is_like(rest, &name[n..])),
        ([b'?', rest @ ..], [_, inner @ ..]) => is_like(rest, inner),
        ([first, rest @ ..], [byte, inner @ ..]) => first == byte && is_like(rest, inner),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(dir: &Path, template: &str) -> String {
        let around = Surroundings { r: "4.2.2", lockfile: Some(b"{}"), dir };
        around.fill(template).map_or_else(|error| error.to_string(), |key| key.to_string())
    }

    #[test]
    fn a_template_speaks_of_the_machine_and_of_files() {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in [("a.lock", "a"), ("b.lock", "b"), ("in/deep/c.lock", "c"), ("other.txt", "d")] {
            let path = dir.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        }
        let filled = |template: &str| filled(dir.path(), template);
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        assert_eq!(filled("r-{r}-{os}/{arch}"), format!("r-4.2.2-{os}/{arch}"));
        assert_eq!(filled("{hash(*.none)}"), "no-files");
        let [two, same, three, deep] =
            ["{hash(*.lock)}", "{hash(b.lock,a.lock)}", "{hash(**/*.lock)}", "{hash(in/*/?.lock)}"].map(filled);
        assert!(two.len() == 16 && two.bytes().all(|byte| byte.is_ascii_hexdigit()), "{two}");
        assert_eq!(two, same, "the order of the patterns is none of the files'");
        assert!(two != three && three != deep && deep.len() == 16);
        fs_err::write(dir.path().join("a.lock"), "changed").unwrap();
        assert_ne!(filled("{hash(*.lock)}"), two);
        let default = filled(Surroundings::DEFAULT.0);
        assert!(default.starts_with(&filled(Surroundings::DEFAULT.1)) && !default.contains("no-lock"));
        let without = Surroundings { r: "4.2.2", lockfile: None, dir: dir.path() };
        assert!(without.fill(Surroundings::DEFAULT.0).unwrap().as_str().ends_with("-no-lock"));
    }

    #[test]
    fn a_bad_template_says_what_is_wrong() {
        let filled = |template| filled("/nonexistent".as_ref(), template);
        assert!(filled("").contains("empty") && filled("  ").contains("empty"));
        assert!(filled("a{os").contains("has no `}`") && filled("a}").contains("has no `{`"));
        assert!(filled("{what}").contains("`what` is not among"));
        assert!(filled("{hash()}").contains("needs patterns") && filled("{hash(a,,b)}").contains("needs patterns"));
        assert!(filled("a,b").contains("commas") && filled("a\nb").contains("printable"));
        assert!(filled(&"x".repeat(201)).contains("longer"));
    }

    #[test]
    fn any_key_is_one_harmless_component() {
        for text in ["plain-1.0_x", "../../etc", ".hidden", "a b/c~d", "{}"] {
            let key: Key = text.parse().unwrap();
            let name = key.to_component();
            assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
            assert_eq!(Key::of_component(&name), Some(key));
        }
        assert_eq!(Key::of_component("~zz"), None);
        assert_eq!(Key::of_component("~"), None);
    }
}
