//! Packages outside the lockfile that are to go on working: those of a reference library.
//!
//! They become vertices like those of the lockfile, so that the same rules decide what is linked, found in another
//! configuration, or built again. Only when they cannot be had is it no failure: they are stale, and named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_ops::digest::Sha256Digest;
use larder_ops::key::ConfigMap;
use larder_ops::op::{Origin, Spec, Standing};
use larder_ops::package::PackageName;
use larder_ops::recipe::Recipe;

use super::{Action, Knowledge, R_MIB, Vertex};

/// A package outside the lockfile that is to go on working.
#[derive(Debug, Clone)]
pub struct Extra {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// Whether larder put it where it is, or somebody else.
    pub standing: Standing,
    /// The hash of its source; of somebody else's package one that nothing else has.
    pub source: Sha256Digest,
    /// The packages that it was compiled against.
    pub linking_to: Vec<PackageName>,
    /// The packages that it needs, without R's base packages.
    pub dependencies: Vec<PackageName>,
    /// The `@`-entries that it is to be built with.
    pub special: ConfigMap,
    /// What goes into its DESCRIPTION if it is built again.
    pub metadata: BTreeMap<String, String>,
    /// Further arguments of `R CMD INSTALL`.
    pub install_args: Vec<String>,
    /// Its source, if that is at hand.
    pub origin: Origin,
}

/// A package outside the lockfile that cannot go on working.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// Why.
    pub because: String,
}

/// Divides extras into those that can be had as far as the plan can tell, and those that cannot: what they link to is
/// nowhere, or they need one that cannot be had.
pub(super) fn divide(
    extras: &[Extra],
    locked: &BTreeSet<&PackageName>,
    known: &impl Knowledge,
) -> (Vec<Extra>, Vec<Stale>) {
    let extra: BTreeSet<_> = extras.iter().map(|extra| &extra.package).collect();
    let is_there = |name: &PackageName| locked.contains(name) || extra.contains(name) || known.provided(name).is_some();
    let mut stale: BTreeMap<&PackageName, String> = BTreeMap::new();
    for extra in extras {
        if let Some(nowhere) = extra.linking_to.iter().find(|name| !is_there(name)) {
            stale.insert(&extra.package, format!("it links to {nowhere}, which is not there any more"));
        }
    }
    loop {
        let next = extras.iter().filter(|extra| !stale.contains_key(&extra.package)).find_map(|extra| {
            let needed = extra.dependencies.iter().find(|name| stale.contains_key(name))?;
            Some((&extra.package, format!("it needs {needed}, which is stale")))
        });
        let Some((package, because)) = next else { break };
        stale.insert(package, because);
    }
    let (gone, there): (Vec<_>, Vec<_>) = extras.iter().partition(|extra| stale.contains_key(&extra.package));
    let named = |extra: &Extra| Stale {
        package: extra.package.clone(),
        version: extra.version.clone(),
        because: stale[&extra.package].clone(),
    };
    (there.into_iter().cloned().collect(), gone.into_iter().map(named).collect())
}

pub(super) fn vertex(extra: &Extra) -> Vertex {
    // Building these is guessed to be cheap: a guess that is wrong costs order, nothing else.
    const GUESS_MS: u64 = 2000;
    let recipe = Recipe {
        package: extra.package.clone(),
        version: extra.version.clone(),
        source: extra.source,
        linking_to: extra.linking_to.clone(),
        imports: Vec::new(),
        special: extra.special.clone(),
    };
    Vertex {
        spec: Spec {
            package: extra.package.clone(),
            version: extra.version.clone(),
            standing: extra.standing,
            origin: extra.origin.clone(),
            recipe: Some(recipe),
            content_kind: None,
            source_hash: Some(extra.source),
            binary_platform: None,
            special: extra.special.clone(),
            dependencies: extra.dependencies.clone().into(),
            metadata: Arc::new(extra.metadata.clone()),

            install_args: extra.install_args.clone(),
            is_rebuilt: false,
            weight_ms: GUESS_MS,
            memory_mib: R_MIB,
        },
        kind: "extra",
        key: None,
        action: Action::Unknown,
        because: String::new(),
        needs_compilation: false,
        system_packages: Vec::new(),
        is_measured: false,
        is_seen: true,
    }
}
