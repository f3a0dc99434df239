//! A layered graph of ops that do nothing, and jobs that build it.

use std::convert::Infallible;
use std::sync::Arc;

use divan::Bencher;
use larder_graph::{
    CacheMap, Config, Context, Dag, DagBuilder, EdgeKind, Inputs, JobOptions, Limits, MemoryCache, OnFailure, Op,
    Solver, Stop, VertexId, run,
};

struct Noop {
    id: u64,
    inputs: [Option<VertexId>; 2],
}

impl Op for Noop {
    type Key = u64;
    type Output = u32;
    type Error = Infallible;
    type Progress = Infallible;

    async fn cache_map(&self, index: usize, _: &Context<Self>) -> Result<Option<CacheMap<u64>>, Infallible> {
        assert_eq!(index, 0);
        let id = self.id;
        let inputs = self.inputs.into_iter().flatten();
        Ok(Some(CacheMap::new(inputs, move |keys| keys.iter().fold(id, |hash, key| mix(hash) ^ key)).last()))
    }

    async fn execute(&self, _: &u64, _: Inputs<Self>, _: &Context<Self>) -> Result<u32, Infallible> {
        Ok(0)
    }
}

fn mix(hash: u64) -> u64 {
    hash.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

const WIDTH: usize = 1000;

/// Unoptimized, as tests run it, a bench only shows that it still works.
const SIZES: [usize; 3] = if cfg!(debug_assertions) { [500, 1_000, 2_000] } else { [10_000, 100_000, 1_000_000] };

fn layers(n_vertices: usize) -> Arc<Dag<Noop>> {
    let mut builder = DagBuilder::new();
    let mut ids: Vec<VertexId> = Vec::with_capacity(n_vertices);
    for place in 0..n_vertices {
        let below = |shift: usize| {
            let row = (place / WIDTH).checked_sub(1)?;
            ids.get(row * WIDTH + (place + shift) % WIDTH).copied()
        };
        let inputs = [below(0), below(1)];
        let id = builder.add(Noop { id: place as u64, inputs });
        for input in inputs.into_iter().flatten() {
            builder.edge(id, input, EdgeKind::Keyed);
        }
        ids.push(id);
    }
    Arc::new(builder.build().expect("inputs are below"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without I/O needs nothing")
}

async fn job(dag: Arc<Dag<Noop>>, config: Config<Noop>, keeps_history: bool) {
    let solver = Solver::new(config);
    let job = solver.job("bench", JobOptions { keeps_history, ..JobOptions::default() }).expect("it is the first");
    let targets: Vec<_> = dag.vertices().skip(dag.len().saturating_sub(WIDTH)).collect();
    assert_eq!(job.build(dag, &targets).await.map(|built| built.outputs.len()).ok(), Some(targets.len()));
}

#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn job_from_nothing(bencher: Bencher<'_, '_>, n_vertices: usize) {
    let dag = layers(n_vertices);
    let runtime = runtime();
    bencher.counter(n_vertices).bench_local(|| runtime.block_on(job(Arc::clone(&dag), Config::new(), false)));
}

#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn job_all_cached(bencher: Bencher<'_, '_>, n_vertices: usize) {
    let dag = layers(n_vertices);
    let runtime = runtime();
    let cache = MemoryCache::new();
    runtime.block_on(job(Arc::clone(&dag), Config::new().cache(cache.clone()), false));
    bencher
        .counter(n_vertices)
        .bench_local(|| runtime.block_on(job(Arc::clone(&dag), Config::new().cache(cache.clone()), false)));
}

#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn job_with_history(bencher: Bencher<'_, '_>, n_vertices: usize) {
    let dag = layers(n_vertices);
    let runtime = runtime();
    bencher.counter(n_vertices).bench_local(|| runtime.block_on(job(Arc::clone(&dag), Config::new(), true)));
}

#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn run_from_nothing(bencher: Bencher<'_, '_>, n_vertices: usize) {
    let dag = layers(n_vertices);
    let runtime = runtime();
    bencher.counter(n_vertices).bench_local(|| {
        let run = run(Arc::clone(&dag), Limits::new(), OnFailure::Stop, Stop::new(), |_| {});
        assert!(runtime.block_on(run).is_success());
    });
}
