//! What a chain of tiers does, over a storage in memory that fails as it is told.

use std::sync::atomic::AtomicUsize;

use opendal::Buffer;

use super::objects::{Answer, Expect, Pieces, Remote};
use super::*;
use crate::key::PackageKey;
use crate::store::testing::{Shop, key, name};
use crate::store::verify::{Options, verify};
use crate::store::{Depth, Store};

/// What a storage does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It refuses everything.
    Down,
    /// It never answers.
    Silent,
    /// It sends so many bytes of an object and then no more.
    StopsAfter(usize),
    /// It sends objects that end so early.
    CutsAfter(usize),
    /// The byte there is another one.
    Flips(usize),
    /// What is written is lost.
    ReadOnly,
}

/// A storage in memory, shared by all machines of a test.
#[derive(Debug)]
struct Cloud {
    objects: Remote,
    fault: Mutex<Fault>,
    n_asked: AtomicUsize,
    n_opened: AtomicUsize,
}

impl Cloud {
    fn new() -> Arc<Self> {
        let objects = Remote::new(&Address::memory().place, &client().unwrap()).unwrap();
        Arc::new(Self {
            objects,
            fault: Mutex::new(Fault::None),
            n_asked: AtomicUsize::new(0),
            n_opened: AtomicUsize::new(0),
        })
    }

    fn fails(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    async fn arrive<T>(&self, answer: Answer<'_, T>) -> Result<T, ObjectError> {
        self.n_asked.fetch_add(1, Ordering::Relaxed);
        match self.fault() {
            Fault::Down => Err(ObjectError("connection refused".to_owned())),
            Fault::Silent => std::future::pending().await,
            _ => answer.await,
        }
    }

    async fn names(&self) -> Vec<String> {
        self.objects.list("").await.unwrap().unwrap()
    }
}

#[derive(Debug)]
struct Line(Arc<Cloud>);

impl Objects for Line {
    fn open<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Pieces>> {
        Box::pin(async move {
            self.0.n_opened.fetch_add(1, Ordering::Relaxed);
            let Some((mut bytes, _)) = self.0.arrive(self.0.objects.read(name)).await? else { return Ok(None) };
            let stops = match self.0.fault() {
                Fault::StopsAfter(n) | Fault::CutsAfter(n) => {
                    bytes.truncate(n);
                    matches!(self.0.fault(), Fault::StopsAfter(_))
                }
                Fault::Flips(n) => {
                    let n = n % bytes.len();
                    bytes[n] ^= 1;
                    false
                }
                _ => false,
            };
            let pieces: Vec<_> = bytes.chunks(100).map(|piece| Ok(Buffer::from(piece.to_vec()))).collect();
            let rest = if stops { stream::pending().boxed() } else { stream::empty().boxed() };
            Ok(Some(stream::iter(pieces).chain(rest).boxed()))
        })
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<(Vec<u8>, Option<String>)>> {
        Box::pin(self.0.arrive(self.0.objects.read(name)))
    }

    fn write<'a>(&'a self, name: &'a str, content: Buffer, expect: Expect) -> Answer<'a, bool> {
        Box::pin(async move {
            if self.0.fault() == Fault::ReadOnly {
                return Err(ObjectError("forbidden".to_owned()));
            }
            self.0.arrive(self.0.objects.write(name, content, expect)).await
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, Option<u64>> {
        Box::pin(self.0.arrive(self.0.objects.size(name)))
    }

    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Option<Vec<String>>> {
        Box::pin(self.0.arrive(self.0.objects.list(folder)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.0.arrive(self.0.objects.remove(name)))
    }
}

/// One machine: a store of its own, and a chain of tiers.
struct Machine {
    shop: Shop,
    store: Arc<Store>,
    tiers: Arc<Tiers>,
}

struct Setup {
    tenant: Tenant,
    signer: Option<SecretKey>,
    trust: Trust,
}

impl Default for Setup {
    fn default() -> Self {
        Self { tenant: Tenant::default(), signer: None, trust: Trust::All }
    }
}

impl Machine {
    fn at(clouds: &[&Arc<Cloud>]) -> Self {
        Self::with(clouds, Setup::default())
    }

    fn with(clouds: &[&Arc<Cloud>], Setup { tenant, signer, trust }: Setup) -> Self {
        let shop = Shop::new();
        let store = Arc::new(Store::open(shop.store.root(), shop.store.platform(), shop.store.description()));
        let tier = |cloud: &&Arc<Cloud>| {
            let mut address = Address::memory();
            address.trust = trust.clone();
            // A silent tier is silent for ever.
            address.timeout = Duration::from_millis(200);
            Tier::new(address, Arc::new(Line(Arc::clone(cloud))))
        };
        let tiers = clouds.iter().map(tier).collect();
        let tiers = Arc::new(Tiers::of(tiers, tenant, signer, SystemLibraries::of_host("/nonexistent".as_ref())));
        Self { shop, store, tiers }
    }

    async fn push(&self, key: &PackageKey) {
        self.shop.publish(key);
        self.tiers.push(&self.store, key.package(), key.reference());
        assert_eq!(self.tiers.finish(Duration::from_secs(1000)).await, 0);
    }

    /// Brings a package, and says whether it came.
    async fn gets(&self, key: &PackageKey) -> bool {
        let came = self.tiers.bring(&self.store, key.package(), key.reference()).await.unwrap().is_some();
        let found = verify(self.store.root(), &Options::default(), &|_, _| {}).unwrap();
        assert_eq!(found.findings.len(), 0);
        let is_there = self.store.inspect(key.package(), key.reference(), Depth::Full).unwrap().is_some();
        assert_eq!(came, is_there, "all of it or nothing");
        if !came {
            let tree = self.store.tree(key.package(), key.reference());
            assert!(!tree.exists() && !tree.with_extension("json").exists());
        }
        came
    }

    fn warned(&self) -> String {
        self.tiers.warnings().join("\n")
    }
}

#[tokio::test]
async fn what_one_machine_wrote_another_has_to_the_byte() {
    let cloud = Cloud::new();
    let (rcpp, one) = (key("Rcpp", &[]), Machine::at(&[&cloud]));
    let top = key("top", &[&rcpp]);
    one.push(&rcpp).await;
    one.push(&top).await;

    let two = Machine::at(&[&cloud]);
    assert_eq!(two.tiers.configs("some-platform", top.package(), top.reference().source), None, "nobody asked yet");
    assert!(two.gets(&top).await && two.gets(&rcpp).await);
    let configs = two.tiers.configs("some-platform", top.package(), top.reference().source).unwrap();
    assert_eq!(configs.configs.keys().collect::<Vec<_>>(), [&top.reference().config]);
    let sidecars = [&one, &two].map(|machine| {
        let path = machine.store.tree(top.package(), top.reference());
        ["json", "files"].map(|ending| fs_err::read(path.with_extension(ending)).unwrap())
    });
    assert_eq!(sidecars[0], sidecars[1]);
    assert_eq!((two.warned(), one.warned()), (String::new(), String::new()));
    let moved = (one.tiers.moved(), two.tiers.moved());
    assert_eq!((moved.0.n_pushed, moved.1.n_brought, moved.0.bytes_pushed), (2, 2, moved.1.bytes_brought));
    let names = cloud.names().await;
    let entry = format!("local/some-platform/top/{}", top.reference());
    assert!(names.contains(&entry), "{names:?}");
}

#[tokio::test]
async fn an_object_is_a_tar_that_zstd_unpacks() {
    let cloud = Cloud::new();
    let (package, machine) = (key("plain", &[]), Machine::at(&[&cloud]));
    machine.push(&package).await;
    let name = format!("local/some-platform/plain/{}", package.reference());
    let (object, _) = cloud.objects.read(&name).await.unwrap().unwrap();
    let tar = zstd::decode_all(&*object).unwrap();
    let names: Vec<_> =
        tar::Archive::new(&*tar).entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert!(names.contains(&"plain.0/DESCRIPTION".into()), "{names:?}");
}

#[tokio::test]
async fn no_tenant_reads_anothers_entries() {
    let cloud = Cloud::new();
    let package = key("secret", &[]);
    let tenant = |name: &str| Setup { tenant: name.parse().unwrap(), ..Setup::default() };
    Machine::with(&[&cloud], tenant("a")).push(&package).await;
    let other = Machine::with(&[&cloud], tenant("b"));
    assert!(!other.gets(&package).await);
    assert!(Machine::with(&[&cloud], tenant("a")).gets(&package).await);

    // Not even if it was copied to where the other looks.
    for name in cloud.names().await {
        let (object, _) = cloud.objects.read(&name).await.unwrap().unwrap();
        let copy = name.replacen("a/", "b/", 1);
        assert!(cloud.objects.write(&copy, Buffer::from(object), Expect::Anything).await.unwrap());
    }
    let other = Machine::with(&[&cloud], tenant("b"));
    assert!(!other.gets(&package).await);
    assert!(other.warned().contains("tenant `a`"));
}

#[tokio::test]
async fn only_what_a_trusted_key_signed_is_taken() {
    let (cloud, package) = (Cloud::new(), key("signed", &[]));
    let (ours, theirs) = (SecretKey::generate(), SecretKey::generate());
    let trusting = |key: &SecretKey| Setup { trust: Trust::Signed([key.public()].into()), ..Setup::default() };
    let (trusts_us, trusts_them) = (trusting(&ours), trusting(&theirs));
    Machine::with(&[&cloud], Setup { signer: Some(ours), ..Setup::default() }).push(&package).await;
    assert!(Machine::with(&[&cloud], trusts_us).gets(&package).await);
    let careful = Machine::with(&[&cloud], trusts_them);
    assert!(!careful.gets(&package).await);
    assert!(careful.warned().contains("nobody who is trusted has signed it"));
    let none = Machine::with(&[&cloud], Setup { trust: Trust::None, ..Setup::default() });
    assert!(!none.gets(&package).await);

    let (cloud, unsigned) = (Cloud::new(), key("unsigned", &[]));
    Machine::at(&[&cloud]).push(&unsigned).await;
    assert!(!Machine::with(&[&cloud], trusting(&SecretKey::generate())).gets(&unsigned).await);
    assert!(Machine::at(&[&cloud]).gets(&unsigned).await);
}

#[tokio::test]
async fn a_flipped_bit_or_a_cut_end_is_a_miss_and_nothing_is_published() {
    let (cloud, package) = (Cloud::new(), key("damaged", &[]));
    Machine::at(&[&cloud]).push(&package).await;
    let name = format!("local/some-platform/damaged/{}", package.reference());
    let size = usize::try_from(cloud.objects.size(&name).await.unwrap().unwrap()).unwrap();
    for n in (0..size).step_by(size / 40) {
        cloud.fails(Fault::CutsAfter(n));
        let machine = Machine::at(&[&cloud]);
        assert!(!machine.gets(&package).await, "cut after {n}");
        assert!(machine.warned().contains("damaged"));
    }
    let mut n_refused = 0;
    for n in (0..size).step_by(7) {
        cloud.fails(Fault::Flips(n));
        // Some bits of a label or of a compressed stream mean nothing; what comes then is still verified.
        n_refused += usize::from(!Machine::at(&[&cloud]).gets(&package).await);
    }
    assert!(n_refused * 10 > size / 7 * 8, "{n_refused} of {}", size / 7);
}

#[tokio::test]
async fn a_tier_that_is_down_or_silent_is_asked_a_few_times_and_told_of_once() {
    for fault in [Fault::Down, Fault::Silent, Fault::StopsAfter(250)] {
        let (bad, good) = (Cloud::new(), Cloud::new());
        let packages: Vec<_> = (0..20).map(|n| key(&format!("p{n}"), &[])).collect();
        for package in &packages {
            Machine::at(&[&bad, &good]).push(package).await;
        }
        bad.fails(fault);
        bad.n_asked.store(0, Ordering::Relaxed);
        let machine = Machine::at(&[&bad, &good]);
        let sources = packages.iter().map(|key| (key.package().clone(), key.reference().source));
        machine.tiers.survey("some-platform", sources).await;
        let n_surveyed = bad.n_asked.swap(0, Ordering::Relaxed);
        assert!(n_surveyed <= 20, "{fault:?}: {n_surveyed}");
        for package in &packages {
            assert!(machine.gets(package).await, "{fault:?}");
        }
        let n_opened = bad.n_opened.load(Ordering::Relaxed);
        assert!(n_opened <= 3, "{fault:?}: {n_opened}");
        assert_eq!(machine.warned().lines().count(), 1, "{fault:?}");
        machine.tiers.finish(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn what_a_later_tier_had_goes_into_the_earlier_ones() {
    let (near, far) = (Cloud::new(), Cloud::new());
    let package = key("wanted", &[]);
    Machine::at(&[&far]).push(&package).await;
    let machine = Machine::at(&[&near, &far]);
    assert!(machine.gets(&package).await);
    assert_eq!(machine.tiers.finish(Duration::from_secs(1000)).await, 0);
    assert!(Machine::at(&[&near]).gets(&package).await);

    // What cannot be written there is no reason to fail.
    let near = Cloud::new();
    near.fails(Fault::ReadOnly);
    let machine = Machine::at(&[&near, &far]);
    assert!(machine.gets(&package).await);
    machine.tiers.finish(Duration::from_secs(1000)).await;
    assert_eq!(near.names().await, Vec::<String>::new());
}

#[tokio::test]
async fn two_writers_of_one_source_lose_nothing_of_each_other() {
    let cloud = Cloud::new();
    let (old, new) = (key("Rcpp", &[]), key("Other", &[]));
    let builds = [key("top", &[&old]), key("top", &[&new]), key("top", &[&old, &new])];
    let machines: Vec<_> = builds.iter().map(|_| Machine::at(&[&cloud])).collect();
    futures_util::future::join_all(machines.iter().zip(&builds).map(|(machine, build)| machine.push(build))).await;
    let other = Machine::at(&[&cloud]);
    for build in &builds {
        assert!(other.gets(build).await);
    }

    // Many writers of the same entry at once: one object, whole.
    let same = key("same", &[]);
    let machines: Vec<_> = (0..32).map(|_| Machine::at(&[&cloud])).collect();
    futures_util::future::join_all(machines.iter().map(|machine| machine.push(&same))).await;
    assert!(Machine::at(&[&cloud]).gets(&same).await);
    assert!(machines.iter().all(|machine| machine.warned().is_empty()));
}

#[tokio::test]
async fn an_index_that_lost_an_entry_or_is_damaged_is_survived() {
    let cloud = Cloud::new();
    let (plain, linked) = (key("top", &[]), key("top", &[&key("Rcpp", &[])]));
    let machine = Machine::at(&[&cloud]);
    machine.push(&plain).await;
    let index = format!("local/some-platform/top/{}/configs.json", plain.reference().source);
    let (before, _) = cloud.objects.read(&index).await.unwrap().unwrap();
    machine.push(&linked).await;
    assert!(cloud.objects.write(&index, Buffer::from(before), Expect::Anything).await.unwrap());
    assert!(Machine::at(&[&cloud]).gets(&linked).await, "it is found by its name");

    assert!(cloud.objects.write(&index, Buffer::from("{"), Expect::Anything).await.unwrap());
    let other = Machine::at(&[&cloud]);
    assert!(!other.gets(&linked).await);
    assert!(other.warned().contains("configs.json` is damaged"));

    // Who builds it makes it known again, though the entry is there.
    let builder = Machine::at(&[&cloud]);
    builder.push(&linked).await;
    assert_eq!(builder.tiers.moved().n_pushed, 0);
    assert!(Machine::at(&[&cloud]).gets(&linked).await);
}

#[tokio::test]
async fn an_entry_whose_libraries_this_machine_lacks_is_a_miss_with_that_reason() {
    let (cloud, package) = (Cloud::new(), key("curly", &[]));
    let machine = Machine::at(&[&cloud]);
    machine.shop.publish(&package);
    let path = machine.store.tree(package.package(), package.reference()).with_extension("json");
    let mut sidecar: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    sidecar["sonames"] = serde_json::json!(["libc.so.6", "libno-such.so.4"]);
    let sealed = crate::store::testing::seal(&sidecar);
    fs_err::remove_file(&path).unwrap();
    fs_err::write(&path, sealed).unwrap();
    machine.push(&package).await;
    let other = Machine::at(&[&cloud]);
    assert!(!other.gets(&package).await);
    assert!(other.warned().contains("this machine has no libno-such.so.4"));
}

#[tokio::test]
async fn all_lookups_of_a_plan_are_one_wave_and_none_is_made_twice() {
    let cloud = Cloud::new();
    let packages: Vec<_> = (0..50).map(|n| key(&format!("p{n}"), &[])).collect();
    let machine = Machine::at(&[&cloud]);
    let sources = || packages.iter().map(|key| (key.package().clone(), key.reference().source));
    machine.tiers.survey("some-platform", sources()).await;
    assert_eq!(cloud.n_asked.load(Ordering::Relaxed), 50);
    machine.tiers.survey("some-platform", sources()).await;
    assert_eq!(cloud.n_asked.load(Ordering::Relaxed), 50);
    assert!(machine.tiers.unasked("some-platform", sources()).is_empty());
}

#[tokio::test]
async fn a_machine_without_compilers_finds_which_toolchains_there_are() {
    let cloud = Cloud::new();
    let shop = Shop::on("4.2-linux-g0000aaaa");
    let store = Arc::new(Store::open(shop.store.root(), shop.store.platform(), "CC: gcc 12\nlibc: 2.36"));
    let machine = Machine::at(&[&cloud]);
    let package = key("some", &[]);
    shop.publish(&package);
    machine.tiers.push(&store, package.package(), package.reference());
    machine.tiers.finish(Duration::from_secs(1000)).await;
    let found = Machine::at(&[&cloud]).tiers.platforms_like("4.2-linux-g1111bbbb").await;
    assert_eq!(found, [("4.2-linux-g0000aaaa".to_owned(), "CC: gcc 12\nlibc: 2.36".to_owned())]);
    assert_eq!(machine.tiers.platforms_like("4.3-linux-g1111bbbb").await, []);
    assert_eq!(name("some"), *package.package());
}
