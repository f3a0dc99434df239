//! `solve library create`, `workers` and `rm`: the libraries of workers. None needs R.

use std::fmt::Write;
use std::path::PathBuf;

use larder_ops::workers::{Life, WorkerId, Workers};
use serde::Serialize;

use crate::cli::StoreArgs;
use crate::commands::{CommandError, Env, store_of};
use crate::exit::Exit;
use crate::ui;

/// One library of a worker as programs read it.
#[derive(Serialize)]
struct Line {
    v: u8,
    reason: &'static str,
    id: String,
    library: String,
    made_at: String,
    size_bytes: u64,
    owner: Option<u32>,
    /// Null where that cannot be known from here.
    alive: Option<bool>,
}

pub(super) fn create(owner: Option<u32>, store: &StoreArgs, env: &Env) -> Result<Exit, CommandError> {
    let workers = Workers::of(&store_of(store, env)?);
    // Whoever makes room for a new one is a good time to clear away the old ones.
    workers.sweep()?;
    let worker = workers.create(owner)?;
    ui::print_data(&format!("{}\n", worker.library.display()));
    Ok(Exit::Done)
}

pub(super) fn list(is_json: bool, store: &StoreArgs, env: &Env) -> Result<Exit, CommandError> {
    let mut text = String::new();
    for worker in Workers::of(&store_of(store, env)?).list()? {
        let made_at = humantime::format_rfc3339_seconds(worker.made).to_string();
        let size_bytes = worker.size_bytes()?;
        if is_json {
            let line = Line {
                v: 1,
                reason: "worker",
                id: worker.id.to_string(),
                library: worker.library.display().to_string(),
                made_at,
                size_bytes,
                owner: worker.owner,
                alive: match worker.life {
                    Life::Alive => Some(true),
                    Life::Ended => Some(false),
                    Life::Unknown => None,
                },
            };
            let _ = writeln!(text, "{}", serde_json::to_string(&line).expect("strings and numbers"));
        } else {
            let owner = match (worker.owner, worker.life) {
                (None, _) => "no owner".to_owned(),
                (Some(pid), Life::Alive) => format!("process {pid}"),
                (Some(pid), Life::Ended) => format!("process {pid}, which has ended"),
                (Some(pid), Life::Unknown) => format!("process {pid} of another machine or container"),
            };
            let megabytes = size_bytes.div_ceil(1_000_000);
            let _ = writeln!(text, "{}  {made_at}  {megabytes:>5} MB  {owner}", worker.id);
        }
    }
    ui::print_data(&text);
    Ok(Exit::Done)
}

pub(super) fn remove(ids: &[PathBuf], ownerless: bool, store: &StoreArgs, env: &Env) -> Result<Exit, CommandError> {
    let workers = Workers::of(&store_of(store, env)?);
    let ids: Vec<WorkerId> = ids.iter().map(|id| WorkerId::parse(id)).collect::<Result<_, _>>()?;
    for id in &ids {
        workers.remove(id)?;
    }
    if ownerless {
        for id in workers.sweep()? {
            ui::print_data(&format!("{id}\n"));
        }
    }
    Ok(Exit::Done)
}
