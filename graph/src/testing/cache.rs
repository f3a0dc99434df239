//! A cache that has what the scripts say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{FULL, Record as Entry, Recorder, Script, Scripted, ScriptedError};
use crate::cache::{CacheManager, Found, Record, Save};
use crate::dag::{Dag, VertexId};
use crate::op::Phase;

/// Finds what a [`Script`] says is cached, and takes the time that it says. It keeps nothing.
#[derive(Debug)]
pub struct ScriptedCache {
    scripts: HashMap<String, (VertexId, Script, Option<Recorder>)>,
}

impl ScriptedCache {
    /// Knows the scripts of these ops, by name.
    pub fn of(dag: &Dag<Scripted>) -> Self {
        let scripts = dag.vertices().map(|vertex| {
            let Scripted { script, recorder } = dag.op(vertex);
            (script.name.clone(), (vertex, script.clone(), recorder.clone()))
        });
        Self { scripts: scripts.collect() }
    }

    fn script(&self, key: &str) -> Option<&(VertexId, Script, Option<Recorder>)> {
        let name = key.split('(').next().unwrap_or_default();
        self.scripts.get(name.split('@').next().unwrap_or_default())
    }
}

impl CacheManager<Scripted> for ScriptedCache {
    async fn query(&self, key: &String) -> Result<Option<Found<String>>, ScriptedError> {
        let Some((_, script, _)) = self.script(key) else { return Ok(None) };
        let name = key.split('(').next().unwrap_or_default();
        if script.cached_at.is_some_and(|index| script.map_name(index) == name) {
            let record = Record { key: key.clone(), id: String::new(), created_at: 0, priority: 0, source: None };
            return Ok(Some(Found { key: key.clone(), records: vec![record] }));
        }
        tokio::time::sleep(Duration::from_millis(script.load_ms)).await;
        if script.load_fails { Err(ScriptedError("query")) } else { Ok(None) }
    }

    async fn load(&self, record: &Record<String>) -> Result<Option<Arc<str>>, ScriptedError> {
        let Some((vertex, script, recorder)) = self.script(&record.key) else { return Ok(None) };
        let note = |entry| {
            if let Some(recorder) = recorder {
                recorder.push(entry);
            }
        };
        note(Entry::Entered(*vertex, Phase::Load));
        tokio::time::sleep(Duration::from_millis(script.load_ms)).await;
        note(Entry::Left(*vertex, Phase::Load));
        if script.load_fails {
            return Err(if script.fails_for_all { FULL } else { ScriptedError("load") });
        }
        Ok(Some(script.name.as_str().into()))
    }

    async fn save(&self, _: Save<'_, Scripted>) -> Result<(), ScriptedError> {
        Ok(())
    }

    async fn link(&self, _: &String, _: &String) -> Result<(), ScriptedError> {
        Ok(())
    }

    async fn digest(&self, _: &String, _: u32, _: Option<&str>) -> Result<Option<String>, ScriptedError> {
        Ok(None)
    }

    async fn remember(&self, _: &String, _: u32, _: Option<&str>, _: &String) -> Result<(), ScriptedError> {
        Ok(())
    }

    async fn release(&self, _: &Record<String>) -> Result<(), ScriptedError> {
        Ok(())
    }
}
