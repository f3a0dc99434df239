//! The library at the end of a run: what came to its end goes in, what is no longer wanted goes out.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use larder_graph::Report as GraphReport;
use larder_ops::library::{Change, Library, LibraryError, Put, What, has_package};
use larder_ops::link::Linker;
use larder_ops::op::{How, Key, PackageOp, Standing};
use larder_ops::package::PackageName;

use super::tell::is_kept;
use super::{Error, Larder, Request, blocking};
use crate::event::Event;
use crate::plan::{Plan, Stale};
use crate::report::Report;

/// Makes the library what the lockfile says, as far as packages came to their end.
pub(super) async fn update(
    larder: &Larder,
    request: &Request,
    plan: &Plan,
    done: &GraphReport<PackageOp>,
    library: Library,
    report: &mut Report,
    emit: &mut impl FnMut(Event),
) -> Result<(), Error> {
    let mut wanted: BTreeSet<PackageName> = plan.ids.keys().cloned().collect();
    let mut put = Vec::new();
    let mut provided = BTreeSet::new();
    // What needs something that failed would not load: it stays in the store until the rest is there.
    let (mut lost, mut held_back) = (HashSet::new(), Vec::new());
    for &id in plan.dag.dependants_first().iter().rev() {
        let (spec, settled) = (&plan.dag.op(id).spec, done.settled(id));
        let package = &spec.package;
        let tree_or_none = settled.outcome.output().filter(|done| !matches!(done.how, How::Stale { .. }));
        let lost_input = plan.dag.inputs(id).map(|(input, _)| input).find(|input| lost.contains(input));
        if tree_or_none.is_none() || lost_input.is_some() {
            lost.insert(id);
        }
        if spec.standing != Standing::Locked && lost.contains(&id) {
            wanted.remove(package);
            if let (Some(_), Some(input)) = (tree_or_none, lost_input) {
                let because = format!("it needs {}, which is stale", plan.dag.op(input).spec.package);
                let (package, version) = (package.clone(), spec.version.clone());
                report.stale.push((&Stale { package, version, because }).into());
            }
            continue;
        }
        let key = settled.key.as_ref().and_then(Key::wanted);
        let (Some(done), Some(key)) = (tree_or_none, key) else { continue };
        let what = match &done.tree {
            Some(_) if spec.standing == Standing::Foreign => What::Foreign,
            Some(tree) if tree.starts_with(larder.store().root()) => What::Stored(key.reference()),
            _ => What::InLibrary(key.reference()),
        };
        match (&done.how, &done.tree) {
            (How::Provided, _) => drop(provided.insert(package.clone())),
            (_, None) => {}
            _ if is_kept(&library, package, done, Some(key)) => {}
            _ if lost_input.is_some() => held_back.push(package.clone()),
            (_, Some(tree)) if what == What::Foreign && is_same_package(tree, &library.root().join(package)) => {}
            (_, Some(tree)) => put.push(Put { package: package.clone(), tree: tree.clone(), what }),
        }
    }
    if !report.stale.is_empty() {
        report.stale.sort_by(|a, b| a.package.cmp(&b.package));
        let named = report.stale.iter().map(|stale| {
            format!("{} {} ({})", stale.package, stale.version, stale.because.as_deref().unwrap_or_default())
        });
        let named = named.collect::<Vec<_>>().join(", ");
        emit(Event::Warning {
            message: format!("of the reference library, but not of the lockfile, and left out as stale: {named}"),
        });
    }
    if !held_back.is_empty() {
        held_back.sort();
        emit(Event::Warning {
            message: format!(
                "{} {} in the store, but not in the library: what {} failed",
                super::names(&held_back),
                if held_back.len() == 1 { "is" } else { "are" },
                if held_back.len() == 1 { "it needs" } else { "they need" },
            ),
        });
    }
    // An earlier run may have put there what is stale now.
    let stale = report.stale.iter().map(|stale| &stale.package);
    let stale: BTreeSet<_> = stale.filter(|package| has_package(library.root(), package)).cloned().collect();
    let foreign = library.foreign(&wanted.union(&stale).cloned().collect())?;
    let ours = library.record().packages();
    let mut remove: BTreeSet<PackageName> =
        ours.into_iter().filter(|package| !wanted.contains(*package) || provided.contains(*package)).cloned().collect();
    remove.extend(stale);
    if request.is_exact {
        remove.extend(foreign);
    } else if !foreign.is_empty() {
        emit(Event::Warning {
            message: format!(
                "{} in the library {} not in the lockfile and stay there ({}); `--exact` removes them",
                if foreign.len() == 1 { "1 package".to_owned() } else { format!("{} packages", foreign.len()) },
                if foreign.len() == 1 { "is" } else { "are" },
                super::names(&foreign)
            ),
        });
    }
    let left: Vec<PackageName> = done
        .iter()
        .filter(|(_, settled)| settled.outcome.output().is_none())
        .map(|(id, _)| plan.dag.op(id).spec.package.clone())
        .filter(|package| has_package(library.root(), package))
        .collect();
    if !left.is_empty() {
        emit(Event::Warning {
            message: format!(
                "{} stay in the library as they were, and may not fit what was replaced around them",
                super::names(&left)
            ),
        });
    }
    let change = Change { put, remove, generations_kept: request.generations_kept };
    let linker = Linker::new(larder.config.link);
    let linker = blocking(move || {
        let mut library = library;
        library.apply(&change, &linker)?;
        Ok::<_, LibraryError>(linker)
    })
    .await?;
    if let Some(chosen) = larder.config.link.filter(|chosen| *chosen != linker.mode()) {
        emit(Event::Warning {
            message: format!(
                "the file system does not allow `{chosen}` between store and library; used `{}`",
                linker.mode()
            ),
        });
    }
    Ok(())
}

/// Says whether two directories hold the same installation of a package: R stamps each one with its time.
fn is_same_package(one: &Path, other: &Path) -> bool {
    let description = |dir: &Path| fs_err::read(dir.join("DESCRIPTION")).ok();
    let one = description(one);
    one.is_some() && one == description(other)
}
