//! Bringing a package's source: fetched, unpacked, made ready, and asked what it links to.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use larder_graph::Context;
use tokio::sync::OwnedSemaphorePermit;

use super::{OpError, Origin, PackageOp, Progress, Standing};
use crate::blocking;
use crate::digest::Sha256Digest;
use crate::fetch::{Fetched, Request};
use crate::key::{BINARY, ConfigMap};
use crate::package::{Description, PackageName};
use crate::recipe::Recipe;
use crate::source;
use crate::store::StagingDir;
use crate::unpack::{self, unpack};

/// A source that is ready to be built.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) staging: StagingDir,
    pub(super) package_dir: PathBuf,
    pub(super) is_binary: bool,
    pub(super) needs_bootstrap: bool,
    pub(super) recipe: Recipe,
}

/// What is there of a source when its build's turn comes.
#[derive(Debug)]
pub(super) enum AtHand {
    /// All of it, in the room that it takes.
    Unpacked(Box<Prepared>, OwnedSemaphorePermit),
    /// The archive, which says this of itself.
    Downloaded(Box<Recipe>),
}

impl PackageOp {
    /// Looks into the source only as far as the key needs.
    pub(super) async fn learn(&self, cx: &Context<Self>) -> Result<Recipe, OpError> {
        match &self.spec.origin {
            Origin::Archive { subdir, .. } => {
                let fetched = self.fetch(cx).await?;
                let file = [subdir.as_str(), "DESCRIPTION"].join("/").trim_start_matches('/').to_owned();
                let archive = fetched.path.clone();
                let bytes = blocking(move || unpack::peek(&archive, &file)).await?.unwrap_or_default();
                self.recipe(&Description::parse(&bytes), Some(&fetched.digest))
            }
            // Its digest is part of the key, so all of it has to be read anyway.
            Origin::Directory(_) | Origin::Provided | Origin::Nowhere => Ok(self.prepare(cx).await?.recipe),
        }
    }

    /// Brings the source. Of a package that is not in the lockfile it need not be there: what was
    /// built of it may still be found.
    pub(super) async fn prepare_or_recall(&self, cx: &Context<Self>) -> Result<Recipe, OpError> {
        let recall = || self.spec.recipe.clone().expect("what is not in the lockfile is known by what was built of it");
        match (&self.spec.origin, self.spec.standing) {
            (Origin::Nowhere, _) => Ok(recall()),
            (_, Standing::Locked) => self.prepare_ahead(cx).await,
            _ => match self.prepare_ahead(cx).await {
                Err(error) if !cx.stop().is_requested() && !error.is_environment() => {
                    cx.report(Progress::Warning(format!("its source is not to be had: {error}")));
                    Ok(recall())
                }
                prepared => prepared,
            },
        }
    }

    /// Brings the source ahead of its turn, unpacked if there is room.
    async fn prepare_ahead(&self, cx: &Context<Self>) -> Result<Recipe, OpError> {
        // Asked for before the download: who starts first, because the most work waits for it, is to have it.
        let room = Arc::clone(&self.workshop.ahead).try_acquire_owned();
        let (at_hand, recipe) = if let Ok(room) = room {
            let prepared = self.prepare(cx).await?;
            let recipe = prepared.recipe.clone();
            (AtHand::Unpacked(Box::new(prepared), room), recipe)
        } else {
            let recipe = self.learn(cx).await?;
            (AtHand::Downloaded(Box::new(recipe.clone())), recipe)
        };
        *self.at_hand.lock().unwrap_or_else(PoisonError::into_inner) = Some(at_hand);
        Ok(recipe)
    }

    /// Returns the unpacked source when the turn of its build has come.
    pub(super) async fn unpacked(&self, at_hand: AtHand, cx: &Context<Self>) -> Result<Prepared, OpError> {
        match at_hand {
            AtHand::Unpacked(prepared, _room) => Ok(*prepared),
            AtHand::Downloaded(recipe) => self.prepare_as(&recipe, cx).await,
        }
    }

    /// Makes the source ready to be built, in a staging directory that lives until the build is over.
    async fn prepare(&self, cx: &Context<Self>) -> Result<Prepared, OpError> {
        let staging = {
            let workshop = Arc::clone(&self.workshop);
            blocking(move || workshop.store.stage()).await?
        };
        let into = staging.path().join("source");
        let (package_dir, content, is_tree) = match &self.spec.origin {
            Origin::Archive { subdir, is_repository, .. } => {
                let fetched = self.fetch(cx).await?;
                cx.report(Progress::Unpacking);
                let options = unpack::Options {
                    subdir: Some(subdir.clone()).filter(|subdir| !subdir.is_empty()),
                    ..unpack::Options::default()
                };
                let stop = cx.stop().clone();
                let unpacked =
                    blocking(move || unpack(&fetched.path, &into, &options, &|| stop.is_requested())).await?;
                (unpacked.package_dir, Some(fetched.digest), *is_repository)
            }
            Origin::Directory(dir) => {
                if !dir.join("DESCRIPTION").is_file() {
                    return Err(OpError::NoDirectory(dir.clone()));
                }
                cx.report(Progress::Unpacking);
                let (dir, copy) = (dir.clone(), into.clone());
                let digest = blocking(move || {
                    source::copy(&dir, &copy)?;
                    source::digest(&copy)
                });
                (into, Some(digest.await?), true)
            }
            Origin::Provided | Origin::Nowhere => unreachable!("there is no source"),
        };
        let (dir, metadata) = (package_dir.clone(), self.spec.metadata.clone());
        let description = blocking(move || {
            if is_tree {
                source::prune(&dir)?;
            }
            source::finish(&dir, &metadata)
        });
        let description = description.await?;
        let recipe = self.recipe(&description, content.as_ref())?;
        Ok(Prepared {
            is_binary: description.is_built(),
            needs_bootstrap: is_tree
                && description.get("Config/build/bootstrap").is_some_and(|value| value.eq_ignore_ascii_case("true"))
                && package_dir.join("bootstrap.R").is_file(),
            recipe,
            package_dir,
            staging,
        })
    }

    /// Makes the same source ready once more, as if nobody had built in it.
    pub(super) async fn prepare_again(&self, before: &Prepared, cx: &Context<Self>) -> Result<Prepared, OpError> {
        self.prepare_as(&before.recipe, cx).await
    }

    /// Makes the source ready of which this is known already.
    async fn prepare_as(&self, known: &Recipe, cx: &Context<Self>) -> Result<Prepared, OpError> {
        let prepared = self.prepare(cx).await?;
        if prepared.recipe == *known { Ok(prepared) } else { Err(OpError::SourceChanged) }
    }

    /// Brings the archive. It is not evicted before this run is over.
    async fn fetch(&self, cx: &Context<Self>) -> Result<Fetched, OpError> {
        loop {
            let fetched = self.fetch_once(cx).await?;
            self.workshop.store.hold_blob(fetched.digest)?;
            // An evictor may have been faster than the lease.
            if fetched.path.is_file() {
                return Ok(fetched);
            }
        }
    }

    async fn fetch_once(&self, cx: &Context<Self>) -> Result<Fetched, OpError> {
        let Origin::Archive { sources, sha256, identity, .. } = &self.spec.origin else {
            unreachable!("only archives are fetched");
        };
        let downloads = &self.workshop.fetcher;
        if let Some(fetched) = downloads.cached(identity, sha256.as_ref()) {
            return Ok(fetched);
        }
        cx.report(Progress::Fetching);
        let what = format!("{} {}", self.spec.package, self.spec.version);
        let request = Request { what: &what, identity: identity.clone(), sources, sha256: *sha256 };
        let progress = |current, total| cx.report(Progress::Bytes(current, total));
        let fetched = downloads.fetch(request, progress, cx.stop().token()).await?;
        cx.report(Progress::Bytes(fetched.size, Some(fetched.size)));
        Ok(fetched)
    }

    /// Makes the recipe from what the source says of itself.
    fn recipe(&self, description: &Description, content: Option<&Sha256Digest>) -> Result<Recipe, OpError> {
        let spec = &self.spec;
        match description.get("Package") {
            Some(name) if spec.package == *name => {}
            found => return Err(OpError::WrongPackage { found: found.unwrap_or("").to_owned() }),
        }
        // A commit or a content is what it is, whatever it calls itself; of a repository a version was asked for.
        let is_by_version =
            spec.content_kind.is_none() && matches!(spec.origin, Origin::Archive { is_repository: false, .. });
        match description.get("Version") {
            Some(version) if is_by_version && !version.split(['.', '-']).eq(spec.version.split(['.', '-'])) => {
                return Err(OpError::WrongVersion { found: version.to_owned() });
            }
            _ => {}
        }
        let source = match (spec.content_kind, content, spec.source_hash) {
            (Some(kind), Some(content), _) => source_hash(kind, &spec.package, &spec.version, content),
            (_, _, Some(known)) => known,
            _ => unreachable!("a source hash is known or made from the content"),
        };
        let mut special = spec.special.clone();
        let mut linking_to = description.packages("LinkingTo");
        if let Some(built) = description.get("Built") {
            self.workshop.builder.check_built(built).map_err(OpError::Binary)?;
            // Compiled elsewhere, against headers that nobody here knows.
            linking_to.clear();
            let platform =
                spec.binary_platform.clone().unwrap_or_else(|| self.workshop.builder.toolchain.triple.clone());
            special = ConfigMap::from_iter([(BINARY, platform)]);
        }
        let is_strict = self.commission.rebuilds_when_imports_change;
        let imports = if is_strict { spec.dependencies.to_vec() } else { Vec::new() };
        Ok(Recipe {
            package: spec.package.clone(),
            version: spec.version.clone(),
            source,
            linking_to,
            imports,
            special,
        })
    }
}

/// Returns the source hash of a package that is known by its content (`url`, `local`).
fn source_hash(kind: &str, package: &PackageName, version: &str, content: &Sha256Digest) -> Sha256Digest {
    Sha256Digest::of_fields([kind, package.as_str(), version, &content.to_string()])
}
