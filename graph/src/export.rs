//! The records of a finished graph as plain data, to be written somewhere and imported elsewhere.

use std::sync::Arc;

use crate::dag::EdgeKind;

/// Which results go along.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Config, ExportMode, JobOptions, MemoryCache, Solver};
///
/// # block_on(async {
/// let job = Solver::new(Config::new().cache(MemoryCache::new())).job("ci", JobOptions::default())?;
/// let (dag, [_, world]) = say(["hello", "world"]);
/// let built = job.build(dag, &[world]).await.expect("nothing fails here");
/// for (mode, n_results) in [(ExportMode::Min, 1), (ExportMode::Max, 2), (ExportMode::RemoteOnly, 0)] {
///     let export = job.export(&built, mode).await;
///     assert_eq!((export.records.len(), export.n_results()), (2, n_results));
/// }
/// # Ok::<_, larder_graph::OpenError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportMode {
    /// Those of the targets. The keys of all others go along: whoever asks from the top finds it.
    Min,
    /// All that there are.
    Max,
    /// Those that a cache source other than the main one has.
    RemoteOnly,
}

/// What a graph came to, each vertex after its inputs.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Config, Export, ExportMode, JobOptions, MemoryCache, Solver};
///
/// # block_on(async {
/// let job = Solver::new(Config::new().cache(MemoryCache::new())).job("here", JobOptions::default())?;
/// let (dag, [_, world]) = say(["hello", "world"]);
/// let built = job.build(dag, &[world]).await?;
/// let mut all = Export::default();
/// all.merge(job.export(&built, ExportMode::Max).await);
/// assert!(all.record(&"hello()".to_owned()).is_some() && all.n_results() == 2);
///
/// let elsewhere = MemoryCache::<Say>::new();
/// elsewhere.import(&all);
/// assert_eq!(elsewhere.len(), 2);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export<K, T> {
    /// One for each key.
    pub records: Vec<ExportRecord<K, T>>,
    /// The digests of contents that were asked for.
    pub digests: Vec<ExportDigest<K>>,
}

impl<K, T> Default for Export<K, T> {
    fn default() -> Self {
        Self { records: Vec::new(), digests: Vec::new() }
    }
}

/// One vertex, or several of equal key.
///
/// ```
/// use larder_graph::{EdgeKind, Export, ExportDigest, ExportInput, ExportRecord, ExportResult};
///
/// let made = ExportResult { output: "an object", created_at: 1, priority: 0, source: None };
/// let header = ExportRecord { key: "util.h", links: vec![], inputs: vec![], result: None };
/// let input = ExportInput { key: "util.h", output: 0, kind: EdgeKind::Keyed };
/// let object = ExportRecord { key: "main.o", links: vec!["main.c+util.h"], inputs: vec![input], result: Some(made) };
/// // What the header says, whatever it is called.
/// let digest = ExportDigest { key: "util.h", output: 0, selector: None, digest: "5ca1ab1e" };
/// let export = Export { records: vec![header, object], digests: vec![digest] };
/// assert_eq!(export.record(&"main.o").map(|record| record.inputs.len()), Some(1));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRecord<K, T> {
    /// The vertex's own key.
    pub key: K,
    /// Other keys that lead to it.
    pub links: Vec<K>,
    /// Its inputs, in order; always of records before this one.
    pub inputs: Vec<ExportInput<K>>,
    /// The result, if the mode takes it along and it is still there.
    pub result: Option<ExportResult<T>>,
}

/// One input of a vertex.
///
/// See the example of [`ExportRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInput<K> {
    /// Its own key.
    pub key: K,
    /// Which of its outputs.
    pub output: u32,
    /// How it is needed.
    pub kind: EdgeKind,
}

/// A result.
///
/// See the example of [`ExportRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportResult<T> {
    /// All outputs of it.
    pub output: T,
    /// As in [`Record`](crate::Record).
    pub created_at: u64,
    /// As in [`Record`](crate::Record).
    pub priority: i32,
    /// As in [`Record`](crate::Record).
    pub source: Option<Arc<str>>,
}

/// The digest of one part of a content.
///
/// See the example of [`ExportRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportDigest<K> {
    /// The key of the vertex whose content it is.
    pub key: K,
    /// The output.
    pub output: u32,
    /// The part of it.
    pub selector: Option<String>,
    /// The digest.
    pub digest: K,
}

impl<K: Eq, T> Export<K, T> {
    /// Returns the record of a vertex's own key.
    pub fn record(&self, key: &K) -> Option<&ExportRecord<K, T>> {
        self.records.iter().find(|record| record.key == *key)
    }

    /// Returns the number of records with a result.
    pub fn n_results(&self) -> usize {
        self.records.iter().filter(|record| record.result.is_some()).count()
    }

    /// Adds another graph's records; those that are there already gain links and a result if they had none.
    pub fn merge(&mut self, other: Self) {
        for record in other.records {
            match self.records.iter_mut().find(|known| known.key == record.key) {
                None => self.records.push(record),
                Some(known) => {
                    for link in record.links {
                        if !known.links.contains(&link) {
                            known.links.push(link);
                        }
                    }
                    known.result = known.result.take().or(record.result);
                }
            }
        }
        for digest in other.digests {
            if !self.digests.contains(&digest) {
                self.digests.push(digest);
            }
        }
    }
}
