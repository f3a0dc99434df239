//! What a package is called and what it says of itself: names, versions, and the DESCRIPTION file.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of an R package. Names become paths, so a value of this type is always one harmless path component.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PackageName(Arc<str>);

/// File systems take 255 bytes, but larder appends something at times; the longest names on CRAN have some 30.
const NAME_BYTES_MAX: usize = 100;

/// A name that R does not allow for a package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a package name: it must start with a letter, go on with letters, digits and dots, not end with a dot, \
     and have at most {NAME_BYTES_MAX} characters"
)]
pub struct PackageNameError(String);

impl PackageName {
    /// Checks `name` against R's rule, `^[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]$`, and against what file systems take.
    pub fn parse(name: &str) -> Result<Self, PackageNameError> {
        let bytes = name.as_bytes();
        let is_good = (2..=NAME_BYTES_MAX).contains(&bytes.len())
            && bytes[0].is_ascii_alphabetic()
            && bytes.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'.')
            && bytes[bytes.len() - 1] != b'.';
        if is_good {
            Ok(Self(name.into()))
        } else {
            Err(PackageNameError(name.chars().take(80).collect::<String>().escape_debug().to_string()))
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for PackageName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for PackageName {
    fn as_ref(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl PartialEq<str> for PackageName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl<'de> Deserialize<'de> for PackageName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The fields of a DESCRIPTION file (Debian control format: `Field: value`, indented lines continue).
///
/// Text that is not UTF-8 is read as Latin-1, the other encoding that CRAN packages use; R's own field
/// names and everything larder reads from a DESCRIPTION is ASCII.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    fields: BTreeMap<String, String>,
}

impl Description {
    /// Reads the fields of the first record in `bytes`; lines that are no field are ignored.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
        };
        let mut fields = BTreeMap::<String, String>::new();
        let mut last: Option<String> = None;
        for line in text.trim_start_matches('\u{feff}').lines() {
            // The same characters as in `metadata::with_fields`, which takes blank lines out.
            if line.trim_ascii().is_empty() {
                if fields.is_empty() {
                    continue;
                }
                break;
            }
            if line.starts_with([' ', '\t']) {
                if let Some(value) = last.as_ref().and_then(|name| fields.get_mut(name)) {
                    if !value.is_empty() {
                        value.push('\n');
                    }
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.insert(name.to_owned(), value.trim().to_owned());
                last = Some(name.to_owned());
            }
        }
        Self { fields }
    }

    /// Returns a field's value, continuation lines joined by newlines.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    /// Returns all fields, sorted by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the packages that a dependency field such as `LinkingTo` names: version constraints left out,
    /// `R` left out, sorted, each once. Words that are no package name are passed over.
    pub fn packages(&self, field: &str) -> Vec<PackageName> {
        let mut names: Vec<_> = self
            .get(field)
            .unwrap_or_default()
            .split(',')
            .map(|item| item.split(['(', ' ', '\n', '\t']).find(|word| !word.is_empty()).unwrap_or(""))
            .filter(|name| *name != "R")
            .filter_map(|name| PackageName::parse(name).ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Says whether this is the DESCRIPTION of an installed (or prebuilt) package: only those have `Built`.
    pub fn is_built(&self) -> bool {
        self.fields.contains_key("Built")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_are_refused() {
        for good in ["R6", "data.table", "Rcpp", "a.b.c", "zz"] {
            assert!(PackageName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "R", "..", ".a", "a.", "../x", "a/b", "a-b", "1a", "a\0b", "ä1", "a b", "a\n"] {
            assert!(PackageName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn continuation_lines_are_folded() {
        let description = Description::parse(
            b"Package: demo\nLinkingTo: Rcpp (>= 1.0),\n    cpp11,RcppEigen(>= 0.3),\n\tRcpp\nDepends: R (>= 4.1), methods\nTitle:\n  Late\n",
        );
        let names: Vec<_> = description.packages("LinkingTo").iter().map(ToString::to_string).collect();
        assert_eq!(names, ["Rcpp", "RcppEigen", "cpp11"]);
        assert_eq!(description.packages("Depends"), [PackageName::parse("methods").unwrap()]);
        assert_eq!(description.get("Title"), Some("Late"));
        assert!(description.packages("Imports").is_empty());
        assert!(!description.is_built());
    }

    #[test]
    fn only_a_line_of_plain_blanks_ends_the_record() {
        for line in ["\u{b}", "\u{a0}", "\u{2003}"] {
            let text = format!("Package: demo\n{line}\nVersion: 1.0\n \t\nBuilt: x\n");
            let bytes = crate::metadata::with_fields(text.as_bytes(), &BTreeMap::new());
            assert_eq!(Description::parse(text.as_bytes()).get("Version"), Some("1.0"), "{line:?}");
            assert_eq!(Description::parse(text.as_bytes()).get("Built"), None, "{line:?}");
            assert_eq!(Description::parse(&bytes).get("Version"), Some("1.0"), "{line:?}");
        }
    }

    #[test]
    fn latin1_is_read() {
        let description = Description::parse(b"Package: demo\nAuthor: Ren\xe9\nBuilt: R 4.2.2; ; 2024; unix\n");
        assert_eq!(description.get("Author"), Some("René"));
        assert!(description.is_built());
    }
}
