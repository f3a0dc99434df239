use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::digest::Sha256Digest;
use crate::key::Reference;
use crate::package::PackageName;
use crate::store::{Stats, Store, roots};

const DAY: Duration = Duration::from_hours(24);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 10_000 * DAY
}

fn set_used(path: &Path, days_ago: u32) {
    let file = fs::File::open(path).unwrap();
    let time = now() - days_ago * DAY;
    let times = std::fs::FileTimes::new().set_modified(time).set_accessed(time);
    file.file().set_times(times).unwrap();
}

/// A store of entries that are bytes long and were used days ago.
struct Shop {
    dir: TempDir,
}

impl Shop {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn reference(package: &str, config: &str) -> Reference {
        Reference { source: Sha256Digest::of(package.as_bytes()), config: Sha256Digest::of(config.as_bytes()) }
    }

    fn source_dir(&self, platform: &str, package: &str) -> PathBuf {
        self.root().join(platform).join(package).join(Self::reference(package, "").source.to_string())
    }

    fn tree(&self, platform: &str, package: &str, config: &str) -> PathBuf {
        self.source_dir(platform, package).join(Self::reference(package, config).config.to_string())
    }

    fn entry(&self, platform: &str, package: &str, config: &str, bytes: usize, days_ago: u32) -> PathBuf {
        let tree = self.tree(platform, package, config);
        fs::create_dir_all(tree.join("R")).unwrap();
        fs::write(tree.join("R/code"), vec![b'x'; bytes]).unwrap();
        fs::set_permissions(tree.join("R/code"), PermissionsExt::from_mode(0o444)).unwrap();
        fs::write(self.root().join(platform).join("platform.json"), "{}").unwrap();
        let configs = self.source_dir(platform, package).join("configs.json");
        let known = fs::read(&configs).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
        let mut known = json!({"linkingto": [], "configs": known["configs"], "more": 1});
        known["configs"][Self::reference(package, config).config.to_string()] = json!({});
        fs::write(&configs, known.to_string()).unwrap();
        let sidecar = tree.with_extension("json");
        fs::write(&sidecar, json!({"version": "1.0", "size": bytes}).to_string()).unwrap();
        set_used(&sidecar, days_ago);
        tree
    }

    fn file(&self, path: &str, bytes: usize, days_ago: u32) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![b'x'; bytes]).unwrap();
        set_used(&path, days_ago);
        path
    }

    fn blob(&self, text: &str, bytes: usize, days_ago: u32) -> PathBuf {
        self.file(&format!("blobs/sha256/ab/{}", Sha256Digest::of(text.as_bytes())), bytes, days_ago)
    }

    /// Evicts, and says what went, each with what that gave back.
    fn evict(&self, policy: &Policy) -> (String, Summary) {
        let mut went = Vec::new();
        let tell = |evicted: &Evicted| {
            let what = match &evicted.what {
                What::Entry(entry) => entry.package.to_string(),
                other => format!("{other:?}").to_lowercase(),
            };
            went.push(format!("{what} {}", evicted.freed));
        };
        let summary = evict(&self.root(), policy, now(), tell).unwrap();
        assert_eq!(fs::read_dir(self.root().join(".staging")).map_or(0, Iterator::count), 0);
        (went.join(", "), summary)
    }

    fn by_age(&self, days: u32) -> (String, Summary) {
        self.evict(&Policy { older_than: Some(days * DAY), ..Policy::default() })
    }

    fn by_size(&self, max_bytes: u64) -> (String, Summary) {
        self.evict(&Policy { max_bytes: Some(max_bytes), ..Policy::default() })
    }
}

fn name(text: &str) -> PackageName {
    PackageName::parse(text).unwrap()
}

#[test]
fn old_configurations_go_fresh_ones_stay_on_every_platform() {
    let shop = Shop::new();
    let old = shop.entry("here", "lnk", "old", 10, 40);
    let fresh = shop.entry("here", "lnk", "fresh", 10, 20);
    let there = shop.entry("there", "cli", "", 10, 40);
    let (went, summary) = shop.by_age(30);
    // The record of each entry counts too.
    assert_eq!(went, "lnk 37, cli 37");
    assert_eq!((summary.n_entries, summary.left), (2, 10));
    assert!(!old.exists() && !old.with_extension("json").exists() && fresh.is_dir());
    let configs: serde_json::Value =
        serde_json::from_slice(&fs::read(fresh.with_file_name("configs.json")).unwrap()).unwrap();
    let fresh = Shop::reference("lnk", "fresh").config.to_string();
    assert_eq!(configs, json!({"linkingto": [], "configs": {fresh: {}}, "more": 1}), "what others wrote stays");
    assert!(!there.exists() && !shop.root().join("there").exists(), "nothing empty is left");
}

#[test]
fn zero_is_off_and_an_empty_store_is_fine() {
    let shop = Shop::new();
    assert_eq!(shop.by_age(30), (String::new(), Summary::default()));
    shop.entry("here", "cli", "", 10, 400);
    assert_eq!(shop.by_age(0).0, "");
    assert_eq!(shop.evict(&Policy::default()).0, "");
}

#[test]
fn the_least_recently_used_goes_until_the_rest_fits() {
    let shop = Shop::new();
    shop.entry("here", "newest", "", 100, 1);
    shop.entry("here", "oldest", "", 100, 9);
    shop.entry("there", "middle", "", 100, 5);
    shop.blob("blob", 100, 7);
    assert_eq!(shop.by_size(400).0, "");
    let (went, summary) = shop.by_size(250);
    assert_eq!((&*went, summary.left), ("oldest 128, blob 100", 200));
}

#[test]
fn what_is_leased_or_in_a_living_library_stays() {
    let shop = Shop::new();
    let leased = shop.entry("here", "leased", "", 10, 40);
    shop.entry("there", "leased", "", 10, 40);
    let rooted = shop.entry("here", "rooted", "", 10, 40);
    let blob = shop.blob("blob", 10, 40);
    let store = Store::open(shop.root(), "here", "");
    store.hold([(&name("leased"), Shop::reference("leased", "").source)]).unwrap();
    store.hold_blob(Sha256Digest::of(b"blob")).unwrap();
    let library = shop.dir.path().join("library");
    fs::create_dir(&library).unwrap();
    let record = json!({"rooted": Shop::reference("rooted", "").to_string()});
    fs::write(library.join(".packages.json"), record.to_string()).unwrap();
    store.register(&library);

    let (went, summary) = shop.by_age(30);
    assert_eq!((&*went, summary.n_in_use), ("leased 37", 3), "the same source on another platform is another");
    assert!(leased.is_dir() && rooted.is_dir() && blob.is_file());
    fs::remove_dir_all(&library).unwrap();
    drop(store);
    let (went, summary) = shop.by_size(0);
    assert_eq!((summary.n_entries, summary.n_others, summary.n_in_use, summary.left), (2, 1, 0, 0), "{went}");
    assert_eq!(
        sorted(&shop.root().join(".roots")).unwrap(),
        Vec::<PathBuf>::new(),
        "a library that is gone is forgotten"
    );
}

#[test]
fn every_generation_of_a_library_keeps_what_it_holds() {
    let shop = Shop::new();
    for package in ["before", "now", "none"] {
        shop.entry("here", package, "", 10, 40);
    }
    let library = shop.dir.path().join("library");
    for (n, package) in ["before", "now"].into_iter().enumerate() {
        let tree = shop.dir.path().join(format!(".library.larder/{n}"));
        fs::create_dir_all(&tree).unwrap();
        let record = json!({package: Shop::reference(package, "").to_string()});
        fs::write(tree.join(".packages.json"), record.to_string()).unwrap();
    }
    fs::os::unix::fs::symlink(".library.larder/1", &library).unwrap();
    roots::register(&shop.root(), &library).unwrap();
    let (went, summary) = shop.by_age(30);
    assert_eq!((&*went, summary.n_in_use), ("none 37", 2));
}

#[test]
fn a_library_whose_needs_are_not_known_stops_eviction_but_not_a_forced_removal() {
    let shop = Shop::new();
    shop.entry("here", "cli", "", 10, 40);
    let library = shop.dir.path().join("library");
    fs::create_dir(&library).unwrap();
    fs::write(library.join(".packages.json"), "{").unwrap();
    roots::register(&shop.root(), &library).unwrap();
    let policy = Policy { older_than: Some(DAY), ..Policy::default() };
    assert!(matches!(evict(&shop.root(), &policy, now(), |_| {}), Err(EvictError::Root(_))));
    assert_eq!(remove(&shop.root(), |_| true, true, |_| {}).unwrap(), 1);
}

#[test]
fn files_that_entries_share_count_once_and_are_freed_with_the_last() {
    let shop = Shop::new();
    let first = shop.entry("here", "lnk", "first", 1000, 9);
    let second = shop.entry("here", "lnk", "second", 1000, 8);
    fs::remove_file(second.join("R/code")).unwrap();
    fs::hard_link(first.join("R/code"), second.join("R/code")).unwrap();
    let sidecar = json!({"size": 1000, "shares": Shop::reference("lnk", "first").config});
    fs::write(second.with_extension("json"), sidecar.to_string()).unwrap();
    set_used(&second.with_extension("json"), 8);
    shop.entry("here", "other", "", 500, 5);
    let stats = Stats::read(&shop.root()).unwrap();
    assert_eq!((stats.entries(), stats.bytes()), (crate::store::Size { n: 3, bytes: 1500 }, 1500));
    assert_eq!(stats.platforms["here"][&name("lnk")].size.bytes, 1000);

    let forecast = shop.evict(&Policy { max_bytes: Some(600), is_dry_run: true, ..Policy::default() });
    assert!(first.is_dir() && second.is_dir());
    let (went, summary) = shop.by_size(600);
    assert_eq!(forecast.1.n_entries, summary.n_entries);
    assert_eq!(summary.left, 500);
    assert!(went.starts_with("lnk 29, lnk 10"), "only with the last one: {went}");
}

#[test]
fn downloads_logs_and_what_is_left_over_go_by_age_too() {
    let shop = Shop::new();
    let tree = shop.entry("here", "cli", "", 10, 1);
    shop.blob("old", 5, 40);
    shop.blob("new", 5, 1);
    shop.file("blobs/first-seen/record.json", 5, 400);
    shop.file("blobs/partial/broken-off", 6, 40);
    let under_way = shop.file("blobs/partial/under-way", 6, 40);
    shop.file("logs/cli/old.log", 7, 40);
    shop.file("logs/cli/new.log", 7, 1);
    let file = fs::File::open(&under_way).unwrap();
    file.file().lock().unwrap();
    // Its name is as old as the file itself, and no clock can be set there: what counts is that it is older.
    let stray = tree.with_file_name(Sha256Digest::of(b"no sidecar").to_string());
    fs::create_dir(&stray).unwrap();
    fs::create_dir_all(shop.root().join(".aside/bad")).unwrap();
    let later = SystemTime::now() + 1000 * DAY;
    let policy = Policy { older_than: Some(30 * DAY), ..Policy::default() };
    let (went, summary) = shop.evict(&policy);
    assert_eq!(went, "partial 6, blob 5, log 7");
    assert_eq!(summary.n_in_use, 1, "a download under way");
    for path in [&tree.with_extension("json"), &under_way] {
        let file = fs::File::open(path).unwrap();
        file.file().set_times(std::fs::FileTimes::new().set_modified(later).set_accessed(later)).unwrap();
    }
    let mut went = Vec::new();
    evict(&shop.root(), &policy, later, |evicted| went.push(format!("{:?}", evicted.what).to_lowercase())).unwrap();
    went.sort();
    assert_eq!(went, ["aside", "blob", "log", "stray"]);
    assert!(tree.is_dir() && shop.root().join("blobs/first-seen/record.json").is_file(), "records of digests stay");
}

#[test]
fn an_entry_that_was_used_since_it_was_found_stays_and_one_that_is_gone_is_no_error() {
    let shop = Shop::new();
    let touched = shop.entry("here", "touched", "", 10, 40);
    let gone = shop.entry("here", "gone", "", 10, 40);
    let items = gather(&shop.root()).unwrap();
    set_used(&touched.with_extension("json"), 0);
    fs::remove_file(gone.with_extension("json")).unwrap();
    assert_eq!(take(&shop.root(), items, Spare::Nothing, &mut |_| {}).unwrap(), 0);
    assert!(touched.is_dir() && touched.with_extension("json").is_file());
}

#[test]
fn removing_by_name_refuses_what_is_in_use_unless_forced() {
    let shop = Shop::new();
    let (used, free) = (shop.entry("here", "used", "", 10, 1), shop.entry("here", "free", "", 10, 1));
    let store = Store::open(shop.root(), "here", "");
    store.hold([(&name("used"), Shop::reference("used", "").source)]).unwrap();
    let error = remove(&shop.root(), |_| true, false, |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "in use by a run or a library: used 1.0");
    assert!(used.is_dir() && free.is_dir(), "refused as a whole");
    assert_eq!(remove(&shop.root(), |entry| entry.package == name("free"), false, |_| {}).unwrap(), 1);
    assert!(used.is_dir() && !free.exists());
    assert_eq!(remove(&shop.root(), |_| true, true, |_| {}).unwrap(), 1);
    assert!(!used.exists());
}

#[test]
fn what_the_dead_left_goes_in_any_case() {
    let shop = Shop::new();
    let lock = shop.file(".locks/here-abc.lock", 3, 1);
    let held = shop.root().join(".locks/here-def.lock");
    let holder = Lock::wait(&held).unwrap();
    let staged = shop.file(".staging/dead/0/object.o", 3, 1);
    shop.by_age(0);
    assert!(!lock.exists() && !staged.exists() && held.exists());
    drop(holder);
}
