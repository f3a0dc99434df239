//! Export and import, by their numbers in `SCENARIOS.md`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lab::{Lab, LabCache, Sum, at, by_content, sum};
use crate::{CacheManager, Export, ExportMode, Job};

async fn export(lab: &Lab, graph: &[Sum], mode: ExportMode) -> (Job<Sum>, Export<String, super::lab::Value>) {
    let job = lab.job();
    let (dag, ids) = lab.graph(graph);
    let built = job.build(dag, &ids[ids.len() - 1..]).await.unwrap();
    let export = job.export(&built, mode).await;
    (job, export)
}

fn chain() -> [Sum; 3] {
    [sum("low", 1, []), sum("middle", 1, [at(0)]), sum("top", 1, [at(1)])]
}

#[tokio::test(start_paused = true)]
async fn t23_all_records_go_along_built_or_found() {
    let lab = Lab::new();
    for _ in 0..2 {
        let (job, export) = export(&lab, &chain(), ExportMode::Max).await;
        let records: Vec<_> =
            export.records.iter().map(|r| (r.key.as_str(), r.inputs.len(), r.result.is_some())).collect();
        assert_eq!(records, [("low()", 0, true), ("middle(low()/0)", 1, true), ("top(middle(low()/0)/0)", 1, true)]);
        job.discard();
    }
}

#[tokio::test(start_paused = true)]
async fn t24_min_takes_the_targets_results_only() {
    let lab = Lab::new();
    let (_, min) = export(&lab, &chain(), ExportMode::Min).await;
    let with_result: Vec<_> = min.records.iter().map(|record| record.result.is_some()).collect();
    assert_eq!(with_result, [false, false, true]);
    let (_, max) = export(&lab, &chain(), ExportMode::Max).await;
    assert_eq!((min.n_results(), max.n_results()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn t24_remote_only_takes_what_a_cache_source_has() {
    let remote = LabCache::new(&Arc::default());
    Lab::with(|config| config.cache(remote.clone())).once(&chain()[..1]).await.unwrap();
    let lab = Lab::with(|config| config.source("remote", remote.clone()));
    let mut graph = chain();
    graph[0].sources = vec!["remote"];
    let (_, export) = export(&lab, &graph, ExportMode::RemoteOnly).await;
    let with_result: Vec<_> = export.records.iter().map(|record| record.result.is_some()).collect();
    assert_eq!(with_result, [true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn import_gives_hits_on_an_empty_cache() {
    for mode in [ExportMode::Min, ExportMode::Max] {
        let lab = Lab::new();
        let graph = [sum("low", 1, []), sum("middle", 1, [by_content(0)]), sum("top", 1, [at(1)])];
        let (_, export) = export(&lab, &graph, mode).await;
        let other = Lab::new();
        other.cache.memory.import(&export);
        other.cache.memory.import(&export);
        assert_eq!(other.cache.memory.len(), export.n_results());
        assert_eq!(other.once(&graph).await.unwrap(), 3);
        assert_eq!(other.take(), (0, 1), "{mode:?}");
        // The digest came along too: a new name for what is below is found by content.
        let renamed = [sum("low", 1, []).seeds(&["new", "low"]), graph[1].clone(), graph[2].clone()];
        assert_eq!(other.once(&renamed).await.unwrap(), 3);
        assert_eq!(other.take(), (0, 1), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn t29_equal_content_is_a_link_and_no_record() {
    let lab = Lab::new();
    let graph = |selector| [sum("low", 1, []), sum("top", 1, [by_content(0).selecting(selector)])];
    let (_, first) = export(&lab, &graph("one"), ExportMode::Max).await;
    assert_eq!((first.records.len(), first.digests.len()), (2, 1));
    let (_, second) = export(&lab, &graph("two"), ExportMode::Max).await;
    // The new definition leads to the record of the old one.
    assert_eq!(second.records[1].key, first.records[1].key);
    assert!(second.records[1].links.contains(&"top(low()/0@two)".to_owned()), "{second:?}");
    let mut both = first.clone();
    both.merge(second);
    assert_eq!((both.records.len(), both.digests.len()), (2, 2));
    let (_, wrapped) = export(
        &lab,
        &[sum("low", 1, []), sum("top", 1, [by_content(0).selecting("two")]), sum("wrap", 1, [at(1)])],
        ExportMode::Max,
    )
    .await;
    assert_eq!(wrapped.records.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn t30_vertices_of_equal_key_are_one_record() {
    let lab = Lab::new();
    let graph = [
        sum("a", 1, []).seed("equal"),
        sum("b", 1, []).seed("equal"),
        sum("left", 1, [at(0)]),
        sum("right", 1, [at(1)]),
        sum("top", 1, [at(2), at(3)]),
    ];
    let (_, export) = export(&lab, &graph, ExportMode::Max).await;
    assert_eq!((export.records.len(), export.n_results()), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn t34_a_record_that_vanished_is_left_out() {
    let lab = Lab::new();
    lab.once(&chain()).await.unwrap();
    let job = lab.job();
    let (dag, ids) = lab.graph(&chain());
    let built = job.build(dag, &ids[2..]).await.unwrap();
    for key in ["low()", "middle(low()/0)"] {
        let found = lab.cache.query(&key.to_owned()).await.unwrap().unwrap();
        lab.cache.release(&found.records[0]).await.unwrap();
    }
    let export = job.export(&built, ExportMode::Max).await;
    assert_eq!((export.records.len(), export.n_results()), (3, 1));
    // A cache that fails is as good as one that has nothing.
    lab.cache.fails_loads.store(true, Ordering::SeqCst);
    assert_eq!(job.export(&built, ExportMode::Max).await.n_results(), 1);
}

#[tokio::test(start_paused = true)]
async fn x08_a_record_never_leads_to_itself() {
    let lab = Lab::new();
    // Both give the same key, though one needs the other.
    let mut low = sum("low", 1, []);
    low.seeds = vec!["low".to_owned(), "same".to_owned()];
    let graph = [low, sum("high", 1, []).seed("same"), sum("top", 1, [at(0), at(1)])];
    for _ in 0..2 {
        let (job, export) = export(&lab, &graph, ExportMode::Max).await;
        for (place, record) in export.records.iter().enumerate() {
            assert!(
                record.inputs.iter().all(|input| export.records[..place].iter().any(|below| below.key == input.key))
            );
            assert!(!record.links.contains(&record.key));
        }
        job.discard();
    }
}

#[tokio::test(start_paused = true)]
async fn chains_merging_twice_changes_nothing() {
    let lab = Lab::new();
    let (_, export) = export(&lab, &chain(), ExportMode::Max).await;
    let mut twice = export.clone();
    twice.merge(export.clone());
    assert_eq!(twice, export);
    assert_eq!(twice.record(&"low()".to_owned()).map(|record| record.inputs.len()), Some(0));
}
