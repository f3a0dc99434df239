//! Checking a whole store, all platforms: every byte against the manifests, every record against what is there.
//!
//! Runs beside whatever uses the store. What looks wrong is looked at again under the source's lock, so that an entry
//! that is just being published or replaced is never called broken; a source that another process holds is left
//! unjudged, and named. Repairs happen under that lock too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fault::fs;

use super::entry::{self, Examined, Problem, Wrong};
mod configs;
#[cfg(test)]
mod tests;

use super::{CONFIGS, PLATFORM, Store, scan, sidecar, staging};
use crate::digest::Sha256Digest;
use crate::facets;
use crate::fs::make_read_only;
use crate::key::Reference;
use crate::lock::Attempt;
use crate::package::PackageName;

/// Directories at the top of a store that are no platforms; others start with a dot.
const NO_PLATFORMS: [&str; 2] = ["blobs", "logs"];

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these packages; all if empty.
    pub packages: BTreeSet<PackageName>,
    /// Whether to put right what is wrong: broken entries are set aside, records made good, modes restored, and
    /// manifests written for entries that have none.
    pub repairs: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The platform.
    pub platform: String,
    /// The package, if it is about one.
    pub package: Option<PackageName>,
    /// The entry, if it is about one.
    pub reference: Option<Reference>,
    /// Where.
    pub path: PathBuf,
    /// What is wrong there.
    pub problem: Problem,
    /// What was done about it; `Err` says why nothing could be done, `None` that nothing was to be done.
    pub repair: Option<Result<String, String>>,
}

impl Finding {
    /// Says whether it is put right.
    pub fn is_repaired(&self) -> bool {
        matches!(self.repair, Some(Ok(_)))
    }
}

/// What a check showed.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    /// Entries that were looked at.
    pub n_entries: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Entries without a manifest, made by an earlier version or another implementation: their content cannot be
    /// judged.
    pub n_unrecorded: usize,
    /// Those of them that have a manifest now.
    pub n_recorded: usize,
    /// Sources, as directories, that another process works on: they were not judged.
    pub busy: Vec<PathBuf>,
    /// What is wrong, by path.
    pub findings: Vec<Finding>,
}

impl Verified {
    fn add(&mut self, other: Self) {
        self.n_entries += other.n_entries;
        self.bytes += other.bytes;
        self.n_unrecorded += other.n_unrecorded;
        self.n_recorded += other.n_recorded;
        self.busy.extend(other.busy);
        self.findings.extend(other.findings);
    }

    /// Says whether all that is wrong is put right.
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(Finding::is_repaired)
    }
}

/// Checks the store at `root`, on all cores. `progress` is told how many sources of how many are done.
pub fn verify(root: &Path, options: &Options, progress: &(dyn Fn(usize, usize) + Sync)) -> io::Result<Verified> {
    if options.repairs {
        staging::sweep(root);
    }
    let (mut verified, mut sources) = (Verified::default(), Vec::new());
    for (platform, dir) in platforms(root)? {
        let store = Store::open(root, platform, "");
        let found = list(&store, &dir, options, &mut verified)?;
        sources.extend(
            found.into_iter().map(|(package, source)| (Store::open(root, store.platform(), ""), package, source)),
        );
    }
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut verified = Verified::default();
        while let Some((store, package, source)) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            verified.add(store.verify_source(package, *source, options)?);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, sources.len());
        }
        Ok::<_, io::Error>(verified)
    };
    let n_threads = scan::n_threads().min(sources.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            verified.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, io::Error>(())
    })?;
    verified.findings.sort_by(|a, b| a.path.cmp(&b.path));
    verified.busy.sort();
    Ok(verified)
}

/// Says whether a directory of this name at the top of a store is a platform.
pub(crate) fn is_platform_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']) && !NO_PLATFORMS.contains(&name)
}

pub(super) fn items(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let items = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        items => items?,
    };
    let mut paths = items.map(|item| Ok(item?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn platforms(root: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let is_platform = |path: &PathBuf| is_platform_name(name(path)) && path.is_dir();
    Ok(items(root)?.into_iter().filter(is_platform).map(|path| (name(&path).to_owned(), path)).collect())
}

/// Returns a digest that is written as larder writes it.
fn exact_digest(text: &str) -> Option<Sha256Digest> {
    text.parse().ok().filter(|digest: &Sha256Digest| digest.to_string() == text)
}

/// Lists the sources of a platform, and judges what lies beside them.
fn list(
    store: &Store,
    dir: &Path,
    options: &Options,
    verified: &mut Verified,
) -> io::Result<Vec<(PackageName, Sha256Digest)>> {
    let (mut sources, mut wrong) = (Vec::new(), Vec::new());
    for path in items(dir)? {
        if name(&path) == PLATFORM {
            wrong.extend(platform_problem(&path, store.platform()).map(|problem| (path, problem)));
            continue;
        }
        let Some(package) = PackageName::parse(name(&path)).ok().filter(|_| path.is_dir()) else {
            wrong.push((path, Problem::Extra));
            continue;
        };
        if !options.packages.is_empty() && !options.packages.contains(&package) {
            continue;
        }
        for path in items(&path)? {
            match exact_digest(name(&path)).filter(|_| path.is_dir()) {
                Some(source) => sources.push((package.clone(), source)),
                None => wrong.push((path, Problem::Extra)),
            }
        }
    }
    // What is wrong here concerns no entry, so there is no lock to take.
    let repair = |wrong: &Wrong| store.put_wrong_aside(wrong);
    let findings = wrong.iter().map(|wrong| finding(store, None, None, wrong, options.repairs.then(|| repair(wrong))));
    verified.findings.extend(findings);
    Ok(sources)
}

fn platform_problem(path: &Path, platform: &str) -> Option<Problem> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return Some(Problem::Unreadable(error.to_string())),
    };
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Err(error) => Some(Problem::Unreadable(error.to_string())),
        Ok(value) if value["platform"] != platform => Some(Problem::Lie("it is that of another platform".to_owned())),
        Ok(_) => None,
    }
}

fn finding(
    store: &Store,
    package: Option<&PackageName>,
    reference: Option<Reference>,
    (path, problem): &Wrong,
    repair: Option<Result<String, String>>,
) -> Finding {
    Finding {
        platform: store.platform().to_owned(),
        package: package.cloned(),
        reference,
        path: path.clone(),
        problem: problem.clone(),
        repair,
    }
}

/// What one source looks like.
#[derive(Default)]
struct Judgement {
    entries: Vec<(Reference, Examined)>,
    /// About `configs.json`.
    configs: Vec<Wrong>,
    /// What nobody knows.
    strays: Vec<Wrong>,
}

impl Judgement {
    fn is_good(&self) -> bool {
        self.configs.is_empty() && self.strays.is_empty() && self.entries.iter().all(|(_, seen)| seen.wrong.is_empty())
    }

    fn n_unrecorded(&self) -> usize {
        self.entries.iter().filter(|(_, seen)| is_unrecorded(seen)).count()
    }
}

fn is_unrecorded(seen: &Examined) -> bool {
    seen.wrong.is_empty() && !seen.has_manifest
}

impl Store {
    fn verify_source(&self, package: &PackageName, source: Sha256Digest, options: &Options) -> io::Result<Verified> {
        let mut judgement = self.judge(package, source)?;
        let is_done = judgement.is_good() && !(options.repairs && judgement.n_unrecorded() > 0);
        let lock = if is_done { None } else { Some(self.try_lock_source(source)) };
        let mut verified = Verified::default();
        let mut refused = None;
        match &lock {
            Some(Ok(Attempt::HeldBy(_))) => {
                verified.busy.push(self.source_dir(package, source));
                return Ok(verified);
            }
            // It may have been in the making at the first look.
            Some(Ok(Attempt::Taken(_))) => judgement = self.judge(package, source)?,
            // A store that cannot be written: nobody else writes it either, and nothing can be repaired.
            Some(Err(error)) => refused = Some(error.to_string()),
            None => {}
        }
        let is_whole =
            |seen: &&Examined| !seen.wrong.iter().any(|(_, p)| matches!(p, Problem::NoTree | Problem::NoSidecar));
        let whole: Vec<&Examined> = judgement.entries.iter().map(|(_, seen)| seen).filter(is_whole).collect();
        verified.n_entries = whole.len();
        verified.bytes = whole.iter().map(|seen| seen.size).sum();
        verified.n_unrecorded = judgement.n_unrecorded();
        let attempt = |repair: &dyn Fn() -> io::Result<String>| match (options.repairs, &refused) {
            (false, _) => None,
            (true, Some(why)) => Some(Err(why.clone())),
            (true, None) => Some(repair().map_err(|error| error.to_string())),
        };
        for (reference, seen) in &judgement.entries {
            if is_unrecorded(seen) {
                let recorded = attempt(&|| self.record(package, *reference));
                verified.n_recorded += usize::from(matches!(recorded, Some(Ok(_))));
            } else if !seen.wrong.is_empty() {
                let repair = attempt(&|| self.repair_entry(package, *reference, &seen.wrong));
                let findings = seen.wrong.iter();
                let findings =
                    findings.map(|wrong| finding(self, Some(package), Some(*reference), wrong, repair.clone()));
                verified.findings.extend(findings);
            }
        }
        for wrong in &judgement.strays {
            let repair = attempt(&|| self.put_wrong_aside(wrong).map_err(io::Error::other));
            verified.findings.push(finding(self, Some(package), None, wrong, repair));
        }
        // After the entries: it is to say what is there then, also where only they were wrong.
        let repair = attempt(&|| self.mend_configs(package, source).map(|()| "written again".to_owned()));
        let findings = judgement.configs.iter();
        verified.findings.extend(findings.map(|wrong| finding(self, Some(package), None, wrong, repair.clone())));
        Ok(verified)
    }

    fn judge(&self, package: &PackageName, source: Sha256Digest) -> io::Result<Judgement> {
        #[derive(Default)]
        struct Parts {
            tree: bool,
            sidecar: bool,
        }
        let mut judgement = Judgement::default();
        let mut found: BTreeMap<Sha256Digest, Parts> = BTreeMap::new();
        for path in items(&self.source_dir(package, source))? {
            let name = name(&path);
            if name == CONFIGS {
                continue;
            }
            let (stem, ending) = name.split_once('.').map_or((name, None), |(stem, ending)| (stem, Some(ending)));
            let (config, is_dir) = (exact_digest(stem), path.is_dir());
            match (config, ending, is_dir) {
                (Some(config), None, true) => found.entry(config).or_default().tree = true,
                (Some(config), Some("json"), false) => found.entry(config).or_default().sidecar = true,
                (Some(config), Some("files"), false) => drop(found.entry(config).or_default()),
                _ => judgement.strays.push((path, Problem::Extra)),
            }
        }
        for (config, parts) in found {
            let reference = Reference { source, config };
            let tree = self.tree(package, reference);
            let half = |path, problem| Examined { wrong: vec![(path, problem)], size: 0, has_manifest: true };
            let seen = match parts {
                Parts { tree: true, sidecar: true } => self.examine(package, reference, 1),
                Parts { tree: true, sidecar: false } => half(tree, Problem::NoSidecar),
                Parts { tree: false, sidecar: true } => half(tree.with_extension("json"), Problem::NoTree),
                Parts { tree: false, sidecar: false } => half(tree.with_extension("files"), Problem::NoTree),
            };
            judgement.entries.push((reference, seen));
        }
        judgement.configs = self.configs_problems(package, source);
        Ok(judgement)
    }

    fn repair_entry(&self, package: &PackageName, reference: Reference, wrong: &[Wrong]) -> io::Result<String> {
        if self.mend_modes(package, reference, wrong)? {
            return Ok("set back".to_owned());
        }
        let why: Vec<String> = wrong.iter().map(|(path, problem)| format!("{} {problem}", path.display())).collect();
        let aside = self.set_aside(package, reference, &why.join("\n"))?;
        self.mend_configs(package, reference.source)?;
        Ok(format!("set aside in {}", aside.display()))
    }

    fn put_wrong_aside(&self, (path, problem): &Wrong) -> Result<String, String> {
        let aside = self.put_aside("stray", path, [(path.clone(), "stray")], problem);
        aside.map(|aside| format!("set aside in {}", aside.display())).map_err(|error| error.to_string())
    }

    /// Writes the manifest of an entry that never had one, and what follows from it into its sidecar.
    fn record(&self, package: &PackageName, reference: Reference) -> io::Result<String> {
        let (tree, path) = (self.tree(package, reference), self.sidecar_path(package, reference));
        make_read_only(&tree)?;
        let manifest = scan::manifest(&tree, |_| true)?;
        let text = manifest.to_text();
        let used = fs::metadata(&path)?.modified()?;
        // Not by way of `Sidecar`: another implementation may have put more into it.
        let mut sidecar: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&fs::read(&path)?)?;
        sidecar.insert("tree".to_owned(), Sha256Digest::of(&text).to_string().into());
        sidecar.insert("interface".to_owned(), facets::interface(&manifest).to_string().into());
        sidecar.insert("size".to_owned(), manifest.size().into());
        sidecar.insert("n_files".to_owned(), manifest.n_files().into());
        let scratch = self.stage()?;
        entry::write_flushed(&scratch, &self.manifest_path(package, reference), &text)?;
        entry::write_flushed(&scratch, &path, &sidecar::seal(&sidecar)?)?;
        fs::OpenOptions::new().append(true).open(&path)?.file().set_modified(used)?;
        Ok("manifest written".to_owned())
    }
}
