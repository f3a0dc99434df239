//! `solve remote`: caches beyond this machine, looked at and filled ahead of a run.

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;

use larder_ops::tiers::SecretKey;

use super::{CommandError, Env, config, in_lockfile, larder, palette, read_lockfile, request, with_caches};
use crate::cli::{Color, RemoteArgs, RemoteCommand};
use crate::exit::Exit;
use crate::larder::{Traffic, Whereabouts};
use crate::ui;

pub(super) fn run(command: &RemoteCommand, env: &Env) -> Result<Exit, CommandError> {
    match command {
        RemoteCommand::Status(args) => status(args, env),
        RemoteCommand::Push(args) => {
            let runtime = runtime()?;
            let (larder, lockfile, request) = prepare(args, env)?;
            let traffic = runtime.block_on(larder.push(&lockfile, &request)).map_err(in_lockfile(&args.lockfile))?;
            Ok(told(&traffic, (args.json, env), "written", "the store lacks"))
        }
        RemoteCommand::Pull(args) => {
            let runtime = runtime()?;
            let (larder, lockfile, request) = prepare(args, env)?;
            let traffic = runtime.block_on(larder.pull(&lockfile, &request)).map_err(in_lockfile(&args.lockfile))?;
            Ok(told(&traffic, (args.json, env), "brought", "no cache has"))
        }
        RemoteCommand::Keygen { file } => keygen(file),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

type Prepared = (std::sync::Arc<crate::Larder>, crate::lockfile::Lockfile, crate::larder::Request);

fn prepare(args: &RemoteArgs, env: &Env) -> Result<Prepared, CommandError> {
    let lockfile = read_lockfile(&args.lockfile)?;
    let request = request(&args.place, &args.wish, &args.lockfile);
    let config = config(&args.place.store, args.place.r.as_deref(), Some(&args.source), env)?;
    let larder = larder(with_caches(config, &args.cache, env)?)?;
    Ok((larder, lockfile, request))
}

fn status(args: &RemoteArgs, env: &Env) -> Result<Exit, CommandError> {
    let runtime = runtime()?;
    let (larder, lockfile, request) = prepare(args, env)?;
    let asked = runtime.block_on(larder.whereabouts(&lockfile, &request));
    let (all, warnings) = asked.map_err(in_lockfile(&args.lockfile))?;
    let addresses: Vec<String> = larder.cache_addresses();
    if args.json {
        ui::print_data(&as_json(&all, &addresses));
    } else {
        ui::print_data(&table(&all, &addresses));
    }
    warn(&warnings, env);
    Ok(Exit::Done)
}

fn as_json(all: &[Whereabouts], addresses: &[String]) -> String {
    let line = |one: &Whereabouts| {
        let having = addresses.iter().zip(&one.caches).filter(|(_, has)| **has).map(|(address, _)| address);
        serde_json::json!({
            "v": 1,
            "reason": "whereabouts",
            "package": one.package,
            "version": one.version,
            "key": one.key.as_ref().map(|key| key.reference().to_string()),
            "store": one.is_here,
            "caches": having.collect::<Vec<_>>(),
        })
        .to_string()
    };
    all.iter().map(|one| line(one) + "\n").collect()
}

fn table(all: &[Whereabouts], addresses: &[String]) -> String {
    let mut text = String::new();
    for (n, address) in addresses.iter().enumerate() {
        let count = all.iter().filter(|one| one.caches.get(n) == Some(&true)).count();
        let _ = writeln!(text, "{}: {address} has {count} of {} packages", n + 1, all.len());
    }
    let here = all.iter().filter(|one| one.is_here).count();
    let _ = writeln!(text, "the store has {here} of {}", all.len());
    let width = all.iter().map(|one| one.package.as_str().len() + one.version.len() + 1).max().unwrap_or(0);
    for one in all.iter().filter(|one| !one.is_here || !one.caches.iter().all(|has| *has)) {
        let mut places: Vec<String> = Vec::new();
        if one.is_here {
            places.push("store".to_owned());
        }
        places.extend(one.caches.iter().enumerate().filter(|(_, has)| **has).map(|(n, _)| (n + 1).to_string()));
        let places = match (places.is_empty(), &one.key) {
            (false, _) => places.join(", "),
            (true, Some(_)) => "nowhere".to_owned(),
            (true, None) => "not known: nobody has seen its source".to_owned(),
        };
        let _ = writeln!(text, "  {:<width$}  {places}", format!("{} {}", one.package, one.version));
    }
    text
}

fn told(traffic: &Traffic, (is_json, env): (bool, &Env), word: &str, lacking: &str) -> Exit {
    let moved = &traffic.moved;
    if is_json {
        let line = serde_json::json!({
            "v": 1,
            "reason": "moved",
            "brought": moved.n_brought,
            "bytes_brought": moved.bytes_brought,
            "written": moved.n_pushed,
            "bytes_written": moved.bytes_pushed,
            "missing": traffic.missing,
            "warnings": traffic.warnings,
        });
        ui::print_data(&format!("{line}\n"));
    } else {
        let (n, bytes) = (moved.n_brought.max(moved.n_pushed), moved.bytes_brought.max(moved.bytes_pushed));
        let packages = if n == 1 { "package" } else { "packages" };
        let mut text = format!("{word}: {n} {packages}, {}\n", indicatif::HumanBytes(bytes));
        for package in &traffic.missing {
            let _ = writeln!(text, "  {lacking} {package}");
        }
        ui::print_data(&text);
        warn(&traffic.warnings, env);
    }
    if traffic.warnings.is_empty() { Exit::Done } else { Exit::Failed }
}

fn warn(warnings: &[String], env: &Env) {
    let palette = palette(env, Color::Auto);
    for message in warnings {
        ui::print_warning(message, palette);
    }
}

fn keygen(file: &Path) -> Result<Exit, CommandError> {
    let key = SecretKey::generate();
    // Nobody else reads it, and none that is there is overwritten.
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true);
    fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)?.write_all(key.to_text().as_bytes())?;
    ui::print_data(&format!("{}\n", key.public()));
    Ok(Exit::Done)
}
