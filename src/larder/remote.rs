//! What caches beyond this machine have of a lockfile, and moving it there or here ahead of a run.

use std::sync::Arc;
use std::time::Duration;

use larder_ops::key::PackageKey;
use larder_ops::package::PackageName;
use larder_ops::store::Store;
use larder_ops::tiers::{Moved, Tiers};

use super::{Error, Larder, Record, Request};
use crate::lockfile::Lockfile;
use crate::plan::{Action, Plan};

/// How long pushing may take: it is what was asked for, so long.
const PUSH_PATIENCE: Duration = Duration::from_hours(24);
/// How many entries are brought at once, besides the limit on their bytes.
const PULLS_MAX: usize = 16;

/// Where a package of a lockfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// Its build; `None` while its source has not been seen, here or by any cache.
    pub key: Option<Arc<PackageKey>>,
    /// Whether the store has it.
    pub is_here: bool,
    /// Which caches say that they have it, in their order.
    pub caches: Vec<bool>,
}

/// What moving the packages of a lockfile came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What went over the line.
    pub moved: Moved,
    /// Packages that should have been moved, and were not.
    pub missing: Vec<PackageName>,
    /// What the user should know of the caches.
    pub warnings: Vec<String>,
}

impl Larder {
    /// Says where each package of a lockfile is, as far as it is known by its key. Changes nothing.
    pub async fn whereabouts(
        &self,
        lockfile: &Lockfile,
        request: &Request,
    ) -> Result<(Vec<Whereabouts>, Vec<String>), Error> {
        let (store, tiers) = (self.store(), self.caches()?);
        let plan = self.plan_of_all(lockfile, request, &store).await?;
        let mut all = Vec::new();
        for vertex in plan.vertices().filter(|vertex| vertex.action != Action::Provided) {
            let (package, key) = (&vertex.spec.package, vertex.key.clone());
            let (is_here, caches) = match &key {
                Some(key) => (
                    store.lookup(package, key.reference()).is_some(),
                    tiers.holders(store.platform(), package, key.reference()).await,
                ),
                None => (false, tiers.addresses().map(|_| false).collect()),
            };
            all.push(Whereabouts {
                package: package.clone(),
                version: vertex.spec.version.clone(),
                key,
                is_here,
                caches,
            });
        }
        Ok((all, tiers.warnings()))
    }

    /// Writes what the store has of a lockfile to all caches that lack it.
    pub async fn push(&self, lockfile: &Lockfile, request: &Request) -> Result<Traffic, Error> {
        let (store, tiers) = (Arc::new(self.store()), self.caches()?);
        let plan = self.plan_of_all(lockfile, request, &store).await?;
        let mut missing = Vec::new();
        store.hold(plan.sources())?;
        for vertex in plan.vertices().filter(|vertex| vertex.action != Action::Provided) {
            let package = &vertex.spec.package;
            let key = vertex.key.as_ref().filter(|key| store.lookup(package, key.reference()).is_some());
            match key {
                Some(key) => tiers.push(&store, package, key.reference()),
                None => missing.push(package.clone()),
            }
        }
        tiers.finish(PUSH_PATIENCE).await;
        store.end_staging();
        Ok(Traffic { moved: tiers.moved(), missing, warnings: tiers.warnings() })
    }

    /// Brings what the store lacks of a lockfile from the caches. The store then has it as if it had been built here.
    pub async fn pull(&self, lockfile: &Lockfile, request: &Request) -> Result<Traffic, Error> {
        let (store, tiers) = (Arc::new(self.store()), self.caches()?);
        let plan = self.plan_of_all(lockfile, request, &store).await?;
        store.hold(plan.sources())?;
        let mut missing: Vec<PackageName> = Vec::new();
        let mut pulling = tokio::task::JoinSet::new();
        let mut settle = |pulled: Result<(PackageName, Result<bool, _>), tokio::task::JoinError>| -> Result<(), Error> {
            match pulled {
                Ok((_, Ok(true))) => Ok(()),
                Ok((package, Ok(false))) => {
                    missing.push(package);
                    Ok(())
                }
                Ok((_, Err(error))) => Err(Error::Import(larder_ops::store::transfer::ImportError::Store(error))),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        };
        for vertex in plan.vertices().filter(|vertex| vertex.action != Action::Provided) {
            let package = vertex.spec.package.clone();
            let Some(reference) = vertex.key.as_ref().map(|key| key.reference()) else {
                settle(Ok((package, Ok(false))))?;
                continue;
            };
            if store.lookup(&package, reference).is_some() {
                continue;
            }
            if pulling.len() >= PULLS_MAX
                && let Some(pulled) = pulling.join_next().await
            {
                settle(pulled)?;
            }
            let (store, tiers) = (Arc::clone(&store), Arc::clone(&tiers));
            pulling.spawn(async move {
                let brought = tiers.bring(&store, &package, reference).await;
                (package, brought.map(|from| from.is_some()))
            });
        }
        while let Some(pulled) = pulling.join_next().await {
            settle(pulled)?;
        }
        tiers.finish(self.config.upload_patience).await;
        store.end_staging();
        Ok(Traffic { moved: tiers.moved(), missing, warnings: tiers.warnings() })
    }

    fn caches(&self) -> Result<Arc<Tiers>, Error> {
        self.tiers.clone().ok_or(Error::NoCache)
    }

    /// Plans with all that caches know, of what the store has too.
    async fn plan_of_all(&self, lockfile: &Lockfile, request: &Request, store: &Store) -> Result<Plan, Error> {
        // What a library has already is no matter here.
        let record = Record::default();
        let plan = self.plan_asking(lockfile, request, store, &record, None).await?;
        let sources: Vec<_> = plan.sources().map(|(package, source)| (package.clone(), source)).collect();
        self.caches()?.survey(store.platform(), sources).await;
        Ok(plan)
    }
}
