//! Where sources come from and what they come in: servers, mirrors, directories, archives of every form, binaries.

use fs_err as fs;
use larder_ops::digest::Sha256Digest;
use larder_ops::testing::{Fault, Page};
use serde_json::json;

use crate::world::{Form, Package, World, need_r, tarball};

#[test]
fn the_second_source_is_asked_when_the_first_has_nothing() {
    need_r!();
    let world = World::new();
    let mut entry = world.publish(&Package::new("demo", "1.0"));
    let good = entry["sources"][0].clone();
    entry["sources"] = json!([world.server.url("/src/contrib/Archive/demo_1.0.tar.gz"), good]);
    world.solve(&world.lock([entry]), &[]).ok();
    let asked: Vec<String> = world.server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/src/contrib/Archive/demo_1.0.tar.gz", "/src/contrib/demo_1.0.tar.gz"]);
    assert_eq!(world.r("cat(demo::answer())"), "1.0");
}

#[test]
fn servers_are_told_that_r_is_asking() {
    need_r!();
    let world = World::new();
    world.solve(&world.lock_published(&[&Package::new("demo", "1.0")]), &[]).ok();
    let agent = world.server.requests()[0].header("user-agent").unwrap().to_owned();
    assert!(agent.starts_with("R/") && agent.contains(" R (") && agent.ends_with(')'), "{agent}");
}

#[test]
fn broken_downloads_are_taken_up_again() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let path = "/src/contrib/demo_1.0.tar.gz";
    world.server.fail(path, 1, &Fault::Status(503, Vec::new()));
    world.server.fail(path, 1, &Fault::DropAfter(100));
    world.solve(&lock, &[]).ok();
    let requests = world.server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[2].header("range"), Some("bytes=100-"));
}

#[test]
fn what_no_source_has_fails_with_every_address() {
    need_r!();
    let world = World::new();
    let mut entry = Package::new("demo", "1.0").entry(&world.server.url("/one.tar.gz"));
    entry["sources"] = json!([world.server.url("/one.tar.gz"), world.path("two.tar.gz")]);
    let error = world.solve(&world.lock([entry]), &[]).exits(1).error("demo");
    assert!(error.starts_with("could not fetch `demo 1.0` from any source:"), "{error}");
    assert!(error.contains("/one.tar.gz: ") && error.contains("404") && error.contains("two.tar.gz"), "{error}");
}

#[test]
fn a_mirror_stands_in_for_what_starts_alike() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    world.write("mirror/src/contrib/demo_1.0.tar.gz", package.archive(Form::TarGz));
    let lock = world.lock([package.entry("https://cran.invalid/src/contrib/demo_1.0.tar.gz")]);
    for place in ["mirror".to_owned(), world.path("mirror").display().to_string()] {
        for scheme in ["", "file://"].iter().take(if place == "mirror" { 1 } else { 2 }) {
            let place = if place == "mirror" { "./mirror".to_owned() } else { place.clone() };
            let _ = fs::remove_dir_all(world.path("store/blobs"));
            let mirror = format!("https://cran.invalid={scheme}{place}");
            let ran = world.solve(&lock, &["--mirror", &mirror, "--rebuild", "demo"]).ok();
            assert_eq!(ran.outcomes(), "demo ingested", "{mirror}");
        }
    }
    let _ = fs::remove_dir_all(world.path("store/blobs"));
    world.server.put("/m/src/contrib/demo_1.0.tar.gz", Page::new(package.archive(Form::TarGz)));
    let mirror = format!("https://cran.invalid={}", world.server.url("/m"));
    world.solve(&lock, &["--mirror", &mirror, "--rebuild", "demo"]).ok();
    assert_eq!(world.server.requests().len(), 1);
}

/// Returns the entry of a local package, as pak writes it.
fn local(package: &Package, path: &std::path::Path) -> serde_json::Value {
    let mut entry = package.entry(&format!("file://{}", path.display()));
    entry["type"] = json!("local");
    entry["metadata"] = json!({"RemoteType": "local", "RemotePkgRef": format!("local::{}", path.display())});
    entry
}

#[test]
fn a_local_directory_is_built_when_what_counts_in_it_has_changed() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0")
        .file(".Rbuildignore", "^notes$\n")
        .file("notes/draft.txt", "one")
        .file("inst/data.txt", "one");
    let dir = world.path("demo");
    package.write_to(&dir);
    let lock = world.lock([local(&package, &dir)]);
    let ran = world.solve(&lock, &[]).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    assert!(world.has("library/demo/data.txt") && !world.has("library/demo/notes"));
    assert_eq!(world.r("cat(packageDescription('demo')$RemoteType)"), "local");

    package.clone().file("notes/draft.txt", "two").write_to(&dir);
    world.write("demo/.git/HEAD", "ref");
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo kept", "what is left out of the package does not count");
    package.clone().file("inst/data.txt", "two").write_to(&dir);
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo ingested");
    assert_eq!(world.read("library/demo/data.txt"), "two");
    package.write_to(&dir);
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo loaded", "the same content is the same package");
    assert_eq!(fs::read_to_string(dir.join("notes/draft.txt")).unwrap(), "one", "the directory itself is left alone");
    assert!(!dir.join("src").exists());
}

#[test]
fn a_local_archive_is_built_when_it_has_changed() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    let path = world.write("demo_1.0.tar.gz", package.archive(Form::TarGz));
    let lock = world.lock([local(&package, &path)]);
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo ingested");
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo kept");
    world.write("demo_1.0.tar.gz", package.file("inst/new.txt", "new").archive(Form::TarGz));
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo ingested");
    assert!(world.has("library/demo/new.txt"));
}

#[test]
fn the_project_itself_is_found_beside_its_lockfile() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    package.write_to(&world.path("project"));
    let mut entry = local(&package, "/where/it/was/on/another/machine".as_ref());
    entry["metadata"]["RemotePkgRef"] = json!("local::.");
    let lock = world.lock([entry]);
    fs::rename(lock, world.path("project/pkg.lock")).unwrap();
    assert_eq!(world.solve("project/pkg.lock".as_ref(), &[]).ok().outcomes(), "demo ingested");
}

#[test]
fn a_local_package_that_is_not_there_is_named() {
    need_r!();
    let world = World::new();
    let entry = local(&Package::new("demo", "1.0"), &world.path("absent"));
    let error = world.solve(&world.lock([entry]), &[]).exits(1).error("demo");
    assert!(error.contains("absent` does not exist or is no directory with a DESCRIPTION"), "{error}");
}

#[test]
fn the_source_hash_of_a_url_is_made_from_its_content() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    let bytes = package.archive(Form::TarGz);
    let digest = Sha256Digest::of(&bytes).to_string();
    world.server.put("/demo.tar.gz", Page::new(bytes));
    let mut entry = package.entry(&world.server.url("/demo.tar.gz"));
    entry["type"] = json!("url");
    entry["metadata"] = json!({"RemoteType": "url", "RemoteEtag": "\"one\"", "RemotePackaged": "TRUE"});
    let lock = world.lock([entry.clone()]);
    assert!(world.solve(&lock, &["--dry-run"]).ok().of("demo")["source_hash"].is_null());
    let key = world.solve(&lock, &[]).ok().of("demo")["key"].as_str().unwrap().to_owned();
    let expected = Sha256Digest::of(["url", "demo", "1.0", &digest].join("\0").as_bytes());
    assert_eq!(key.split('/').next(), Some(expected.to_string().as_str()));
    assert_eq!(world.solve(&lock, &["--dry-run"]).ok().actions(), "demo keep");

    let other = package.file("inst/new.txt", "new").archive(Form::TarGz);
    world.server.put("/demo.tar.gz", Page::new(other));
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo kept", "a lockfile that is the same means the same");
    entry["metadata"]["RemoteEtag"] = json!("\"two\"");
    assert_eq!(world.solve(&world.lock([entry]), &[]).ok().outcomes(), "demo ingested");
    assert!(world.has("library/demo/new.txt"));
}

#[test]
fn a_package_in_a_folder_of_a_repository_is_found() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0").file("README.md", "x").file(".Rbuildignore", "^README\\.md$\n");
    let bytes = package.archive_below("owner-repo-1a2b3c4/r/pkg/", Form::Zip);
    world.server.put("/repos/owner/repo/zipball/1a2b3c4", Page::new(bytes));
    let mut entry = package.entry(&world.server.url("/repos/owner/repo/zipball/1a2b3c4"));
    entry["type"] = json!("github");
    entry["metadata"] = json!({
        "RemoteType": "github", "RemoteHost": "api.github.com", "RemoteRepo": "repo", "RemoteUsername": "owner",
        "RemoteRef": "HEAD", "RemoteSha": "1a2b3c4", "RemoteSubdir": "r/pkg", "GithubRepo": "repo",
    });
    let ran = world.solve(&world.lock([entry]), &[]).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    assert!(!world.has("library/demo/README.md"));
    let told = world.r("d <- packageDescription('demo'); cat(d$RemoteSha, d$RemoteSubdir, d$GithubRepo)");
    assert_eq!(told, "1a2b3c4 r/pkg repo");
    let rds = world.r("cat(readRDS(system.file('Meta/package.rds', package = 'demo'))$DESCRIPTION[['RemoteSha']])");
    assert_eq!(rds, "1a2b3c4");
}

#[test]
fn archives_come_in_four_forms() {
    need_r!();
    let world = World::new();
    let forms = [("aa", Form::TarXz, "tar.xz"), ("bb", Form::TarBz2, "tar.bz2"), ("cc", Form::Zip, "zip")];
    let lock = world.lock(forms.map(|(name, form, ending)| {
        // The script must be executable although a zip may have forgotten that.
        let package = Package::new(name, "1.0").executable("configure", "#!/bin/sh\nexit 0\n");
        world.publish_as(&package, package.archive(form), ending)
    }));
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "aa ingested, bb ingested, cc ingested");
}

/// Builds `package` in a world of its own and returns its installed tree as the archive that a repository serves.
fn prebuilt(package: &Package, built: Option<&str>) -> Vec<u8> {
    let world = World::new();
    world.solve(&world.lock_published(&[package]), &["--link", "copy"]).ok();
    let dir = world.path("library").join(&package.name);
    if let Some(built) = built {
        let description = fs::read_to_string(dir.join("DESCRIPTION")).unwrap();
        let lines = description.lines().map(|line| if line.starts_with("Built: ") { built } else { line });
        let text = lines.collect::<Vec<_>>().join("\n") + "\n";
        fs::remove_file(dir.join("DESCRIPTION")).unwrap();
        fs::write(dir.join("DESCRIPTION"), text).unwrap();
    }
    let archive = world.path("binary.tar.gz");
    let status = std::process::Command::new("tar")
        .arg("-czf")
        .arg(&archive)
        .arg("-C")
        .arg(world.path("library"))
        .arg(&package.name)
        .status();
    assert!(status.unwrap().success());
    fs::read(archive).unwrap()
}

#[test]
fn a_prebuilt_package_is_taken_in_and_keyed_as_one() {
    need_r!();
    let world = World::new();
    let package = Package::linker("demo", "1.0", "hdr");
    let header = Package::header("hdr", "1.0", 4);
    let bytes = {
        let builder = World::new();
        builder.solve(&builder.lock_published(&[&header, &package]), &["--link", "copy"]).ok();
        let archive = builder.path("binary.tar.gz");
        let tar = ["-czf", archive.to_str().unwrap(), "-C", "library", "demo"];
        assert!(std::process::Command::new("tar").args(tar).current_dir(builder.path("")).status().unwrap().success());
        fs::read(archive).unwrap()
    };
    // The lockfile calls it a source, as it does where a repository decides by the User-Agent what it serves.
    let mut entry = world.publish_as(&package, bytes, "tar.gz");
    entry["metadata"]["RemoteSha"] = json!("the-binary");
    entry["dependencies"] = json!(["hdr"]);
    let entries = [entry, world.publish(&header)];
    let ran = world.solve(&world.lock(entries.clone()), &[]).ok();
    assert_eq!(ran.outcomes(), "demo ingested, hdr ingested");
    assert_eq!(world.r("cat(demo::answer())"), "4");
    let rds = world.r("cat(readRDS(system.file('Meta/package.rds', package = 'demo'))$DESCRIPTION[['RemoteSha']])");
    assert_eq!(rds, "the-binary");
    let sidecar = fs::read_to_string(world.trees("demo")[0].with_extension("json")).unwrap();
    let sidecar: serde_json::Value = serde_json::from_str(&sidecar).unwrap();
    assert!(sidecar["config"]["@binary"].is_string() && sidecar["config"]["hdr"].is_null(), "{sidecar}");
    let newer = [entries[0].clone(), world.publish(&Package::header("hdr", "1.1", 5))];
    let ran = world.solve(&world.lock(newer), &[]).ok();
    assert_eq!(ran.outcomes(), "demo kept, hdr ingested", "it was not compiled against this header anyway");
    // What it turned out to be is known from now on: neither fetched nor looked into again, and kept where it is.
    fs::remove_dir_all(world.path("store/blobs")).unwrap();
    let n_requests = world.server.requests().len();
    let lock = world.lock(entries);
    let other = world.path("other");
    let ran = world.solve(&lock, &["--library", other.to_str().unwrap()]).ok();
    assert_eq!(ran.outcomes(), "demo loaded, hdr loaded");
    assert_eq!(world.solve(&lock, &["--library", other.to_str().unwrap()]).ok().outcomes(), "demo kept, hdr kept");
    assert_eq!(world.server.requests().len(), n_requests);
}

#[test]
fn a_prebuilt_package_for_another_r_is_refused() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    let bytes = prebuilt(&package, Some("Built: R 3.1.0; ; 2014-01-01 00:00:00 UTC; unix"));
    let error = world.solve(&world.lock([world.publish_as(&package, bytes, "tar.gz")]), &[]).exits(1).error("demo");
    assert!(error.starts_with("the prebuilt package is for R 3.1.0, but this is R "), "{error}");
    let bytes = prebuilt(&package, Some("Built: R 4.2.0; x86_64-w64-mingw32; 2014-01-01 00:00:00 UTC; windows"));
    let error = world.solve(&world.lock([world.publish_as(&package, bytes, "tar.gz")]), &[]).exits(1).error("demo");
    assert!(error.starts_with("the prebuilt package is for R 4.2.0 windows, but this is R "), "{error}");
}

#[test]
fn a_lockfile_of_another_platform_gets_the_sources() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    let mut entry = world.publish(&package);
    entry["sources"] = json!([world.server.url("/bin/windows/contrib/4.5/demo_1.0.zip")]);
    entry["platform"] = json!("x86_64-w64-mingw32");
    entry["rversion"] = json!("4.5");
    entry["binary"] = json!(true);
    entry["sha256"] = json!("ab".repeat(32));
    let ran = world.solve(&world.lock([entry]), &[]).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    let warning = ran.warnings();
    let words = ["`demo`", "x86_64-w64-mingw32", "R 4.5", "does not fit here", "source is taken"];
    assert!(words.iter().all(|word| warning.contains(word)), "{warning}");
    assert_eq!(world.server.requests()[0].path, "/src/contrib/demo_1.0.tar.gz");
}

#[test]
fn an_archive_that_reaches_out_of_its_place_is_refused() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    for (name, shown) in [("../evil", "../evil"), ("/evil", "/evil"), ("demo/../../evil", "demo/../../evil")] {
        let bytes = tarball(&[("demo/DESCRIPTION", "Package: demo\nVersion: 1.0\n"), (name, "evil")]);
        let error = world.solve(&world.lock([world.publish_as(&package, bytes, "tar.gz")]), &[]).exits(1).error("demo");
        assert!(error.contains(&format!("refused because of its entry `{shown}`")), "{error}");
    }
    let all = walk(&world.path(""));
    assert!(!all.iter().any(|path| path.ends_with("evil")), "{all:?}");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut at = 0;
    while at < all.len() {
        let items = if all[at].is_dir() { crate::world::items(&all[at]) } else { Vec::new() };
        all.extend(items);
        at += 1;
    }
    all
}

#[test]
fn an_archive_of_another_package_is_refused() {
    need_r!();
    let world = World::new();
    let entry =
        world.publish_as(&Package::new("demo", "1.0"), Package::new("other", "1.0").archive(Form::TarGz), "tar.gz");
    let error = world.solve(&world.lock([entry]), &[]).exits(1).error("demo");
    assert_eq!(error, "its source is the package `other`");
}

#[test]
fn wrong_bytes_are_refused() {
    need_r!();
    let world = World::new();
    let mut entry = world.publish(&Package::new("demo", "1.0"));
    let right = entry["sha256"].as_str().unwrap().to_owned();
    entry["sha256"] = json!("ab".repeat(32));
    let error = world.solve(&world.lock([entry]), &[]).exits(1).error("demo");
    let said = format!("wrong bytes: the lockfile says sha256 {}, these have {right}", "ab".repeat(32));
    assert!(error.contains(&said), "{error}");
}

#[test]
fn what_has_no_digest_must_not_change() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0");
    let mut entry = world.publish(&package);
    entry["sha256"] = json!({});
    let lock = world.lock([entry]);
    world.solve(&lock, &[]).ok();
    let other = package.file("inst/new.txt", "new").archive(Form::TarGz);
    world.server.put("/src/contrib/demo_1.0.tar.gz", Page::new(other));
    fs::remove_dir_all(world.path("store/blobs/sha256")).unwrap();
    let error = world.solve(&lock, &["--rebuild", "demo"]).exits(1).error("demo");
    assert!(error.contains("has changed: first seen with sha256 ") && error.contains("remove "), "{error}");
    assert!(world.has("library/demo"));
}

#[test]
fn a_download_is_shared_by_later_runs() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.solve(&lock, &[]).ok();
    assert_eq!(world.solve(&lock, &["--rebuild", "demo"]).ok().outcomes(), "demo ingested");
    assert_eq!(world.server.requests().len(), 1);
}

#[test]
fn without_a_network_what_is_missing_is_listed_before_anything_is_built() {
    need_r!();
    let world = World::new();
    let packages = ["aa", "bb", "cc"].map(|name| Package::new(name, "1.0"));
    let entries: Vec<_> = packages.iter().map(|package| world.publish(package)).collect();
    world.solve(&world.lock(entries[..1].to_vec()), &[]).ok();
    let ran = world.solve(&world.lock(entries.clone()), &["--offline"]).exits(3);
    assert!(ran.stderr.contains("2 packages are neither stored nor downloaded before"), "{}", ran.stderr);
    assert!(ran.stderr.contains("bb, cc") && ran.stderr.contains("\nhint: "), "{}", ran.stderr);
    assert_eq!(world.server.requests().len(), 1);
    let ran = world.solve(&world.lock(entries[..1].to_vec()), &["--offline"]).ok();
    assert_eq!(ran.outcomes(), "aa kept");
    let ran = world.solve(&world.lock(entries), &["--offline", "-k"]).exits(1);
    assert_eq!(ran.outcomes(), "aa kept, bb failed, cc failed");
    assert!(ran.error("bb").contains("was not downloaded before and larder is offline"), "{}", ran.error("bb"));
}

#[test]
fn packages_that_r_has_are_checked_and_left_where_they_are() {
    need_r!();
    let world = World::new();
    let installed = |package: &str| {
        let mut entry = Package::new(package, "4.2.2").entry("");
        entry["type"] = json!("installed");
        entry["metadata"] = json!({"RemoteType": "installed"});
        entry["sources"] = json!([]);
        entry
    };
    let ran = world.solve(&world.lock([installed("stats")]), &[]).ok();
    assert_eq!(ran.outcomes(), "stats provided");
    assert!(!world.has("library/stats"));
    let lock = world.lock([installed("stats"), installed("absent"), world.publish(&Package::new("demo", "1.0"))]);
    let plan = world.solve(&lock, &["--dry-run"]).ok();
    let warning = plan.warnings();
    assert!(warning.contains("absent from R's own library") && warning.contains("does not have it"), "{warning}");
    let ran = world.solve(&lock, &["-k"]).exits(1);
    assert_eq!(ran.outcomes(), "absent failed, demo ingested, stats provided");
    assert!(ran.error("absent").contains("does not have it"), "{}", ran.error("absent"));
}

#[test]
fn an_archive_of_another_version_is_refused() {
    need_r!();
    let world = World::new();
    let mut entry =
        world.publish_as(&Package::new("demo", "1.0"), Package::new("demo", "2.0").archive(Form::TarGz), "tar.gz");
    entry["sha256"] = json!({});
    let error = world.solve(&world.lock([entry]), &[]).exits(1).error("demo");
    assert!(error.starts_with("its source is version 2.0; "), "{error}");
}
