// The op of the examples in the documentation, which include this file: it puts its word behind those of its inputs.

use std::sync::Arc;

use larder_graph::{CacheMap, Context, Dag, DagBuilder, EdgeKind, Inputs, Op, VertexId};

/// A word, with the vertices whose words come before it. The word `oops` fails.
pub struct Say(pub &'static str, pub Vec<VertexId>);

/// Why a word cannot be said.
#[derive(Debug, PartialEq, Eq)]
pub struct NoWord;

impl std::fmt::Display for NoWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("that is no word")
    }
}

impl std::error::Error for NoWord {}

impl Op for Say {
    type Key = String;
    type Output = Arc<str>;
    type Error = NoWord;
    type Progress = u64;

    fn name(&self) -> String {
        self.0.to_owned()
    }

    async fn cache_map(&self, _: usize, _: &Context<Self>) -> Result<Option<CacheMap<String>>, NoWord> {
        let word = self.0;
        Ok(Some(CacheMap::new(self.1.clone(), move |keys| format!("{word}({})", keys.join(" "))).last()))
    }

    async fn execute(&self, _: &String, inputs: Inputs<Self>, cx: &Context<Self>) -> Result<Arc<str>, NoWord> {
        if self.0 == "oops" {
            return Err(NoWord);
        }
        cx.report(100);
        let before: String = inputs.direct().map(|(_, words)| format!("{words} ")).collect();
        Ok(format!("{before}{}", self.0).into())
    }
}

/// Words, each of which comes after the one before it.
pub fn say<const N: usize>(words: [&'static str; N]) -> (Arc<Dag<Say>>, [VertexId; N]) {
    let mut builder = DagBuilder::new();
    let mut before: Option<VertexId> = None;
    let ids = words.map(|word| {
        let id = builder.add(Say(word, before.into_iter().collect()));
        if let Some(before) = before {
            builder.edge(id, before, EdgeKind::Keyed);
        }
        *before.insert(id)
    });
    (Arc::new(builder.build().expect("a line is no cycle")), ids)
}

/// Runs an example to its end.
pub fn block_on<T>(example: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("no I/O is asked for").block_on(example)
}
