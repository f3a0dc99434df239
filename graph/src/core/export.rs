//! What a finished build came to, as records.

use std::collections::HashMap;

use super::Core;
use super::node::{BuildId, ContentState};
use crate::cache::Cache;
use crate::dag::EdgeKind;
use crate::export::{Export, ExportDigest, ExportInput, ExportRecord, ExportResult};
use crate::op::Op;

/// What an export still has to ask caches for.
pub(crate) struct Draft<O: Op> {
    pub(crate) export: Export<O::Key, O::Output>,
    /// By record: the cache to ask, whether the vertex is a target, and whether it may be exported at all.
    pub(crate) sources: Vec<Source<O>>,
}

pub(crate) struct Source<O: Op> {
    pub(crate) cache: Option<Cache<O>>,
    pub(crate) is_target: bool,
    pub(crate) is_exported: bool,
}

impl<O: Op> Core<O> {
    /// Puts together the records of a build, with the results that are at hand.
    pub(crate) fn draft(&self, id: BuildId) -> Draft<O> {
        let mut draft = Draft { export: Export::default(), sources: Vec::new() };
        let mut places: HashMap<O::Key, usize> = HashMap::new();
        let Some(build) = self.builds.get(&id) else { return draft };
        // Inputs were taken in before their dependants; only late edges may point forward, and those are left out.
        for &node_id in &build.held {
            let node = &self.nodes[node_id];
            let Some(key) = self.key(node_id) else { continue };
            // What a cache map named besides is needed for its key.
            let dag = &self.nodes.site(node_id).dag;
            let edges = dag.edges(node.vertex).map(|edge| (edge.output, edge.kind));
            let edges = edges.chain(std::iter::repeat((0, EdgeKind::Keyed)));
            let keys = self.nodes.inputs(node_id).iter().map(|input| self.key(*input));
            let inputs = keys.zip(edges).filter_map(|(input, (output, kind))| {
                let input = input.filter(|input| *input != key && places.contains_key(*input))?;
                Some(ExportInput { key: input.clone(), output, kind })
            });
            let inputs: Vec<_> = inputs.collect();
            let source = node.more.as_ref().and_then(|more| more.loaded_from.as_ref());
            let result = node.made.as_ref().map(|made| ExportResult {
                output: made.result.clone(),
                created_at: source.map_or(0, |record| record.created_at),
                priority: source.map_or(0, |record| record.priority),
                source: source.and_then(|record| record.source.clone()),
            });
            let is_target = node.hold(id).is_some_and(|hold| hold.is_target);
            let options = dag.options(node.vertex);
            let is_exported = !options.is_some_and(|options| options.is_never_exported);
            let place = *places.entry(key.clone()).or_insert_with(|| {
                let (links, inputs) = (Vec::new(), inputs);
                draft.export.records.push(ExportRecord { key: key.clone(), links, inputs, result: None });
                let cache = self.cache(node_id).cloned();
                draft.sources.push(Source { cache, is_target: false, is_exported: true });
                draft.sources.len() - 1
            });
            let record = &mut draft.export.records[place];
            for link in node.links(&self.keys) {
                if !record.links.contains(&link) {
                    record.links.push(link);
                }
            }
            record.result = record.result.take().or(result);
            draft.sources[place].is_target |= is_target;
            draft.sources[place].is_exported &= is_exported;
            for content in self.contents_of.get(&node_id).into_iter().flatten() {
                if let Some(content) = self.contents.get(content)
                    && let ContentState::Known(digest) = &content.state
                {
                    draft.export.digests.push(ExportDigest {
                        key: key.clone(),
                        output: content.part.output,
                        selector: content.part.selector.as_deref().map(str::to_owned),
                        digest: digest.clone(),
                    });
                }
            }
        }
        draft
    }
}

impl<O: Op> Draft<O> {
    /// Adds what caches have, as far as `mode` wants it. What is gone from a cache is left out.
    pub(crate) async fn complete(mut self, mode: crate::ExportMode) -> Export<O::Key, O::Output> {
        use crate::{CacheManager, ExportMode};
        for (record, source) in self.export.records.iter_mut().zip(&self.sources) {
            let in_memory = record.result.take();
            if !source.is_exported || (mode == ExportMode::Min && !source.is_target) {
                continue;
            }
            let found = match &source.cache {
                Some(cache) => cache.query(&record.key).await.ok().flatten(),
                None => None,
            };
            let mut records = found.map_or(Vec::new(), |found| found.records);
            records.sort_by(crate::Record::rank);
            if mode == ExportMode::RemoteOnly {
                let was_remote = in_memory.as_ref().is_some_and(|result| result.source.is_some());
                records.retain(|record| record.source.is_some());
                if was_remote {
                    record.result = in_memory;
                    continue;
                }
            } else if let Some(mut result) = in_memory {
                if let Some(newest) = records.first() {
                    (result.created_at, result.priority) = (newest.created_at, newest.priority);
                }
                record.result = Some(result);
                continue;
            }
            for known in records {
                let Some(cache) = &source.cache else { break };
                if let Ok(Some(output)) = cache.load(&known).await {
                    let (created_at, priority) = (known.created_at, known.priority);
                    record.result = Some(ExportResult { output, created_at, priority, source: known.source });
                    break;
                }
            }
        }
        self.export
    }
}
