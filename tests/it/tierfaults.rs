//! Caches beyond this machine that fail: the run succeeds all the same, and nothing wrong is in the store.
//!
//! Real servers, with a proxy before them that spoils what passes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use fs_err as fs;

use crate::tiers::{machine, solve};
use crate::world::proxy::{Fault, Proxy};
use crate::world::servers::Daemon;
use crate::world::{Mounted, Package, Ran, World, need_r, skip};

const ALL: &str = "aa, bb, cc, dd";

fn outcomes(how: &str) -> String {
    ALL.split(", ").map(|name| format!("{name} {how}")).collect::<Vec<_>>().join(", ")
}

/// Packages of some hundred KB, of which some wait for others.
fn lock(world: &World) -> PathBuf {
    let noise = |seed: u32| -> String {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'!' + ((state >> 16) % 90) as u8)
        };
        (0..200_000).map(|_| next()).collect()
    };
    let package = |name: &str, seed| Package::new(name, "1.0").file("inst/noise", &noise(seed));
    let (aa, bb) = (package("aa", 1), package("bb", 2).field("Imports", "aa"));
    let (cc, dd) = (package("cc", 3), package("dd", 4).field("Imports", "cc"));
    world.lock_published(&[&aa, &bb, &cc, &dd])
}

/// A server that has been filled by one machine, behind a proxy; and how a URL of it starts and ends.
struct Filled {
    world: World,
    lockfile: PathBuf,
    proxy: Proxy,
    url: String,
}

impl Filled {
    fn webdav() -> Option<Self> {
        let world = World::new();
        let server = Daemon::nginx(&world)?;
        Some(Self::of(world, server, |port| format!("http://127.0.0.1:{port}/cloud?timeout=2s")))
    }

    fn s3() -> Option<Self> {
        let world = World::new();
        let server = Daemon::s3()?;
        Some(Self::of(world, server, |port| format!("s3://bucket/p?endpoint=http://127.0.0.1:{port}&timeout=2s")))
    }

    fn of(world: World, server: Daemon, url: fn(u16) -> String) -> Self {
        let lockfile = lock(&world);
        let proxy = Proxy::before(server);
        let url = url(proxy.port);
        let ran = solve(&world, "one", &lockfile, &url).ok();
        assert_eq!((ran.outcomes(), ran.warnings()), (outcomes("ingested"), String::new()));
        proxy.requests();
        Self { world, lockfile, proxy, url }
    }

    /// A machine that has nothing yet takes what it can get, and all that it has then is whole.
    /// The requests that it made come with what it printed.
    #[expect(clippy::print_stdout, reason = "how long it took, for whoever looks")]
    fn run(&self, name: &str) -> (Ran, Vec<String>) {
        let start = Instant::now();
        let ran = solve(&self.world, name, &self.lockfile, &self.url).ok();
        let (took, requests) = (start.elapsed().as_secs_f64(), self.proxy.requests());
        println!("{name}: {took:.1} s, {} requests; {}; {}", requests.len(), ran.outcomes(), ran.warnings());
        is_whole(&self.world, name);
        let library = self.world.path(&format!("{name}/library"));
        for package in ALL.split(", ") {
            assert_eq!(fs::metadata(library.join(package).join("noise")).unwrap().len(), 200_000, "{name}: {package}");
        }
        (ran, requests)
    }
}

fn is_whole(world: &World, name: &str) {
    world.finish(machine(world, name).args(["store", "verify"])).ok();
}

/// Says whether a request reads an entry: two digests, and nothing behind them.
fn is_entry(line: &str) -> bool {
    let path = line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    line.starts_with("GET") && is_digest(path.rsplit('/').next().unwrap_or_default())
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn one_warning(ran: &Ran) -> String {
    let warnings = ran.warnings();
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    warnings
}

fn n_entries(requests: &[String]) -> usize {
    requests.iter().filter(|line| is_entry(line)).count()
}

#[test]
fn a_server_that_is_killed_while_it_sends_costs_one_warning() {
    need_r!();
    let Some(filled) = Filled::webdav() else { return };
    filled.proxy.fails(is_entry, Fault::Kill(50_000));
    let (ran, requests) = filled.run("killed");
    one_warning(&ran);
    assert!(n_entries(&requests) <= 4, "{requests:?}");
    let (ran, _) = filled.run("gone");
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    one_warning(&ran);
}

#[test]
fn a_server_that_only_fails_is_asked_a_few_times() {
    need_r!();
    let Some(filled) = Filled::webdav() else { return };
    filled.proxy.fails(|_| true, Fault::Says(500, "sorry"));
    let (ran, requests) = filled.run("all");
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    one_warning(&ran);
    assert!(requests.len() <= 8, "{requests:?}");
    filled.proxy.fails(is_entry, Fault::Says(503, "sorry"));
    let (ran, requests) = filled.run("entries");
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    one_warning(&ran);
    assert!(n_entries(&requests) <= 4, "{requests:?}");
    filled.proxy.mends();
    assert_eq!(filled.run("mended").0.outcomes(), outcomes("loaded"));
}

#[test]
fn a_server_that_sends_five_kilobytes_a_second_or_nothing_is_given_up() {
    need_r!();
    let Some(filled) = Filled::webdav() else { return };
    filled.proxy.fails(is_entry, Fault::Trickle(5_000));
    let (ran, requests) = filled.run("slow");
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    one_warning(&ran);
    assert!(n_entries(&requests) <= 4, "{requests:?}");
    filled.proxy.fails(|_| true, Fault::Silence);
    let (ran, requests) = filled.run("silent");
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    assert!(one_warning(&ran).contains("did not answer within 2s"), "{}", ran.warnings());
    assert!(requests.len() <= 8, "{requests:?}");
    filled.proxy.fails(|line| line.starts_with("PUT"), Fault::Silence);
    let other = filled.world.lock_published(&[&Package::new("new", "1.0")]);
    let ran = solve(&filled.world, "deaf", &other, &filled.url).ok();
    assert_eq!(ran.outcomes(), "new ingested");
    one_warning(&ran);
}

#[test]
fn what_is_cut_off_or_flipped_on_the_way_is_never_published() {
    need_r!();
    let Some(filled) = Filled::webdav() else { return };
    let faults = [Fault::Cut(0), Fault::Cut(700), Fault::Cut(120_000), Fault::Flip(3), Fault::Flip(900_001)];
    for (n, fault) in faults.into_iter().enumerate() {
        filled.proxy.fails(is_entry, fault);
        let (ran, requests) = filled.run(&format!("entry-{n}"));
        assert_eq!(ran.outcomes(), outcomes("ingested"), "{fault:?}");
        one_warning(&ran);
        assert!(n_entries(&requests) <= 4, "{requests:?}");
    }
    for (n, fault) in [Fault::Cut(40), Fault::Flip(5), Fault::Flip(400)].into_iter().enumerate() {
        filled.proxy.fails(|line| line.starts_with("GET") && line.contains("configs.json"), fault);
        let (ran, _) = filled.run(&format!("index-{n}"));
        assert!(ran.warnings().lines().count() <= 1, "{}", ran.warnings());
    }
}

#[test]
fn what_is_damaged_where_it_lies_is_a_miss_and_written_anew() {
    need_r!();
    let Some(filled) = Filled::webdav() else { return };
    let cloud = filled.world.path("nginx/cloud");
    let entries: Vec<PathBuf> = walkdir(&cloud).into_iter().filter(|path| is_digest(&name_of(path))).collect();
    assert_eq!(entries.len(), 4);
    for (n, entry) in entries.iter().enumerate() {
        let mut bytes = fs::read(entry).unwrap();
        let half = bytes.len() / 2;
        match n {
            0 => bytes.truncate(half),
            1 => bytes[half] ^= 4,
            2 => bytes.clear(),
            _ => bytes[20] ^= 1,
        }
        fs::write(entry, bytes).unwrap();
    }
    let (ran, _) = filled.run("two");
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    one_warning(&ran);
    let (ran, _) = filled.run("three");
    assert_eq!((ran.outcomes(), ran.warnings()), (outcomes("loaded"), String::new()));
}

#[test]
fn a_clock_that_is_wrong_costs_one_warning_that_says_so() {
    need_r!();
    let Some(filled) = Filled::s3() else { return };
    let skewed = "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the \
                  request time and the current time is too large.</Message></Error>";
    filled.proxy.fails(|_| true, Fault::Says(403, skewed));
    let (ran, requests) = filled.run("skewed");
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    assert!(one_warning(&ran).contains("RequestTimeTooSkewed"), "{}", ran.warnings());
    assert!(requests.len() <= 8, "{requests:?}");
    filled.proxy.mends();
    assert_eq!(filled.run("mended").0.outcomes(), outcomes("loaded"));
}

#[test]
fn two_machines_that_write_to_one_s3_at_once_lose_nothing_of_each_other() {
    need_r!();
    let world = World::new();
    let Some(server) = Daemon::s3() else { return };
    let url = format!("s3://bucket/p?endpoint=http://127.0.0.1:{}", server.port);
    let lockfile = lock(&world);
    let start =
        |name: &str| world.start_command(machine(&world, name).arg(&lockfile).args(["--json", "--cache", &url]));
    for running in ["one", "two"].map(start) {
        assert_eq!(running.finish().ok().warnings(), "");
    }
    let ran = solve(&world, "three", &lockfile, &url).ok();
    assert_eq!((ran.outcomes(), ran.warnings()), (outcomes("loaded"), String::new()));
    is_whole(&world, "three");
}

#[test]
fn a_full_disk_while_packages_arrive_ends_the_run_with_that_and_leaves_nothing_half_done() {
    need_r!();
    let Some(filled) = Filled::webdav() else { return };
    let world = &filled.world;
    let mounted = match Mounted::tmpfs(&world.path("small"), "size=2m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    let run = |n: usize| {
        let mut command = machine(world, "small");
        let library = world.path(&format!("small-{n}"));
        command.args(["--json", "--keep-going", "--cache", &filled.url, "--link", "copy"]).arg(&filled.lockfile);
        // With no source to fall back to, as on a machine that has nothing but the cache.
        command.args(["--mirror", &format!("{}=http://127.0.0.1:1", world.server.url(""))]);
        command.env("LARDER_LIBRARY", library);
        world.finish(&mut command)
    };
    let total = mounted.free();
    for n in 1..6 {
        // What a run left before is gone but for what is whole.
        mounted.leave((total / 10 * u64::try_from(n).unwrap()).min(mounted.free()));
        let ran = run(n);
        if ran.code == Some(0) {
            assert!(n > 3, "three tenths are too little");
        } else {
            let errors: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
            assert!(errors.len() == 1 && errors[0].starts_with("error: no space left for `"), "{n}: {}", ran.stderr);
            assert_eq!(ran.warnings(), "", "{n}");
            ran.exits(3);
        }
        is_whole(world, "small");
        fs::remove_file(mounted.ballast()).unwrap();
        fs::remove_dir_all(world.path("small/store")).unwrap();
    }
    drop(mounted);
    assert_eq!(run(9).ok().outcomes(), outcomes("loaded"));
}

#[test]
fn a_cache_whose_disk_is_full_costs_one_warning() {
    need_r!();
    let world = World::new();
    let mounted = match Mounted::tmpfs(&world.path("cloud"), "size=1m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    mounted.leave(300_000);
    let (lockfile, url) = (lock(&world), format!("fs://{}", world.path("cloud").display()));
    let ran = solve(&world, "one", &lockfile, &url).ok();
    assert_eq!(ran.outcomes(), outcomes("ingested"));
    one_warning(&ran);
    fs::remove_file(mounted.ballast()).unwrap();
    let ran = solve(&world, "two", &lockfile, &url).ok();
    assert_eq!(ran.warnings(), "", "what is there is whole");
    is_whole(&world, "two");
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns all files below a directory.
fn walkdir(dir: &Path) -> Vec<PathBuf> {
    let items = crate::world::items(dir).into_iter();
    items.flat_map(|path| if path.is_dir() { walkdir(&path) } else { vec![path] }).collect()
}
