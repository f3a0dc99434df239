//! Two machines, played by two stores: what the first has built, the second has, and builds nothing itself.

use std::collections::BTreeSet;

use super::events::set;
use super::outcomes::loads;
use super::processes::{Solve, on_path};
use super::world::{LINKS_TO_RCPP, Lock, Upgraded, World, cold, upgraded};
use crate::tiers::LOGINS;
use crate::world::servers::Daemon;
use crate::world::without_compilers;

/// Between them are an S3 server and a directory. The second has no compiler, and nothing that would serve it a source.
#[test]
fn a_machine_without_compilers_and_sources_gets_every_package_from_another_and_then_its_upgrade() {
    let name = "a_machine_without_compilers_and_sources_gets_every_package_from_another_and_then_its_upgrade";
    let Some(second) = World::empty(name) else { return };
    let Some(server) = Daemon::s3() else { return };
    let Upgraded { world: first, cache: directory, .. } = upgraded(second.real);
    let (old, new) = (first.lock("real"), first.lock("upgrade"));
    let with_logins = |solve| LOGINS.iter().fold(solve, |solve: Solve, (name, value)| solve.env(name, value));
    let s3 = format!("s3://bucket/team?endpoint=http://127.0.0.1:{}", server.port);
    let push = Solve::new(first).arg("remote").arg("push").lockfile(&old).arg("--store").arg(first.store());
    let pushed = with_logins(push.arg("--cache").arg(&s3)).run();
    assert_eq!(pushed.code, Some(0), "{}", pushed.stderr);
    assert_eq!(pushed.events[0]["written"], old.packages().len());

    let path = second.dir.join("bin");
    without_compilers(&path);
    for program in ["cc", "gcc", "c++", "g++", "clang", "gfortran", "make"] {
        assert_eq!(on_path(program, path.to_str().unwrap()), None);
    }
    // No `--mirror`: where the lockfiles say that sources are, every connection is refused.
    let run = |lock: &Lock| {
        let solve = second.command(&[]).lockfile(lock).arg("--cache").arg(&s3);
        let solve = solve.arg("--cache").arg(format!("fs://{}:ro", directory.display()));
        let ran = with_logins(solve.path(&path)).run();
        let started = ran.events.iter().filter(|event| event["reason"] == "vertex-started");
        assert_eq!(started.map(|event| &event["step"]).collect::<Vec<_>>(), [""; 0], "nothing is fetched or built");
        ran
    };
    let ran = run(&old);
    ran.all(&[("loaded", &old.packages())]);
    assert_eq!(loads(&second), old.packages());
    assert_eq!(second.record(), cold(second.real).0.record());
    eprintln!("from another machine: {:.2} s", ran.seconds);

    // What the upgrade wrote by itself, while it ran, is all that is new.
    let changed: BTreeSet<String> = set(&LINKS_TO_RCPP).union(&set(&["Rcpp"])).cloned().collect();
    let unchanged: BTreeSet<String> = old.packages().difference(&changed).cloned().collect();
    run(&new).all(&[("loaded", &changed), ("kept", &unchanged)]);
    assert_eq!(loads(&second), new.packages());
}
