//! Several runs in one process: what they share is made once, and what is one's own stays its own.

use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use larder::ExportMode;
use larder::event::{Event, Outcome, Settled, Step};
use larder::larder::{Config, Larder, Request, Run};
use larder::lockfile::Lockfile;
use larder::report::{Report, RunOutcome};
use larder_ops::wire::{Graph, InputKind, Link};
use serde_json::Value;

use crate::world::{PATH, Package, World, items, need_r};

/// A package whose build waits until something is written into `go`.
fn waiting(go: &Path) -> Package {
    Package::configured("slow", "1.0", &format!("echo it waits\nread line < '{}'", go.display()))
}

fn larder(world: &World) -> Arc<Larder> {
    let mut config = Config::new(world.path("store"), [("PATH".into(), PATH.into())]);
    config.jobs = 4;
    Arc::new(Larder::open(config).unwrap())
}

fn start(larder: &Arc<Larder>, world: &World, library: &str, entries: &[&Value]) -> Run {
    start_with(larder, world, library, entries, |_| {})
}

fn start_with(
    larder: &Arc<Larder>,
    world: &World,
    library: &str,
    entries: &[&Value],
    wish: impl FnOnce(&mut Request),
) -> Run {
    let text = fs::read_to_string(world.lock(entries.iter().map(|entry| (*entry).clone()))).unwrap();
    let mut request = Request::new(world.path(library));
    wish(&mut request);
    larder.solve(&Lockfile::parse(&text).unwrap(), request)
}

/// Waits until a package is at this step.
async fn reaches(run: &mut Run, package: &str, wanted: Step) {
    while let Some(event) = run.next().await {
        if matches!(&event, Event::Started { package: of, step, .. } if of.as_str() == package && *step == wanted) {
            return;
        }
    }
    panic!("the run ended before");
}

/// Waits until a package has settled.
async fn settles(run: &mut Run, package: &str) -> Settled {
    while let Some(event) = run.next().await {
        if let Event::Settled(settled) = event
            && settled.package.as_str() == package
        {
            return settled;
        }
    }
    panic!("the run ended before");
}

async fn rest(events: &mut larder::larder::Events) -> Vec<Event> {
    let mut rest = Vec::new();
    while let Some(event) = events.next().await {
        rest.push(event);
    }
    rest
}

async fn let_go(fifo: &Path) {
    let fifo = fifo.to_owned();
    tokio::task::spawn_blocking(move || fs::write(fifo, "go\n")).await.unwrap().unwrap();
}

fn outcomes(events: &[Event]) -> String {
    let settled = events.iter().filter_map(|event| match event {
        Event::Settled(settled) => Some(format!("{} {}", settled.package, settled.outcome.as_str())),
        _ => None,
    });
    let mut settled: Vec<_> = settled.collect();
    settled.sort();
    settled.join(", ")
}

#[tokio::test]
async fn what_two_runs_need_is_built_once_and_told_to_both() {
    need_r!();
    let world = World::new();
    let go = world.fifo("go");
    let slow = world.publish(&waiting(&go));
    let [left, right] = ["left", "right"].map(|name| world.publish(&Package::new(name, "1.0").imports(&["slow"])));
    let larder = larder(&world);

    let mut one = start(&larder, &world, "one", &[&slow, &left]);
    reaches(&mut one, "slow", Step::Build).await;
    let mut two = start(&larder, &world, "two", &[&slow, &right]);
    // It has come to wait for the same build, and is told what it missed.
    reaches(&mut two, "slow", Step::Build).await;
    let_go(&go).await;

    assert_eq!(settles(&mut one, "slow").await.outcome, Outcome::Ingested);
    let slow = settles(&mut two, "slow").await;
    assert_eq!((slow.outcome, slow.because.as_deref()), (Outcome::Loaded, Some("another run built it")));
    assert!(slow.log.is_some_and(|log| fs::read_to_string(log).unwrap().contains("it waits")));
    let (late, mut two_late) = (one.events(), two.events());
    let [one, two]: [Report; 2] = [one.finish().await.unwrap(), two.finish().await.unwrap()];
    assert_eq!((one.outcome, one.counts.ingested), (RunOutcome::Ok, 2));
    assert_eq!((two.outcome, two.counts.ingested, two.counts.loaded), (RunOutcome::Ok, 1, 1));
    assert_eq!(items(&world.path("store/logs/slow")).len(), 1, "one build, one log");
    for (library, package) in [("one", "left"), ("two", "right")] {
        assert!(world.has(&format!("{library}/slow")) && world.has(&format!("{library}/{package}")));
    }
    // Who listens only now hears it all.
    let told = rest(&mut late.clone()).await;
    assert_eq!(outcomes(&told), "left ingested, slow ingested");
    assert!(matches!(told.first(), Some(Event::Plan { .. })) && matches!(told.last(), Some(Event::Finished(_))));
    assert_eq!(outcomes(&rest(&mut two_late).await), "right ingested, slow loaded");
    assert_eq!(world.items("store/.staging"), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_run_that_is_stopped_leaves_others_what_they_share() {
    need_r!();
    let world = World::new();
    let go = world.fifo("go");
    let slow = world.publish(&waiting(&go));
    let larder = larder(&world);
    let mut one = start(&larder, &world, "one", &[&slow]);
    reaches(&mut one, "slow", Step::Build).await;
    let mut two = start(&larder, &world, "two", &[&slow]);
    reaches(&mut two, "slow", Step::Build).await;

    one.stop().request();
    let report = one.finish().await.unwrap();
    assert_eq!((report.outcome, report.counts.skipped), (RunOutcome::Interrupted, 1));
    assert!(!world.has("one/slow"));
    let_go(&go).await;
    let report = two.finish().await.unwrap();
    assert_eq!((report.outcome, report.counts.finished()), (RunOutcome::Ok, 1));
    assert!(world.has("two/slow"));
    assert_eq!(items(&world.path("store/logs/slow")).len(), 1, "it was not begun again");

    // Both stopped: what nobody wants is ended, and the next run begins afresh.
    let slow = world.publish(&Package::configured("slow", "2.0", &format!("read line < '{}'", go.display())));
    let mut runs = Vec::new();
    for library in ["one", "two"] {
        let mut run = start(&larder, &world, library, &[&slow]);
        reaches(&mut run, "slow", Step::Build).await;
        runs.push(run);
    }
    for run in &runs {
        run.stop().request();
    }
    for run in runs {
        assert_eq!(run.finish().await.unwrap().outcome, RunOutcome::Interrupted);
    }
    let again = start(&larder, &world, "two", &[&slow]);
    let_go(&go).await;
    assert_eq!(again.finish().await.unwrap().counts.ingested, 1);
}

#[tokio::test]
async fn what_one_run_keeps_or_wants_anew_is_no_result_of_another() {
    need_r!();
    let world = World::new();
    let go = world.fifo("go");
    let slow = world.publish(&waiting(&go));
    let demo = world.publish(&Package::new("demo", "1.0"));
    let larder = larder(&world);
    assert_eq!(start(&larder, &world, "one", &[&demo]).finish().await.unwrap().counts.ingested, 1);
    // Only the library has it from now on.
    fs::remove_dir_all(world.platform_dir()).unwrap();

    let mut one = start(&larder, &world, "one", &[&slow, &demo]);
    assert_eq!(settles(&mut one, "demo").await.outcome, Outcome::Kept);
    let mut two = start(&larder, &world, "two", &[&demo]);
    assert_eq!(settles(&mut two, "demo").await.outcome, Outcome::Ingested);
    assert_eq!(two.finish().await.unwrap().outcome, RunOutcome::Ok);
    assert!(world.has("two/demo/DESCRIPTION"));

    // A third wants it built again, whatever there is; to a fourth what there is will do.
    let rebuild = |request: &mut Request| {
        request.rebuild = [larder_ops::package::PackageName::parse("demo").unwrap()].into();
    };
    let mut three = start_with(&larder, &world, "three", &[&slow, &demo], rebuild);
    assert_eq!(settles(&mut three, "demo").await.outcome, Outcome::Ingested);
    let mut four = start(&larder, &world, "four", &[&demo]);
    assert_eq!(settles(&mut four, "demo").await.outcome, Outcome::Loaded);
    four.finish().await.unwrap();
    let_go(&go).await;
    for run in [one, three] {
        assert_eq!(run.finish().await.unwrap().outcome, RunOutcome::Ok);
    }
}

#[tokio::test]
async fn what_a_run_came_to_can_be_exported() {
    need_r!();
    let world = World::new();
    let hdr = world.publish(&Package::header("hdr", "1.0", 1));
    let lnk = world.publish(&Package::linker("lnk", "1.0", "hdr"));
    let larder = larder(&world);
    let wish = |request: &mut Request| request.export = Some(ExportMode::Max);
    let run = start_with(&larder, &world, "library", &[&hdr, &lnk], wish);
    let graph = run.finish().await.unwrap().export.expect("it was asked for");
    let graph = Graph::read(&serde_json::to_vec(&*graph).unwrap()).unwrap();
    assert_eq!(graph.platform, larder.host().platform);
    let [hdr, lnk] =
        ["hdr", "lnk"].map(|name| graph.vertices.iter().find(|vertex| vertex.package.as_str() == name).unwrap());
    let record = world.record();
    for vertex in [hdr, lnk] {
        let at = vertex.result.as_ref().unwrap().reference;
        assert_eq!(record[vertex.package.as_str()], at.to_string());
        assert_eq!(vertex.key.as_ref().unwrap().reference(), at);
    }
    assert_eq!((lnk.inputs.len(), lnk.inputs[0].kind), (1, InputKind::LinkingTo));
    assert!(matches!(lnk.links[..], [Link::Content(_)]), "{:?}", lnk.links);
    assert_eq!(hdr.contents.len(), 1, "its interface was asked for");
}
