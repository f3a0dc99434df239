//! `BuildKit`'s other suites: cache and storage, flight control, progress; see `SCENARIOS.md`.

use std::sync::Arc;

use tokio::join;

use super::lab::{Lab, LabCache, LabError, at, by_content, ms, sum};
use crate::testing::Scripted;
use crate::testing::contract::{self, Samples, ScriptedSamples};
use crate::{
    BuildError, Cache, CacheManager, Combined, Config, MemoryCache, Outcome, Phase, Record, Save, StatusStream, Told,
};

struct LabSamples;

impl Samples<super::lab::Sum> for LabSamples {
    fn key(&self, name: &str) -> String {
        name.to_owned()
    }

    fn output(&self, name: &str) -> Arc<[i64]> {
        name.bytes().map(i64::from).collect()
    }

    fn name(&self, output: &Arc<[i64]>) -> String {
        output.iter().map(|byte| char::from(u8::try_from(*byte).unwrap())).collect()
    }
}

#[tokio::test]
async fn storage_suite_on_memory() {
    contract::check(&MemoryCache::<Scripted>::new(), &ScriptedSamples).await;
    contract::check(&LabCache::new(&Arc::default()), &LabSamples).await;
}

#[tokio::test]
async fn storage_suite_on_a_combination() {
    let cache = || Cache::new(MemoryCache::<Scripted>::new());
    contract::check(&Combined::new(cache()).with("other", cache()), &ScriptedSamples).await;
}

#[tokio::test]
async fn storage_backlinks_name_all_that_leads_here() {
    let cache = MemoryCache::<Scripted>::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(str::to_owned);
    cache.save(Save { key: &a, links: std::slice::from_ref(&b), output: &"result".into() }).await.unwrap();
    cache.link(&c, &b).await.unwrap();
    // What led to `c` leads where `c` leads.
    cache.link(&d, &c).await.unwrap();
    assert_eq!(cache.back_links(&a), [b.clone(), c.clone(), d.clone()]);
    assert_eq!(cache.back_links(&d), cache.back_links(&a));
    // A key that gets a result of its own leads elsewhere no more.
    cache.save(Save { key: &c, links: &[], output: &"own".into() }).await.unwrap();
    assert_eq!(cache.back_links(&a), [b, d]);
    assert_eq!(cache.query(&c).await.unwrap().unwrap().key, c);
}

#[tokio::test]
async fn exporter_records_are_taken_newest_first_then_by_priority() {
    let record = |created_at, priority| Record { key: 1, id: String::new(), created_at, priority, source: None };
    let mut records = [record(1, 0), record(2, 5), record(3, 9), record(2, 1)];
    records.sort_by(Record::rank);
    assert_eq!(records.map(|record| (record.created_at, record.priority)), [(3, 9), (2, 1), (2, 5), (1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn exporter_the_newest_of_two_results_is_loaded() {
    let lab = Lab::new();
    lab.once(&[sum("a", 1, []).seed("key")]).await.unwrap();
    lab.once(&[sum("b", 2, []).seed("key").ignoring()]).await.unwrap();
    assert_eq!(lab.once(&[sum("c", 3, []).seed("key")]).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn cache_carry_over_from_sublink() {
    let lab = Lab::new();
    let graph = |seed: &str| [sum("low", 1, []).seed(seed), sum("top", 1, [by_content(0)])];
    lab.once(&graph("old")).await.unwrap();
    lab.once(&graph("new")).await.unwrap();
    lab.take();
    // Found by content before, by its definition alone now: nothing below is touched.
    let n_contents = lab.counts.contents.load(std::sync::atomic::Ordering::SeqCst);
    lab.once(&graph("new")).await.unwrap();
    assert_eq!(lab.take(), (0, 1));
    assert_eq!(lab.counts.contents.load(std::sync::atomic::Ordering::SeqCst), n_contents);
}

#[tokio::test(start_paused = true)]
async fn cache_release_of_a_middle_result_keeps_the_way_to_the_top() {
    let lab = Lab::new();
    let graph = [sum("low", 1, []).seeds(&["l0", "l1"]), sum("top", 1, [at(0)])];
    lab.once(&graph).await.unwrap();
    for key in ["l0()", "l1()"] {
        if let Some(found) = lab.cache.query(&key.to_owned()).await.unwrap() {
            for record in found.records {
                lab.cache.release(&record).await.unwrap();
            }
        }
    }
    lab.take();
    lab.once(&graph).await.unwrap();
    assert_eq!(lab.take(), (0, 1));
    // Without the top's result it is made again, from the beginning.
    let top = lab.cache.query(&"top(l1()/0)".to_owned()).await.unwrap().unwrap();
    lab.cache.release(&top.records[0]).await.unwrap();
    lab.once(&graph).await.unwrap();
    assert_eq!(lab.take(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn flightcontrol_a_thousand_callers_of_a_failing_op_make_one_call() {
    let lab = Lab::new();
    let mut builds = tokio::task::JoinSet::new();
    let mut failing = sum("v", 1, []).shared();
    failing.fails = true;
    for _ in 0..1000 {
        let (dag, ids) = lab.graph(&[failing.clone()]);
        let job = lab.job();
        builds.spawn(async move { job.build(dag, &ids).await.map(drop) });
    }
    while let Some(result) = builds.join_next().await {
        assert!(matches!(result.unwrap(), Err(BuildError::Failed { .. })));
    }
    assert_eq!((lab.take_maps(), lab.take().0), (1, 1));
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn flightcontrol_when_both_leave_the_op_is_stopped_and_the_next_call_runs_anew() {
    let lab = Lab::with(|_| Config::new());
    let graph = || {
        let mut vertex = sum("v", 1, []).shared();
        (vertex.ms, vertex.heeds) = (1000, true);
        [vertex]
    };
    let (a, b) = (lab.job(), lab.job());
    let (one, two) = (graph(), graph());
    let start = tokio::time::Instant::now();
    let (one, two, ()) = join!(lab.build(&a, &one), lab.build(&b, &two), async {
        ms(10).await;
        a.cancel();
        ms(10).await;
        b.cancel();
    });
    assert!(one.is_err() && two.is_err());
    assert_eq!(start.elapsed().as_millis(), 20);
    assert_eq!(lab.once(&graph()).await.unwrap(), 1);
    assert_eq!(lab.take().0, 2);
}

fn line(told: &Told<super::lab::Sum>) -> String {
    match told {
        Told::Vertex { name, inputs } => format!("{name} of {}", inputs.len()),
        Told::Started(Phase::Execute) => "runs".to_owned(),
        Told::Started(_) => String::new(),
        Told::Found => "found".to_owned(),
        Told::Progress(line) => (**line).to_owned(),
        Told::CacheFailed(error) => error.to_string(),
        Told::Ended(settled) => match settled.outcome {
            Outcome::Loaded(_) | Outcome::Found => "cached",
            Outcome::Executed(_) => "completed",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped { .. } => "skipped",
            Outcome::Stopped => "cancelled",
        }
        .to_owned(),
    }
}

async fn lines(mut status: StatusStream<super::lab::Sum>) -> String {
    let mut lines = Vec::new();
    while let Some(event) = status.next().await {
        let line = line(&event.told);
        if !line.is_empty() {
            lines.push(format!("{}: {line}", event.vertex.vertex.index()));
        }
    }
    lines.join(" | ")
}

#[tokio::test(start_paused = true)]
async fn progress_early_and_late_readers_see_the_same_history() {
    let lab = Lab::new();
    let mut low = sum("low", 1, []);
    low.reports = vec![(1, "compiling")];
    let graph = [low, sum("top", 1, [at(0)])];
    let job = lab.job();
    let early = job.status();
    lab.build(&job, &graph).await.unwrap();
    let late = job.status();
    job.discard();
    let (early, late) = (lines(early).await, lines(late).await);
    assert_eq!(early, late);
    assert_eq!(early, "1: top of 1 | 0: low of 0 | 0: runs | 0: compiling | 0: completed | 1: runs | 1: completed");
    // The input of what is cached is cached too, though nobody loads it.
    let job = lab.job();
    lab.build(&job, &graph).await.unwrap();
    let status = job.status();
    job.discard();
    assert_eq!(lines(status).await, "1: top of 1 | 0: low of 0 | 0: found | 1: found | 1: cached | 0: cached");
}

#[tokio::test(start_paused = true)]
async fn progress_what_is_unfinished_is_closed_at_the_end() {
    let lab = Lab::new();
    let mut slow = sum("slow", 1, []);
    (slow.ms, slow.heeds) = (1000, true);
    let mut bad = sum("bad", 1, []);
    bad.fails = true;
    let graph = [slow, sum("top", 1, [at(0)])];
    let job = lab.job();
    let status = job.status();
    let (built, ()) = join!(lab.build(&job, &graph), async {
        ms(10).await;
        job.cancel();
    });
    assert!(built.is_err());
    job.discard();
    assert_eq!(lines(status).await, "1: top of 1 | 0: slow of 0 | 0: runs | 1: cancelled | 0: cancelled");
    let job = lab.job();
    let status = job.status();
    lab.build(&job, &[bad, sum("top", 1, [at(0)])]).await.unwrap_err();
    job.discard();
    assert_eq!(lines(status).await, "1: top of 1 | 0: bad of 0 | 0: runs | 0: failed | 1: skipped");
}

#[tokio::test(start_paused = true)]
async fn progress_of_nested_builds_is_told_to_the_job() {
    let lab = Lab::new();
    let mut outer = sum("outer", 1, []);
    outer.nested = Some(|counts| super::lab::graph(counts, &[sum("inner", 1, [])]));
    let job = lab.job();
    let status = job.status();
    lab.build(&job, &[outer]).await.unwrap();
    job.discard();
    let lines = lines(status).await;
    assert_eq!(lines, "0: outer of 0 | 0: runs | 0: inner of 0 | 0: runs | 0: completed | 0: completed");
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_fails_is_told_and_counts_as_a_miss() {
    let lab = Lab::new();
    lab.once(&[sum("a", 1, [])]).await.unwrap();
    lab.cache.fails_loads.store(true, std::sync::atomic::Ordering::SeqCst);
    let job = lab.job();
    let status = job.status();
    assert_eq!(lab.build(&job, &[sum("a", 1, [])]).await.unwrap(), 1);
    job.discard();
    assert_eq!(lines(status).await, format!("0: a of 0 | 0: found | 0: {} | 0: runs | 0: completed", LabError("load")));
}
