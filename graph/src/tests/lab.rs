//! Ops that add numbers, and a solver that counts what they do.
//!
//! A vertex adds its inputs to its own value. Its key says how; its content is the sum.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::time::sleep;

use crate::{
    BuildError, CacheManager, CacheMap, Config, Context, Dag, DagBuilder, Edge, EdgeKind, Found, Inputs, Job,
    JobOptions, MemoryCache, Need, OnFailure, Op, Phase, Reach, Record, Resources, Save, Solver, VertexId,
    VertexOptions,
};

/// What ops and caches did so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) maps: AtomicUsize,
    pub(super) execs: AtomicUsize,
    pub(super) loads: AtomicUsize,
    pub(super) contents: AtomicUsize,
    pub(super) running: AtomicUsize,
    pub(super) running_max: AtomicUsize,
    /// The names of what executed, in order.
    pub(super) order: Mutex<Vec<String>>,
    /// What those that reach for everything were given: the places of vertices in their own graph.
    pub(super) closures: Mutex<Vec<Vec<Option<usize>>>>,
}

/// An input: a place in the list of vertices, and what of it is needed how.
#[derive(Debug, Clone, Default)]
pub(super) struct In {
    pub(super) place: usize,
    pub(super) output: u32,
    pub(super) selector: Option<&'static str>,
    /// Whether a second kind of key is made from its content.
    pub(super) has_content_key: bool,
}

/// The first output of the vertex at this place, by key.
pub(super) fn at(place: usize) -> In {
    In { place, ..In::default() }
}

/// The same, and by content if that is not known.
pub(super) fn by_content(place: usize) -> In {
    In { has_content_key: true, ..at(place) }
}

impl In {
    pub(super) fn output(self, output: u32) -> Self {
        Self { output, ..self }
    }

    pub(super) fn selecting(self, selector: &'static str) -> Self {
        Self { selector: Some(selector), ..self }
    }
}

pub(super) type Value = Arc<[i64]>;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(super) struct LabError(pub(super) &'static str);

type Nested = fn(&Arc<Counts>) -> (Dag<Sum>, Vec<VertexId>);

#[expect(clippy::struct_excessive_bools, reason = "each is one word of a scenario")]
/// A vertex. It has one cache map for each seed, and one more if an input is needed by content.
#[derive(Clone)]
pub(super) struct Sum {
    pub(super) name: &'static str,
    pub(super) seeds: Vec<String>,
    pub(super) value: i64,
    pub(super) inputs: Vec<In>,
    ids: Vec<VertexId>,
    pub(super) n_outputs: u32,
    pub(super) digest: Option<&'static str>,
    pub(super) ignores_cache: bool,
    pub(super) sources: Vec<&'static str>,
    pub(super) map_ms: u64,
    pub(super) ms: u64,
    pub(super) map_fails: bool,
    pub(super) fails: bool,
    pub(super) content_fails: bool,
    /// Ends with an error when asked to stop.
    pub(super) heeds: bool,
    /// Ends long after being asked to stop.
    pub(super) lingers_ms: u64,
    pub(super) takes: Option<&'static str>,
    pub(super) reach: Reach,
    pub(super) map_barrier: Option<Arc<Barrier>>,
    pub(super) barrier: Option<Arc<Barrier>>,
    pub(super) nested: Option<Nested>,
    pub(super) reports: Vec<(u64, &'static str)>,
    pub(super) late: Vec<usize>,
    pub(super) counts: Arc<Counts>,
}

/// A vertex of this name, whose key is the name.
pub(super) fn sum(name: &'static str, value: i64, inputs: impl IntoIterator<Item = In>) -> Sum {
    Sum {
        name,
        seeds: vec![name.to_owned()],
        value,
        inputs: inputs.into_iter().collect(),
        ids: Vec::new(),
        n_outputs: 1,
        digest: None,
        ignores_cache: false,
        sources: Vec::new(),
        map_ms: 0,
        ms: 10,
        map_fails: false,
        fails: false,
        content_fails: false,
        heeds: false,
        lingers_ms: 0,
        takes: None,
        reach: Reach::Direct,
        map_barrier: None,
        barrier: None,
        nested: None,
        reports: Vec::new(),
        late: Vec::new(),
        counts: Arc::default(),
    }
}

impl Sum {
    pub(super) fn seed(self, seed: &str) -> Self {
        self.seeds(&[seed])
    }

    pub(super) fn seeds(mut self, seeds: &[&str]) -> Self {
        self.seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        self
    }

    /// One vertex in all graphs.
    pub(super) fn shared(mut self) -> Self {
        self.digest = Some(self.name);
        self
    }

    pub(super) fn ignoring(mut self) -> Self {
        self.ignores_cache = true;
        self
    }
}

fn add(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::SeqCst);
}

impl Op for Sum {
    type Key = String;
    type Output = Value;
    type Error = LabError;
    type Progress = &'static str;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn digest(&self) -> Option<String> {
        self.digest.map(str::to_owned)
    }

    fn weight(&self) -> u64 {
        self.ms
    }

    /// What begins with `=` is a counter.
    fn slot(progress: &&'static str) -> Option<u64> {
        progress.starts_with('=').then_some(0)
    }

    fn reach(&self) -> Reach {
        self.reach
    }

    fn resources(&self, phase: Phase) -> Resources {
        match self.takes {
            Some(pool) if phase == Phase::Execute => Resources::none().take(pool, 1),
            _ => Resources::none(),
        }
    }

    async fn cache_map(&self, index: usize, cx: &Context<Self>) -> Result<Option<CacheMap<String>>, LabError> {
        let has_content = self.inputs.iter().any(|input| input.has_content_key);
        if index >= self.seeds.len() + usize::from(has_content) {
            return Ok(None);
        }
        if index == 0 {
            add(&self.counts.maps);
        }
        if let Some(barrier) = &self.map_barrier {
            barrier.wait().await;
        }
        if self.map_ms > 0 {
            self.spend(self.map_ms, cx).await?;
        }
        if self.map_fails {
            return Err(LabError("map"));
        }
        let mut needs = Vec::new();
        let mut words = Vec::new();
        for (input, id) in self.inputs.iter().zip(&self.ids) {
            if index == self.seeds.len() && input.has_content_key {
                let need = Need::content(*id).of_output(input.output);
                needs.push(input.selector.map_or(need.clone(), |selector| need.selecting(selector)));
                words.push(String::new());
            } else {
                needs.push(Need::key(*id));
                let selector = input.selector.map_or(String::new(), |selector| format!("@{selector}"));
                words.push(format!("/{}{selector}", input.output));
            }
        }
        needs.extend(self.ids[self.inputs.len()..].iter().map(|id| Need::key(*id)));
        words.resize(needs.len(), String::new());
        let seed = self.seeds.get(index).cloned().unwrap_or_else(|| format!("~{}", self.seeds[0]));
        Ok(Some(CacheMap::of(needs, move |keys| {
            let parts: Vec<_> = keys.iter().zip(&words).map(|(key, word)| format!("{key}{word}")).collect();
            let key = format!("{seed}({})", parts.join(" "));
            // Short, however deep the graph is.
            if key.len() < 200 { key } else { format!("{}#{:016x}", &seed, hash(&key)) }
        })))
    }

    async fn execute(&self, _: &String, inputs: Inputs<Self>, cx: &Context<Self>) -> Result<Value, LabError> {
        add(&self.counts.execs);
        self.counts.order.lock().unwrap().push(self.name.to_owned());
        let running = self.counts.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.counts.running_max.fetch_max(running, Ordering::SeqCst);
        if self.reach == Reach::Closure {
            let closure = inputs.closure().into_iter().map(|(vertex, _)| vertex.map(VertexId::index)).collect();
            self.counts.closures.lock().unwrap().push(closure);
        }
        if let Some(barrier) = &self.barrier {
            barrier.wait().await;
        }
        for (ms, report) in &self.reports {
            sleep(Duration::from_millis(*ms)).await;
            cx.report(report);
        }
        let spent = self.spend(self.ms, cx).await;
        let mut value = self.value + inputs.direct().map(|(_, value)| value[0]).sum::<i64>();
        if let Some(nested) = self.nested {
            self.counts.running.fetch_sub(1, Ordering::SeqCst);
            let (dag, targets) = nested(&self.counts);
            let built = cx.build(dag, &targets).await;
            self.counts.running.fetch_add(1, Ordering::SeqCst);
            value += built.map_err(|_| LabError("nested"))?.iter().map(|value| value[0]).sum::<i64>();
        }
        self.counts.running.fetch_sub(1, Ordering::SeqCst);
        spent?;
        if self.fails {
            return Err(LabError("exec"));
        }
        Ok((0..self.n_outputs).map(|output| value + i64::from(output)).collect())
    }

    fn output(&self, result: &Value, index: u32) -> Value {
        Arc::from([result[index as usize]])
    }

    async fn content(
        &self,
        _: &String,
        output: &Value,
        _selector: Option<&str>,
        _: &Context<Self>,
    ) -> Result<String, LabError> {
        add(&self.counts.contents);
        if self.content_fails { Err(LabError("content")) } else { Ok(format!("sum {}", output[0])) }
    }
}

impl Sum {
    async fn spend(&self, ms: u64, cx: &Context<Self>) -> Result<(), LabError> {
        tokio::select! {
            biased;
            () = cx.stop().requested(), if self.heeds => {
                sleep(Duration::from_millis(self.lingers_ms)).await;
                Err(LabError("stopped"))
            }
            () = sleep(Duration::from_millis(ms)) => Ok(()),
        }
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A cache in memory that counts, and fails or hangs when told to.
#[derive(Clone)]
pub(super) struct LabCache {
    pub(super) memory: MemoryCache<Sum>,
    pub(super) counts: Arc<Counts>,
    pub(super) fails_loads: Arc<AtomicBool>,
    pub(super) fails_saves: Arc<AtomicBool>,
    pub(super) hangs: Arc<AtomicBool>,
    /// How long each save takes.
    pub(super) save_ms: Arc<AtomicU64>,
}

impl LabCache {
    pub(super) fn new(counts: &Arc<Counts>) -> Self {
        let (memory, counts) = (MemoryCache::new(), Arc::clone(counts));
        let [fails_loads, fails_saves, hangs] = [(); 3].map(|()| Arc::default());
        Self { memory, counts, fails_loads, fails_saves, hangs, save_ms: Arc::default() }
    }
}

impl CacheManager<Sum> for LabCache {
    async fn query(&self, key: &String) -> Result<Option<Found<String>>, LabError> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.memory.query(key).await
    }

    async fn load(&self, record: &Record<String>) -> Result<Option<Value>, LabError> {
        add(&self.counts.loads);
        if self.fails_loads.load(Ordering::SeqCst) {
            return Err(LabError("load"));
        }
        self.memory.load(record).await
    }

    async fn save(&self, save: Save<'_, Sum>) -> Result<(), LabError> {
        match self.save_ms.load(Ordering::SeqCst) {
            0 => {}
            ms => sleep(Duration::from_millis(ms)).await,
        }
        if self.fails_saves.load(Ordering::SeqCst) {
            return Err(LabError("save"));
        }
        self.memory.save(save).await
    }

    async fn link(&self, alias: &String, key: &String) -> Result<(), LabError> {
        self.memory.link(alias, key).await
    }

    async fn digest(&self, key: &String, output: u32, selector: Option<&str>) -> Result<Option<String>, LabError> {
        self.memory.digest(key, output, selector).await
    }

    async fn remember(
        &self,
        key: &String,
        output: u32,
        selector: Option<&str>,
        digest: &String,
    ) -> Result<(), LabError> {
        self.memory.remember(key, output, selector, digest).await
    }

    async fn release(&self, record: &Record<String>) -> Result<(), LabError> {
        self.memory.release(record).await
    }
}

/// A solver with what it counts.
pub(super) struct Lab {
    pub(super) solver: Solver<Sum>,
    pub(super) counts: Arc<Counts>,
    pub(super) cache: LabCache,
    n_jobs: AtomicUsize,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(|config| config)
    }

    pub(super) fn with(configure: impl FnOnce(Config<Sum>) -> Config<Sum>) -> Self {
        let counts = Arc::default();
        let cache = LabCache::new(&counts);
        let solver = Solver::new(configure(Config::new().cache(cache.clone())));
        Self { solver, counts, cache, n_jobs: AtomicUsize::new(0) }
    }

    pub(super) fn job(&self) -> Job<Sum> {
        self.job_with(OnFailure::Stop)
    }

    pub(super) fn job_with(&self, on_failure: OnFailure) -> Job<Sum> {
        let n = self.n_jobs.fetch_add(1, Ordering::SeqCst);
        self.solver
            .job(format!("job {n}"), JobOptions { on_failure, ..JobOptions::default() })
            .expect("the name is new")
    }

    /// Builds the last vertex in a job of its own, which is discarded.
    pub(super) async fn once(&self, vertices: &[Sum]) -> Result<i64, BuildError<LabError>> {
        let job = self.job();
        let value = self.build(&job, vertices).await;
        job.discard();
        // A job that follows finds nothing of this one in memory.
        self.solver.census().await;
        value
    }

    /// Builds the last vertex.
    pub(super) async fn build(&self, job: &Job<Sum>, vertices: &[Sum]) -> Result<i64, BuildError<LabError>> {
        let (dag, ids) = self.graph(vertices);
        let built = job.build(dag, &ids[ids.len() - 1..]).await?;
        Ok(built.outputs[0][0])
    }

    pub(super) fn graph(&self, vertices: &[Sum]) -> (Dag<Sum>, Vec<VertexId>) {
        graph(&self.counts, vertices)
    }

    /// Returns how many vertices executed and how many results were loaded since this was last asked.
    pub(super) fn take(&self) -> (usize, usize) {
        (self.counts.execs.swap(0, Ordering::SeqCst), self.counts.loads.swap(0, Ordering::SeqCst))
    }

    /// Returns how many first cache maps were asked since this was last asked.
    pub(super) fn take_maps(&self) -> usize {
        self.counts.maps.swap(0, Ordering::SeqCst)
    }
}

pub(super) fn graph(counts: &Arc<Counts>, vertices: &[Sum]) -> (Dag<Sum>, Vec<VertexId>) {
    let mut places = DagBuilder::new();
    let ids: Vec<_> = vertices.iter().map(|_| places.add(())).collect();
    let mut builder = DagBuilder::new();
    for vertex in vertices {
        let mut vertex = vertex.clone();
        vertex.counts = Arc::clone(counts);
        vertex.ids = vertex.inputs.iter().map(|input| ids[input.place]).collect();
        vertex.ids.extend(vertex.late.iter().map(|place| ids[*place]));
        let sources = vertex.sources.iter().map(|name| (*name).into()).collect();
        let options = VertexOptions { ignores_cache: vertex.ignores_cache, sources, is_never_exported: false };
        builder.add_with(vertex, options);
    }
    for (id, vertex) in ids.iter().zip(vertices) {
        for input in &vertex.inputs {
            builder.edge_to(*id, Edge { input: ids[input.place], output: input.output, kind: EdgeKind::Keyed });
        }
    }
    (builder.build().expect("the graph has no cycle"), ids)
}

pub(super) async fn ms(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}
