//! What a graph is and came to, as JSON: what `solve graph --format json` prints, and what a run exports and another
//! cache imports. One description for both; a plan adds what it would do (`X`), an export has no more to say.
//!
//! ```json
//! {"v": 1, "platform": "4.2-x86_64-pc-linux-gnu-debian-12-g1a2b3c4d",
//!  "vertices": [
//!   {"package": "hdr", "version": "1.0",
//!    "key": {"package": "hdr", "version": "1.0", "source": "<source_hash>"},
//!    "inputs": [],
//!    "contents": [{"output": 0, "selector": null, "digest": "<interface digest>"}],
//!    "result": {"reference": "<source_hash>/<config_hash>"}},
//!   {"package": "lnk", "version": "2.0",
//!    "key": {"package": "lnk", "version": "2.0", "source": "<source_hash>",
//!            "special": {"@install-args": "--no-docs"}, "linked": [{"package": "hdr", "...": "..."}]},
//!    "links": [{"content": "<content hash>"}],
//!    "inputs": [{"vertex": 0, "package": "hdr", "kind": "linking-to"}],
//!    "result": {"reference": "<source_hash>/<config_hash>"}}]}
//! ```
//!
//! - `key` is what the build is made of; the hashes follow from it (`key.rs`). Null in a plan whose source is not seen.
//! - `links` are other keys that lead to it: `{"key": ...}`, or `{"content": ...}`, where interfaces stand for keys.
//! - `inputs` are what it needs: `linking-to` enters its key, `ordering` only has to be there. In an export they come
//!   before it.
//! - `contents` are the digests of what others compile against, by output and selector.
//! - `result` says where a store has the tree; absent if none has, or if the export leaves it out.
//!
//! Fields may come; `v` changes when one goes or changes its meaning.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use larder_graph::{EdgeKind, Export, ExportDigest, ExportInput, ExportRecord, ExportResult};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::key::{PackageKey, Reference};
use crate::op::{Done, How, Key};
use crate::package::PackageName;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// A graph of packages.
///
/// ```
/// let text = r#"{"v": 1, "platform": "4.2-linux", "vertices": [{"package": "R6", "version": "2.5.1"}]}"#;
/// let graph = larder_ops::wire::Graph::read(text.as_bytes())?;
/// assert_eq!(graph.vertices[0].package.as_str(), "R6");
/// assert!(larder_ops::wire::Graph::read(br#"{"v": 2, "platform": "", "vertices": []}"#).is_err());
/// # Ok::<(), larder_ops::wire::WireError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph<X = Nothing> {
    /// The version of this shape.
    pub v: u32,
    /// The platform that all keys belong to.
    pub platform: String,
    /// The packages.
    pub vertices: Vec<Vertex<X>>,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vertex<X = Nothing> {
    /// Its name.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// What the build is made of, if that is known.
    #[serde(default)]
    pub key: Option<PackageKey>,
    /// Other keys that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// What it needs.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// The digests of its contents that somebody asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<Content>,
    /// Where the result is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultAt>,
    /// What else there is to say.
    #[serde(flatten)]
    pub more: X,
}

/// Nothing else to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// Another key that leads to a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// One that names other builds.
    Key(PackageKey),
    /// One that names what these are to a compiler.
    Content(Sha256Digest),
}

/// One thing that a package needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its place among the vertices.
    pub vertex: usize,
    /// Its name, for readers.
    pub package: PackageName,
    /// Which of its outputs; a package has one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output: u32,
    /// How it is needed.
    pub kind: InputKind,
}

/// How a package is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputKind {
    /// It enters the key.
    LinkingTo,
    /// It has to be there first.
    Ordering,
}

/// The digest of a part of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Of which output.
    #[serde(default)]
    pub output: u32,
    /// Of which part of it; the whole without.
    #[serde(default)]
    pub selector: Option<String>,
    /// The digest.
    pub digest: Sha256Digest,
}

/// Where a result is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultAt {
    /// Its place in a store.
    pub reference: Reference,
    /// When it was made, if a cache said so: milliseconds since 1970.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub created_at: u64,
    /// Of two as old as each other, that of lower priority is taken.
    #[serde(default, skip_serializing_if = "is_zero_i32")]
    pub priority: i32,
    /// The cache that has it, if it is not the store itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Arc<str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero_i32(number: &i32) -> bool {
    *number == 0
}

/// Text that is no graph.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It has another shape.
    #[error("not a graph: {0}")]
    Shape(#[from] serde_json::Error),
    /// It was written by a newer version.
    #[error("version {0} of the graph format is not known here, only {VERSION} is")]
    Version(u64),
    /// A vertex needs one that is not there.
    #[error("not a graph: `{package}` needs vertex {vertex}, which is not there")]
    Input {
        /// The package.
        package: PackageName,
        /// What it needs.
        vertex: usize,
    },
}

impl From<EdgeKind> for InputKind {
    fn from(kind: EdgeKind) -> Self {
        match kind {
            EdgeKind::Keyed => Self::LinkingTo,
            EdgeKind::Ordering => Self::Ordering,
        }
    }
}

impl From<InputKind> for EdgeKind {
    fn from(kind: InputKind) -> Self {
        match kind {
            InputKind::LinkingTo => Self::Keyed,
            InputKind::Ordering => Self::Ordering,
        }
    }
}

impl Graph {
    /// Reads a graph. Nothing in it is believed but that it is one: hashes are made again from what the keys say.
    pub fn read(bytes: &[u8]) -> Result<Self, WireError> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }
        let Version { v } = serde_json::from_slice(bytes)?;
        if v != u64::from(VERSION) {
            return Err(WireError::Version(v));
        }
        let graph: Self = serde_json::from_slice(bytes)?;
        for vertex in &graph.vertices {
            if let Some(input) = vertex.inputs.iter().find(|input| input.vertex >= graph.vertices.len()) {
                return Err(WireError::Input { package: vertex.package.clone(), vertex: input.vertex });
            }
        }
        Ok(graph)
    }

    /// Describes what a run came to.
    pub fn of_export(export: &Export<Key, Arc<Done>>, platform: impl Into<String>) -> Self {
        let places: HashMap<&Key, usize> =
            export.records.iter().enumerate().map(|(place, record)| (&record.key, place)).collect();
        let mut digests: HashMap<&Key, Vec<&ExportDigest<Key>>> = HashMap::new();
        for digest in &export.digests {
            digests.entry(&digest.key).or_default().push(digest);
        }
        let vertices = export.records.iter().map(|record| {
            let key = record.key.wanted().expect("an interface is nobody's own key");
            let link = |link: &Key| match link {
                Key::Content { digest, .. } => Some(Link::Content(*digest)),
                Key::Build(link) if link != key => Some(Link::Key(PackageKey::clone(link))),
                _ => None,
            };
            let input = |input: &ExportInput<Key>| {
                let (vertex, below) = (*places.get(&input.key)?, input.key.wanted()?);
                // The graph was made before the source was seen, which has the last word.
                let is_linked = key.linked().contains(below);
                let kind = if is_linked { InputKind::LinkingTo } else { input.kind.into() };
                Some(Input { vertex, package: below.package().clone(), output: input.output, kind })
            };
            let content = |known: &ExportDigest<Key>| match &known.digest {
                Key::Interface(digest) => {
                    Some(Content { output: known.output, selector: known.selector.clone(), digest: *digest })
                }
                _ => None,
            };
            let result = record.result.as_ref().filter(|result| result.output.tree.is_some());
            Vertex {
                package: key.package().clone(),
                version: key.version().to_owned(),
                links: record.links.iter().filter_map(link).collect(),
                inputs: record.inputs.iter().filter_map(input).collect(),
                contents: digests.get(&record.key).into_iter().flatten().filter_map(|known| content(known)).collect(),
                result: result.map(|result| ResultAt {
                    reference: key.reference(),
                    created_at: result.created_at,
                    priority: result.priority,
                    source: result.source.clone(),
                }),
                key: Some(PackageKey::clone(key)),
                more: Nothing {},
            }
        });
        Self { v: VERSION, platform: platform.into(), vertices: vertices.collect() }
    }

    /// Returns the records of the graph, for a cache to import: with the results whose trees `find` has.
    pub fn to_export(&self, find: impl Fn(&PackageName, Reference) -> Option<PathBuf>) -> Export<Key, Arc<Done>> {
        let key_of = |vertex: &Vertex| vertex.key.clone().map(|key| Key::Build(Arc::new(key)));
        let mut export = Export::default();
        for vertex in &self.vertices {
            let Some(key) = key_of(vertex) else { continue };
            let Some(wanted) = key.wanted() else { continue };
            let result = vertex.result.as_ref().and_then(|at| {
                let tree = find(&vertex.package, at.reference)?;
                let done = Done { package: vertex.package.clone(), tree: Some(tree), how: How::Loaded, build: None };
                let ResultAt { created_at, priority, source, .. } = at.clone();
                Some(ExportResult { output: Arc::new(done), created_at, priority, source })
            });
            let link = |link: &Link| match link {
                Link::Key(link) => Key::Build(Arc::new(link.clone())),
                Link::Content(digest) => Key::Content { wanted: Arc::clone(wanted), digest: *digest },
            };
            let input = |input: &Input| {
                let key = key_of(self.vertices.get(input.vertex)?)?;
                Some(ExportInput { key, output: input.output, kind: input.kind.into() })
            };
            let digest = |content: &Content| ExportDigest {
                key: key.clone(),
                output: content.output,
                selector: content.selector.clone(),
                digest: Key::Interface(content.digest),
            };
            export.digests.extend(vertex.contents.iter().map(digest));
            export.records.push(ExportRecord {
                links: vertex.links.iter().map(link).collect(),
                inputs: vertex.inputs.iter().filter_map(input).collect(),
                result,
                key: key.clone(),
            });
        }
        export
    }
}

#[cfg(test)]
mod tests {
    use larder_graph::{Cache, CacheManager, Combined, MemoryCache, Save};

    use super::*;
    use crate::key::ConfigMap;
    use crate::op::{PackageOp, StoreCache};
    use crate::store::{Depth, OnExisting, Sidecar, Store};

    fn key(package: &str, linked: &[&Arc<PackageKey>]) -> Arc<PackageKey> {
        let linked = linked.iter().map(|key| Arc::clone(key)).collect();
        let name = PackageName::parse(package).unwrap();
        let source = Sha256Digest::of(package.as_bytes());
        Arc::new(PackageKey::new(name, "1.0".to_owned(), source, linked, &ConfigMap::default()))
    }

    /// Puts a tree into the store, and returns what a run that needed it would export.
    fn stored(store: &Store, key: &Arc<PackageKey>) -> ExportRecord<Key, Arc<Done>> {
        let staging = store.stage().unwrap();
        let tree = staging.path().join("tree");
        fs_err::create_dir_all(&tree).unwrap();
        fs_err::write(tree.join("DESCRIPTION"), "Built: R 4.2.2\n").unwrap();
        let sidecar = Sidecar::new(key, std::time::Duration::ZERO);
        let tree = store.publish(&tree, key, &sidecar, OnExisting::Keep).unwrap();
        let package = key.package().clone();
        let output = Arc::new(Done { package, tree: Some(tree), how: How::Ingested, build: None });
        let result = Some(ExportResult { output, created_at: 0, priority: 0, source: None });
        ExportRecord { key: Key::Build(Arc::clone(key)), links: Vec::new(), inputs: Vec::new(), result }
    }

    #[tokio::test]
    async fn what_was_exported_and_imported_gives_hits_on_an_empty_cache() {
        let dir = tempfile::tempdir().unwrap();
        let store = |name: &str| Arc::new(Store::open(dir.path().join(name), "4.2-linux", ""));
        let (full, empty) = (store("full"), store("empty"));
        let hdr = key("hdr", &[]);
        let lnk = key("lnk", &[&hdr]);
        let mut records = vec![stored(&full, &hdr), stored(&full, &lnk)];
        let by_content = Key::Content { wanted: Arc::clone(&lnk), digest: Sha256Digest::of(b"content") };
        records[1].links.push(by_content.clone());
        let below = Key::Build(Arc::clone(&hdr));
        records[1].inputs.push(ExportInput { key: below.clone(), output: 0, kind: EdgeKind::Keyed });
        let digest = Key::Interface(Sha256Digest::of(b"header"));
        let digests = vec![ExportDigest { key: below.clone(), output: 0, selector: None, digest: digest.clone() }];

        let graph = Graph::of_export(&Export { records, digests }, "4.2-linux");
        let json = serde_json::to_vec(&graph).unwrap();
        let read = Graph::read(&json).unwrap();
        assert_eq!(read, graph);
        assert_eq!(read.vertices[1].inputs[0].kind, InputKind::LinkingTo);

        let imported = MemoryCache::<PackageOp>::new();
        imported.import(&read.to_export(|package, reference| full.lookup(package, reference)));
        assert_eq!(imported.digest(&below, 0, None).await.unwrap(), Some(digest));
        let main = Cache::new(StoreCache::new(Arc::clone(&empty), Depth::Glance));
        let cache = Combined::new(main).with("imported", Cache::new(imported));
        for asked in [Key::Build(Arc::clone(&lnk)), by_content] {
            let found = cache.query(&asked).await.unwrap().expect("it was imported");
            assert_eq!(found.key, Key::Build(Arc::clone(&lnk)));
            let done = cache.load(&found.records[0]).await.unwrap().expect("the other store has it");
            assert!(done.tree.as_ref().is_some_and(|tree| tree.join("DESCRIPTION").is_file()));
            // As a solver does with what it loads from elsewhere.
            cache.save(Save { key: &found.key, links: &[], output: &done }).await.unwrap();
        }
        assert!(empty.lookup(lnk.package(), lnk.reference()).is_some(), "from now on it is here too");
    }

    #[test]
    fn what_is_no_graph_is_refused() {
        let bad = [
            r#"{"v": 1}"#,
            r#"{"v": "1", "platform": "", "vertices": []}"#,
            r#"{"v": 1, "platform": "", "vertices": [{"package": "../evil", "version": "1"}]}"#,
            r#"{"v": 1, "platform": "", "vertices": [{"package": "aa", "version": "1",
                "inputs": [{"vertex": 1, "package": "bb", "kind": "ordering"}]}]}"#,
        ];
        for text in bad {
            assert!(Graph::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
