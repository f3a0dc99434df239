//! What lies in caches beyond this machine, as far as a plan has to know.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use larder_ops::blocking;
use larder_ops::digest::Sha256Digest;
use larder_ops::package::PackageName;
use larder_ops::store::{self, Store, Visit};

use super::known::Known;
use super::reference::Beside;
use super::{Error, Larder, Record, Request};
use crate::lockfile::Lockfile;
use crate::plan::{Action, Plan};

/// How long uploads may go on after a run that was told to end.
const LAST_UPLOADS: Duration = Duration::from_secs(2);

type Source = (PackageName, Sha256Digest);

impl Larder {
    /// Takes the platform of another machine, if this one has no compilers: then it has no platform that anything could
    /// have been built for, but may use what others built for the same R on the same system. The store is asked first,
    /// then the caches.
    pub async fn settle_platform(&mut self) {
        if self.has_platform() {
            return;
        }
        let mut known: Vec<_> = self.stores().flat_map(|store| store::platforms(store)).collect();
        if let Some(tiers) = &self.tiers {
            known.extend(tiers.platforms_like(&self.host.platform).await);
        }
        let base = |platform: &str| platform.rsplit_once("-g").map(|(base, _)| base.to_owned());
        let fits = |(name, description): &(String, String)| {
            base(name) == base(&self.host.platform) && self.host.toolchain.may_use(description)
        };
        if let Some((platform, description)) = known.into_iter().find(fits) {
            let missing = self.missing_compilers().join(", no ");
            self.notes.push(format!("this machine has no {missing}: it uses packages of {platform}"));
            self.host.adopt(platform, description);
        }
    }

    /// Says whether this machine has a platform of its own, so that there is nothing to settle: compilers, or packages that
    /// were built for it.
    pub fn has_platform(&self) -> bool {
        self.stores().any(|store| store.join(&self.host.platform).is_dir()) || self.missing_compilers().is_empty()
    }

    fn stores(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.config.store).chain(&self.config.base_stores)
    }

    /// Asks the caches beyond this machine what they have of a lockfile: plans made after it know. Without such caches,
    /// and where the store has everything, nothing is asked.
    pub async fn survey(&self, lockfile: &Lockfile, request: &Request) -> Result<(), Error> {
        if self.tiers.is_none() {
            return Ok(());
        }
        let store = self.store();
        let record = Record::read(&request.library, store.platform())?;
        let beside = self.beside(lockfile, request, &store, super::Access::Look)?;
        self.plan_asking(lockfile, request, &store, &record, beside.as_ref()).await.map(drop)
    }

    /// Plans, asks the caches about what would have to be made, and plans again with what they know: what one source
    /// links to may lead to the next.
    pub(super) async fn plan_asking(
        &self,
        lockfile: &Lockfile,
        request: &Request,
        store: &Store,
        record: &Record,
        beside: Option<&Beside>,
    ) -> Result<Plan, Error> {
        loop {
            let plan = self.plan_with(lockfile, request, store, record, beside)?;
            if !self.ask_tiers(self.unasked(&plan, store), store).await {
                return Ok(plan);
            }
        }
    }

    /// Does the same for a run that will load what the plan says: it stays in the store until it has left the visit. An
    /// evictor at work is waited for.
    pub(super) async fn plan_visiting<'s>(
        &self,
        lockfile: &Lockfile,
        request: &Request,
        store: &'s Arc<Store>,
        record: &Record,
        beside: Option<&Beside>,
    ) -> Result<(Plan, Visit<'s>), Error> {
        loop {
            let Some(visit) = store.try_visit()? else {
                let waiting = Arc::clone(store);
                blocking(move || waiting.visit().map(drop)).await?;
                continue;
            };
            let known = Known { visit: Some(&visit), ..self.known(store, record, &request.library, beside) };
            let plan = self.plan_from(lockfile, request, &known, beside)?;
            drop(known);
            let unasked = self.unasked(&plan, store);
            if unasked.is_empty() {
                return Ok((plan, visit));
            }
            // A server may be slow, and keeps no evictor waiting.
            drop(visit);
            self.ask_tiers(unasked, store).await;
        }
    }

    /// Returns the sources of what would have to be made that the caches were not asked about yet.
    fn unasked(&self, plan: &Plan, store: &Store) -> Vec<Source> {
        let Some(tiers) = &self.tiers else { return Vec::new() };
        let is_made = |action| matches!(action, Action::Recompile | Action::Ingest | Action::Unknown);
        let sources = plan.sources_of(|vertex| is_made(vertex.action) && !vertex.spec.is_rebuilt);
        tiers.unasked(store.platform(), sources.map(|(package, source)| (package.clone(), source)))
    }

    /// Asks the caches; says whether they were asked anything, so that they may know more.
    async fn ask_tiers(&self, unasked: Vec<Source>, store: &Store) -> bool {
        let Some(tiers) = self.tiers.as_ref().filter(|_| !unasked.is_empty()) else { return false };
        tiers.survey(store.platform(), unasked).await;
        true
    }

    /// Waits for what is written to caches in the background, and returns what the user should know of caches.
    pub(super) async fn finish_uploads(&self, stop: &larder_graph::Stop) -> Vec<String> {
        let Some(tiers) = &self.tiers else { return Vec::new() };
        let patience = if stop.is_requested() { LAST_UPLOADS } else { self.config.upload_patience };
        let given_up = tokio::select! {
            given_up = tiers.finish(patience) => given_up,
            () = stop.forced() => 0,
        };
        let mut warnings = tiers.warnings();
        if given_up > 0 {
            let n = if given_up == 1 { "1 package was".to_owned() } else { format!("{given_up} packages were") };
            warnings.push(format!("{n} not written to the caches in time; `solve remote push` does it"));
        }
        warnings
    }
}
