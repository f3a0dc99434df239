//! One behaviour each, from a line of text to a line of text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::testing::{Record, Recorder, Script, Scripted, Simulation};
use crate::{DagBuilder, EdgeKind, Event, Limits, OnFailure, Outcome, Phase, Stop};

fn simulate(graph: &str, script: &str) -> String {
    Simulation::new(graph, script).trace()
}

fn phases(graph: &str, script: &str) -> String {
    Simulation::new(graph, script).phases().trace()
}

fn keep_going(graph: &str, script: &str) -> String {
    Simulation::new(graph, script).keep_going().trace()
}

#[test]
fn an_empty_graph_is_done() {
    let dag = DagBuilder::<Scripted>::new().build().unwrap();
    assert_eq!(Simulation::of(dag).trace(), "");
}

#[test]
fn what_is_not_cached_executes_after_its_inputs() {
    assert_eq!(
        simulate("curl; httr <- curl; rlang", "rlang: ms=12"),
        "start curl | start rlang | done curl | start httr | done rlang | done httr"
    );
}

#[test]
fn the_longest_remaining_path_starts_first() {
    let trace = Simulation::new(
        "a; b; c; d <- c; e <- d",
        "b: ms=15 take=cpu; a: take=cpu; c: take=cpu; d: ms=1 take=cpu; e: ms=5 take=cpu",
    )
    .pool("cpu", 1)
    .trace();
    assert_eq!(trace, "start c | done c | start b | done b | start a | done a | start d | done d | start e | done e");
}

#[test]
fn ties_go_to_the_vertex_added_first() {
    let trace = Simulation::new("x; y; z", "z: take=cpu; y: take=cpu; x: take=cpu").pool("cpu", 1).trace();
    assert_eq!(trace, "start x | done x | start y | done y | start z | done z");
}

#[test]
fn a_pool_is_never_exceeded_and_others_go_on() {
    let trace = Simulation::new("a; b; n; f", "a: take=cpu weight=9; b: take=cpu weight=8; n: take=network; f: ms=20")
        .pool("cpu", 1)
        .pool("network", 1)
        .trace();
    assert_eq!(trace, "start f | start n | start a | done n | done a | start b | done f | done b");
}

#[test]
fn more_than_a_pool_has_means_the_whole_pool() {
    let trace = Simulation::new("big; small", "big: take=cpu*8 weight=20; small: take=cpu").pool("cpu", 2).trace();
    assert_eq!(trace, "start big | done big | start small | done small");
}

#[test]
fn the_small_do_not_starve_the_big() {
    let script = "a: take=cpu weight=9; big: take=cpu*2 weight=8; b: take=cpu weight=7; c: take=cpu weight=6";
    let trace = Simulation::new("a; big; b; c", script).pool("cpu", 2).trace();
    assert_eq!(trace, "start a | done a | start big | done big | start b | start c | done b | done c");
}

#[test]
fn resources_are_taken_all_or_none() {
    let script =
        "a: take=cpu ms=5 weight=9; both: take=cpu,network weight=8; n: take=network weight=7; other: take=disk";
    let trace = Simulation::new("a; both; n; other", script).pool("cpu", 1).pool("network", 1).pool("disk", 1).trace();
    assert_eq!(trace, "start other | start a | done a | start both | done other | done both | start n | done n");
}

#[test]
fn a_load_waits_for_nothing() {
    assert_eq!(
        phases("httr <- curl", "httr: cached"),
        "map0 curl | look curl | map1 curl | start curl | map0 httr | look httr | load httr | done curl"
    );
}

#[test]
fn execute_waits_for_the_closure_through_a_loaded_input() {
    assert_eq!(
        simulate("curl; httr <- curl; app <- httr", "httr: cached"),
        "start curl | load httr | done curl | start app | done app"
    );
}

#[test]
fn a_second_cache_map_is_asked_only_after_a_miss() {
    assert_eq!(phases("a", "a: maps=2 cached"), "map0 a | look a | load a");
    assert_eq!(phases("a", "a: maps=2 cached=1"), "map0 a | look a | map1 a | look a | load a");
}

#[test]
fn an_equal_key_is_not_looked_up_twice() {
    assert_eq!(phases("a", "a: maps=2 same"), "map0 a | look a | map1 a | map2 a | start a | done a");
}

#[test]
fn a_keyed_input_is_awaited_until_its_key_is_final() {
    assert_eq!(
        phases("rcpp; dplyr <= rcpp", "rcpp: maps=2 map-ms=5 cached=1; dplyr: cached"),
        "map0 rcpp | map0 dplyr | look rcpp | map1 rcpp | look rcpp | load rcpp | look dplyr | load dplyr"
    );
    // The key is final before the result is there.
    assert_eq!(
        simulate("rcpp; dplyr <= rcpp; tibble <- dplyr", "dplyr: cached"),
        "start rcpp | load dplyr | done rcpp | start tibble | done tibble"
    );
}

#[test]
fn keys_are_built_from_the_keys_of_inputs() {
    let report = Simulation::new("a; b <= a; c <= b a", "a: maps=2").report(|_| {});
    let keys: Vec<_> = report.iter().filter_map(|(_, settled)| settled.key.clone()).collect();
    assert_eq!(keys, ["a@1", "b(a@1)", "c(b(a@1) a@1)"]);
}

#[test]
fn after_a_failure_nothing_starts_and_what_runs_is_kept() {
    assert_eq!(
        simulate("curl; httr <- curl; rlang; cli <- rlang", "curl: fail; rlang: ms=20"),
        "start rlang | start curl | fail curl | skip httr (curl) | skip cli (curl) | done rlang"
    );
}

#[test]
fn after_a_failure_a_running_load_is_kept() {
    assert_eq!(
        simulate("a; b; c", "a: fail; b: cached load-ms=20; c: load-ms=20"),
        "start a | fail a | load b | skip c (a)"
    );
}

#[test]
fn keeping_going_builds_all_that_does_not_depend_on_the_failure() {
    assert_eq!(
        keep_going("curl; httr <- curl; rlang; cli <- rlang", "curl: fail; rlang: ms=20"),
        "start rlang | start curl | fail curl | skip httr (curl) | done rlang | start cli | done cli"
    );
}

#[test]
fn what_would_fail_all_others_too_ends_a_build_that_keeps_going_and_what_runs_is_kept() {
    assert_eq!(
        keep_going("curl; httr <- curl; rlang; cli <- rlang", "curl: fail-all; rlang: ms=20"),
        "start rlang | start curl | fail curl | skip httr (curl) | skip cli (curl) | done rlang"
    );
}

#[test]
fn a_skip_names_the_root_cause() {
    assert_eq!(
        keep_going("a; b <- a; c <- b; d <- c", "a: fail"),
        "start a | fail a | skip b (a) | skip c (a) | skip d (a)"
    );
}

#[test]
fn a_dependant_of_a_failure_is_still_loaded() {
    assert_eq!(
        keep_going("a; b <- a; c <- b; d <= a; e <- d", "a: fail; b: cached load-ms=50; d: cached load-ms=60"),
        "start a | fail a | skip c (a) | skip e (a) | load b | load d"
    );
}

#[test]
fn without_the_key_of_an_input_there_is_no_key() {
    assert_eq!(
        keep_going("a; b <= a; c <= b; d <- c; e <- a", "a: map-fail map-ms=5; c: cached; e: cached map-ms=9"),
        "fail a | skip b (a) | skip c (a) | skip d (a) | load e"
    );
}

#[test]
fn an_op_without_a_cache_map_fails() {
    assert_eq!(keep_going("a; b <- a", "a: maps=0"), "fail a | skip b (a)");
}

#[test]
fn a_late_edge_is_waited_for() {
    assert_eq!(
        simulate("rcpp; dplyr; app <- dplyr", "rcpp: ms=30; dplyr: names=rcpp"),
        "start rcpp | done rcpp | start dplyr | done dplyr | start app | done app"
    );
    assert_eq!(
        keep_going("rcpp; dplyr; app <- dplyr", "rcpp: fail; dplyr: map-ms=50 names=rcpp"),
        "start rcpp | fail rcpp | skip app (rcpp) | skip dplyr (rcpp)"
    );
}

#[test]
fn a_late_edge_that_closes_a_cycle_fails_with_the_whole_cycle() {
    assert_eq!(keep_going("a; b <- a; c <- b", "a: names=c"), "fail a (cycle: a c b) | skip b (a) | skip c (a)");
    assert_eq!(keep_going("a", "a: names=a"), "fail a (cycle: a)");
    // Each alone would do.
    assert_eq!(keep_going("a; b", "a: names=b; b: names=a"), "fail b (cycle: b a) | skip a (b)");
}

#[test]
fn an_input_that_is_no_vertex_is_a_failure() {
    let mut elsewhere = DagBuilder::new();
    let stranger = [(); 3].map(|()| elsewhere.add(()))[2];
    let mut builder = DagBuilder::new();
    let script = Script { late: vec![stranger], ..Script::default() };
    builder.add(Scripted { script, recorder: None });
    let report = Simulation::of(builder.build().unwrap()).report(|_| {});
    let messages: Vec<_> = report.failures().map(|(_, failure)| failure.to_string()).collect();
    assert_eq!(messages, ["its cache map needs v2, which is not in the graph"]);
}

#[test]
fn a_requested_stop_starts_nothing_more_and_keeps_what_ends_well() {
    let simulation = || Simulation::new("a; b <- a; c; d", "c: heeds-request; d: ms=8; a: ms=20");
    assert_eq!(
        simulation().request_at_ms(5).trace(),
        "start a | start c | start d | stop b | stop c | done d | done a"
    );
}

#[test]
fn a_forced_stop_waits_for_what_runs_to_end() {
    let trace = Simulation::new("a; b; c", "a: heeds-request; b: heeds-force ms=1000; c: ms=30 weight=1")
        .request_at_ms(5)
        .force_at_ms(15)
        .trace();
    assert_eq!(trace, "start b | start a | start c | stop a | stop b | done c");
}

#[test]
fn a_stop_before_the_start_starts_nothing() {
    let stop = Stop::new();
    stop.request();
    let mut builder = DagBuilder::new();
    builder.add(Scripted::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let run = crate::run(Arc::new(builder.build().unwrap()), Limits::new(), OnFailure::Stop, stop, |_| {});
    let report = runtime.block_on(run);
    assert!(report.iter().all(|(_, settled)| matches!(settled.outcome, Outcome::Stopped)));
}

#[test]
fn a_failed_load_falls_back_to_executing() {
    assert_eq!(simulate("a", "a: cached load-fail"), "cache-failed a | start a | done a");
    assert_eq!(Simulation::new("a", "a: load-ms=9 heeds-request").request_at_ms(5).trace(), "stop a");
}

#[test]
fn a_load_that_would_fail_all_others_too_does_not_fall_back() {
    assert_eq!(
        keep_going("a; b <- a; c", "a: cached load-fail fail-all; c: ms=20"),
        "fail a | skip b (a) | skip c (a)"
    );
}

#[test]
fn progress_comes_before_the_end() {
    assert_eq!(simulate("a", "a: report"), "start a | a half-way | done a");
    assert_eq!(simulate("a", "a: report ms=0"), "start a | a half-way | done a");
}

#[test]
fn a_panic_goes_on_after_the_others_have_ended() {
    for script in ["a: panic; b: ms=50", "a: panic; b: ms=50 heeds-request", "a: panic ms=0 weight=1; b: ms=50"] {
        let mut ended = Vec::new();
        let simulation = Simulation::new("a; b", script);
        let recorder = simulation.recorder();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            simulation.report(|event| {
                if let Event::Settled { vertex, .. } = event {
                    ended.push(vertex);
                }
            })
        }));
        let message = panic.map(drop).unwrap_err();
        assert_eq!(message.downcast_ref::<&str>(), Some(&"scripted panic"));
        assert!(ended.is_empty());
        let records = recorder.take();
        let left = records.iter().filter(|record| matches!(record, Record::Left(_, Phase::Execute)));
        assert_eq!(left.count(), 2, "{script}");
    }
}

#[test]
fn durations_count_from_the_first_phase() {
    let report = Simulation::new("a; b <- a", "a: map-ms=5 load-ms=7; b: ms=3").report(|_| {});
    let ms: Vec<_> = report.iter().map(|(_, settled)| settled.duration.as_millis()).collect();
    assert_eq!(ms, [22, 25]);
}

#[test]
fn a_ladder_of_diamonds_is_no_work() {
    // 2^60 paths from end to end, 120 vertices; each asks for its closure.
    let recorder = Recorder::default();
    let mut builder = DagBuilder::new();
    let mut below = Vec::new();
    for rung in 0..60 {
        let rungs = ["left", "right"].map(|side| {
            let script = Script { name: format!("{side} {rung}"), ..Script::default() };
            builder.add(Scripted { script, recorder: Some(recorder.clone()) })
        });
        for (rung, input) in rungs.iter().flat_map(|rung| below.iter().map(move |input| (*rung, *input))) {
            builder.edge(rung, input, EdgeKind::Ordering);
        }
        below = rungs.to_vec();
    }
    assert!(Simulation::of(builder.build().unwrap()).report(|_| {}).is_success());
    let last = recorder.take().into_iter().filter_map(|record| match record {
        Record::Given { closure, .. } => Some(closure.len()),
        _ => None,
    });
    assert_eq!(last.max(), Some(118));
}
