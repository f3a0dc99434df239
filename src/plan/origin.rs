//! Where the source of an entry is: the lockfile's URLs as they are, or what they have to become on this host.

use std::path::{Path, PathBuf};

use larder_ops::op::Origin;

use super::{Knowledge, Settings};
use crate::lockfile::{Entry, Kind};

/// Returns where to get an entry from. `is_foreign` says that its URLs are those of a prebuilt package for another
/// kind of machine, so that the source of the same repository is wanted.
pub(super) fn of(entry: &Entry, is_foreign: bool, settings: &Settings, known: &impl Knowledge) -> Origin {
    if entry.kind == Kind::Installed {
        return Origin::Provided;
    }
    if entry.kind == Kind::Local {
        let path = local_path(entry, settings, known);
        if !is_archive_name(&path) {
            return Origin::Directory(path);
        }
        let source = path.to_string_lossy().into_owned();
        return Origin::Archive {
            identity: format!("local {source}"),
            sources: vec![source],
            // A file of the user's own may change from run to run, unlike one that was published.
            sha256: known.file_digest(&path),
            subdir: String::new(),
            is_repository: false,
        };
    }
    let sources = match &entry.kind {
        _ if is_foreign => repository_sources(entry),
        Kind::Vcs { host: "git", sha, .. } => git_sources(entry, sha),
        _ => entry.sources.clone(),
    };
    let platform = entry.binary.as_ref().filter(|_| !is_foreign).map_or("source", |binary| &binary.platform);
    let identity = if let Some(source) = entry.source_hash() {
        format!("{} {} {source} {platform}", entry.package, entry.version)
    } else {
        let etag = entry.metadata.get("RemoteEtag").map(String::as_str).unwrap_or_default();
        format!("url {} {etag}", entry.sources.first().map(String::as_str).unwrap_or_default())
    };
    Origin::Archive {
        sources,
        sha256: entry.sha256.filter(|_| !is_foreign),
        identity,
        subdir: match &entry.kind {
            Kind::Vcs { subdir, .. } => subdir.clone(),
            _ => String::new(),
        },
        is_repository: match entry.kind {
            Kind::Vcs { .. } => true,
            Kind::Url => entry.metadata.get("RemotePackaged").is_some_and(|packaged| packaged != "TRUE"),
            _ => false,
        },
    }
}

/// A local package is where the lockfile says. A lockfile that came from another machine says where it was there:
/// then `local::.` is looked for from the lockfile's own directory.
fn local_path(entry: &Entry, settings: &Settings, known: &impl Knowledge) -> PathBuf {
    let source = entry.sources.first().map(String::as_str).unwrap_or_default();
    let told = settings.base.join(source.strip_prefix("file://").unwrap_or(source));
    let reference = entry.metadata.get("RemotePkgRef").and_then(|reference| reference.strip_prefix("local::"));
    match reference.map(|reference| settings.base.join(reference)) {
        Some(beside)
            if !is_archive_name(&told)
                && !known.is_source_of(&entry.package, &told)
                && known.is_source_of(&entry.package, &beside) =>
        {
            beside
        }
        _ => told,
    }
}

fn is_archive_name(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["gz", "bz2", "xz", "zip", "tgz", "tar"].iter().any(|known| ending == *known))
}

/// The source package of the repository that the entry's prebuilt package is from.
fn repository_sources(entry: &Entry) -> Vec<String> {
    let repository = match entry.metadata.get("RemoteRepos") {
        Some(repository) => repository.trim_end_matches('/').to_owned(),
        None => match entry
            .sources
            .first()
            .and_then(|url| url.split_once("/bin/").or_else(|| url.split_once("/src/contrib/")))
        {
            Some((repository, _)) => repository.trim_end_matches('/').to_owned(),
            None => return Vec::new(),
        },
    };
    // `.../__linux__/noble/latest` serves binaries for that distribution, `.../latest` the sources.
    let repository = match repository.split_once("/__linux__/") {
        Some((base, rest)) => format!("{base}/{}", rest.split_once('/').map_or("", |(_, snapshot)| snapshot)),
        None => repository,
    };
    let file = format!("{}_{}.tar.gz", entry.package, entry.version);
    vec![
        format!("{repository}/src/contrib/{file}"),
        format!("{repository}/src/contrib/Archive/{}/{file}", entry.package),
    ]
}

fn git_sources(entry: &Entry, sha: &str) -> Vec<String> {
    let told = entry.metadata.get("RemoteUrl").into_iter().chain(&entry.sources);
    told.map(|url| {
        let url = url.trim_start_matches("git::").trim_start_matches("git+");
        format!("git+{url}#{sha}")
    })
    .collect()
}
