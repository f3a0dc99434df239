//! Where results are kept between builds: the trait [`CacheManager`] and what goes in and out of it.
//!
//! A cache knows four things: *records* (results, each under the key of the vertex that made it), *links* (another key
//! under which the same vertex is found), *digests* (of the contents of results), and nothing about graphs. Keys of
//! inputs are in the keys, so a graph whose middle was evicted is still found from its top.

use std::cmp::Ordering;
use std::pin::Pin;
use std::sync::Arc;

use crate::op::Op;

mod combined;
mod memory;

pub use combined::Combined;
pub use memory::MemoryCache;

/// One result that a cache has, without the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<K> {
    /// The key of the vertex that made it.
    pub key: K,
    /// Which of several results of that key; the cache's own name for it, unique within the cache.
    pub id: String,
    /// When it was made, in milliseconds since 1970 or in any other unit that only grows.
    pub created_at: u64,
    /// Of two records as old as each other, that of lower priority is taken.
    pub priority: i32,
    /// The cache source that has it, if it is not the main one.
    pub source: Option<Arc<str>>,
}

impl<K: Eq> Record<K> {
    /// Says which of two records to try first: the newest; of equally old ones that of lower priority.
    ///
    /// ```
    /// # use larder_graph::Record;
    /// let record = |created_at, priority| Record { key: 1, id: String::new(), created_at, priority, source: None };
    /// assert!(record(9, 5).rank(&record(8, 0)).is_lt());
    /// assert!(record(9, 5).rank(&record(9, 0)).is_gt());
    /// ```
    pub fn rank(&self, other: &Self) -> Ordering {
        other.created_at.cmp(&self.created_at).then(self.priority.cmp(&other.priority))
    }
}

/// What a cache knows of a key.
///
/// ```
/// use larder_graph::{Found, Record};
///
/// // Two results of the vertex `main.o`, found under another key.
/// let record = |id: &str, created_at| Record { key: "main.o", id: id.into(), created_at, priority: 0, source: None };
/// let mut found = Found { key: "main.o", records: vec![record("old", 1), record("new", 2)] };
/// found.records.sort_by(Record::rank);
/// assert_eq!(found.records[0].id, "new");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<K> {
    /// The key of the vertex that this key leads to: what dependants build theirs from. The asked key itself, or what
    /// that is linked to.
    pub key: K,
    /// Its results, in any order; none if they were evicted, or never here.
    pub records: Vec<Record<K>>,
}

/// What is kept of one execution.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{CacheManager, MemoryCache, Save};
///
/// # block_on(async {
/// let cache = MemoryCache::<Say>::new();
/// let (key, links, output) = ("hi()".to_owned(), ["hello()".to_owned()], "hi".into());
/// cache.save(Save { key: &key, links: &links, output: &output }).await?;
/// assert_eq!(cache.query(&links[0]).await?.map(|found| found.key), Some(key));
/// # Ok::<_, NoWord>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Save<'a, O: Op> {
    /// The vertex's own key.
    pub key: &'a O::Key,
    /// Other keys that lead to it.
    pub links: &'a [O::Key],
    /// The result, with all its outputs.
    pub output: &'a O::Output,
}

/// Keeps results between builds.
///
/// Every method may be called at any time from several tasks. What asks may be dropped at any await, when nobody wants
/// the answer any more; what writes is dropped only when a run is [forced](crate::Stop::force) to end. A caller that
/// waits for an answer holds up nobody else, and for what is written nobody waits but the end of a run or of a solver. An
/// error counts as a miss and is told ([`Event::CacheFailed`](crate::Event::CacheFailed)).
///
/// What every implementation must do is `testing::contract` (feature `testing`), to be run over it in a test.
///
/// ```
/// use larder_graph::{CacheManager, Found, Op, Record, Save};
///
/// /// Knows nothing and keeps nothing.
/// struct Forgetful;
///
/// impl<O: Op> CacheManager<O> for Forgetful {
///     async fn query(&self, _: &O::Key) -> Result<Option<Found<O::Key>>, O::Error> {
///         Ok(None)
///     }
///
///     async fn load(&self, _: &Record<O::Key>) -> Result<Option<O::Output>, O::Error> {
///         Ok(None)
///     }
///
///     async fn save(&self, _: Save<'_, O>) -> Result<(), O::Error> {
///         Ok(())
///     }
///
///     async fn link(&self, _: &O::Key, _: &O::Key) -> Result<(), O::Error> {
///         Ok(())
///     }
///
///     async fn digest(&self, _: &O::Key, _: u32, _: Option<&str>) -> Result<Option<O::Key>, O::Error> {
///         Ok(None)
///     }
///
///     async fn remember(&self, _: &O::Key, _: u32, _: Option<&str>, _: &O::Key) -> Result<(), O::Error> {
///         Ok(())
///     }
///
///     async fn release(&self, _: &Record<O::Key>) -> Result<(), O::Error> {
///         Ok(())
///     }
/// }
/// ```
pub trait CacheManager<O: Op>: Send + Sync + 'static {
    /// Looks a key up, without bringing anything; `None` if it was never heard of.
    fn query(&self, key: &O::Key) -> impl Future<Output = Result<Option<Found<O::Key>>, O::Error>> + Send;

    /// Brings a result; `None` if it was released since it was found.
    fn load(&self, record: &Record<O::Key>) -> impl Future<Output = Result<Option<O::Output>, O::Error>> + Send;

    /// Keeps a result, beside others of the same key, and its links.
    fn save(&self, save: Save<'_, O>) -> impl Future<Output = Result<(), O::Error>> + Send;

    /// Makes `alias` lead to where `key` leads. Nothing happens if it does so already.
    fn link(&self, alias: &O::Key, key: &O::Key) -> impl Future<Output = Result<(), O::Error>> + Send;

    /// Returns the digest of a part of the content of `key`'s results, if it was remembered.
    fn digest(
        &self,
        key: &O::Key,
        output: u32,
        selector: Option<&str>,
    ) -> impl Future<Output = Result<Option<O::Key>, O::Error>> + Send;

    /// Remembers such a digest.
    fn remember(
        &self,
        key: &O::Key,
        output: u32,
        selector: Option<&str>,
        digest: &O::Key,
    ) -> impl Future<Output = Result<(), O::Error>> + Send;

    /// Forgets one result. Its keys stay known: what was made from it is still found.
    fn release(&self, record: &Record<O::Key>) -> impl Future<Output = Result<(), O::Error>> + Send;
}

/// Any cache manager, shared.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Cache, CacheManager, MemoryCache};
///
/// # block_on(async {
/// let caches: [Cache<Say>; 2] = [Cache::new(MemoryCache::new()), Cache::new(MemoryCache::new())];
/// for cache in caches {
///     assert!(cache.query(&"hello()".to_owned()).await?.is_none());
/// }
/// # Ok::<_, NoWord>(())
/// # }).unwrap();
/// ```
pub struct Cache<O: Op>(Arc<dyn Erased<O>>);

impl<O: Op> Cache<O> {
    /// Takes a manager.
    pub fn new(manager: impl CacheManager<O>) -> Self {
        Self(Arc::new(manager))
    }
}

impl<O: Op> Clone for Cache<O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<O: Op> CacheManager<O> for Cache<O> {
    async fn query(&self, key: &O::Key) -> Result<Option<Found<O::Key>>, O::Error> {
        self.0.query(key).await
    }

    async fn load(&self, record: &Record<O::Key>) -> Result<Option<O::Output>, O::Error> {
        self.0.load(record).await
    }

    async fn save(&self, save: Save<'_, O>) -> Result<(), O::Error> {
        self.0.save(save).await
    }

    async fn link(&self, alias: &O::Key, key: &O::Key) -> Result<(), O::Error> {
        self.0.link(alias, key).await
    }

    async fn digest(&self, key: &O::Key, output: u32, selector: Option<&str>) -> Result<Option<O::Key>, O::Error> {
        self.0.digest(key, output, selector).await
    }

    async fn remember(
        &self,
        key: &O::Key,
        output: u32,
        selector: Option<&str>,
        digest: &O::Key,
    ) -> Result<(), O::Error> {
        self.0.remember(key, output, selector, digest).await
    }

    async fn release(&self, record: &Record<O::Key>) -> Result<(), O::Error> {
        self.0.release(record).await
    }
}

type Answer<'a, O, T> = Pin<Box<dyn Future<Output = Result<T, <O as Op>::Error>> + Send + 'a>>;

/// [`CacheManager`] as a trait object.
trait Erased<O: Op>: Send + Sync {
    fn query<'a>(&'a self, key: &'a O::Key) -> Answer<'a, O, Option<Found<O::Key>>>;
    fn load<'a>(&'a self, record: &'a Record<O::Key>) -> Answer<'a, O, Option<O::Output>>;
    fn save<'a>(&'a self, save: Save<'a, O>) -> Answer<'a, O, ()>;
    fn link<'a>(&'a self, alias: &'a O::Key, key: &'a O::Key) -> Answer<'a, O, ()>;
    fn digest<'a>(&'a self, key: &'a O::Key, output: u32, selector: Option<&'a str>) -> Answer<'a, O, Option<O::Key>>;
    fn remember<'a>(
        &'a self,
        key: &'a O::Key,
        output: u32,
        selector: Option<&'a str>,
        digest: &'a O::Key,
    ) -> Answer<'a, O, ()>;
    fn release<'a>(&'a self, record: &'a Record<O::Key>) -> Answer<'a, O, ()>;
}

impl<O: Op, C: CacheManager<O>> Erased<O> for C {
    fn query<'a>(&'a self, key: &'a O::Key) -> Answer<'a, O, Option<Found<O::Key>>> {
        Box::pin(CacheManager::query(self, key))
    }

    fn load<'a>(&'a self, record: &'a Record<O::Key>) -> Answer<'a, O, Option<O::Output>> {
        Box::pin(CacheManager::load(self, record))
    }

    fn save<'a>(&'a self, save: Save<'a, O>) -> Answer<'a, O, ()> {
        Box::pin(CacheManager::save(self, save))
    }

    fn link<'a>(&'a self, alias: &'a O::Key, key: &'a O::Key) -> Answer<'a, O, ()> {
        Box::pin(CacheManager::link(self, alias, key))
    }

    fn digest<'a>(&'a self, key: &'a O::Key, output: u32, selector: Option<&'a str>) -> Answer<'a, O, Option<O::Key>> {
        Box::pin(CacheManager::digest(self, key, output, selector))
    }

    fn remember<'a>(
        &'a self,
        key: &'a O::Key,
        output: u32,
        selector: Option<&'a str>,
        digest: &'a O::Key,
    ) -> Answer<'a, O, ()> {
        Box::pin(CacheManager::remember(self, key, output, selector, digest))
    }

    fn release<'a>(&'a self, record: &'a Record<O::Key>) -> Answer<'a, O, ()> {
        Box::pin(CacheManager::release(self, record))
    }
}
