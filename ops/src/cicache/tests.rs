//! What is saved and restored, over a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::key::PackageKey;
use crate::store::testing::{Shop, key, name};
use crate::store::verify::{Options, verify};
use crate::store::{Depth, Store};

/// A job: an empty store at first, and the directory that outlives it.
struct Job {
    shop: Shop,
    store: Arc<Store>,
    cache: CiCache,
}

fn text(key: &str) -> Key {
    key.parse().unwrap()
}

fn packages(names: &[&str]) -> Vec<Arc<PackageKey>> {
    // A package has at least two letters.
    names.iter().map(|name| key(&format!("p{name}"), &[])).collect()
}

impl Job {
    fn at(dir: &Path) -> Self {
        Self::with(dir, "", CiCacheConfig::default())
    }

    fn with(dir: &Path, address: &str, config: CiCacheConfig) -> Self {
        let shop = Shop::on(config.platform.as_deref().unwrap_or("some-platform"));
        let store = Arc::new(Store::open(shop.store.root(), shop.store.platform(), shop.store.description()));
        let place = Place::Tier(format!("fs://{}{address}", dir.display()).parse().unwrap());
        let platform = Some(store.platform().to_owned());
        let cache = CiCache::open(place, CiCacheConfig { platform, ..config }).unwrap();
        Self { shop, store, cache }
    }

    fn build(&self, keys: &[Arc<PackageKey>]) {
        for key in keys {
            self.shop.publish(key);
        }
    }

    async fn save(&self, key: &str, prefix: &[&str], keys: &[Arc<PackageKey>], is_complete: bool) -> Saved {
        let wanted = keys.iter().map(|key| (key.package().clone(), key.reference())).collect();
        let prefixes: Vec<Key> = prefix.iter().map(|prefix| text(prefix)).collect();
        self.cache.save(&self.store, &text(key), &prefixes, &wanted, is_complete).await.unwrap()
    }

    async fn restore(&self, key: &str, prefix: &[&str]) -> Restored {
        let prefixes: Vec<Key> = prefix.iter().map(|prefix| text(prefix)).collect();
        let restored = self.cache.restore(&self.store, &text(key), &prefixes, |_, _| true).await.unwrap();
        let found = verify(self.store.root(), &Options::default(), &|_, _| {}).unwrap();
        assert_eq!(found.findings.len(), 0, "whatever came is whole");
        restored
    }

    fn has(&self, key: &PackageKey) -> bool {
        self.store.inspect(key.package(), key.reference(), Depth::Full).unwrap().is_some()
    }
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<_> =
        fs_err::read_dir(dir.join("local/ci-packs")).into_iter().flatten().map(|item| item.unwrap().path()).collect();
    packs.sort();
    packs
}

#[tokio::test]
async fn what_one_job_saves_the_next_restores_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Job::at(dir.path()), Job::at(dir.path()));
    let keys = packages(&["a", "b", "c"]);
    one.build(&keys);
    let saved = one.save("k-1", &["k-"], &keys, true).await;
    assert_eq!(saved.outcome, Some(Ok(text("k-1"))));
    assert_eq!((saved.n_entries, saved.n_packed, saved.n_packs), (3, 3, 1));

    let restored = two.restore("k-1", &[]).await;
    assert_eq!((restored.key.as_deref(), restored.is_exact), (Some("k-1"), true));
    assert_eq!((restored.n_saved, restored.n_restored, restored.bytes), (3, 3, saved.bytes));
    for key in &keys {
        let files = [&one, &two].map(|job| {
            let tree = job.store.tree(key.package(), key.reference());
            ["json", "files"].map(|ending| fs_err::read(tree.with_extension(ending)).unwrap())
        });
        assert_eq!(files[0], files[1]);
    }
    let again = two.restore("k-1", &[]).await;
    assert_eq!((again.n_restored, again.n_packs, again.bytes), (0, 0, 0), "nothing comes twice");
}

#[tokio::test]
async fn the_exact_key_comes_first_and_then_the_newest_of_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a", "b", "c"]);
    job.build(&keys);
    // Each has something new, or it would not be written.
    job.save("k-z", &[], &keys[..1], true).await;
    job.save("k-a", &[], &keys[..2], true).await;
    job.save("other-1", &[], &keys, true).await;
    let found = |key: &'static str, prefixes: &'static [&str]| {
        let job = &job;
        async move {
            let restored = job.restore(key, prefixes).await;
            (restored.key, restored.is_exact)
        }
    };
    assert_eq!(found("k-z", &["other"]).await, (Some("k-z".to_owned()), true));
    assert_eq!(found("k-", &["other"]).await, (Some("k-a".to_owned()), false), "the newest, whatever its name");
    assert_eq!(found("none", &["nor-this", "other", "k"]).await, (Some("other-1".to_owned()), false), "in their order");
    assert_eq!(found("none", &["nor-this"]).await, (None, false));
    let listed: Vec<_> = job.cache.list("").await.unwrap().into_iter().map(|kept| kept.key).collect();
    assert_eq!(listed, ["other-1", "k-a", "k-z"], "newest first");
    assert_eq!(job.cache.list("k-").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_key_is_written_once_and_nothing_new_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a", "b"]);
    job.build(&keys);
    assert_eq!(job.save("k-1", &["k-"], &[], true).await.outcome, Some(Err(Skipped::Nothing)));
    assert!(matches!(job.save("k-1", &["k-"], &keys[..1], true).await.outcome, Some(Ok(_))));
    let again = job.save("k-1", &["k-"], &keys, true).await;
    assert_eq!(again.outcome, Some(Err(Skipped::IsThere("k-1".to_owned()))));
    let same = job.save("k-2", &["k-"], &keys[..1], true).await;
    assert_eq!(same.outcome, Some(Err(Skipped::NothingNew("k-1".to_owned()))));
    assert_eq!(again.outcome.unwrap().unwrap_err().to_string(), "`k-1` exists already");
    let read_only = Job::with(dir.path(), ":ro", CiCacheConfig::default());
    let refused = read_only.cache.save(&read_only.store, &text("k-3"), &[], &[].into(), true).await;
    assert!(matches!(refused, Err(CiError::ReadOnly)));
}

#[tokio::test]
async fn only_what_is_new_is_packed_and_only_what_is_wanted_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let one = Job::at(dir.path());
    let keys = packages(&["a", "b", "c", "new"]);
    one.build(&keys);
    let first = one.save("k-1", &["k-"], &keys[..3], true).await;
    let second = one.save("k-2", &["k-"], &keys, true).await;
    assert_eq!((second.n_entries, second.n_packed, second.n_packs), (4, 1, 1));
    assert!(second.bytes < first.bytes);
    assert_eq!(packs(dir.path()).len(), 2);

    let two = Job::at(dir.path());
    let restored =
        two.cache.restore(&two.store, &text("k-2"), &[], |package, _| *package == name("pnew")).await.unwrap();
    assert_eq!((restored.n_restored, restored.n_packs, restored.bytes), (1, 1, second.bytes));
    assert!(two.has(&keys[3]) && !two.has(&keys[0]));
}

#[tokio::test]
async fn a_pack_of_which_less_than_half_is_wanted_is_packed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a", "b", "c", "d", "e"]);
    job.build(&keys);
    job.save("k-1", &["k-"], &keys[..4], true).await;
    let half = job.save("k-2", &["k-"], &[keys[0].clone(), keys[1].clone(), keys[4].clone()], true).await;
    assert_eq!((half.n_entries, half.n_packed), (3, 1), "half of the first pack is worth keeping");
    // Of the first pack only one in four is left.
    let last = packages(&["f"]);
    job.build(&last);
    let less = job.save("k-3", &["k-2"], &[keys[0].clone(), keys[4].clone(), last[0].clone()], true).await;
    assert_eq!((less.n_entries, less.n_packed, less.n_packs), (3, 3 - 1, 1), "`e` stays in its pack");
    let other = Job::at(dir.path());
    assert_eq!(other.restore("k-3", &[]).await.n_restored, 3);
}

#[tokio::test]
async fn many_small_packs_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let names: Vec<String> = (0..12).map(|n| format!("p{n:02}")).collect();
    let keys: Vec<_> = names.iter().map(|name| key(name, &[])).collect();
    job.build(&keys);
    let mut packed = Vec::new();
    for n in 1..=keys.len() {
        packed.push(job.save(&format!("k-{n}"), &["k-"], &keys[..n], true).await.n_packed);
    }
    assert_eq!(packed, [1, 1, 1, 1, 1, 1, 1, 1, 1, 10, 1, 1]);
}

#[tokio::test]
async fn a_damaged_pack_is_a_miss_and_the_next_save_makes_it_good() {
    let dir = tempfile::tempdir().unwrap();
    let one = Job::at(dir.path());
    let keys = packages(&["a", "b"]);
    one.build(&keys);
    one.save("k-0", &["k-"], &keys[..1], true).await;
    one.save("k-1", &["k-"], &keys, true).await;
    let bad = packs(dir.path())[0].clone();
    let mut bytes = fs_err::read(&bad).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(&bad, bytes).unwrap();

    let two = Job::at(dir.path());
    let restored = two.restore("k-1", &[]).await;
    assert_eq!((restored.n_restored, restored.warnings.len()), (1, 1));
    assert!(
        restored.warnings[0].starts_with("1 saved package could not be restored: pack "),
        "{:?}",
        restored.warnings
    );
    assert!(restored.warnings[0].ends_with("is damaged"));
    assert!(!bad.exists(), "nobody fetches it again");
    assert!(two.restore("k-1", &[]).await.warnings[0].ends_with("is missing"));

    two.build(&keys);
    let saved = two.save("k-1", &["k-"], &keys, true).await;
    assert_eq!(saved.outcome, Some(Ok(text("k-1"))), "a state that is not whole may be written again");
    assert_eq!(saved.n_packed, 1);
    assert_eq!(Job::at(dir.path()).restore("k-1", &[]).await.n_restored, 2);
}

#[tokio::test]
async fn a_damaged_state_is_a_miss_and_may_be_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a"]);
    job.build(&keys);
    job.save("k-1", &[], &keys, true).await;
    let state = dir.path().join("local/ci/some-platform/k-1");
    fs_err::write(&state, "{").unwrap();
    let restored = job.restore("k-1", &["k"]).await;
    assert_eq!(restored.key, None);
    assert!(restored.warnings[0].contains("passed over: it is damaged"), "{:?}", restored.warnings);
    assert_eq!(job.cache.list("").await.unwrap(), []);
    assert!(matches!(job.save("k-1", &[], &keys, true).await.outcome, Some(Ok(_))));
    assert!(job.restore("k-1", &[]).await.is_exact);
}

#[tokio::test]
async fn a_state_that_lacks_something_does_not_take_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a", "b"]);
    job.build(&keys);
    let part = job.save("k-1", &[], &keys[..1], false).await;
    let name = part.outcome.unwrap().unwrap();
    assert!(name.as_str().starts_with("k-1-partial-"), "{name}");
    let again = job.save("k-1", &[], &keys[..1], false).await;
    assert_eq!(again.outcome, Some(Err(Skipped::NothingNew(name.to_string()))));
    let restored = Job::at(dir.path()).restore("k-1", &[]).await;
    assert_eq!((restored.key, restored.is_exact, restored.n_restored), (Some(name.to_string()), false, 1));
    assert_eq!(job.save("k-1", &[], &keys, true).await.outcome, Some(Ok(text("k-1"))));
    assert!(Job::at(dir.path()).restore("k-1", &[]).await.is_exact);
    let left: Vec<_> = job.cache.list("").await.unwrap().into_iter().map(|kept| kept.key).collect();
    assert_eq!(left, ["k-1"], "what was saved of it before is of no use any more");
}

#[tokio::test]
async fn what_is_broken_in_the_store_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a", "b"]);
    job.build(&keys);
    let file = job.store.tree(keys[0].package(), keys[0].reference()).join("R/code.rdb");
    let content = fs_err::read(&file).unwrap();
    fs_err::remove_file(&file).unwrap();
    fs_err::write(&file, vec![b'x'; content.len()]).unwrap();
    let saved = job.save("k-1", &[], &keys, true).await;
    assert!(saved.warnings[0].starts_with("pa is not saved: "), "{:?}", saved.warnings);
    assert!(saved.outcome.unwrap().unwrap().as_str().contains("-partial-"), "the key is left for who has all of it");
    assert_eq!(Job::at(dir.path()).restore("k-1", &[]).await.n_restored, 1);
}

#[tokio::test]
async fn deleting_is_idempotent_and_takes_the_packs_that_nobody_needs() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a", "b"]);
    job.build(&keys);
    job.save("k-1", &["k-"], &keys[..1], true).await;
    job.save("k-2", &["k-"], &keys, true).await;
    assert!(job.cache.delete(&text("k-1")).await.unwrap());
    assert!(!job.cache.delete(&text("k-1")).await.unwrap());
    assert_eq!(packs(dir.path()).len(), 2, "the other state needs the first pack");
    assert_eq!(Job::at(dir.path()).restore("k-2", &[]).await.n_restored, 2);
    assert!(job.cache.delete(&text("k-2")).await.unwrap());
    assert_eq!(packs(dir.path()).len(), 0);
    assert!(!dir.path().join("local/ci/some-platform/k-2").exists());
}

#[tokio::test]
async fn pruning_deletes_what_is_old_but_for_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a", "b", "c"]);
    job.build(&keys);
    job.save("k-1", &["k-"], &keys[..1], true).await;
    job.save("k-2", &["k-"], &keys[..2], true).await;
    let between = SystemTime::now();
    job.save("k-3", &["k-"], &keys[1..], true).await;
    assert_eq!(job.cache.prune(between, true).await.unwrap(), [text("k-2"), text("k-1")]);
    assert_eq!(job.cache.list("").await.unwrap().len(), 3);
    assert_eq!(job.cache.prune(between, false).await.unwrap(), [text("k-2"), text("k-1")]);
    assert_eq!(packs(dir.path()).len(), 2, "what nobody needs goes along");
    assert_eq!(Job::at(dir.path()).restore("k-3", &[]).await.n_restored, 2);
    assert_eq!(job.cache.prune(SystemTime::now(), false).await.unwrap(), [], "the newest stays");
}

#[tokio::test]
async fn a_pack_with_more_bytes_than_it_should_have_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job::at(dir.path());
    let keys = packages(&["a"]);
    job.build(&keys);
    job.save("k-1", &[], &keys, true).await;
    let pack = packs(dir.path())[0].clone();
    let mut bytes = fs_err::read(&pack).unwrap();
    bytes.resize(bytes.len() + (3 << 20), 0);
    fs_err::write(&pack, bytes).unwrap();
    let restored = Job::at(dir.path()).restore("k-1", &[]).await;
    assert!(restored.warnings[0].ends_with("is damaged"), "{:?}", restored.warnings);
}

#[tokio::test]
async fn tenants_platforms_and_signatures_keep_states_apart() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SecretKey::generate();
    let trusting = format!("?key={}", signer.public().to_string().replace('+', "%2B"));
    let signing = CiCacheConfig { signer: Some(signer), ..CiCacheConfig::default() };
    let one = Job::with(dir.path(), "", signing);
    let keys = packages(&["a"]);
    one.build(&keys);
    one.save("k-1", &[], &keys, true).await;
    let tenant = || CiCacheConfig { tenant: "b".parse().unwrap(), ..CiCacheConfig::default() };
    let platform = || CiCacheConfig { platform: Some("other".to_owned()), ..CiCacheConfig::default() };
    assert_eq!(Job::with(dir.path(), "", tenant()).restore("k-1", &["k"]).await, Restored::default());
    assert_eq!(Job::with(dir.path(), "", platform()).restore("k-1", &["k"]).await, Restored::default());
    let trusted = Job::with(dir.path(), &trusting, CiCacheConfig::default());
    assert_eq!(trusted.restore("k-1", &[]).await.n_restored, 1);
    let theirs = format!("?key={}", SecretKey::generate().public().to_string().replace('+', "%2B"));
    let refused = Job::with(dir.path(), &theirs, CiCacheConfig::default()).restore("k-1", &[]).await;
    assert!(refused.warnings[0].contains("nobody who is trusted has signed it"), "{:?}", refused.warnings);
}

#[tokio::test]
async fn where_states_of_github_go_is_no_address() {
    let refused = CiCache::open(Place::Tier("ghac://x".parse().unwrap()), CiCacheConfig::default());
    assert!(refused.unwrap_err().to_string().contains("if no place is named"));
    let nothing = CiCache::open(Place::GitHub(GitHub::default()), CiCacheConfig::default()).unwrap();
    assert!(nothing.list("").await.unwrap_err().to_string().contains("GITHUB_TOKEN"));
    let job = Shop::new();
    let store = Arc::new(Store::open(job.store.root(), "some-platform", "R 4.2"));
    let error = nothing.restore(&store, &text("k"), &[], |_, _| true).await.unwrap_err().to_string();
    assert!(error.contains("ACTIONS_RUNTIME_TOKEN"), "{error}");
}
