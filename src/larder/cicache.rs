//! A lockfile's packages kept from one CI job to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_ops::cicache::{CiCache, CiCacheConfig, Key, Place, Restored, Saved};
use larder_ops::digest::Sha256Digest;
use larder_ops::key::Reference;
use larder_ops::package::PackageName;
use larder_ops::tiers::SecretKey;

use super::{Error, Larder, Record, Request};
use crate::lockfile::Lockfile;
use crate::plan::Action;

/// Under which key states are saved, and under which they are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CiKeys {
    /// The key.
    pub key: Key,
    /// Starts of keys that will do if there is none of this key, in their order.
    pub prefixes: Vec<Key>,
}

impl Larder {
    /// Opens the place where states are kept for this machine's platform. Nothing is asked yet.
    pub fn ci_cache(&self, place: Place) -> Result<CiCache, Error> {
        let signer = self.config.signing_key.as_deref().map(SecretKey::read).transpose()?;
        let config = CiCacheConfig {
            tenant: self.config.tenant.clone(),
            platform: Some(self.host.platform.clone()),
            signer,
            r_home: self.host.toolchain.home.clone(),
        };
        Ok(CiCache::open(place, config)?)
    }

    /// Brings into the store what it lacks of a lockfile, as far as it is saved; without a lockfile all that is saved.
    /// `None`: nothing is lacking, and nobody was asked.
    pub async fn ci_restore(
        &self,
        cache: &CiCache,
        keys: &CiKeys,
        wanted: Option<(&Lockfile, &Request)>,
    ) -> Result<Option<Restored>, Error> {
        let store = Arc::new(self.store());
        let restored = match wanted {
            None => cache.restore(&store, &keys.key, &keys.prefixes, |_, _| true).await?,
            Some((lockfile, request)) => {
                let record = Record::read(&request.library, store.platform())?;
                let plan = self.plan_with(lockfile, request, &store, &record, None)?;
                let is_made = |action| matches!(action, Action::Recompile | Action::Ingest | Action::Unknown);
                // By source: what its key is going to be may be known only when what it links to is there.
                let lacking: BTreeMap<PackageName, Option<Sha256Digest>> = plan
                    .vertices()
                    .filter(|vertex| is_made(vertex.action) && !vertex.spec.is_rebuilt)
                    .map(|vertex| {
                        let source = vertex.key.as_ref().map(|key| key.reference().source);
                        (vertex.spec.package.clone(), source.or(vertex.spec.source_hash))
                    })
                    .collect();
                if lacking.is_empty() {
                    return Ok(None);
                }
                let is_lacking = |package: &PackageName, reference: Reference| {
                    lacking.get(package).is_some_and(|source| source.is_none_or(|source| source == reference.source))
                };
                cache.restore(&store, &keys.key, &keys.prefixes, is_lacking).await?
            }
        };
        store.end_staging();
        Ok(Some(restored))
    }

    /// Saves what the store has of a lockfile. If that is not all of it, the key stays free for who has all.
    pub async fn ci_save(
        &self,
        cache: &CiCache,
        keys: &CiKeys,
        lockfile: &Lockfile,
        request: &Request,
    ) -> Result<Saved, Error> {
        let store = Arc::new(self.store());
        // What was built again has the key that it would have had.
        let request = Request { rebuild: BTreeSet::new(), ..request.clone() };
        let plan = self.plan_with(lockfile, &request, &store, &Record::default(), None)?;
        store.hold(plan.sources())?;
        let (mut wanted, mut is_complete) = (BTreeSet::new(), true);
        for vertex in plan.vertices().filter(|vertex| vertex.action != Action::Provided) {
            let reference = vertex.key.as_ref().map(|key| key.reference());
            match reference.filter(|reference| store.lookup(&vertex.spec.package, *reference).is_some()) {
                Some(reference) => drop(wanted.insert((vertex.spec.package.clone(), reference))),
                None => is_complete = false,
            }
        }
        Ok(cache.save(&store, &keys.key, &keys.prefixes, &wanted, is_complete).await?)
    }
}
