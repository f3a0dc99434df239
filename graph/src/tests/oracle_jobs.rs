//! Random graphs for several jobs at a time, against a sequential walk that knows nothing of the others.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::task::JoinSet;

use super::lab::{Lab, Sum, at, by_content, ms, sum};
use crate::{BuildError, Config, Limits, OnFailure, Reach};

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
struct Plan {
    inputs: Vec<(Index, bool)>,
    value: i64,
    fails: bool,
    ms: u64,
    is_shared: bool,
    reaches_far: bool,
    heeds: bool,
}

#[derive(Debug, Clone)]
struct Request {
    start_ms: u64,
    cancel_after_ms: Option<u64>,
    targets: Vec<Index>,
    keeps_going: bool,
    ignores: Option<Index>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let inputs = prop::collection::vec((any::<Index>(), prop::bool::weighted(0.2)), 0..4);
    let flags = (prop::bool::weighted(0.03), any::<bool>(), prop::bool::weighted(0.3), any::<bool>());
    (inputs, 0..9_i64, 0..20_u64, flags).prop_map(|(inputs, value, ms, (fails, is_shared, reaches_far, heeds))| Plan {
        inputs,
        value,
        fails,
        ms,
        is_shared,
        reaches_far,
        heeds,
    })
}

fn request() -> impl Strategy<Value = Request> {
    let targets = prop::collection::vec(any::<Index>(), 1..4);
    (
        0..80_u64,
        prop::option::weighted(0.4, 0..150_u64),
        targets,
        any::<bool>(),
        prop::option::weighted(0.2, any::<Index>()),
    )
        .prop_map(|(start_ms, cancel_after_ms, targets, keeps_going, ignores)| Request {
            start_ms,
            cancel_after_ms,
            targets,
            keeps_going,
            ignores,
        })
}

fn name(place: usize) -> &'static str {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    &NAMES.get_or_init(|| (0..200).map(|place| format!("n{place}")).collect())[place]
}

fn inputs(plan: &Plan, place: usize) -> Vec<(usize, bool)> {
    let mut seen = BTreeSet::new();
    let all = plan.inputs.iter().filter(|_| place > 0).map(|(input, by_content)| (input.index(place), *by_content));
    all.filter(|(input, _)| seen.insert(*input)).collect()
}

fn graph(plans: &[Plan]) -> Vec<Sum> {
    let vertex = |(place, plan): (usize, &Plan)| {
        let inputs = inputs(plan, place).into_iter();
        let inputs = inputs.map(|(input, is_content)| if is_content { by_content(input) } else { at(input) });
        let mut vertex = sum(name(place), plan.value, inputs);
        if plan.is_shared {
            vertex = vertex.shared();
        }
        (vertex.fails, vertex.ms, vertex.heeds, vertex.takes) = (plan.fails, plan.ms, plan.heeds, Some("cpu"));
        vertex.reach = if plan.reaches_far { Reach::Closure } else { Reach::Direct };
        vertex
    };
    plans.iter().enumerate().map(vertex).collect()
}

/// What each vertex comes to, one after another: its value, if nothing that it needs fails.
fn oracle(plans: &[Plan]) -> Vec<Option<i64>> {
    let mut values: Vec<Option<i64>> = Vec::new();
    for (place, plan) in plans.iter().enumerate() {
        let below: Option<i64> = inputs(plan, place).iter().map(|(input, _)| values[*input]).sum();
        values.push(below.filter(|_| !plan.fails).map(|below| below + plan.value));
    }
    values
}

async fn check(plans: Vec<Plan>, requests: Vec<Request>, has_cache: bool, n_cpus: u32) -> Result<(), TestCaseError> {
    let lab =
        Lab::with(|config| if has_cache { config } else { Config::new() }.limits(Limits::new().pool("cpu", n_cpus)));
    let expected = oracle(&plans);
    let mut builds = JoinSet::new();
    for request in &requests {
        let mut vertices = graph(&plans);
        if let Some(ignores) = request.ignores {
            vertices[ignores.index(plans.len())].ignores_cache = true;
        }
        let job = lab.job_with(if request.keeps_going { OnFailure::KeepGoing } else { OnFailure::Stop });
        let (dag, ids) = lab.graph(&vertices);
        let places: Vec<_> = request.targets.iter().map(|target| target.index(plans.len())).collect();
        let targets: Vec<_> = places.iter().map(|place| ids[*place]).collect();
        let (start, cancel, handle) = (request.start_ms, request.cancel_after_ms, job.clone());
        builds.spawn(async move {
            ms(start).await;
            let built = job.build(dag, &targets);
            let cancelling = async {
                match cancel {
                    Some(after) => {
                        ms(after).await;
                        handle.cancel();
                    }
                    None => std::future::pending().await,
                }
                std::future::pending::<()>().await;
            };
            let built = tokio::select! {
                biased;
                built = built => built,
                () = cancelling => unreachable!("it waits for ever"),
            };
            let values = built.map(|built| built.outputs.iter().map(|value| value[0]).collect::<Vec<_>>());
            (places, cancel.is_some(), values)
        });
    }
    while let Some(built) = builds.join_next().await {
        let (places, may_be_cancelled, values) = built.expect("nothing panics");
        let wanted: Option<Vec<i64>> = places.iter().map(|place| expected[*place]).collect();
        match values {
            Ok(values) => prop_assert_eq!(Some(values), wanted),
            Err(BuildError::Failed { chain, .. }) => {
                prop_assert!(wanted.is_none());
                let root = chain.last().expect("a chain has an end").0.index();
                prop_assert!(plans[root].fails, "{chain:?}");
                for pair in chain.windows(2) {
                    let below = inputs(&plans[pair[0].0.index()], pair[0].0.index());
                    prop_assert!(below.iter().any(|(input, _)| *input == pair[1].0.index()), "{:?}", chain);
                }
            }
            Err(BuildError::Cancelled) => prop_assert!(may_be_cancelled),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
    prop_assert!(lab.counts.running_max.load(Ordering::SeqCst) <= n_cpus as usize);
    let order = lab.counts.order.lock().unwrap().clone();
    let n_distinct = order.iter().collect::<BTreeSet<_>>().len();
    let is_plain = |request: &Request| request.cancel_after_ms.is_none() && request.ignores.is_none();
    if has_cache && requests.iter().all(is_plain) && expected.iter().all(Option::is_some) {
        prop_assert_eq!(order.len(), n_distinct, "with a cache nothing runs twice: {:?}", order);
    }
    prop_assert_eq!(lab.solver.census().await, [0; 7]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_job_gets_what_a_sequential_walk_says(
        plans in prop::collection::vec(plan(), 1..200),
        requests in prop::collection::vec(request(), 1..6),
        has_cache: bool,
        n_cpus in 1..4_u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        // Time is virtual: it only gets there when nothing else will ever happen.
        let whole = async {
            let checked = check(plans, requests, has_cache, n_cpus);
            tokio::time::timeout(std::time::Duration::from_hours(1), checked).await
        };
        let ended = runtime.expect("a runtime without I/O needs nothing").block_on(whole);
        ended.map_err(|_| TestCaseError::fail("it hangs"))??;
    }
}
