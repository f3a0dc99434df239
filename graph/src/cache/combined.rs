//! Several caches as one: a main one, which is written, and others, which are only asked.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::{Cache, CacheManager, Found, Record, Save};
use crate::op::Op;

/// A main cache with others beside it. All are asked at once, and the main one is written. What a solver loads from
/// another it [saves](CacheManager::save), and so has it in the main one from then on.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use std::time::Duration;
///
/// use larder_graph::{Cache, CacheManager, Combined, MemoryCache, Save};
///
/// # block_on(async {
/// let (near, remote) = (MemoryCache::<Say>::new(), MemoryCache::new());
/// let key = "hi()".to_owned();
/// remote.save(Save { key: &key, links: &[], output: &"hi".into() }).await?;
/// let both = Combined::new(Cache::new(near)).with("remote", Cache::new(remote)).patience(Duration::from_secs(5));
/// let found = both.query(&key).await?.expect("the remote one has it");
/// assert_eq!(found.records[0].source.as_deref(), Some("remote"));
/// # Ok::<_, NoWord>(())
/// # }).unwrap();
/// ```
pub struct Combined<O: Op> {
    main: Cache<O>,
    others: Vec<(Arc<str>, Cache<O>)>,
    patience: Option<Duration>,
}

impl<O: Op> Combined<O> {
    /// Starts with the main one alone.
    pub fn new(main: Cache<O>) -> Self {
        Self { main, others: Vec::new(), patience: None }
    }

    /// Asks `cache` as well; `name` goes into the records found there.
    #[must_use]
    pub fn with(mut self, name: impl Into<Arc<str>>, cache: Cache<O>) -> Self {
        self.others.push((name.into(), cache));
        self
    }

    /// Waits no longer than this for an answer; what has not answered by then has nothing. Without it a cache that
    /// never answers holds up what asks it, unless another has a result.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    fn holder(&self, record: &Record<O::Key>) -> &Cache<O> {
        let of_name = |source| self.others.iter().find(|(name, _)| name == source).map(|(_, cache)| cache);
        record.source.as_ref().and_then(of_name).unwrap_or(&self.main)
    }

    /// Asks all caches, the main one first, and waits until all have answered or one has what is looked for.
    async fn ask<'a, T, F: Future<Output = Result<Option<T>, O::Error>> + Send + 'a>(
        &'a self,
        ask: impl Fn(&'a Cache<O>) -> F,
        is_enough: impl Fn(&T) -> bool,
    ) -> Vec<(Option<&'a Arc<str>>, Result<Option<T>, O::Error>)> {
        let all =
            std::iter::once((None, &self.main)).chain(self.others.iter().map(|(name, cache)| (Some(name), cache)));
        let mut waiting: Vec<(_, Pin<Box<F>>)> = all.map(|(name, cache)| (name, Box::pin(ask(cache)))).collect();
        let mut answers = Vec::new();
        let mut patience = pin!(async {
            match self.patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|cx| {
            waiting.retain_mut(|(name, asking)| match asking.as_mut().poll(cx) {
                Poll::Ready(answer) => {
                    answers.push((*name, answer));
                    false
                }
                Poll::Pending => true,
            });
            let has_enough = answers.iter().any(|(_, answer)| matches!(answer, Ok(Some(found)) if is_enough(found)));
            if waiting.is_empty() || has_enough { Poll::Ready(()) } else { patience.as_mut().poll(cx) }
        })
        .await;
        answers
    }
}

impl<O: Op> CacheManager<O> for Combined<O> {
    async fn query(&self, key: &O::Key) -> Result<Option<Found<O::Key>>, O::Error> {
        let answers = self.ask(|cache| cache.query(key), |found| !found.records.is_empty()).await;
        let (mut all, mut error) = (None::<Found<O::Key>>, None);
        for (name, answer) in answers {
            match answer {
                Ok(None) => {}
                Ok(Some(mut found)) => {
                    found.records.iter_mut().for_each(|record| record.source = name.cloned());
                    match &mut all {
                        Some(all) => all.records.extend(found.records),
                        None => all = Some(found),
                    }
                }
                Err(told) => error = Some(told),
            }
        }
        match (all, error) {
            (Some(all), _) => Ok(Some(all)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    async fn load(&self, record: &Record<O::Key>) -> Result<Option<O::Output>, O::Error> {
        self.holder(record).load(record).await
    }

    async fn save(&self, save: Save<'_, O>) -> Result<(), O::Error> {
        self.main.save(save).await
    }

    async fn link(&self, alias: &O::Key, key: &O::Key) -> Result<(), O::Error> {
        self.main.link(alias, key).await
    }

    async fn digest(&self, key: &O::Key, output: u32, selector: Option<&str>) -> Result<Option<O::Key>, O::Error> {
        let answers = self.ask(|cache| cache.digest(key, output, selector), |_| true).await;
        Ok(answers.into_iter().find_map(|(_, answer)| answer.ok().flatten()))
    }

    async fn remember(
        &self,
        key: &O::Key,
        output: u32,
        selector: Option<&str>,
        digest: &O::Key,
    ) -> Result<(), O::Error> {
        self.main.remember(key, output, selector, digest).await
    }

    async fn release(&self, record: &Record<O::Key>) -> Result<(), O::Error> {
        self.holder(record).release(record).await
    }
}
