//! The JSON of a lockfile as R writes it, and its way into [`Entry`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use larder_ops::package::{PackageName, PackageNameError};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::r_values::{Flag, Metadata, Size, SystemPackages, Text, Texts};
use super::{BASE_PACKAGES, BinaryPlatform, Entry, Kind, LockfileError};

#[derive(Deserialize)]
struct Document<P> {
    lockfile_version: Option<serde_json::Value>,
    packages: Option<P>,
    #[serde(rename = "R")]
    renv_r: Option<IgnoredAny>,
    #[serde(rename = "Packages")]
    renv_packages: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawEntry<'a> {
    #[serde(borrow)]
    package: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    dependencies: Texts<'a>,
    #[serde(borrow)]
    deps: Option<Vec<RawDependency<'a>>>,
    #[serde(borrow)]
    sources: Texts<'a>,
    #[serde(borrow)]
    sha256: Text<'a>,
    filesize: Size,
    #[serde(borrow)]
    platform: Text<'a>,
    #[serde(borrow)]
    rversion: Text<'a>,
    needscompilation: Flag,
    #[serde(borrow)]
    install_args: Texts<'a>,
    metadata: Metadata,
    sysreqs_packages: SystemPackages,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawDependency<'a> {
    #[serde(borrow)]
    package: Text<'a>,
    #[serde(borrow)]
    r#type: Text<'a>,
}

/// Reads the entries that are packages (not `deps`), each with its index in the file, counted from 1.
pub(super) fn parse(text: &str) -> Result<Vec<(usize, Entry)>, LockfileError> {
    let document: Document<Entries> = match serde_json::from_str(text) {
        Ok(document) => document,
        Err(error) => return Err(locate(text, error)),
    };
    check_head(&document)?;
    match document.packages {
        Some(Entries { n: 1.., checked }) => checked,
        _ => Err(LockfileError::NoPackages),
    }
}

/// The entries, checked one by one while they are read: of a text made to fill the memory only little is kept.
struct Entries {
    n: usize,
    checked: Result<Vec<(usize, Entry)>, LockfileError>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of packages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries, A::Error> {
                let (mut n, mut entries, mut names) = (0, Vec::new(), Names::default());
                while let Some(raw) = seq.next_element::<RawEntry<'de>>()? {
                    n += 1;
                    match check(n, raw, &mut names) {
                        Ok(entry) => entries.extend(entry.map(|entry| (n, entry))),
                        Err(error) => {
                            // That the text is no JSON at all is the better message.
                            while seq.next_element::<IgnoredAny>()?.is_some() {}
                            return Ok(Entries { n, checked: Err(error) });
                        }
                    }
                }
                Ok(Entries { n, checked: Ok(entries) })
            }
        }

        deserializer.deserialize_seq(List)
    }
}

fn check_head<P>(document: &Document<P>) -> Result<(), LockfileError> {
    match &document.lockfile_version {
        None if document.renv_r.is_some() || document.renv_packages.is_some() => Err(LockfileError::Renv),
        None => Err(LockfileError::NoVersion),
        Some(version) if version.as_f64() == Some(1.0) || version == "1" => Ok(()),
        Some(version) => Err(LockfileError::Version(version.to_string())),
    }
}

/// Finds the entry and field that do not have the expected shape. Only on this path is the text read twice.
fn locate(text: &str, error: serde_json::Error) -> LockfileError {
    let Ok(document) = serde_json::from_str::<Document<&RawValue>>(text) else {
        return LockfileError::Json(error);
    };
    if let Err(head) = check_head(&document) {
        return head;
    }
    let entries = match document.packages.map(|packages| serde_json::from_str::<Vec<&RawValue>>(packages.get())) {
        Some(Err(source)) => return LockfileError::NoList(source),
        Some(Ok(entries)) => entries,
        None => Vec::new(),
    };
    for (index, entry) in (1..).zip(entries) {
        let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(entry.get()) else {
            return LockfileError::Shape {
                index,
                package: "no object".to_owned(),
                field: String::new(),
                source: error,
            };
        };
        for (field, value) in &fields {
            let alone = format!("{{{}:{value}}}", serde_json::Value::from(field.as_str()));
            if let Err(source) = serde_json::from_str::<RawEntry<'_>>(&alone) {
                let package = fields.get("package").map_or("no name", |name| name.get()).replace('"', "`");
                return LockfileError::Shape { index, package, field: field.clone(), source };
            }
        }
    }
    LockfileError::Json(error)
}

/// The package names of a lockfile, each kept once however many others need it.
#[derive(Default)]
struct Names(HashSet<PackageName>);

impl Names {
    fn parse(&mut self, text: &str) -> Result<PackageName, PackageNameError> {
        if let Some(name) = self.0.get(text) {
            return Ok(name.clone());
        }
        let name = PackageName::parse(text)?;
        self.0.insert(name.clone());
        Ok(name)
    }

    /// Reads the names in `texts`, without R itself and its base packages, sorted, each once.
    fn list(&mut self, texts: Vec<Cow<'_, str>>) -> Result<Vec<PackageName>, PackageNameError> {
        let mut names = Vec::with_capacity(texts.len());
        for text in texts {
            if text != "R" && !BASE_PACKAGES.contains(&&*text) {
                names.push(self.parse(&text)?);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// Checks one entry; `None` for a `deps` entry, which stands for a project and is no package.
fn check(index: usize, raw: RawEntry<'_>, names: &mut Names) -> Result<Option<Entry>, LockfileError> {
    let shown = raw.package.0.clone();
    let required = |field: &'static str, value: Text<'_>| {
        value.0.map(Cow::into_owned).ok_or_else(|| LockfileError::MissingField {
            index,
            package: shown.as_ref().map_or_else(|| "no name".to_owned(), |name| format!("`{name}`")),
            field,
        })
    };
    let entry_type = required("type", raw.r#type)?;
    if entry_type == "deps" {
        return Ok(None);
    }
    let package =
        names.parse(&required("package", raw.package)?).map_err(|source| LockfileError::Name { index, source })?;
    let version = required("version", raw.version)?;
    let platform = required("platform", raw.platform)?;
    let rversion = required("rversion", raw.rversion)?;
    let wrong = |field, problem| LockfileError::Field { index, package: package.clone(), field, problem };
    if !is_version(&version) {
        let shown: String = version.chars().take(80).collect();
        return Err(wrong("version", format!("`{}` is not a version such as 1.2-3", shown.escape_debug())));
    }
    let kind = kind(&entry_type, &raw.metadata.0).map_err(|(field, problem)| wrong(field, problem))?;
    let sha256 = match raw.sha256.0.filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse().map_err(|error| wrong("sha256", format!("{error}")))?),
        None => None,
    };
    let dependencies = names.list(raw.dependencies.0).map_err(|error| wrong("dependencies", error.to_string()))?;
    let linking_to = match raw.deps {
        // `dependencies` includes what it links to, so nothing there means that it links to nothing.
        None => dependencies.is_empty().then(Vec::new),
        Some(deps) => {
            let is_link = |dep: &RawDependency<'_>| {
                dep.r#type.0.as_ref().is_some_and(|kind| kind.eq_ignore_ascii_case("linkingto"))
            };
            let linked = deps.into_iter().filter(is_link).filter_map(|dep| dep.package.0).collect();
            Some(names.list(linked).map_err(|error| wrong("deps", error.to_string()))?)
        }
    };
    // An `installed` entry has a platform too, but there is nothing to unpack.
    let is_source = matches!(platform.as_str(), "source" | "*") || kind == Kind::Installed;
    let binary = (!is_source).then(|| BinaryPlatform {
        platform,
        r_minor: rversion.trim_start_matches("R ").split('.').take(2).collect::<Vec<_>>().join("."),
    });
    Ok(Some(Entry {
        version,
        kind,
        // Of a binary pak drops what it links to from both lists.
        linking_to: linking_to.filter(|_| binary.is_none()),
        dependencies: dependencies.into(),
        sources: raw.sources.0.into_iter().map(Cow::into_owned).collect(),
        sha256,
        size_bytes: raw.filesize.0,
        binary,
        needs_compilation: raw.needscompilation.0,
        install_args: raw.install_args.0.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect(),
        metadata: Arc::new(raw.metadata.0),
        system_packages: raw.sysreqs_packages.0,
        package,
    }))
}

fn kind(entry_type: &str, metadata: &BTreeMap<String, String>) -> Result<Kind, (&'static str, String)> {
    let (field, word) = match metadata.get("RemoteType") {
        Some(remote) if !remote.is_empty() => ("metadata.RemoteType", remote.as_str()),
        _ => ("type", entry_type),
    };
    let host = match word {
        "standard" | "cran" | "any" => return Ok(Kind::Repository),
        "bioc" => return Ok(Kind::Bioc),
        "url" => return Ok(Kind::Url),
        "local" => return Ok(Kind::Local),
        "installed" => return Ok(Kind::Installed),
        "github" => "github",
        "gitlab" => "gitlab",
        "bitbucket" => "bitbucket",
        "git" => "git",
        other => return Err((field, format!("larder does not know the type `{}`", other.escape_debug()))),
    };
    let text = |field: &str| metadata.get(field).cloned().unwrap_or_default();
    let sha = text("RemoteSha");
    if sha.is_empty() {
        return Err(("metadata.RemoteSha", format!("missing; a `{host}` entry is identified by its commit")));
    }
    Ok(Kind::Vcs { host, sha, subdir: text("RemoteSubdir") })
}

fn is_version(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    text.len() <= 100 && text.split(['.', '-']).all(is_number)
}
