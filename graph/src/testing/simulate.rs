//! From a graph and a script in one line each to a trace in one line.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::time::{sleep, timeout};

use super::{Recorder, Script, Scripted, ScriptedCache};
use crate::config::Config;
use crate::dag::{Dag, DagBuilder, EdgeKind, VertexId};
use crate::error::Failure;
use crate::event::{Event, Outcome, Report};
use crate::limits::Limits;
use crate::op::Phase;
use crate::run::{OnFailure, run};
use crate::stop::Stop;

/// A run of scripted ops, in the making.
///
/// ```
/// use larder_graph::testing::Simulation;
///
/// let simulation = Simulation::new("main <- lib; docs", "lib: fail; docs: cached").pool("cpu", 2).keep_going();
/// let recorder = simulation.recorder();
/// assert_eq!(simulation.trace(), "start lib | load docs | fail lib | skip main (lib)");
/// assert!(!recorder.take().is_empty());
/// ```
pub struct Simulation {
    dag: Arc<Dag<Scripted>>,
    recorder: Recorder,
    limits: Limits,
    on_failure: OnFailure,
    request_at: Option<Duration>,
    force_at: Option<Duration>,
    shows_phases: bool,
}

impl Simulation {
    /// Reads a graph such as `curl; httr <- curl; rlang` and a script such as `curl: fail; rlang: cached ms=5`.
    ///
    /// `a <- b c` says that `a` waits for `b` and `c`; in `a <= b` the key of `b` enters the key of `a` besides. For
    /// the words of a script see the fields of [`Script`]; what is not scripted executes in 10 ms.
    ///
    /// # Panics
    /// When the text is not such a graph or script.
    pub fn new(graph: &str, script: &str) -> Self {
        let clauses = || graph.split(';').map(|clause| clause.split_whitespace().collect::<Vec<_>>());
        // Ids are places, so they are known before the ops are.
        let recorder = Recorder::default();
        let mut ids = HashMap::new();
        let mut places = DagBuilder::new();
        let mut ops = Vec::new();
        let names = clauses().filter_map(|words| words.first().copied());
        for name in names.chain(clauses().flat_map(|words| words.into_iter().skip(1)).filter(|word| !is_arrow(word))) {
            ids.entry(name).or_insert_with(|| {
                let script = Script { name: name.to_owned(), ..Script::default() };
                ops.push(Scripted { script, recorder: Some(recorder.clone()) });
                places.add(())
            });
        }
        let vertex = |name: &str| *ids.get(name).unwrap_or_else(|| panic!("no vertex is called `{name}`"));
        let mut edges = Vec::new();
        for words in clauses() {
            let [dependant, rest @ ..] = &words[..] else { continue };
            let mut kind = EdgeKind::Ordering;
            for word in rest {
                match *word {
                    "<-" => kind = EdgeKind::Ordering,
                    "<=" => kind = EdgeKind::Keyed,
                    input => edges.push((vertex(dependant), vertex(input), kind)),
                }
            }
        }
        for clause in script.split(';').filter(|clause| !clause.trim().is_empty()) {
            let (name, words) = clause.split_once(':').expect("a clause of a script is `name: word word`");
            let op: &mut Scripted = &mut ops[vertex(name.trim()).index()];
            words.split_whitespace().for_each(|word| op.script.add_word(word, vertex));
        }
        for &(dependant, input, kind) in &edges {
            if kind == EdgeKind::Keyed {
                ops[dependant.index()].script.keyed.push(input);
            }
        }
        let mut builder = DagBuilder::new();
        for op in ops {
            builder.add(op);
        }
        for (dependant, input, kind) in edges {
            builder.edge(dependant, input, kind);
        }
        Self { recorder, ..Self::of(builder.build().expect("the graph has no cycle")) }
    }

    /// Takes a graph that is there already.
    pub fn of(dag: Dag<Scripted>) -> Self {
        Self {
            dag: Arc::new(dag),
            recorder: Recorder::default(),
            limits: Limits::new(),
            on_failure: OnFailure::Stop,
            request_at: None,
            force_at: None,
            shows_phases: false,
        }
    }

    /// Returns the log of what the ops do, of a graph that was given as text.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Limits a pool.
    #[must_use]
    pub fn pool(mut self, name: &'static str, size: u32) -> Self {
        self.limits = self.limits.pool(name, size);
        self
    }

    /// Goes on after a failure.
    #[must_use]
    pub fn keep_going(mut self) -> Self {
        self.on_failure = OnFailure::KeepGoing;
        self
    }

    /// Requests a stop at this time.
    #[must_use]
    pub fn request_at_ms(mut self, ms: u64) -> Self {
        self.request_at = Some(Duration::from_millis(ms));
        self
    }

    /// Forces a stop at this time.
    #[must_use]
    pub fn force_at_ms(mut self, ms: u64) -> Self {
        self.force_at = Some(Duration::from_millis(ms));
        self
    }

    /// Shows the starts of cache maps and loads too.
    #[must_use]
    pub fn phases(mut self) -> Self {
        self.shows_phases = true;
        self
    }

    /// Runs, and returns what happened: `start curl | fail curl | skip httr (curl)`.
    pub fn trace(self) -> String {
        let mut trace = Vec::new();
        let (dag, shows_phases) = (Arc::clone(&self.dag), self.shows_phases);
        self.report(|event| trace.extend(line(&dag, shows_phases, &event)));
        trace.join(" | ")
    }

    /// Runs, and returns how it ended.
    pub fn report(self, events: impl FnMut(Event<'_, Scripted>)) -> Report<Scripted> {
        let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime without I/O needs nothing").block_on(async {
            let stop = Stop::new();
            let config = Config::from(self.limits).cache(ScriptedCache::of(&self.dag));
            let running = run(self.dag, config, self.on_failure, stop.clone(), events);
            // Virtual: a year passes only if nothing else will ever happen.
            let running = async { timeout(Duration::from_hours(8760), running).await.expect("the run ends") };
            let stopping = async {
                if let Some(at) = self.request_at {
                    sleep(at).await;
                    stop.request();
                }
                if let Some(at) = self.force_at {
                    sleep(at.saturating_sub(self.request_at.unwrap_or_default())).await;
                    stop.force();
                }
                std::future::pending().await
            };
            tokio::select! {
                biased;
                report = running => report,
                report = stopping => report,
            }
        })
    }
}

fn is_arrow(word: &str) -> bool {
    matches!(word, "<-" | "<=")
}

fn line(dag: &Dag<Scripted>, shows_phases: bool, event: &Event<'_, Scripted>) -> Option<String> {
    let name = |vertex: VertexId| dag.op(vertex).script.name.as_str();
    let (vertex, text) = match event {
        Event::Started { vertex, phase: Phase::Execute } => return Some(format!("start {}", name(*vertex))),
        Event::Started { .. } if !shows_phases => return None,
        Event::Started { vertex, phase: Phase::CacheMap(index) } => {
            return Some(format!("map{index} {}", name(*vertex)));
        }
        Event::Started { vertex, phase: Phase::Query } => return Some(format!("look {}", name(*vertex))),
        Event::Started { .. } => return None,
        Event::Progress { vertex, progress } => return Some(format!("{} {progress}", name(*vertex))),
        Event::CacheFailed { vertex, .. } => return Some(format!("cache-failed {}", name(*vertex))),
        Event::Settled { vertex, settled } => (*vertex, &settled.outcome),
    };
    let name_of_vertex = name(vertex);
    Some(match text {
        Outcome::Loaded(_) => format!("load {name_of_vertex}"),
        Outcome::Executed(_) => format!("done {name_of_vertex}"),
        Outcome::Failed(failure) => match &**failure {
            Failure::LateCycle(error) => {
                let cycle: Vec<_> = error.cycle.iter().map(|vertex| name(*vertex)).collect();
                format!("fail {name_of_vertex} (cycle: {})", cycle.join(" "))
            }
            _ => format!("fail {name_of_vertex}"),
        },
        Outcome::Skipped { because } => format!("skip {name_of_vertex} ({})", name(*because)),
        Outcome::Stopped => format!("stop {name_of_vertex}"),
        Outcome::Found => format!("found {name_of_vertex}"),
    })
}
