//! The library at the end of a run: what came to its end goes in, what is no longer wanted goes out.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_graph::Report as GraphReport;
use larder_ops::library::{Library, LibraryError, StagedPackage, has_package};
use larder_ops::link::Linker;
use larder_ops::op::{How, Key, PackageOp};
use larder_ops::package::PackageName;

use super::tell::is_kept;
use super::{Error, Larder, Request, blocking};
use crate::event::Event;
use crate::plan::Plan;

/// Makes the library what the lockfile says, as far as packages came to their end.
pub(super) async fn update(
    larder: &Larder,
    request: &Request,
    plan: &Plan,
    done: &GraphReport<PackageOp>,
    library: Library,
    emit: &mut impl FnMut(Event),
) -> Result<Library, Error> {
    let wanted: BTreeSet<PackageName> = plan.ids.keys().cloned().collect();
    let mut to_link = Vec::new();
    let mut provided = BTreeSet::new();
    // What needs something that failed would not load: it stays in the store until the rest is there.
    let (mut lost, mut held_back) = (HashSet::new(), Vec::new());
    for &id in plan.dag.dependants_first().iter().rev() {
        let (package, settled) = (&plan.dag.op(id).spec.package, done.settled(id));
        let is_lost = settled.outcome.output().is_none() || plan.dag.inputs(id).any(|(input, _)| lost.contains(&input));
        if is_lost {
            lost.insert(id);
        }
        let key = settled.key.as_ref().and_then(Key::wanted);
        let (Some(done), Some(key)) = (settled.outcome.output(), key) else { continue };
        match (&done.how, &done.tree) {
            (How::Provided, _) => drop(provided.insert(package.clone())),
            (_, None) => {}
            _ if is_kept(&library, package, done, Some(key)) => {}
            _ if is_lost => held_back.push(package.clone()),
            (_, Some(tree)) => to_link.push((package.clone(), key.reference(), tree.clone())),
        }
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
    let foreign = library.foreign(&wanted)?;
    let ours = library.record().packages();
    let mut remove: BTreeSet<PackageName> =
        ours.into_iter().filter(|package| !wanted.contains(*package) || provided.contains(*package)).cloned().collect();
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
    let linker = Linker::new(larder.config.link);
    let (library, linker) = blocking(move || {
        let mut library = library;
        let staged = stage(&library, &linker, &to_link)?;
        library.commit(&staged, &remove)?;
        Ok::<_, LibraryError>((library, linker))
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
    Ok(library)
}

type ToLink = (PackageName, larder_ops::key::Reference, std::path::PathBuf);

/// Links packages into the library's staging, several at a time: the work is the kernel's, mostly waiting for locks
/// of directories, and a second thread helps even on one core's worth of it.
fn stage(library: &Library, linker: &Linker, to_link: &[ToLink]) -> Result<Vec<StagedPackage>, LibraryError> {
    let next = AtomicUsize::new(0);
    let n_threads = std::thread::available_parallelism().map_or(2, usize::from).min(to_link.len());
    let work = || {
        let mut staged = Vec::new();
        while let Some((package, reference, tree)) = to_link.get(next.fetch_add(1, Ordering::Relaxed)) {
            staged.push(library.stage(package, *reference, tree, linker)?);
        }
        Ok::<_, LibraryError>(staged)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        let mut staged = Vec::with_capacity(to_link.len());
        for thread in threads {
            staged.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(staged)
    })
}
