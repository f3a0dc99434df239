//! The records of a finished graph as plain data, to be written somewhere and imported elsewhere.

use std::sync::Arc;

use crate::dag::EdgeKind;

/// Which results go along.
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
/// # use larder_graph::{Export, Op};
/// # fn demo<O: Op>(export: &Export<O::Key, O::Output>, cache: &larder_graph::MemoryCache<O>) {
/// cache.import(export);
/// # }
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
