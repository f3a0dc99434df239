//! A graph with no R in it: a small C build, with a cache in memory.
//!
//!     cargo run --example custom_op
//!
//! A vertex is a source file, an object made from a source and a header, or the program linked from the objects.
//! The second build loads everything; after an edit only what depends on the edited file runs again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_graph::{
    CacheMap, Context, CycleError, Dag, DagBuilder, EdgeKind, Event, Inputs, Limits, OnFailure, Op, Outcome, Phase,
    Resources, Stop, VertexId, run,
};

/// Results of earlier builds, by key.
type Cache = Arc<Mutex<HashMap<u64, String>>>;

struct Step {
    name: &'static str,
    action: Action,
    cache: Cache,
}

enum Action {
    Read { text: &'static str },
    Compile { inputs: Vec<VertexId> },
    Link { inputs: Vec<VertexId> },
}

impl Op for Step {
    type Key = u64;
    type Output = String;
    type Error = Infallible;
    type Progress = Infallible;

    fn resources(&self, phase: Phase) -> Resources {
        match (phase, &self.action) {
            (Phase::Execute, Action::Compile { .. } | Action::Link { .. }) => Resources::none().take("cpu", 1),
            _ => Resources::none(),
        }
    }

    // A file is named by its text, all else by the action and the keys of what it is made from.
    async fn cache_map(&self, index: usize, _: &Context<Self>) -> Result<Option<CacheMap<u64>>, Infallible> {
        if index > 0 {
            return Ok(None);
        }
        Ok(Some(match &self.action {
            Action::Read { text } => CacheMap::leaf(digest(&("read", text))),
            Action::Compile { inputs } => CacheMap::new(inputs.clone(), |keys| digest(&("compile", keys))),
            Action::Link { inputs } => CacheMap::new(inputs.clone(), |keys| digest(&("link", keys))),
        }))
    }

    async fn load(&self, key: &u64, _: &Context<Self>) -> Result<Option<String>, Infallible> {
        Ok(self.cache.lock().expect("nobody panics with the cache").get(key).cloned())
    }

    async fn execute(&self, key: &u64, inputs: Inputs<Self>, _: &Context<Self>) -> Result<String, Infallible> {
        let parts: Vec<_> = inputs.direct().map(|(_, output)| output).collect();
        let output = match &self.action {
            Action::Read { text } => (*text).to_owned(),
            Action::Compile { .. } => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                format!("object({})", parts.join(", "))
            }
            Action::Link { .. } => format!("program({})", parts.join(", ")),
        };
        self.cache.lock().expect("nobody panics with the cache").insert(*key, output.clone());
        Ok(output)
    }
}

fn digest(parts: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// `main` from two objects; both see the header, only one sees `util.c`.
fn program(cache: &Cache, util: &'static str) -> Result<Dag<Step>, CycleError> {
    let mut builder = DagBuilder::new();
    let mut add = |name, action| {
        let inputs = match &action {
            Action::Read { .. } => Vec::new(),
            Action::Compile { inputs } | Action::Link { inputs } => inputs.clone(),
        };
        let vertex = builder.add(Step { name, action, cache: Arc::clone(cache) });
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
    add("main", Action::Link { inputs: objects });
    builder.build()
}

/// Builds, and returns what happened to each step, in the order in which it did.
async fn build(dag: Dag<Step>) -> String {
    let dag = Arc::new(dag);
    let mut story = Vec::new();
    let events = |event: Event<'_, Step>| {
        if let Event::Settled { vertex, settled } = event {
            let verb = if matches!(settled.outcome, Outcome::Loaded(_)) { "loaded" } else { "ran" };
            story.push(format!("{verb} {}", dag.op(vertex).name));
        }
    };
    run(Arc::clone(&dag), Limits::new().pool("cpu", 1), OnFailure::Stop, Stop::new(), events).await;
    story.join(", ")
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), CycleError> {
    let cache = Cache::default();
    for (title, util) in [
        ("first build", "int twice(int x) { return x + x; }"),
        ("nothing changed", "int twice(int x) { return x + x; }"),
        ("util.c edited", "int twice(int x) { return 2 * x; }"),
    ] {
        println!("{title}: {}", build(program(&cache, util)?).await);
    }
    Ok(())
}
