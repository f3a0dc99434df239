//! Ops that follow a script, a recorder of what they did, and a simulator from text to text, on virtual time.
//!
//! For tests of this crate and, behind the feature `testing`, of others.

mod cache;
pub mod contract;
mod script;
mod simulate;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::context::{Context, Inputs};
use crate::dag::VertexId;
use crate::limits::Resources;
use crate::op::{CacheMap, Op, Phase};

pub use cache::ScriptedCache;
pub use script::Script;
pub use simulate::Simulation;

/// An op that does what its script says and takes the (virtual) time its script says. Its result is its name.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    /// What to do.
    pub script: Script,
    /// Where to write down what was done.
    pub recorder: Option<Recorder>,
}

/// An error that a script asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scripted: {0}")]
pub struct ScriptedError(pub &'static str);

/// The error that all others would meet too.
const FULL: ScriptedError = ScriptedError("full");

/// One thing an op did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The body of a phase began.
    Entered(VertexId, Phase),
    /// The body of a phase ended.
    Left(VertexId, Phase),
    /// The body of execute was given these inputs.
    Given {
        /// The vertex that executes.
        vertex: VertexId,
        /// What [`Inputs::direct`] gave.
        direct: Vec<VertexId>,
        /// What [`Inputs::closure`] gave.
        closure: Vec<VertexId>,
    },
}

/// A log that ops share.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Record>>>);

impl Recorder {
    fn push(&self, record: Record) {
        self.0.lock().expect("no scripted op panics while it records").push(record);
    }

    /// Takes out what was recorded so far.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut self.0.lock().expect("no scripted op panics while it records"))
    }
}

impl Scripted {
    fn record(&self, record: Record) {
        if let Some(recorder) = &self.recorder {
            recorder.push(record);
        }
    }

    /// Spends the phase's time; ends early, with an error, if the script heeds a stop.
    async fn spend(&self, ms: u64, cx: &Context<Self>) -> Result<(), ScriptedError> {
        if ms == 0 {
            return Ok(());
        }
        let (heeds_request, heeds_force) = (self.script.heeds_request, self.script.heeds_force);
        tokio::select! {
            biased;
            () = cx.stop().requested(), if heeds_request => Err(ScriptedError("stopped")),
            () = cx.stop().forced(), if heeds_force => Err(ScriptedError("killed")),
            () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(()),
        }
    }
}

/// Keeps keys readable while they are short, and from doubling with each step of a ladder.
fn shortened(keys: String) -> String {
    if keys.len() < 100 {
        return keys;
    }
    let mut hasher = DefaultHasher::new();
    keys.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

impl Op for Scripted {
    type Key = String;
    type Output = Arc<str>;
    type Error = ScriptedError;
    type Progress = &'static str;

    fn is_general(error: &ScriptedError) -> bool {
        *error == FULL
    }

    fn weight(&self) -> u64 {
        self.script.weight.unwrap_or(self.script.ms)
    }

    fn resources(&self, phase: Phase) -> Resources {
        let takes = match phase {
            Phase::CacheMap(_) => &self.script.map_takes,
            Phase::Load | Phase::Query => &self.script.load_takes,
            Phase::Content => return Resources::none(),
            Phase::Execute => &self.script.takes,
        };
        takes.iter().fold(Resources::none(), |resources, (pool, amount)| resources.take(pool, *amount))
    }

    async fn cache_map(&self, index: usize, cx: &Context<Self>) -> Result<Option<CacheMap<String>>, ScriptedError> {
        if index >= self.script.n_maps {
            return Ok(None);
        }
        self.record(Record::Entered(cx.vertex(), Phase::CacheMap(index)));
        let spent = self.spend(self.script.map_ms, cx).await;
        self.record(Record::Left(cx.vertex(), Phase::CacheMap(index)));
        spent?;
        if self.script.map_fails_at == Some(index) {
            return Err(ScriptedError("cache map"));
        }
        let name = self.script.map_name(index);
        let mut inputs = self.script.keyed.clone();
        if index + 1 == self.script.n_maps {
            inputs.extend(&self.script.late);
        }
        if inputs.is_empty() {
            return Ok(Some(CacheMap::leaf(name)));
        }
        Ok(Some(CacheMap::new(inputs, move |keys| format!("{name}({})", shortened(keys.join(" "))))))
    }

    async fn execute(
        &self,
        _key: &String,
        inputs: Inputs<Self>,
        cx: &Context<Self>,
    ) -> Result<Arc<str>, ScriptedError> {
        self.record(Record::Entered(cx.vertex(), Phase::Execute));
        if self.recorder.is_some() {
            let direct = inputs.direct().filter_map(|(vertex, _)| vertex).collect();
            let closure = inputs.closure().into_iter().filter_map(|(vertex, _)| vertex).collect();
            self.record(Record::Given { vertex: cx.vertex(), direct, closure });
        }
        if self.script.reports {
            cx.report("half-way");
        }
        let spent = self.spend(self.script.ms, cx).await;
        self.record(Record::Left(cx.vertex(), Phase::Execute));
        spent?;
        assert!(!self.script.panics, "scripted panic");
        if self.script.fails_for_all {
            return Err(FULL);
        }
        if self.script.fails { Err(ScriptedError("execute")) } else { Ok(self.script.name.as_str().into()) }
    }
}
