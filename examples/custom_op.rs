//! A graph with no R in it: a small C build that caches, cuts off early, and can be cancelled.
//!
//!     cargo run --example custom_op
//!
//! A vertex is a source file, an object, or the program linked from the objects. An object is named by the names of what
//! it is made from, and if that is new by what those say: a file that changed only in its comments makes no new object.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use larder_graph::{
    BuildError, CacheMap, Config, Context, CycleError, Dag, DagBuilder, EdgeKind, Inputs, Job, JobOptions, Limits,
    MemoryCache, Need, Op, Outcome, Phase, Resources, Solver, Told, VertexId,
};

struct Step {
    name: &'static str,
    action: Action,
}

enum Action {
    Read { text: &'static str },
    Compile { inputs: Vec<VertexId> },
    Link { inputs: Vec<VertexId> },
}

#[derive(Debug, thiserror::Error)]
#[error("asked to stop")]
struct Stopped;

impl Op for Step {
    type Key = u64;
    type Output = String;
    type Error = Stopped;
    type Progress = ();

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn resources(&self, phase: Phase) -> Resources {
        match (phase, &self.action) {
            (Phase::Execute, Action::Compile { .. } | Action::Link { .. }) => Resources::none().take("cpu", 1),
            _ => Resources::none(),
        }
    }

    async fn cache_map(&self, index: usize, _: &Context<Self>) -> Result<Option<CacheMap<u64>>, Stopped> {
        Ok(match (index, &self.action) {
            (0, Action::Read { text }) => Some(CacheMap::leaf(digest(&("read", text))).last()),
            (0, Action::Compile { inputs }) => {
                Some(CacheMap::new(inputs.iter().copied(), |keys| digest(&("compile", keys))))
            }
            (1, Action::Compile { inputs }) => {
                Some(CacheMap::of(inputs.iter().copied().map(Need::content), |contents| digest(&("code", contents))))
            }
            (0, Action::Link { inputs }) => Some(CacheMap::new(inputs.iter().copied(), |keys| digest(&("link", keys)))),
            _ => None,
        })
    }

    async fn execute(&self, _: &u64, inputs: Inputs<Self>, cx: &Context<Self>) -> Result<String, Stopped> {
        let parts: Vec<_> = inputs.direct().map(|(_, output)| output).collect();
        match &self.action {
            Action::Read { text } => Ok((*text).to_owned()),
            Action::Compile { .. } => tokio::select! {
                () = cx.stop().requested() => Err(Stopped),
                () = tokio::time::sleep(Duration::from_millis(20)) => Ok(format!("object({})", parts.join(", "))),
            },
            Action::Link { .. } => Ok(format!("program({})", parts.join(", "))),
        }
    }

    // What the compiler sees of a file: all but its comments.
    async fn content(&self, _: &u64, output: &String, _: Option<&str>, _: &Context<Self>) -> Result<u64, Stopped> {
        Ok(digest(&output.split("//").next()))
    }
}

fn digest(parts: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// `main` from two objects; both see the header, only one sees `util.c`.
fn program(util: &'static str) -> Result<(Dag<Step>, VertexId), CycleError> {
    let mut builder = DagBuilder::new();
    let mut add = |name, action| {
        let inputs = match &action {
            Action::Read { .. } => Vec::new(),
            Action::Compile { inputs } | Action::Link { inputs } => inputs.clone(),
        };
        let vertex = builder.add(Step { name, action });
        for input in inputs {
            builder.edge(vertex, input, EdgeKind::Keyed);
        }
        vertex
    };
    let header = add("util.h", Action::Read { text: "int twice(int);" });
    let util = add("util.c", Action::Read { text: util });
    let main = add("main.c", Action::Read { text: "int main() { return twice(21); }" });
    let objects = vec![
        add("util.o", Action::Compile { inputs: vec![header, util] }),
        add("main.o", Action::Compile { inputs: vec![header, main] }),
    ];
    let program = add("main", Action::Link { inputs: objects });
    Ok((builder.build()?, program))
}

/// Returns what happened to each step, in the order in which it did.
async fn story(job: Job<Step>, dag: &Dag<Step>) -> String {
    let (mut status, mut story) = (job.status(), Vec::new());
    job.discard();
    while let Some(event) = status.next().await {
        let Told::Ended(settled) = &event.told else { continue };
        let verb = match settled.outcome {
            Outcome::Executed(_) => "ran",
            Outcome::Loaded(_) | Outcome::Found => "had",
            _ => "gave up",
        };
        story.push(format!("{verb} {}", dag.op(event.vertex.vertex).name));
    }
    story.join(", ")
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let solver = Solver::new(Config::from(Limits::new().pool("cpu", 1)).cache(MemoryCache::new()));
    for (title, util, is_cancelled) in [
        ("first build", "int twice(int x) { return x + x; }", false),
        ("nothing changed", "int twice(int x) { return x + x; }", false),
        ("util.c commented", "int twice(int x) { return x + x; }// Twice x.", false),
        ("util.c edited, cancelled", "int twice(int x) { return 2 * x; }", true),
        ("util.c edited", "int twice(int x) { return 2 * x; }", false),
    ] {
        let (dag, target) = program(util)?;
        let (dag, job) = (Arc::new(dag), solver.job(title, JobOptions::default())?);
        // Dropping the future cancels the build.
        let patience = Duration::from_millis(if is_cancelled { 5 } else { 60_000 });
        let built = tokio::time::timeout(patience, job.build(Arc::clone(&dag), &[target])).await;
        assert_eq!(built.is_err(), is_cancelled);
        built.ok().transpose().map_err(|error: BuildError<Stopped>| error.to_string())?;
        println!("{title}: {}", story(job, &dag).await);
    }
    Ok(())
}
