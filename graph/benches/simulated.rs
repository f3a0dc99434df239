//! How near to the optimum the solver keeps many cores busy: real graphs of packages on cores that this machine lacks.
//!
//!     cargo bench -p larder-graph --bench simulated
//!
//! The engine itself runs, with ops that sleep, on a clock that nobody waits for. Each file in `simulated/` is a real
//! lockfile's graph; its times are those of real builds on two cores, and for packages that were not built the guess
//! that `larder` makes on a first run. A run may take at most 3 % longer than the greater of the longest chain of
//! packages and all work divided by the number of cores. Not every graph can be done that fast; these can.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use larder_graph::{Dag, DagBuilder, EdgeKind, Expected, Forecast, Limits, OnFailure, Resources, Stop, VertexId, run};
use tokio::time::Instant;

const GRAPHS: [&str; 4] = [
    include_str!("simulated/30.txt"),
    include_str!("simulated/76.txt"),
    include_str!("simulated/137.txt"),
    include_str!("simulated/153.txt"),
];

/// How much longer than the bound a run may take.
const SLACK: f64 = 1.03;

fn main() {
    println!("packages  measured  cores   makespan      bound   ratio");
    let mut too_slow = Vec::new();
    for text in GRAPHS {
        let (dag, n_measured) = graph(text);
        let dag = Arc::new(dag);
        for cores in [1, 2, 4, 8, 16] {
            let limits = || Limits::new().pool("cpu", cores);
            let took = really(&dag, limits());
            let forecast = Forecast::of(&dag, limits());
            assert_eq!(took, forecast.makespan, "a forecast is what the engine does");
            let bound = forecast.critical_work.max(forecast.work / cores).as_secs_f64();
            let (n, took) = (dag.len(), took.as_secs_f64());
            let ratio = took / bound;
            println!("{n:>8} {n_measured:>9} {cores:>6} {took:>9.1}s {bound:>9.1}s {ratio:>7.3}");
            if ratio > SLACK {
                too_slow.push(format!("{n} packages on {cores} cores"));
            }
        }
    }
    assert!(too_slow.is_empty(), "more than 3 % above the bound: {}", too_slow.join(", "));
}

/// Reads lines of `package ms measured|guessed need need ...`, and counts what was measured.
fn graph(text: &str) -> (Dag<Expected>, usize) {
    let lines = || text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect::<Vec<_>>());
    let mut builder = DagBuilder::new();
    let ids: HashMap<&str, VertexId> = lines()
        .map(|words| {
            let ms = words[1].parse().expect("milliseconds");
            let takes = Resources::none().take("cpu", 1);
            (words[0], builder.add(Expected { work: Duration::from_millis(ms), takes, ..Expected::default() }))
        })
        .collect();
    for words in lines() {
        for need in &words[3..] {
            builder.edge(ids[words[0]], ids[need], EdgeKind::Ordering);
        }
    }
    let n_measured = lines().filter(|words| words[2] == "measured").count();
    (builder.build().expect("packages do not need each other in a circle"), n_measured)
}

/// Runs the engine, and returns how long it took on the clock that jumps.
fn really(dag: &Arc<Dag<Expected>>, limits: Limits) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O needs nothing").block_on(async {
        let begin = Instant::now();
        let report = run(Arc::clone(dag), limits, OnFailure::Stop, Stop::new(), |_| {}).await;
        assert!(report.is_success());
        begin.elapsed()
    })
}
