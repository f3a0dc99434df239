//! What every [`CacheManager`] must do, to be run over each.

use std::sync::Arc;

use super::Scripted;
use crate::cache::{CacheManager, Found, Save};
use crate::op::Op;

/// Gives keys and outputs of an op for a contract test: equal arguments, equal values.
///
/// ```
/// use larder_graph::MemoryCache;
/// use larder_graph::testing::contract::{Samples, ScriptedSamples, check, survives};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// assert_eq!(ScriptedSamples.name(&ScriptedSamples.output("a")), "a");
/// check(&MemoryCache::new(), &ScriptedSamples).await;
/// // Each clone stands for the same cache, opened again.
/// let cache = MemoryCache::new();
/// survives(|| cache.clone(), &ScriptedSamples).await;
/// # });
/// ```
pub trait Samples<O: Op> {
    /// Returns the key that belongs to `name`.
    fn key(&self, name: &str) -> O::Key;
    /// Returns a result that `name` can be read from.
    fn output(&self, name: &str) -> O::Output;
    /// Reads the name back.
    fn name(&self, output: &O::Output) -> String;
    /// Returns the digest of a content that belongs to `name`.
    fn digest(&self, name: &str) -> O::Key {
        self.key(name)
    }
}

/// Samples of scripted ops.
#[derive(Debug, Clone, Copy)]
pub struct ScriptedSamples;

impl Samples<Scripted> for ScriptedSamples {
    fn key(&self, name: &str) -> String {
        name.to_owned()
    }

    fn output(&self, name: &str) -> Arc<str> {
        name.into()
    }

    fn name(&self, output: &Arc<str>) -> String {
        output.to_string()
    }
}

/// Checks an empty cache: results, links, back-links, release, digests. Each group of keys is its own.
///
/// # Panics
/// Where the cache does not keep the contract.
pub async fn check<O: Op<Error: std::fmt::Debug>>(cache: &impl CacheManager<O>, samples: &impl Samples<O>) {
    results(cache, samples).await;
    links(cache, samples).await;
    release_single_level(cache, samples).await;
    release_multi_level(cache, samples).await;
    digests(cache, samples).await;
}

async fn found<O: Op<Error: std::fmt::Debug>>(cache: &impl CacheManager<O>, key: &O::Key) -> Option<Found<O::Key>> {
    let mut found = cache.query(key).await.expect("a query works")?;
    found.records.sort_by(crate::Record::rank);
    Some(found)
}

async fn names<O: Op<Error: std::fmt::Debug>>(
    cache: &impl CacheManager<O>,
    samples: &impl Samples<O>,
    key: &O::Key,
) -> Vec<String> {
    let mut names = Vec::new();
    for record in found(cache, key).await.map_or(Vec::new(), |found| found.records) {
        let output = cache.load(&record).await.expect("a load works");
        names.push(samples.name(&output.expect("a record that was just found is there")));
    }
    names
}

async fn save<O: Op<Error: std::fmt::Debug>>(
    cache: &impl CacheManager<O>,
    key: &O::Key,
    links: &[O::Key],
    output: &O::Output,
) {
    cache.save(Save { key, links, output }).await.expect("a save works");
}

/// What was saved is found and loaded; what was not is unknown; of two results of one key the newest is the best.
async fn results<O: Op<Error: std::fmt::Debug>>(cache: &impl CacheManager<O>, samples: &impl Samples<O>) {
    let [a, b] = ["results a", "results b"].map(|name| samples.key(name));
    assert_eq!(found(cache, &a).await, None, "an empty cache knows nothing");
    save(cache, &a, &[], &samples.output("first")).await;
    assert_eq!(found(cache, &b).await, None, "another key is another result");
    assert_eq!(found(cache, &a).await.expect("it was saved").key, a, "a vertex's own key leads to itself");
    assert_eq!(names(cache, samples, &a).await, ["first"]);
    save(cache, &a, &[], &samples.output("second")).await;
    assert_eq!(names(cache, samples, &a).await.first().map(String::as_str), Some("second"), "the newest comes first");
}

/// Every link leads to the vertex's own key, given at once or later, however often.
async fn links<O: Op<Error: std::fmt::Debug>>(cache: &impl CacheManager<O>, samples: &impl Samples<O>) {
    let [own, early, late, chained] =
        ["links own", "links early", "links late", "links chained"].map(|n| samples.key(n));
    save(cache, &own, std::slice::from_ref(&early), &samples.output("linked")).await;
    for _ in 0..2 {
        cache.link(&late, &own).await.expect("a link works");
        cache.link(&chained, &late).await.expect("a link works");
        cache.link(&own, &own).await.expect("a link works");
    }
    for key in [&own, &early, &late, &chained] {
        assert_eq!(found(cache, key).await.expect("it is linked").key, own, "a link leads to the vertex's own key");
        assert_eq!(names(cache, samples, key).await, ["linked"]);
    }
}

/// A released result is gone for all keys; the keys stay known.
async fn release_single_level<O: Op<Error: std::fmt::Debug>>(cache: &impl CacheManager<O>, samples: &impl Samples<O>) {
    let [own, alias] = ["release own", "release alias"].map(|name| samples.key(name));
    save(cache, &own, std::slice::from_ref(&alias), &samples.output("released")).await;
    let record = found(cache, &alias).await.expect("it is linked").records.remove(0);
    cache.release(&record).await.expect("a release works");
    cache.release(&record).await.expect("a second release is nothing");
    for key in [&own, &alias] {
        let known = found(cache, key).await.expect("the key of a released result stays known");
        assert_eq!((known.key, known.records.len()), (own.clone(), 0));
    }
    assert!(cache.load(&record).await.expect("a load works").is_none(), "a released result is not loaded");
}

/// Releasing one result leaves others, of its own key and of others.
async fn release_multi_level<O: Op<Error: std::fmt::Debug>>(cache: &impl CacheManager<O>, samples: &impl Samples<O>) {
    let [below, above] = ["levels below", "levels above"].map(|name| samples.key(name));
    save(cache, &below, &[], &samples.output("below")).await;
    save(cache, &above, &[], &samples.output("above, older")).await;
    save(cache, &above, &[], &samples.output("above")).await;
    let record = found(cache, &below).await.expect("it was saved").records.remove(0);
    cache.release(&record).await.expect("a release works");
    assert_eq!(names(cache, samples, &above).await.first().map(String::as_str), Some("above"));
    let record = found(cache, &above).await.expect("it was saved").records.remove(0);
    cache.release(&record).await.expect("a release works");
    assert!(!names(cache, samples, &above).await.contains(&"above".to_owned()));
}

/// A digest is remembered by key, output and selector; the last one counts. Of a result that it has, a cache may know the
/// digest of the whole by itself.
async fn digests<O: Op<Error: std::fmt::Debug>>(cache: &impl CacheManager<O>, samples: &impl Samples<O>) {
    let [saved, key] = ["digests saved", "digests key"].map(|name| samples.key(name));
    let [one, two] = ["digests one", "digests two"].map(|name| samples.digest(name));
    save(cache, &saved, &[], &samples.output("digested")).await;
    assert_eq!(cache.digest(&saved, 1, Some("part")).await.expect("it works"), None);
    for key in [&saved, &key] {
        if *key != saved {
            assert_eq!(cache.digest(key, 0, None).await.expect("it works"), None);
        }
        cache.remember(key, 0, None, &one).await.expect("it works");
        cache.remember(key, 1, Some("part"), &two).await.expect("it works");
        assert_eq!(cache.digest(key, 0, None).await.expect("it works"), Some(one.clone()));
        assert_eq!(cache.digest(key, 1, Some("part")).await.expect("it works"), Some(two.clone()));
        assert_eq!(cache.digest(key, 1, None).await.expect("it works"), None);
        assert_eq!(cache.digest(key, 0, Some("part")).await.expect("it works"), None);
        cache.remember(key, 0, None, &two).await.expect("it works");
        assert_eq!(cache.digest(key, 0, None).await.expect("it works"), Some(two.clone()));
    }
}

/// Checks a cache that outlives its process: `open` opens the same one, empty at first, again and again.
///
/// # Panics
/// Where what one handle was told is not there for the next.
pub async fn survives<O: Op<Error: std::fmt::Debug>, C: CacheManager<O>>(
    open: impl Fn() -> C,
    samples: &impl Samples<O>,
) {
    let [own, alias, gone] = ["kept own", "kept alias", "kept gone"].map(|name| samples.key(name));
    let digest = samples.digest("kept digest");
    save(&open(), &own, std::slice::from_ref(&alias), &samples.output("kept")).await;
    save(&open(), &gone, &[], &samples.output("gone")).await;
    open().remember(&own, 0, Some("part"), &digest).await.expect("it works");
    let record = found(&open(), &gone).await.expect("it was saved").records.remove(0);
    open().release(&record).await.expect("a release works");
    for key in [&own, &alias] {
        assert_eq!(found(&open(), key).await.expect("it was saved").key, own);
        assert_eq!(names(&open(), samples, key).await, ["kept"]);
    }
    assert_eq!(open().digest(&own, 0, Some("part")).await.expect("it works"), Some(digest));
    assert_eq!(found(&open(), &gone).await.expect("its key stays known").records, []);
}
