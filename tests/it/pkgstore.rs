//! Rows P of the behaviours to reach that no other test shows; `ops/SCENARIOS.md` says where each row is.

use std::path::Path;

use fs_err as fs;
use larder::larder::{Config, Exchange, Larder, Manifest, Request};
use larder::lockfile::Lockfile;
use larder::report::RunOutcome;
use larder_ops::package::PackageName;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{PATH, Package, World, items, need_r};

fn larder(world: &World) -> Larder {
    Larder::open(Config::new(world.path("store"), [("PATH".into(), PATH.into())])).unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn names(packages: &[PackageName]) -> Vec<&str> {
    packages.iter().map(PackageName::as_str).collect()
}

#[test]
fn p9_d2_the_platform_is_that_of_the_r_that_runs_and_of_no_entry() {
    need_r!();
    let world = World::new();
    let entry = |platform: &str, rversion: &str| {
        let mut entry = world.publish(&Package::new("demo", "1.0"));
        (entry["platform"], entry["rversion"]) = (json!(platform), json!(rversion));
        entry
    };
    let platform = larder(&world).host().platform.clone();
    let r = world
        .r("cat(paste(R.version$major, sub('[.].*', '', R.version$minor), sep = '.'), R.version$platform, sep = '-')");
    assert!(platform.starts_with(&format!("{r}-")), "{platform} of {r}");
    for (of_entry, rversion) in [("source", "*"), ("*", "4.5"), ("aarch64-apple-darwin20", "R 4.4.0")] {
        let ran = world.run(["plan", world.lock([entry(of_entry, rversion)]).to_str().unwrap(), "--json"]).ok();
        assert_eq!(ran.events_of("plan")[0]["platform"], platform.as_str());
    }
}

#[test]
fn p10_d4_a_platform_says_what_it_stands_for() {
    need_r!();
    let world = World::new();
    fs::create_dir_all(world.path("store/looks-like-one")).unwrap();
    world.solve(&world.lock_published(&[&Package::new("demo", "1.0")]), &[]).ok();
    let written = json_of(&world.platform_dir().join("platform.json"));
    assert_eq!(written["platform"], world.platform_dir().file_name().unwrap().to_str().unwrap());
    assert!(!written["description"].as_array().unwrap().is_empty());
}

#[test]
fn p13_p14_a_source_has_many_configurations_and_the_keys_of_what_it_links_to_choose() {
    need_r!();
    let world = World::new();
    let lock = |version: &str, number| {
        world.lock_published(&[&Package::header("hdr", version, number), &Package::linker("lnk", "2.0", "hdr")])
    };
    let (old, new) = (lock("1.0", 1), lock("1.1", 2));
    let plan = |lock: &Path| world.run(["plan", lock.to_str().unwrap(), "--json", "-l", "elsewhere"]).ok();
    // Nothing is stored and nothing says what it links to: not known. The first build tells.
    assert_eq!(plan(&old).of("lnk")["config_hash"], Value::Null);
    let first = world.solve(&old, &[]).ok().of("lnk")["key"].clone();
    let second = world.solve(&new, &[]).ok().of("lnk")["key"].clone();
    let configs = json_of(&items(&world.platform_dir().join("lnk"))[0].join("configs.json"));
    let known: Vec<&String> = configs["configs"].as_object().unwrap().keys().collect();
    assert_eq!(known.len(), 2, "the second left the first: {configs}");
    for (lock, key) in [(&old, &first), (&new, &second)] {
        let planned = plan(lock);
        assert_eq!(planned.actions(), "hdr load, lnk load");
        assert!(key.as_str().unwrap().ends_with(planned.of("lnk")["config_hash"].as_str().unwrap()));
    }
    assert_eq!(plan(&lock("1.2", 3)).of("lnk")["action"], "recompile", "a changed key is a miss");
    // What links to nothing has the one empty configuration.
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(plan(&old).of("hdr")["config_hash"], empty);
}

#[test]
fn p15_d8_what_an_installed_package_links_to_is_read_from_it_and_must_be_somewhere() {
    need_r!();
    let world = World::new();
    let linker = Package::linker("lnk", "1.0", "hdr").field("Note", "x");
    let entry = |mut entry: Value, dependencies: &[&str]| {
        entry["dependencies"] = json!(dependencies);
        entry
    };
    let lnk = entry(world.publish(&linker), &[]);
    // As a package says it, with a constraint and a line of its own.
    world.write(
        "lib/lnk/DESCRIPTION",
        "Package: lnk\nVersion: 1.0\nNeedsCompilation: yes\nLinkingTo:\n    hdr (>= 0.9)\nBuilt: R 4.2.2; ; 2024; unix\n",
    );
    let lib = Exchange::new(world.path("lib"));
    let parse = |lock: std::path::PathBuf| Lockfile::parse(&fs::read_to_string(lock).unwrap()).unwrap();
    let alone = parse(world.lock([lnk.clone()]));
    let error = larder(&world).ingest(&alone, &lib).unwrap_err().to_string();
    assert!(error.contains("`lnk` links to `hdr`"), "not dropped from the key: {error}");

    let hdr = world.publish(&Package::header("hdr", "1.0", 1));
    let both = parse(world.lock([lnk, hdr]));
    let done = larder(&world).ingest(&both, &lib).unwrap();
    assert_eq!(done.manifest.keys().map(PackageName::as_str).collect::<Vec<_>>(), ["lnk"]);
    let configs = json_of(&items(&world.platform_dir().join("lnk"))[0].join("configs.json"));
    assert_eq!(configs["linkingto"], json!(["hdr"]));
    // Without a DESCRIPTION it is no package, and nothing to take.
    fs::remove_file(world.path("lib/lnk/DESCRIPTION")).unwrap();
    assert!(larder(&world).ingest(&both, &lib).unwrap().manifest.is_empty());
}

#[test]
fn p20_p21_a_library_is_put_together_from_a_manifest() {
    need_r!();
    let world = World::new();
    world.solve(&world.lock_published(&[&Package::new("aa", "1.0"), &Package::new("bb", "1.0")]), &[]).ok();
    let (larder, library) = (larder(&world), world.path("assembled"));
    let record = |library: &Path| json_of(&library.join(".packages.json"));
    let mut manifest: Manifest = serde_json::from_value(world.record()).unwrap();
    assert!(larder.assemble(&manifest, &library).unwrap().is_empty());
    assert_eq!(record(&library), world.record());
    assert!(library.join("aa/DESCRIPTION").is_file() && library.join("bb/DESCRIPTION").is_file());

    // What the store lacks is listed; what the manifest no longer has goes; what collides is replaced.
    let bb = manifest.remove("bb").unwrap();
    let aa = manifest.insert(PackageName::parse("aa").unwrap(), bb).unwrap();
    manifest.insert(PackageName::parse("bb").unwrap(), bb);
    assert_eq!(names(&larder.assemble(&manifest, &library).unwrap()), ["aa"]);
    manifest.insert(PackageName::parse("aa").unwrap(), aa);
    manifest.remove("bb");
    assert!(larder.assemble(&manifest, &library).unwrap().is_empty());
    assert!(library.join("aa").is_dir() && !library.join("bb").exists());
    assert!(larder.assemble(&Manifest::new(), &library).unwrap().is_empty());
    assert_eq!(record(&library), json!({}));

    for bad in ["", "a", "/b", "a/"] {
        assert!(serde_json::from_value::<Manifest>(json!({"aa": bad})).is_err(), "{bad:?}");
    }
}

#[test]
fn p18_p19_p26_the_flows_are_library_calls_too() {
    need_r!();
    let world = World::new();
    let text = |version: &str| {
        let lock = world.lock_published(&[&Package::new("demo", version), &Package::new("same", "1.0")]);
        Lockfile::parse(&fs::read_to_string(lock).unwrap()).unwrap()
    };
    let (old, new) = (text("1.0"), text("2.0"));
    let larder = std::sync::Arc::new(larder(&world));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let worker = larder.workers().create(Some(std::process::id())).unwrap();
    let solve = |lockfile: &Lockfile, request| {
        let report = runtime.block_on(async { larder.solve(lockfile, request).finish().await }).unwrap();
        assert_eq!(report.outcome, RunOutcome::Ok);
    };
    solve(&old, Request::new(&worker.library));
    let next = larder.workers().create(Some(std::process::id())).unwrap();
    let request = Request { reference: Some(worker.library.clone()), ..Request::new(&next.library) };
    let loaded = ["demo", "same"].map(|name| PackageName::parse(name).unwrap());
    let (_, refresh) = larder.changes(&new, &request, &loaded).unwrap();
    assert_eq!(refresh.changed.iter().map(|it| it.package.as_str()).collect::<Vec<_>>(), ["demo"]);
    let exchange = Exchange { reference: request.reference.clone(), is_runtime: true, ..Exchange::new(&next.library) };
    let found = larder.populate(&new, &exchange).unwrap();
    assert_eq!(found.to_string(), "0 hits, 1 misses, 0 ABI hits, 0 ABI rebuilds");
    solve(&new, request);
    assert!(next.library.join("demo").is_dir());
    larder.workers().remove(&worker.id).unwrap();
    assert_eq!(larder.workers().list().unwrap().len(), 1);
}

#[test]
fn p22_d15_a_source_is_locked_by_the_kernel_and_waiting_can_be_ended() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let planned = world.run(["plan", lock.to_str().unwrap(), "--json"]).ok();
    let platform = planned.events_of("plan")[0]["platform"].as_str().unwrap().to_owned();
    let source = planned.of("demo")["source_hash"].as_str().unwrap().to_owned();
    // What a dead process left is old, and holds nothing.
    let path = world.write(&format!("store/.locks/{platform}/demo/{source}.lock"), "");
    let held = fs::File::open(&path).unwrap();
    held.file().lock().unwrap();
    let mut waiting = world.start(&lock, &[]);
    waiting.wait_for("plan");
    waiting.signal(Signal::INT);
    let ran = waiting.finish().exits(130);
    assert_eq!(ran.outcomes(), "demo skipped");
    let mut waiting = world.start(&lock, &[]);
    waiting.wait_for("plan");
    drop(held);
    assert_eq!(waiting.finish().ok().outcomes(), "demo ingested");
}
