//! What a reference library holds that the lockfile does not: how each package is known, and whether it could be built
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use larder_ops::blobs::Blobs;
use larder_ops::digest::Sha256Digest;
use larder_ops::key::{BINARY, ConfigMap, INSTALL_ARGS, MAKEVARS, Reference};
use larder_ops::library::{ReferenceLibrary, packages_in};
use larder_ops::op::{Origin, Standing};
use larder_ops::package::{Description, PackageName};
use larder_ops::recipe::provided_key;
use larder_ops::store::Store;

use super::{Error, Larder, Request};
use crate::host::Host;
use crate::lockfile::{BASE_PACKAGES, Lockfile};
use crate::plan::Extra;

/// How a reference library is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// For a plan, which may be outdated before it is carried out.
    Look,
    /// For what is made from it now: larder does not change it meanwhile.
    Hold,
}

/// A reference library, and what it has besides the lockfile.
pub(super) struct Beside {
    pub(super) library: Arc<ReferenceLibrary>,
    pub(super) extras: Vec<Extra>,
}

impl Larder {
    /// Opens the reference library that a request names, and finds what it has besides the lockfile.
    pub(super) fn beside(
        &self,
        lockfile: &Lockfile,
        request: &Request,
        store: &Store,
        access: Access,
    ) -> Result<Option<Beside>, Error> {
        let Some(dir) = &request.reference else { return Ok(None) };
        let is_same = |library: &Path| fs_err::canonicalize(library).ok() == fs_err::canonicalize(dir).ok();
        if dir.exists() && is_same(&request.library) {
            return Err(Error::ReferenceIsLibrary(dir.clone()));
        }
        let library = match access {
            Access::Look => ReferenceLibrary::look_at(dir, &self.host.platform)?,
            Access::Hold => ReferenceLibrary::open(dir, &self.host.platform)?,
        };
        let finder =
            Finder { library: &library, store, blobs: &self.blobs, host: &self.host, makevars: self.makevars()? };
        let Found { extras, foreign } = finder.find(lockfile)?;
        Ok(Some(Beside { library: Arc::new(library.claiming(foreign)), extras }))
    }
}

/// What is needed to find out about the packages of a reference library.
struct Finder<'a> {
    library: &'a ReferenceLibrary,
    store: &'a Store,
    blobs: &'a Blobs,
    host: &'a Host,
    /// The digest of the user's Makevars.
    makevars: Option<Sha256Digest>,
}

/// The packages outside the lockfile, and what the foreign ones among them are to be known as in the library's record.
struct Found {
    extras: Vec<Extra>,
    foreign: BTreeMap<PackageName, Reference>,
}

impl Finder<'_> {
    fn find(&self, lockfile: &Lockfile) -> Result<Found, Error> {
        let locked: BTreeSet<&PackageName> = lockfile.entries().iter().map(|entry| &entry.package).collect();
        let mut found = Found { extras: Vec::new(), foreign: BTreeMap::new() };
        // Somebody else's packages may link to each other: what each is known as is known before any is asked for it.
        let mut descriptions = Vec::new();
        for package in packages_in(self.library.root())? {
            if locked.contains(&package) || BASE_PACKAGES.contains(&package.as_str()) {
                continue;
            }
            if let Some(description) = self.library.description(&package) {
                descriptions.push((package, description));
            }
        }
        for (package, description) in &descriptions {
            let extra = self.ours(package, description).unwrap_or_else(|| Self::foreign(package, description));
            found.extras.push(extra);
        }
        // In the end each one's own digest depends on those of the others; links between them are few and not deep.
        for _ in 0..found.extras.len() {
            let mut changed = false;
            for extra in found.extras.iter().filter(|extra| extra.standing == Standing::Foreign) {
                if !self.is_for_this_r(&extra.package) {
                    continue;
                }
                let config = self.config(&extra.linking_to, &extra.special, &found.foreign);
                let reference = Reference { source: extra.source, config: config.hash() };
                changed |= found.foreign.insert(extra.package.clone(), reference) != Some(reference);
            }
            if !changed {
                break;
            }
        }
        Ok(found)
    }

    /// Returns what is known of a package that larder put there, if enough is.
    fn ours(&self, package: &PackageName, description: &Description) -> Option<Extra> {
        let reference = self.library.record().was_put(package)?;
        let special = self.special(package, reference, description)?;
        let is_binary = special.get(BINARY).is_some();
        let mut wanted: ConfigMap = special.iter().filter(|(name, _)| *name != MAKEVARS).collect();
        if let Some(makevars) = self.makevars.filter(|_| !is_binary) {
            wanted.insert(MAKEVARS, makevars);
        }
        let linking_to = if is_binary { Vec::new() } else { description.packages("LinkingTo") };
        let install_args = special.get(INSTALL_ARGS).unwrap_or_default().split_whitespace();
        let install_args = install_args.map(str::to_owned).collect();
        // What links to nothing is as good as it was, so nobody asks for its source.
        let may_change = !linking_to.is_empty() || self.library.tree(package, reference).is_none();
        let source = may_change.then(|| self.source(package, reference.source, description)).flatten();
        Some(Extra {
            standing: Standing::Extra,
            source: reference.source,
            linking_to,
            special: wanted,
            metadata: remote_fields(description),
            install_args,
            origin: source.unwrap_or(Origin::Nowhere),
            ..extra(package, description)
        })
    }

    /// Returns what is known of a package that somebody else put there: only that the same files, compiled against the
    /// same packages, are as good as they were.
    fn foreign(package: &PackageName, description: &Description) -> Extra {
        let version = description.get("Version").unwrap_or_default();
        let built = description.get("Built").unwrap_or_default();
        Extra {
            source: Sha256Digest::of_fields(["foreign", package.as_str(), version, built]),
            linking_to: description.packages("LinkingTo"),
            ..extra(package, description)
        }
    }

    fn is_for_this_r(&self, package: &PackageName) -> bool {
        let description = self.library.description(package);
        let built = description.as_ref().and_then(|description| description.get("Built")).unwrap_or_default();
        let version = built.strip_prefix("R ").unwrap_or_default().split(';').next().unwrap_or_default();
        version.split('.').take(2).eq(self.host.toolchain.minor().split('.'))
    }

    /// Returns the `@`-entries of a build: as the store knows them, or else those that give its config hash.
    fn special(&self, package: &PackageName, reference: Reference, description: &Description) -> Option<ConfigMap> {
        let stored = self.store.configs(package, reference.source);
        if let Some(config) = stored.and_then(|mut configs| configs.configs.remove(&reference.config)) {
            return Some(config.iter().filter(|(name, _)| name.starts_with('@')).collect());
        }
        let linking_to = description.packages("LinkingTo");
        let plain = ConfigMap::default();
        let makevars = self.makevars.map(|makevars| ConfigMap::from_iter([(MAKEVARS, makevars)]));
        let binaries = [description.get("RemotePkgPlatform"), Some(&self.host.toolchain.triple)];
        let binaries = binaries.into_iter().flatten().map(|platform| ConfigMap::from_iter([(BINARY, platform)]));
        let candidates = [Some(plain), makevars].into_iter().flatten().map(|special| (linking_to.as_slice(), special));
        let mut candidates = candidates.chain(binaries.map(|special| (&[][..], special)));
        let fits = |(linking_to, special): &(&[PackageName], ConfigMap)| {
            self.config(linking_to, special, &BTreeMap::new()).hash() == reference.config
        };
        candidates.find(fits).map(|(_, special)| special)
    }

    /// Returns what a build in the library was made with, if these are what it links to and its `@`-entries.
    fn config(
        &self,
        linking_to: &[PackageName],
        special: &ConfigMap,
        foreign: &BTreeMap<PackageName, Reference>,
    ) -> ConfigMap {
        let mut config = special.clone();
        for name in linking_to {
            let there = self.library.record().get(name).or_else(|| foreign.get(name).copied()).map(Reference::digest);
            let provided = || Some(provided_key(name, &self.host.toolchain.provided(name)?).digest());
            if let Some(digest) = there.or_else(provided) {
                config.insert(name.as_str(), digest);
            }
        }
        config
    }

    /// Looks for the archive of a source among the downloads: by what was first seen for it, or else by the digest that
    /// gives its source hash.
    fn source(&self, package: &PackageName, source: Sha256Digest, description: &Description) -> Option<Origin> {
        let version = description.get("Version")?;
        let identity = format!("{package} {version} {source} source");
        let remote = description.get("RemoteType").unwrap_or_default();
        let seen = self.blobs.first_seen(&identity).ok().flatten().map(|seen| seen.sha256);
        let named = || {
            let fits = |digest: &Sha256Digest| {
                let kinds = ["standard", "bioc", "url", "local"];
                let of = |kind| Sha256Digest::of_fields([kind, package.as_str(), version, &digest.to_string()]);
                kinds.into_iter().any(|kind| of(kind) == source)
            };
            self.blobs.digests().into_iter().find(fits)
        };
        let sha256 = seen.or_else(named)?;
        self.blobs.get(&sha256)?;
        let is_vcs = ["github", "gitlab", "bitbucket", "git"].contains(&remote);
        let is_unpacked =
            remote == "url" && description.get("RemotePackaged").is_some_and(|packaged| packaged != "TRUE");
        Some(Origin::Archive {
            sources: Vec::new(),
            sha256: Some(sha256),
            identity,
            subdir: description.get("RemoteSubdir").filter(|_| is_vcs).unwrap_or_default().to_owned(),
            is_repository: is_vcs || is_unpacked,
        })
    }
}

fn extra(package: &PackageName, description: &Description) -> Extra {
    let fields = ["Depends", "Imports", "LinkingTo"].map(|field| description.packages(field));
    let mut dependencies: Vec<PackageName> = fields.into_iter().flatten().collect();
    dependencies.retain(|name| !BASE_PACKAGES.contains(&name.as_str()));
    dependencies.sort();
    dependencies.dedup();
    Extra {
        package: package.clone(),
        version: description.get("Version").unwrap_or_default().to_owned(),
        standing: Standing::Foreign,
        source: Sha256Digest::of(b""),
        linking_to: Vec::new(),
        dependencies,
        special: ConfigMap::default(),
        metadata: BTreeMap::new(),
        install_args: Vec::new(),
        origin: Origin::Nowhere,
    }
}

/// The fields that tell where a package came from: pak wrote them, and they are to be there again after a rebuild.
fn remote_fields(description: &Description) -> BTreeMap<String, String> {
    let is_remote = |name: &str| name.starts_with("Remote") && name != "Remotes" || name.starts_with("Github");
    let fields = description.fields().filter(|(name, _)| is_remote(name));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
