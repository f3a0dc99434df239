//! Random graphs against a sequential walk that knows no scheduling.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use crate::testing::{Record, Recorder, Script, Scripted, Simulation};
use crate::{Dag, DagBuilder, EdgeKind, Event, Outcome, Phase, Report, VertexId};

const POOLS: [(&str, u32); 2] = [("cpu", 2), ("network", 3)];

/// One vertex: its script, and its inputs as places among the vertices before it.
#[derive(Debug, Clone)]
struct Plan {
    script: Script,
    inputs: Vec<(Index, EdgeKind)>,
    late: Vec<Index>,
}

/// What became of a vertex, without what depends on the order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Loaded,
    Executed,
    Failed,
    Skipped,
}

fn plan() -> impl Strategy<Value = Plan> {
    let one_in = |n: u32| prop::bool::weighted(1.0 / f64::from(n));
    let take = || prop::collection::vec((prop::sample::select(vec!["cpu", "network", "free"]), 1_u32..5), 0..3);
    let kind = prop_oneof![Just(EdgeKind::Ordering), Just(EdgeKind::Keyed)];
    (
        (1..4_usize, prop::option::weighted(0.3, 0..3_usize), any::<bool>(), prop::option::weighted(0.04, 0..3_usize)),
        (one_in(20), one_in(12)),
        (0..20_u64, 0..20_u64, 0..20_u64),
        (take(), take(), take()),
        prop::collection::vec((any::<Index>(), kind), 0..5),
        prop::collection::vec(any::<Index>(), 0..2),
    )
        .prop_map(|(maps, (load_fails, fails), (map_ms, load_ms, ms), takes, inputs, late)| {
            let (n_maps, cached_at, same_key, map_fails_at) = maps;
            let (map_takes, load_takes, takes) = takes;
            let script = Script { n_maps, cached_at, same_key, map_fails_at, load_fails, fails, ..Script::default() };
            let script = Script { map_ms, load_ms, ms, map_takes, load_takes, takes, ..script };
            Plan { script, inputs, late }
        })
}

/// Puts the vertices together, in the plans' order or the other way round, so that no order of indices is special.
fn graph(plans: &[Plan], is_reversed: bool, recorder: &Recorder) -> Dag<Scripted> {
    let mut places = DagBuilder::new();
    let mut ids: Vec<_> = plans.iter().map(|_| places.add(())).collect();
    if is_reversed {
        ids.reverse();
    }
    let mut ops = BTreeMap::new();
    let mut edges = Vec::new();
    for (place, plan) in plans.iter().enumerate() {
        let mut script = plan.script.clone();
        script.name = format!("n{place}");
        for (input, kind) in plan.inputs.iter().filter(|_| place > 0) {
            let input = ids[input.index(place)];
            edges.push((ids[place], input, *kind));
            if *kind == EdgeKind::Keyed {
                script.keyed.push(input);
            }
        }
        script.late = plan.late.iter().filter(|_| place > 0).map(|input| ids[input.index(place)]).collect();
        ops.insert(ids[place], Scripted { script, recorder: Some(recorder.clone()) });
    }
    let mut builder = DagBuilder::new();
    for op in ops.into_values() {
        builder.add(op);
    }
    for (dependant, input, kind) in edges {
        builder.edge(dependant, input, kind);
    }
    builder.build().expect("inputs come before their dependants")
}

/// Walks the vertices one after another, inputs first: how each must end, and what each needs if it executes.
fn oracle(dag: &Dag<Scripted>, inputs_first: impl Iterator<Item = VertexId>) -> BTreeMap<VertexId, Expected> {
    let mut known: BTreeMap<VertexId, Expected> = BTreeMap::new();
    for vertex in inputs_first {
        let script = &dag.op(vertex).script;
        let mut needs: BTreeSet<_> = dag.inputs(vertex).map(|(input, _)| input).collect();
        let (mut ending, mut has_key) = (None, false);
        for index in 0..script.n_maps {
            let late: &[_] = if index + 1 == script.n_maps { &script.late } else { &[] };
            needs.extend(late.iter().filter(|_| script.map_fails_at != Some(index)));
            let is_keyed = script.keyed.iter().chain(late).all(|input| known[input].has_key);
            let is_cached = script.cached_at.is_some_and(|cached| script.map_name(cached) == script.map_name(index));
            if script.map_fails_at == Some(index) {
                ending = Some(Ending::Failed);
            } else if !is_keyed {
                ending = Some(Ending::Skipped);
            } else if is_cached {
                // The key is known even if the result cannot be brought.
                has_key = true;
                ending = (!script.load_fails).then_some(Ending::Loaded);
            }
            if ending.is_some() {
                break;
            }
        }
        let is_ready = needs.iter().all(|input| known[input].is_complete);
        let ending = ending.unwrap_or_else(|| {
            has_key = true;
            if !is_ready {
                Ending::Skipped
            } else if script.fails {
                Ending::Failed
            } else {
                Ending::Executed
            }
        });
        let is_complete = is_ready && matches!(ending, Ending::Loaded | Ending::Executed);
        let closure = needs.iter().flat_map(|input| known[input].closure.iter().copied().chain([*input])).collect();
        known.insert(vertex, Expected { ending, has_key, is_complete, closure });
    }
    known
}

struct Expected {
    ending: Ending,
    has_key: bool,
    is_complete: bool,
    closure: BTreeSet<VertexId>,
}

fn endings(report: &Report<Scripted>) -> Vec<Ending> {
    let ending = |outcome: &Outcome<Scripted>| match outcome {
        Outcome::Loaded(_) => Ending::Loaded,
        Outcome::Executed(_) => Ending::Executed,
        Outcome::Failed(_) => Ending::Failed,
        Outcome::Skipped { .. } => Ending::Skipped,
        Outcome::Stopped => unreachable!("nobody asked to stop"),
        Outcome::Found => unreachable!("all results are wanted"),
    };
    report.iter().map(|(_, settled)| ending(&settled.outcome)).collect()
}

/// Checks what the ops themselves saw: no pool is exceeded, nothing executes twice. (An input that is not there when
/// its dependant executes would be a panic.)
fn check_records(dag: &Dag<Scripted>, records: &[Record]) -> Result<(), TestCaseError> {
    let mut used: BTreeMap<&str, u32> = BTreeMap::new();
    let mut n_executed = BTreeMap::new();
    for record in records {
        match record {
            Record::Entered(vertex, phase) => {
                for (pool, amount) in takes(&dag.op(*vertex).script, *phase) {
                    *used.entry(pool).or_default() += amount;
                    prop_assert!(used[pool] <= POOLS.iter().find(|known| known.0 == pool).map_or(u32::MAX, |p| p.1));
                }
                if *phase == Phase::Execute {
                    *n_executed.entry(vertex).or_insert(0) += 1;
                    prop_assert_eq!(n_executed[vertex], 1);
                }
            }
            Record::Left(vertex, phase) => {
                for (pool, amount) in takes(&dag.op(*vertex).script, *phase) {
                    *used.get_mut(pool).expect("left after entered") -= amount;
                }
            }
            Record::Given { .. } => {}
        }
    }
    Ok(())
}

/// What a phase takes of each limited pool, clamped to its size.
fn takes(script: &Script, phase: Phase) -> Vec<(&'static str, u32)> {
    let takes = match phase {
        Phase::CacheMap(_) => &script.map_takes,
        Phase::Load | Phase::Query | Phase::Content => &script.load_takes,
        Phase::Execute => &script.takes,
    };
    let of = |pool| takes.iter().filter(|take| take.0 == pool).map(|take| take.1).sum::<u32>();
    POOLS.iter().map(|(pool, size)| (*pool, of(*pool).min(*size))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_graph_ends_as_a_sequential_walk_says(
        plans in prop::collection::vec(plan(), 1..200),
        is_reversed: bool,
    ) {
        let recorder = Recorder::default();
        let dag = graph(&plans, is_reversed, &recorder);
        let mut inputs_first: Vec<_> = dag.vertices().collect();
        if is_reversed {
            inputs_first.reverse();
        }
        let expected = oracle(&dag, inputs_first.into_iter());

        let wide = Simulation::of(dag).keep_going().report(|_| {});
        recorder.take();
        let dag = graph(&plans, is_reversed, &recorder);
        let narrow = POOLS.iter().fold(Simulation::of(dag), |simulation, (pool, size)| simulation.pool(pool, *size));
        let mut settled = BTreeSet::new();
        let narrow = narrow.keep_going().report(|event| {
            if let Event::Settled { vertex, .. } = event {
                assert!(settled.insert(vertex), "{vertex:?} settles once");
            }
        });

        prop_assert_eq!(settled.len(), plans.len());
        prop_assert_eq!(endings(&wide), expected.values().map(|e| e.ending).collect::<Vec<_>>());
        prop_assert_eq!(endings(&narrow), endings(&wide));
        let records = recorder.take();
        check_records(&graph(&plans, is_reversed, &recorder), &records)?;
        for (vertex, settled) in narrow.iter() {
            prop_assert_eq!(settled.key.is_some(), expected[&vertex].has_key);
            if let Outcome::Skipped { because } = settled.outcome {
                prop_assert!(expected[&vertex].closure.contains(&because));
                prop_assert_eq!(expected[&because].ending, Ending::Failed);
            }
        }
        for record in records {
            if let Record::Given { vertex, direct, closure } = record {
                let n_closure = closure.len();
                let closure: BTreeSet<_> = closure.into_iter().collect();
                prop_assert_eq!(closure.len(), n_closure);
                prop_assert!(direct.iter().all(|input| closure.contains(input)));
                prop_assert_eq!(&closure, &expected[&vertex].closure);
            }
        }
    }

    #[test]
    fn every_graph_ends_when_it_fails_or_is_stopped(
        plans in prop::collection::vec(plan(), 1..80),
        request_at in prop::option::of(0..100_u64),
    ) {
        let recorder = Recorder::default();
        let simulation = Simulation::of(graph(&plans, false, &recorder)).pool("cpu", 2);
        let simulation = request_at.into_iter().fold(simulation, Simulation::request_at_ms);
        let mut order = Vec::new();
        let mut first_failure = None;
        let report = simulation.report(|event| match event {
            Event::Started { vertex, .. } => {
                assert!(first_failure.is_none(), "{vertex:?} starts after {first_failure:?} failed");
            }
            Event::Settled { vertex, settled } => {
                order.push(vertex);
                if settled.outcome.failure().is_some() {
                    first_failure.get_or_insert(vertex);
                }
            }
            _ => {}
        });
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), plans.len());
        prop_assert_eq!(order.len(), plans.len());
        for (_, settled) in report.iter() {
            match settled.outcome {
                Outcome::Skipped { because } => prop_assert!(report.settled(because).outcome.failure().is_some()),
                Outcome::Stopped => prop_assert!(request_at.is_some()),
                Outcome::Found => prop_assert!(false, "all results are wanted"),
                _ => {}
            }
        }
    }
}
