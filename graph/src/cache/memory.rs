//! A cache that lives as long as the process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{CacheManager, Found, Record, Save};
use crate::export::Export;
use crate::few::Few;
use crate::op::Op;
use crate::sync::{self, Arc, Mutex, MutexGuard};

/// A cache in memory; clones share it.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{CacheManager, Export, MemoryCache, Save};
///
/// # block_on(async {
/// let cache = MemoryCache::<Say>::new(); // a clone goes to the solver, this one stays to look into
/// let [key, alias, digest] = ["hi()", "hello()", "hash"].map(str::to_owned);
/// assert!(cache.is_empty());
/// cache.save(Save { key: &key, links: &[], output: &"hi".into() }).await?;
/// cache.link(&alias, &key).await?;
/// assert_eq!((cache.len(), cache.back_links(&key)), (1, vec![alias.clone()]));
///
/// let found = cache.query(&alias).await?.expect("it leads to what was saved");
/// assert_eq!(cache.load(&found.records[0]).await?.as_deref(), Some("hi"));
/// cache.remember(&key, 0, None, &digest).await?;
/// assert_eq!(cache.digest(&key, 0, None).await?, Some(digest));
/// // The result goes, the key stays known.
/// cache.release(&found.records[0]).await?;
/// assert!(cache.is_empty() && cache.query(&key).await?.is_some());
/// cache.import(&Export::default());
/// # Ok::<_, NoWord>(())
/// # }).unwrap();
/// ```
pub struct MemoryCache<O: Op> {
    inner: Arc<Mutex<Inner<O>>>,
}

struct Inner<O: Op> {
    keys: HashMap<O::Key, Known<O>>,
    digests: HashMap<(O::Key, u32, Option<String>), O::Key>,
    /// Counts records; the newest has the highest.
    n_saved: u64,
}

/// What a key means.
enum Known<O: Op> {
    /// What this key leads to; that one is no link.
    Link(O::Key),
    /// A vertex's own key, with its results and the keys that lead here.
    Own { results: Few<Kept<O::Output>>, back_links: Few<O::Key> },
}

/// A result. What it is called follows from when it was made, which is never twice the same for a key.
struct Kept<T> {
    created_at: u64,
    priority: i32,
    output: T,
}

impl<T> Kept<T> {
    fn record<K>(&self, key: K) -> Record<K> {
        let Self { created_at, priority, .. } = *self;
        Record { key, id: created_at.to_string(), created_at, priority, source: None }
    }
}

impl<O: Op> MemoryCache<O> {
    /// Starts with nothing.
    pub fn new() -> Self {
        let inner = Inner { keys: HashMap::new(), digests: HashMap::new(), n_saved: 0 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Takes over what was exported. Twice is as good as once.
    pub fn import(&self, export: &Export<O::Key, O::Output>) {
        let mut inner = self.lock();
        for record in &export.records {
            if let Some(result) = &record.result {
                let has_it = matches!(inner.keys.get(&record.key), Some(Known::Own { results, .. })
                    if results.iter().any(|known| known.created_at == result.created_at));
                if !has_it {
                    inner.keep(&record.key, result.output.clone(), Some(result.created_at), result.priority);
                }
            } else {
                inner.own(&record.key);
            }
            for alias in &record.links {
                inner.link(alias, &record.key);
            }
        }
        for digest in &export.digests {
            let part = (digest.key.clone(), digest.output, digest.selector.clone());
            inner.digests.insert(part, digest.digest.clone());
        }
    }

    /// Returns the keys that lead to where `key` leads, links only.
    pub fn back_links(&self, key: &O::Key) -> Vec<O::Key> {
        let inner = self.lock();
        match inner.keys.get(inner.resolve(key)) {
            Some(Known::Own { back_links, .. }) => back_links.as_slice().to_vec(),
            _ => Vec::new(),
        }
    }

    /// Returns the number of results.
    pub fn len(&self) -> usize {
        let n_results = |known: &Known<O>| if let Known::Own { results, .. } = known { results.len() } else { 0 };
        self.lock().keys.values().map(n_results).sum()
    }

    /// Says whether there is no result.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner<O>> {
        sync::lock(&self.inner)
    }
}

impl<O: Op> Inner<O> {
    fn resolve<'a>(&'a self, key: &'a O::Key) -> &'a O::Key {
        match self.keys.get(key) {
            Some(Known::Link(target)) => target,
            _ => key,
        }
    }

    fn own(&mut self, key: &O::Key) -> (&mut Few<Kept<O::Output>>, &mut Few<O::Key>) {
        if let Entry::Occupied(entry) = self.keys.entry(key.clone())
            && let Known::Link(target) = entry.get()
        {
            // It leads elsewhere so far, and from now on to its own result.
            let target = target.clone();
            entry.remove();
            if let Some(Known::Own { back_links, .. }) = self.keys.get_mut(&target) {
                back_links.retain(|link| link != key);
            }
        }
        let new = || Known::Own { results: Few::new(), back_links: Few::new() };
        match self.keys.entry(key.clone()).or_insert_with(new) {
            Known::Own { results, back_links } => (results, back_links),
            Known::Link(_) => unreachable!("a link was taken away above"),
        }
    }

    fn keep(&mut self, key: &O::Key, output: O::Output, created_at: Option<u64>, priority: i32) {
        self.n_saved = self.n_saved.max(created_at.unwrap_or(0)) + u64::from(created_at.is_none());
        let created_at = created_at.unwrap_or(self.n_saved);
        self.own(key).0.push(Kept { created_at, priority, output });
    }

    fn link(&mut self, alias: &O::Key, key: &O::Key) {
        let target = self.resolve(key).clone();
        if *alias == target {
            return;
        }
        match self.keys.get(alias) {
            // A vertex's own results are nearer than those of another.
            Some(Known::Own { results, .. }) if !results.is_empty() => return,
            Some(Known::Link(known)) if *known == target => return,
            Some(Known::Link(known)) => {
                let known = known.clone();
                self.own(&known).1.retain(|link| link != alias);
            }
            Some(Known::Own { back_links, .. }) => {
                let back_links = back_links.clone();
                for link in back_links.iter().cloned() {
                    self.keys.insert(link.clone(), Known::Link(target.clone()));
                    self.own(&target).1.push(link);
                }
            }
            None => {}
        }
        self.keys.insert(alias.clone(), Known::Link(target.clone()));
        self.own(&target).1.push(alias.clone());
    }
}

impl<O: Op> Default for MemoryCache<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Op> Clone for MemoryCache<O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<O: Op> CacheManager<O> for MemoryCache<O> {
    async fn query(&self, key: &O::Key) -> Result<Option<Found<O::Key>>, O::Error> {
        let inner = self.lock();
        let key = inner.resolve(key);
        Ok(match inner.keys.get(key) {
            Some(Known::Own { results, .. }) => {
                let records = results.iter().map(|kept| kept.record(key.clone())).collect();
                Some(Found { key: key.clone(), records })
            }
            _ => None,
        })
    }

    async fn load(&self, record: &Record<O::Key>) -> Result<Option<O::Output>, O::Error> {
        Ok(match self.lock().keys.get(&record.key) {
            Some(Known::Own { results, .. }) => {
                results.iter().find(|kept| kept.created_at == record.created_at).map(|kept| kept.output.clone())
            }
            _ => None,
        })
    }

    async fn save(&self, save: Save<'_, O>) -> Result<(), O::Error> {
        let mut inner = self.lock();
        inner.keep(save.key, save.output.clone(), None, 0);
        for alias in save.links {
            inner.link(alias, save.key);
        }
        Ok(())
    }

    async fn link(&self, alias: &O::Key, key: &O::Key) -> Result<(), O::Error> {
        self.lock().link(alias, key);
        Ok(())
    }

    async fn digest(&self, key: &O::Key, output: u32, selector: Option<&str>) -> Result<Option<O::Key>, O::Error> {
        Ok(self.lock().digests.get(&(key.clone(), output, selector.map(str::to_owned))).cloned())
    }

    async fn remember(
        &self,
        key: &O::Key,
        output: u32,
        selector: Option<&str>,
        digest: &O::Key,
    ) -> Result<(), O::Error> {
        self.lock().digests.insert((key.clone(), output, selector.map(str::to_owned)), digest.clone());
        Ok(())
    }

    async fn release(&self, record: &Record<O::Key>) -> Result<(), O::Error> {
        if let Some(Known::Own { results, .. }) = self.lock().keys.get_mut(&record.key) {
            results.retain(|kept| kept.created_at != record.created_at);
        }
        Ok(())
    }
}
