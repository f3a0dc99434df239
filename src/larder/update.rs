//! The library at the end of a run: what came to its end goes in, what is no longer wanted goes out.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use larder_graph::Report as GraphReport;
use larder_ops::blocking;
use larder_ops::library::{Change, Library, Put, What, has_package};
use larder_ops::link::{LinkMode, Linker};
use larder_ops::op::{How, Key, PackageOp, Standing};
use larder_ops::package::PackageName;
use larder_ops::store::{Sidecar, Store};
use larder_ops::trouble::Trouble;

use super::tell::is_kept;
use super::trouble::in_place;
use super::{Error, Larder, Request};
use crate::event::{Event, Settled};
use crate::plan::{Plan, Stale};
use crate::report::Report;

/// What a run came to, as far as it concerns the library.
#[derive(Debug, Default)]
struct Gathered {
    put: Vec<Put>,
    /// R itself has them: a copy in the library would hide R's.
    provided: BTreeSet<PackageName>,
    /// They came to their end, but not all that they need: they stay in the store until the rest is there.
    held_back: Vec<PackageName>,
    /// Not of the lockfile, and not to be had.
    stale: Vec<Stale>,
}

/// Makes the library what the lockfile says, as far as packages came to their end.
pub(super) async fn update(
    larder: &Larder,
    request: &Request,
    plan: Plan,
    done: GraphReport<PackageOp>,
    (library, linker): (Library, Arc<Linker>),
    report: &mut Report,
    emit: &mut impl FnMut(Event),
) -> Result<(), Error> {
    let Gathered { put, provided, held_back, stale } = gather(&plan, &done, &library, &larder.store());
    let mut warn = |message| emit(Event::Warning { message });
    // Those that are stale themselves were told of as they settled.
    let told: BTreeSet<PackageName> = report.stale.iter().map(|stale| stale.package.clone()).collect();
    report.stale.extend(stale.iter().filter(|stale| !told.contains(&stale.package)).map(Settled::from));
    report.stale.sort_by(|a, b| a.package.cmp(&b.package));
    if !report.stale.is_empty() {
        warn(stale_text(&report.stale));
    }
    if !held_back.is_empty() {
        let (are, need) = if held_back.len() == 1 { ("is", "it needs") } else { ("are", "they need") };
        let names = super::names(&held_back);
        warn(format!("{names} {are} in the store, but not in the library: what {need} failed"));
    }
    let stale: BTreeSet<&PackageName> = report.stale.iter().map(|stale| &stale.package).collect();
    let wanted: BTreeSet<PackageName> = plan.ids.keys().cloned().collect();
    let foreign = library.foreign(&wanted)?;
    let ours = library.record().packages().into_iter();
    let mut remove: BTreeSet<PackageName> =
        ours.filter(|package| !wanted.contains(*package) || provided.contains(*package)).cloned().collect();
    // An earlier run may have put there what is stale now.
    remove.extend(stale.into_iter().filter(|package| has_package(library.root(), package)).cloned());
    let foreign: Vec<_> = foreign.into_iter().filter(|package| !remove.contains(package)).collect();
    if request.is_exact {
        remove.extend(foreign);
    } else if !foreign.is_empty() {
        let (n, is) = match foreign.len() {
            1 => ("1 package".to_owned(), "is"),
            n => (format!("{n} packages"), "are"),
        };
        let names = super::names(&foreign);
        warn(format!("{n} in the library {is} not in the lockfile and stay there ({names}); `--exact` removes them"));
    }
    let left: Vec<PackageName> = done
        .iter()
        .filter(|(_, settled)| settled.outcome.output().is_none())
        .map(|(id, _)| plan.dag.op(id).spec.package.clone())
        .filter(|package| has_package(library.root(), package))
        .collect();
    if !left.is_empty() {
        let names = super::names(&left);
        warn(format!("{names} stay in the library as they were, and may not fit what was replaced around them"));
    }
    let trees: Vec<PathBuf> = put.iter().map(|put| put.tree.clone()).collect();
    let change = Change { put, remove, generations_kept: request.generations_kept };
    let (links, store) = (Arc::clone(&linker), Arc::new(larder.store()));
    let (n_packages, start) = (change.put.len(), Instant::now());
    let applied = blocking(move || {
        let mut library = library;
        library.apply(&change, &links)
    });
    // They are given back while others work.
    let (applied, ()) = tokio::join!(applied, async { drop((plan, done)) });
    if let Err(error) = applied {
        return Err(match in_place(error.into(), &store, Some(&request.library)) {
            Error::Machine(trouble) if linker.has_copied() => {
                let needed = trees.iter().filter_map(|tree| Some(Sidecar::of_tree(tree)?.size)).sum();
                Error::Machine(Trouble { needed: Some(needed), ..trouble })
            }
            other => other,
        });
    }
    let (duration, used) = (start.elapsed(), linker.mode());
    // Between two file systems that is no news.
    let are_near = || trees.iter().all(|tree| is_one_file_system(tree, &request.library));
    let is_refused = used == LinkMode::Copy && are_near();
    if larder.config.link.is_none() && linker.has_copied() && is_refused {
        let so = "so packages were copied; `--link copy` says that this is meant";
        warn(format!("the file system of store and library refuses hard links, {so}"));
    }
    if let Some(chosen) = larder.config.link.filter(|chosen| *chosen != used) {
        warn(format!("the file system does not allow `{chosen}` between store and library; used `{used}`"));
    }
    if n_packages > 0 {
        emit(Event::Linked { n_packages, duration });
    }
    Ok(())
}

/// Goes through all packages, inputs first.
fn gather(plan: &Plan, done: &GraphReport<PackageOp>, library: &Library, store: &Store) -> Gathered {
    let mut gathered = Gathered::default();
    // What needs something that failed would not load.
    let mut lost = HashSet::new();
    for &id in plan.dag.dependants_first().iter().rev() {
        let (spec, settled) = (&plan.dag.op(id).spec, done.settled(id));
        let (package, key) = (&spec.package, settled.key.as_ref().and_then(Key::wanted));
        let had = settled.outcome.output().filter(|done| !matches!(done.how, How::Stale { .. }));
        let lost_input = plan.dag.inputs(id).map(|(input, _)| input).find(|input| lost.contains(input));
        if had.is_none() || lost_input.is_some() {
            lost.insert(id);
        }
        if spec.standing != Standing::Locked && lost.contains(&id) {
            if let Some(input) = lost_input {
                let because = format!("it needs {}, which is stale", plan.dag.op(input).spec.package);
                gathered.stale.push(Stale { package: package.clone(), version: spec.version.clone(), because });
            }
            continue;
        }
        let (Some(done), Some(key)) = (had, key) else { continue };
        let what = match &done.tree {
            Some(_) if spec.standing == Standing::Foreign => What::Foreign,
            Some(tree) if store.owns(tree) => What::Stored(key.reference()),
            _ => What::InLibrary(key.reference()),
        };
        match (&done.how, &done.tree) {
            (How::Provided, _) => drop(gathered.provided.insert(package.clone())),
            (_, None) => {}
            _ if is_kept(library, package, done, Some(key)) => {}
            _ if lost_input.is_some() => gathered.held_back.push(package.clone()),
            (_, Some(tree)) if what == What::Foreign && is_same_package(tree, &library.root().join(package)) => {}
            (_, Some(tree)) => gathered.put.push(Put { package: package.clone(), tree: tree.clone(), what }),
        }
    }
    gathered.held_back.sort();
    gathered
}

fn stale_text(stale: &[Settled]) -> String {
    let because = |stale: &Settled| stale.because.clone().unwrap_or_default();
    let named = stale.iter().map(|stale| format!("{} {} ({})", stale.package, stale.version, because(stale)));
    let named = named.collect::<Vec<_>>().join(", ");
    format!("of the reference library, but not of the lockfile, and left out as stale: {named}")
}

fn is_one_file_system(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|meta| meta.dev()).ok();
    device(one).is_some_and(|id| Some(id) == device(other))
}

/// Says whether two directories hold the same installation of a package: R stamps each one with its time.
fn is_same_package(one: &Path, other: &Path) -> bool {
    let description = |dir: &Path| fs_err::read(dir.join("DESCRIPTION")).ok();
    let one = description(one);
    one.is_some() && one == description(other)
}
