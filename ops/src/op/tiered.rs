//! The store with tiers behind it, as the solver's cache: what the store lacks and a tier has is brought into the store.

use std::sync::Arc;

use larder_graph::{CacheManager, Found, Record, Save};

use super::{Done, How, Key, OpError, PackageOp, StoreCache};
use crate::key::{PackageKey, Reference};
use crate::store::{Depth, Store};
use crate::tiers::Tiers;

/// Finds what the store has, then what the tiers have, and writes to the tiers what was built.
#[derive(Debug)]
pub struct TieredCache {
    here: StoreCache,
    store: Arc<Store>,
    tiers: Arc<Tiers>,
}

impl TieredCache {
    /// Looks into this store as [`StoreCache`] does, and behind it into the tiers.
    pub fn new(store: Arc<Store>, depth: Depth, tiers: Arc<Tiers>) -> Self {
        Self { here: StoreCache::new(Arc::clone(&store), depth), store, tiers }
    }

    /// Returns which entry of the tiers would do for a key, and under which key that is filed.
    async fn elsewhere(&self, key: &Key) -> Option<(Key, Reference)> {
        let platform = self.store.platform();
        match key {
            Key::Build(wanted) | Key::Extra { wanted, .. } => {
                let (package, reference) = (wanted.package(), wanted.reference());
                self.tiers.survey(platform, [(package.clone(), reference.source)]).await;
                self.tiers.may_have(platform, package, reference).then(|| (key.clone(), reference))
            }
            Key::Content { wanted, digest } => {
                let (package, source) = (wanted.package(), wanted.reference().source);
                let found = self.tiers.with_content(platform, package, source, *digest).await?;
                Some((Key::Build(Arc::clone(wanted)), found))
            }
            Key::Kept { .. } | Key::InReference { .. } | Key::Anew { .. } | Key::Interface(_) => None,
        }
    }

    /// Writes what is new to the tiers, in the background.
    fn push(&self, key: &PackageKey) {
        self.tiers.push(&self.store, key.package(), key.reference());
    }
}

impl CacheManager<PackageOp> for TieredCache {
    async fn query(&self, key: &Key) -> Result<Option<Found<Key>>, OpError> {
        let here = self.here.query(key).await?;
        if here.as_ref().is_some_and(|found| !found.records.is_empty()) {
            return Ok(here);
        }
        // A key that leads to another is asked for under that one.
        let asked = here.as_ref().map_or(key, |found| &found.key);
        Ok(self.elsewhere(asked).await.map(|(key, id)| StoreCache::found(key, id)).or(here))
    }

    async fn load(&self, record: &Record<Key>) -> Result<Option<Arc<Done>>, OpError> {
        if let Some(done) = self.here.load(record).await? {
            return Ok(Some(done));
        }
        let (Some(wanted), Ok(from)) = (record.key.wanted(), record.id.parse::<Reference>()) else { return Ok(None) };
        let brought = self.tiers.bring(&self.store, wanted.package(), from).await;
        let brought = brought.map_err(|error| OpError::from(error).in_store(&self.store, wanted.package()))?;
        let Some(tier) = brought else { return Ok(None) };
        let Some(done) = self.here.load(record).await? else { return Ok(None) };
        if done.how == How::InterfaceUnchanged {
            self.push(wanted);
            return Ok(Some(done));
        }
        let how = How::Brought { from: tier.to_string() };
        Ok(Some(Arc::new(Done { package: done.package.clone(), tree: done.tree.clone(), how, build: None })))
    }

    async fn save(&self, save: Save<'_, PackageOp>) -> Result<(), OpError> {
        let (key, is_built) = (save.key, save.output.build.is_some());
        self.here.save(save).await?;
        if let Some(wanted) = key.wanted().filter(|_| is_built) {
            self.push(wanted);
        }
        Ok(())
    }

    async fn link(&self, alias: &Key, key: &Key) -> Result<(), OpError> {
        self.here.link(alias, key).await
    }

    async fn digest(&self, key: &Key, output: u32, selector: Option<&str>) -> Result<Option<Key>, OpError> {
        self.here.digest(key, output, selector).await
    }

    async fn remember(&self, key: &Key, output: u32, selector: Option<&str>, digest: &Key) -> Result<(), OpError> {
        self.here.remember(key, output, selector, digest).await
    }

    async fn release(&self, record: &Record<Key>) -> Result<(), OpError> {
        self.here.release(record).await
    }
}
