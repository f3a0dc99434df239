//! What a new lockfile means for an R that is running: which of the packages that it has loaded would change.
//!
//! The list of loaded packages is the truth, and nothing is added to it. R loads with a namespace all that it imports,
//! so an import that changes is in `loadedNamespaces()` itself. What a package merely declares in its DESCRIPTION, or
//! suggests, is loaded when it is first used, and then from the library as it is then, in a new R as in this one.

use larder_ops::library::{Record, ReferenceLibrary, has_package};
use larder_ops::op::Origin;
use larder_ops::package::PackageName;

use super::{Access, Beside, Error, Larder, Request};
use crate::lockfile::{BASE_PACKAGES, Lockfile};
use crate::plan::{Plan, Vertex};

/// What an R that has packages loaded is to do about a new lockfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refresh {
    /// The loaded packages that would change. If there are none, the others can be added to the library in use;
    /// otherwise R has to be replaced by a new one, with a library of its own.
    pub changed: Vec<Replaced>,
}

/// A loaded package that would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The package.
    pub package: PackageName,
    /// Its version in the library in use; `None` if R has it from elsewhere.
    pub from: Option<String>,
    /// Its version in the new library; `None` if it would not be there.
    pub to: Option<String>,
    /// Why, in a few words.
    pub because: String,
}

impl Refresh {
    /// Says whether the library in use can be changed under the R that runs.
    pub fn is_in_place(&self) -> bool {
        self.changed.is_empty()
    }
}

impl Larder {
    /// Plans a lockfile, and says which of the packages that an R has loaded would change. The library in use is the
    /// request's reference library, or without one its library. A package whose source has not been seen counts as
    /// changed, since nothing is known of it. Changes nothing.
    pub fn changes(
        &self,
        lockfile: &Lockfile,
        request: &Request,
        loaded: &[PackageName],
    ) -> Result<(Plan, Refresh), Error> {
        let store = self.store();
        let beside = self.beside(lockfile, request, &store, Access::Look)?;
        let record = Record::read(&request.library, store.platform())?;
        let plan = self.plan_with(lockfile, request, &store, &record, beside.as_ref())?;
        let in_use = match beside {
            Some(Beside { library, .. }) => library,
            None if request.library.exists() => ReferenceLibrary::look_at(&request.library, store.platform())?.into(),
            // Nothing can have been loaded from where nothing is.
            None => return Ok((plan, Refresh::default())),
        };
        let mut loaded: Vec<&PackageName> =
            loaded.iter().filter(|name| !BASE_PACKAGES.contains(&name.as_str())).collect();
        loaded.sort();
        loaded.dedup();
        let changed = loaded.into_iter().filter_map(|package| self.change(package, &plan, &in_use)).collect();
        Ok((plan, Refresh { changed }))
    }

    fn change(&self, package: &PackageName, plan: &Plan, in_use: &ReferenceLibrary) -> Option<Replaced> {
        let from = in_use.version(package);
        let replaced = |to: Option<&str>, because: String| {
            Some(Replaced { package: package.clone(), from: from.clone(), to: to.map(str::to_owned), because })
        };
        if let Some(stale) = plan.stale.iter().find(|stale| stale.package == *package) {
            return replaced(None, stale.because.clone());
        }
        let Some(vertex) = plan.ids.get(package).map(|id| plan.dag.op(*id)) else {
            // Without a reference library, what is not in the lockfile goes if it was larder's.
            let goes = in_use.record().was_put(package).is_some();
            return if goes { replaced(None, "the lockfile does not have it".to_owned()) } else { None };
        };
        let to = Some(vertex.spec.version.as_str());
        if matches!(vertex.spec.origin, Origin::Provided) {
            // Loaded from R's own library, it stays what it is.
            return if from.is_some() { replaced(to, "R's own takes its place".to_owned()) } else { None };
        }
        let Some(version) = from.as_deref() else {
            return replaced(to, "R has it from another library".to_owned());
        };
        let because = self.difference(vertex, in_use, version)?;
        let is_had = !matches!(vertex.spec.origin, Origin::Nowhere)
            || vertex.key.as_ref().is_some_and(|key| self.store().lookup(package, key.reference()).is_some());
        replaced(to.filter(|_| is_had), because)
    }

    /// Says in what the package of the plan differs from the one in use; `None` if it does not.
    fn difference(&self, vertex: &Vertex, in_use: &ReferenceLibrary, version: &str) -> Option<String> {
        let package = &vertex.spec.package;
        let Some(key) = &vertex.key else { return Some("its source has not been seen".to_owned()) };
        if in_use.tree(package, key.reference()).is_some() && !vertex.spec.is_rebuilt {
            return None;
        }
        if version != vertex.spec.version {
            return Some("another version".to_owned());
        }
        let Some(before) = in_use.record().get(package) else {
            debug_assert!(has_package(in_use.root(), package));
            return Some("what is there is not known to be the same".to_owned());
        };
        if before.source != key.reference().source {
            return Some("another source of the same version".to_owned());
        }
        // The store may know already that a compiler sees no difference: then it is the same build.
        let store = self.store();
        let sidecars = [before, key.reference()].map(|reference| store.sidecar(package, reference));
        if let [Some(before), Some(now)] = &sidecars
            && before.content.is_some()
            && before.content == now.content
            && !vertex.spec.is_rebuilt
        {
            return None;
        }
        let difference = match &sidecars[0] {
            Some(before) => larder_ops::explain::difference(before, key),
            None => in_use.difference(key),
        };
        Some(if difference.is_empty() { "built with other settings".to_owned() } else { difference })
    }
}
