//! `solve cache`: packages kept from one CI job to the next, and the same around a run.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder_ops::cicache::{CiCache, CiCacheConfig, Kept, Key, KeyError, Place, Restored, Saved, Surroundings};
use larder_ops::tiers::{Address, GitHub, SecretKey};

use super::{CommandError, Env, config, in_lockfile, larder, palette, parse_lockfile, read_bytes, request};
use crate::cli::{
    CacheCommand, CacheDeleteArgs, CacheListArgs, CachePathsArgs, CachePruneArgs, CiCommonArgs, CiKeyArgs, CiMode,
    CiPlaceArgs, Color, OutputArgs, SolveArgs,
};
use crate::exit::Exit;
use crate::larder::{CiKeys, Config, Error, Larder, Request};
use crate::lockfile::Lockfile;
use crate::ui;

/// How long saving may take once the run was told to end: CI waits some ten seconds before it kills.
const LAST_SAVE: Duration = Duration::from_secs(5);
const GITHUB_API: &str = "https://api.github.com";

pub(super) fn run(command: &CacheCommand, env: &Env) -> Result<Exit, CommandError> {
    match command {
        CacheCommand::Save(args) => save(&args.lockfile, &args.common, env),
        CacheCommand::Restore(args) => restore(args.lockfile.as_deref(), &args.common, env),
        CacheCommand::List(args) => list(args, env),
        CacheCommand::Delete(args) => delete(args, env),
        CacheCommand::Prune(args) => prune(args, env),
        CacheCommand::Paths(args) => paths(args, env),
    }
}

fn save(path: &Path, args: &CiCommonArgs, env: &Env) -> Result<Exit, CommandError> {
    let bytes = read_bytes(path)?;
    let lockfile = parse_lockfile(path, &bytes)?;
    let (larder, cache) = open(args, env)?;
    let keys = keys(&args.keys, env, &larder, Some(&bytes))?;
    let request = request(&args.place, &args.wish, path);
    let saved = runtime()?.block_on(larder.ci_save(&cache, &keys, &lockfile, &request)).map_err(in_lockfile(path))?;
    Voice::of_command(args.json, env).told(&tell_saved(&saved), &saved_as_json(&saved), &saved.warnings);
    Ok(Exit::Done)
}

fn restore(path: Option<&Path>, args: &CiCommonArgs, env: &Env) -> Result<Exit, CommandError> {
    let bytes = path.map(read_bytes).transpose()?;
    let lockfile = path.zip(bytes.as_deref()).map(|(path, bytes)| parse_lockfile(path, bytes)).transpose()?;
    let (larder, cache) = open(args, env)?;
    let keys = keys(&args.keys, env, &larder, bytes.as_deref())?;
    let path = path.unwrap_or("".as_ref());
    let request = request(&args.place, &args.wish, path);
    let wanted = lockfile.as_ref().map(|lockfile| (lockfile, &request));
    let restored = runtime()?.block_on(larder.ci_restore(&cache, &keys, wanted)).map_err(in_lockfile(path))?;
    let warnings = restored.as_ref().map(|restored| restored.warnings.clone()).unwrap_or_default();
    let (text, json) = (tell_restored(restored.as_ref(), &keys), restored_as_json(restored.as_ref()));
    Voice::of_command(args.json, env).told(&text, &json, &warnings);
    Ok(Exit::Done)
}

fn list(args: &CacheListArgs, env: &Env) -> Result<Exit, CommandError> {
    let cache = open_anywhere(&args.at, env)?;
    let kept = runtime()?.block_on(cache.list(&args.prefix)).map_err(Error::from)?;
    let mut text = String::new();
    if args.json {
        for Kept { key, created_at, platform, n_entries, bytes } in &kept {
            let line = serde_json::json!({
                "v": 1, "reason": "ci-state", "key": key, "created_at": created_at, "platform": platform,
                "packages": n_entries, "bytes": bytes,
            });
            let _ = writeln!(text, "{line}");
        }
    } else {
        let width = kept.iter().map(|kept| kept.key.len()).max().unwrap_or(0);
        for kept in &kept {
            let size = kept.bytes.map_or("-".to_owned(), |bytes| indicatif::HumanBytes(bytes).to_string());
            let n = kept.n_entries.map_or("-".to_owned(), |n| n.to_string());
            let (key, time) = (ui::printable(&kept.key), kept.created_at.get(..19).unwrap_or(&kept.created_at));
            let _ = writeln!(text, "{:<width$}  {time}  {n:>5} packages  {size:>10}", key.trim_end());
        }
    }
    ui::print_data(&text);
    Ok(Exit::Done)
}

fn delete(args: &CacheDeleteArgs, env: &Env) -> Result<Exit, CommandError> {
    let cache = open_anywhere(&args.at, env)?;
    let was_there = runtime()?.block_on(cache.delete(&args.key)).map_err(Error::from)?;
    let text = if was_there { format!("deleted: `{}`", args.key) } else { format!("there is no `{}`", args.key) };
    let json = serde_json::json!({ "v": 1, "reason": "ci-deleted", "key": args.key.as_str(), "deleted": was_there });
    Voice::of_command(args.json, env).told(&text, &json, &[]);
    Ok(Exit::Done)
}

fn prune(args: &CachePruneArgs, env: &Env) -> Result<Exit, CommandError> {
    let cache = open_anywhere(&args.at, env)?;
    let cutoff = SystemTime::now().checked_sub(args.older_than).unwrap_or(SystemTime::UNIX_EPOCH);
    let gone = runtime()?.block_on(cache.prune(cutoff, args.dry_run)).map_err(Error::from)?;
    let voice = Voice::of_command(args.json, env);
    let what = if args.dry_run { "would be deleted" } else { "deleted" };
    for key in &gone {
        let json = serde_json::json!({ "v": 1, "reason": "ci-deleted", "key": key.as_str(), "deleted": !args.dry_run });
        voice.told(&format!("{what}: `{key}`"), &json, &[]);
    }
    if gone.is_empty() && !args.json {
        ui::print_data("nothing is that old, but for the newest\n");
    }
    Ok(Exit::Done)
}

fn paths(args: &CachePathsArgs, env: &Env) -> Result<Exit, CommandError> {
    let bytes = args.lockfile.as_deref().map(read_bytes).transpose()?;
    let larder = larder(config(&args.place.store, args.place.r.as_deref(), None, env)?)?;
    let CiKeys { key, prefixes } = keys(&args.keys, env, &larder, bytes.as_deref())?;
    // The entries of this platform and nothing else: what a job writes besides is of no use to the next.
    let path = larder.store().root().join(larder.store().platform());
    let prefixes: Vec<&str> = prefixes.iter().map(Key::as_str).collect();
    let mut text = format!("key: {key}\npath: {}\n", path.display());
    text.extend(prefixes.iter().map(|prefix| format!("restore-key: {prefix}\n")));
    let json = serde_json::json!({
        "v": 1, "reason": "ci-paths", "key": key.as_str(), "paths": [path], "restore_keys": prefixes,
    });
    Voice::of_command(args.json, env).told(text.trim_end(), &json, &[]);
    Ok(Exit::Done)
}

fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn open(args: &CiCommonArgs, env: &Env) -> Result<(std::sync::Arc<Larder>, CiCache), CommandError> {
    let place = place(args.at.url.as_ref(), env, args.source.offline)?.map_err(nowhere)?;
    let config = config(&args.place.store, args.place.r.as_deref(), Some(&args.source), env)?;
    let signing_key = args.at.signing_key.clone();
    let larder = larder(Config { tenant: args.at.tenant.clone(), signing_key, ..config })?;
    let cache = larder.ci_cache(place)?;
    Ok((larder, cache))
}

/// Opens a place for what needs no R.
fn open_anywhere(args: &CiPlaceArgs, env: &Env) -> Result<CiCache, CommandError> {
    let place = place(args.url.as_ref(), env, false)?.map_err(nowhere)?;
    let signer = args.signing_key.as_deref().map(SecretKey::read).transpose().map_err(Error::from)?;
    let config = CiCacheConfig { tenant: args.tenant.clone(), signer, ..CiCacheConfig::default() };
    Ok(CiCache::open(place, config).map_err(Error::from)?)
}

fn nowhere(why: &'static str) -> CommandError {
    CommandError::new(Exit::Usage, why).hint(
        "name a directory or another place with `--url` or `LARDER_CI_CACHE_URL`; in a job on GitHub give the step \
         `ACTIONS_RESULTS_URL`, `ACTIONS_RUNTIME_TOKEN` and `ACTIONS_CACHE_SERVICE_V2`, or use `solve cache paths`",
    )
}

/// Finds out where states are kept: what was named, else what the job on GitHub has. The inner error says why nowhere.
fn place(named: Option<&Address>, env: &Env, is_offline: bool) -> Result<Result<Place, &'static str>, CommandError> {
    let text = |name: &str| env.get(name).and_then(OsStr::to_str).map(str::to_owned);
    let listed = text("LARDER_CI_CACHE_URL").filter(|_| named.is_none()).map(|url| url.parse());
    let listed = listed.transpose().map_err(|error: larder_ops::tiers::AddressError| {
        CommandError::new(Exit::Usage, format!("LARDER_CI_CACHE_URL: {error}"))
    })?;
    if let Some(address) = named.cloned().or(listed) {
        let is_there = !is_offline || address.is_local();
        return Ok(if is_there { Ok(Place::Tier(address)) } else { Err("the CI cache needs a network") });
    }
    let github = github(env);
    if github.service.is_none() && github.rest.is_none() {
        return Ok(Err("there is no place for a CI cache"));
    }
    Ok(if is_offline { Err("the CI cache needs a network") } else { Ok(Place::GitHub(github)) })
}

/// Finds out what the job knows of GitHub's caches.
pub(super) fn github(env: &Env) -> GitHub {
    let text = |name: &str| env.get(name).and_then(OsStr::to_str).map(str::to_owned);
    let is_v2 = text("ACTIONS_CACHE_SERVICE_V2").is_some_and(|word| is_yes(&word));
    let service = text("ACTIONS_RESULTS_URL").zip(text("ACTIONS_RUNTIME_TOKEN")).filter(|_| is_v2);
    let token = text("GITHUB_TOKEN").or_else(|| text("GH_TOKEN"));
    let rest = text("GITHUB_REPOSITORY").zip(token).map(|(repository, token)| {
        (text("GITHUB_API_URL").unwrap_or_else(|| GITHUB_API.to_owned()), repository, token)
    });
    GitHub { service, rest }
}

fn is_yes(word: &str) -> bool {
    !["", "0", "false", "no", "off"].contains(&word.to_ascii_lowercase().as_str())
}

/// Fills in the keys that were given, or those of the environment, or the usual ones.
fn keys(args: &CiKeyArgs, env: &Env, larder: &Larder, lockfile: Option<&[u8]>) -> Result<CiKeys, CommandError> {
    let text = |name: &str| env.get(name).and_then(OsStr::to_str).map(str::to_owned);
    let key = args.key.clone().or_else(|| text("LARDER_CI_CACHE_KEY"));
    let mut prefixes = args.restore_key.clone();
    if prefixes.is_empty() {
        let listed = text("LARDER_CI_CACHE_RESTORE_KEYS").unwrap_or_default();
        prefixes = listed.split_whitespace().map(str::to_owned).collect();
    }
    let (usual, usual_prefix) = Surroundings::DEFAULT;
    if prefixes.is_empty() && key.is_none() {
        prefixes.push(usual_prefix.to_owned());
    }
    let r = &larder.host().toolchain.version;
    let around = Surroundings { r, lockfile, dir: ".".as_ref() };
    let wrong = |error: KeyError| CommandError::new(Exit::Usage, error.to_string());
    let prefixes = prefixes.iter().map(|template| around.fill(template)).collect::<Result<_, _>>().map_err(wrong)?;
    Ok(CiKeys { key: around.fill(key.as_deref().unwrap_or(usual)).map_err(wrong)?, prefixes })
}

/// Saved states around a run. Whatever is wrong with them costs one line.
pub(super) struct Auto {
    mode: CiMode,
    cache: Result<CiCache, String>,
    keys: CiKeys,
    voice: Voice,
}

impl Auto {
    /// Finds out what is wanted: what was said, or, in CI, what the environment says.
    pub(super) fn of(
        args: &SolveArgs,
        env: &Env,
        larder: &Larder,
        lockfile: &[u8],
    ) -> Result<Option<Self>, CommandError> {
        let Some(mode) = mode(args.ci.mode, env)? else { return Ok(None) };
        let key_args = CiKeyArgs { key: args.ci.key.clone(), restore_key: args.ci.restore_key.clone() };
        let keys = keys(&key_args, env, larder, Some(lockfile))?;
        let cache = match place(args.ci.url.as_ref(), env, args.source.offline)? {
            Ok(place) => larder.ci_cache(place).map_err(|error| error.to_string()),
            Err(why) => Err(why.to_owned()),
        };
        Ok(Some(Self { mode, cache, keys, voice: Voice::of_run(&args.output, env) }))
    }

    /// Restores what the run is going to need.
    pub(super) async fn before(&self, larder: &Larder, lockfile: &Lockfile, request: &Request) {
        if self.mode == CiMode::Save {
            return;
        }
        let restored = match &self.cache {
            Ok(cache) => {
                larder.ci_restore(cache, &self.keys, Some((lockfile, request))).await.map_err(|e| e.to_string())
            }
            Err(why) => Err(why.clone()),
        };
        match restored {
            Ok(restored) => {
                let warnings = restored.as_ref().map(|restored| restored.warnings.clone()).unwrap_or_default();
                let text = tell_restored(restored.as_ref(), &self.keys);
                self.voice.told(&text, &restored_as_json(restored.as_ref()), &warnings);
            }
            Err(why) => self.voice.failed("ci-restored", "nothing is restored", &why),
        }
    }

    /// Saves what is new. After a run that was told to end it may take little time, and none if `is_forced`.
    pub(super) async fn after(
        &self,
        larder: &Larder,
        (lockfile, request): (&Lockfile, &Request),
        (is_interrupted, is_forced): (bool, bool),
        interrupted: impl Future<Output = ()>,
    ) {
        if self.mode == CiMode::Restore {
            return;
        }
        let patience = if is_interrupted { LAST_SAVE } else { Duration::MAX };
        let save = async {
            match &self.cache {
                _ if is_forced => Err("the run was ended at once".to_owned()),
                Ok(cache) => larder.ci_save(cache, &self.keys, lockfile, request).await.map_err(|e| e.to_string()),
                Err(why) => Err(why.clone()),
            }
        };
        let saved = tokio::select! {
            saved = tokio::time::timeout(patience, save) => {
                saved.unwrap_or_else(|_| Err("there was no time left for it".to_owned()))
            }
            () = interrupted => Err("it was interrupted".to_owned()),
        };
        match saved {
            Ok(saved) => self.voice.told(&tell_saved(&saved), &saved_as_json(&saved), &saved.warnings),
            Err(why) => self.voice.failed("ci-saved", "nothing is saved", &why),
        }
    }
}

/// Returns what to do around a run; `None` for nothing.
fn mode(said: Option<CiMode>, env: &Env) -> Result<Option<CiMode>, CommandError> {
    let listed = env.get("LARDER_CI_CACHE").and_then(OsStr::to_str);
    let listed = listed.map(|word| <CiMode as clap::ValueEnum>::from_str(word, true)).transpose().map_err(|word| {
        CommandError::new(Exit::Usage, format!("LARDER_CI_CACHE is off, restore, save or both, not `{word}`"))
    })?;
    let is_ci = env.get("CI").and_then(OsStr::to_str).is_some_and(is_yes);
    Ok(said.or(listed.filter(|_| is_ci)).filter(|mode| *mode != CiMode::Off))
}

/// How it is told what was done.
struct Voice {
    is_json: bool,
    /// Of a command it is the result; around a run it is a note.
    is_note: bool,
    is_quiet: bool,
    palette: ui::Palette,
}

impl Voice {
    fn of_command(is_json: bool, env: &Env) -> Self {
        Self { is_json, is_note: false, is_quiet: false, palette: palette(env, Color::Auto) }
    }

    fn of_run(output: &OutputArgs, env: &Env) -> Self {
        Self { is_json: output.json, is_note: true, is_quiet: output.quiet, palette: palette(env, output.color) }
    }

    fn told(&self, text: &str, json: &serde_json::Value, warnings: &[String]) {
        match (self.is_json, self.is_note) {
            (true, _) => ui::print_data(&format!("{json}\n")),
            (false, false) => ui::print_data(&format!("{text}\n")),
            (false, true) if !self.is_quiet => ui::print_note(&format!("CI cache: {text}\n")),
            (false, true) => {}
        }
        if !self.is_json {
            for message in warnings {
                ui::print_warning(message, self.palette);
            }
        }
    }

    fn failed(&self, reason: &str, what: &str, why: &str) {
        if self.is_json {
            ui::print_data(&format!("{}\n", serde_json::json!({ "v": 1, "reason": reason, "key": null, "why": why })));
        } else {
            ui::print_warning(&format!("{what}: {why}"), self.palette);
        }
    }
}

fn packages(n: usize) -> String {
    if n == 1 { "1 package".to_owned() } else { format!("{n} packages") }
}

fn tell_restored(restored: Option<&Restored>, keys: &CiKeys) -> String {
    let Some(restored) = restored else {
        return "nothing is restored: the store lacks nothing".to_owned();
    };
    match &restored.key {
        None if !restored.warnings.is_empty() => "nothing is restored".to_owned(),
        None => format!("nothing is restored: nothing is saved as `{}`, nor what would do", keys.key),
        Some(key) => {
            let (n, packs) = (packages(restored.n_restored), if restored.n_packs == 1 { "pack" } else { "packs" });
            let bytes = indicatif::HumanBytes(restored.bytes);
            format!(
                "restored: {n} from `{key}` ({bytes} in {} {packs}), which has {}",
                restored.n_packs, restored.n_saved
            )
        }
    }
}

fn restored_as_json(restored: Option<&Restored>) -> serde_json::Value {
    let none = Restored::default();
    let (found, why) = match restored {
        None => (&none, Some("the store lacks nothing")),
        Some(found) => (found, found.key.is_none().then_some("nothing is saved that would do")),
    };
    let Restored { key, is_exact, n_saved, n_restored, n_packs, bytes, warnings } = found;
    serde_json::json!({
        "v": 1, "reason": "ci-restored", "key": key, "exact": is_exact, "packages": n_restored, "saved": n_saved,
        "packs": n_packs, "bytes": bytes, "why": why, "warnings": warnings,
    })
}

fn tell_saved(saved: &Saved) -> String {
    match &saved.outcome {
        Some(Ok(key)) => {
            let new = if saved.n_packed == 0 { "none".to_owned() } else { saved.n_packed.to_string() };
            let (n, bytes) = (packages(saved.n_entries), indicatif::HumanBytes(saved.bytes));
            format!("saved: {n} as `{key}`, of which {new} had to be packed ({bytes} written)")
        }
        Some(Err(skipped)) => format!("nothing is saved: {skipped}"),
        None => "nothing is saved".to_owned(),
    }
}

fn saved_as_json(saved: &Saved) -> serde_json::Value {
    let (key, why) = match &saved.outcome {
        Some(Ok(key)) => (Some(key.as_str()), None),
        Some(Err(skipped)) => (None, Some(skipped.to_string())),
        None => (None, None),
    };
    serde_json::json!({
        "v": 1, "reason": "ci-saved", "key": key, "packages": saved.n_entries, "packed": saved.n_packed,
        "packs": saved.n_packs, "bytes": saved.bytes, "why": why, "warnings": saved.warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> Env {
        Env { variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }

    #[test]
    fn outside_of_ci_nothing_happens_unless_it_is_asked_for() {
        let mode = |said, variables: &[(&str, &str)]| mode(said, &env(variables)).ok().flatten();
        assert_eq!(mode(None, &[]), None);
        assert_eq!(mode(None, &[("CI", "true")]), None);
        assert_eq!(mode(None, &[("LARDER_CI_CACHE", "both")]), None);
        assert_eq!(mode(None, &[("LARDER_CI_CACHE", "both"), ("CI", "false")]), None);
        assert_eq!(mode(None, &[("LARDER_CI_CACHE", "both"), ("CI", "true")]), Some(CiMode::Both));
        assert_eq!(mode(None, &[("LARDER_CI_CACHE", "off"), ("CI", "true")]), None);
        assert_eq!(mode(Some(CiMode::Save), &[]), Some(CiMode::Save));
        assert_eq!(mode(Some(CiMode::Off), &[("LARDER_CI_CACHE", "both"), ("CI", "true")]), None);
        assert!(super::mode(None, &env(&[("LARDER_CI_CACHE", "maybe")])).is_err());
    }

    #[test]
    fn the_place_is_what_was_named_and_else_the_job_on_github() {
        let at = |variables: &[(&str, &str)]| place(None, &env(variables), false).map_err(|error| error.message);
        let service = [
            ("ACTIONS_RESULTS_URL", "http://results/"),
            ("ACTIONS_RUNTIME_TOKEN", "t0ken"),
            ("ACTIONS_CACHE_SERVICE_V2", "True"),
        ];
        assert!(matches!(at(&[]), Ok(Err(_))));
        assert!(matches!(at(&service[..2]), Ok(Err(_))), "the first version of the service is gone");
        let found = at(&service).unwrap().unwrap();
        assert!(matches!(&found, Place::GitHub(GitHub { service: Some(_), rest: None })), "{found:?}");
        assert!(!format!("{found:?}").contains("t0ken"));
        let listing = at(&[("GITHUB_REPOSITORY", "me/it"), ("GITHUB_TOKEN", "t0ken")]).unwrap().unwrap();
        assert!(matches!(&listing, Place::GitHub(GitHub { service: None, rest: Some(_) })), "{listing:?}");
        let url = ("LARDER_CI_CACHE_URL", "fs:///srv/ci");
        assert!(matches!(at(&[url, service[0], service[1], service[2]]), Ok(Ok(Place::Tier(_)))));
        assert!(at(&[("LARDER_CI_CACHE_URL", "ftp://x")]).unwrap_err().starts_with("LARDER_CI_CACHE_URL: "));
        assert!(matches!(place(None, &env(&service), true), Ok(Err("the CI cache needs a network"))));
    }
}
