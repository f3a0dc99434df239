//! Archives, DESCRIPTIONs and lockfiles made to get out of their place, to crash the command, or to fill the machine.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use larder_ops::unpack::{self, Options, unpack};

use crate::world::{FakeR, Package, World};
use archives::Hostile;

mod archives;

/// What the command may take, in KiB: a GiB.
const MEMORY_KIB: u32 = 1 << 20;

/// Returns the command with at most a GiB for its data; more makes it abort.
fn limited(world: &World) -> Command {
    let plain = world.command();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -d {MEMORY_KIB} && exec \"$0\" \"$@\"")]).arg(solve());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(world.path(""));
    command
}

/// The command as users get it, if there is one: bombs take a while without optimizations.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment where it is")]
fn solve() -> PathBuf {
    std::env::var_os("LARDER_SOLVE").map_or_else(|| env!("CARGO_BIN_EXE_solve").into(), PathBuf::from)
}

/// Everything below a directory with its type, mode and content.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let items = walkdir(dir).into_iter().map(|path| {
        let meta = path.symlink_metadata().unwrap();
        let content = if meta.is_file() { fs_err::read(&path).unwrap() } else { Vec::new() };
        (path, (meta.permissions().mode(), content))
    });
    items.collect()
}

fn walkdir(dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![dir.to_owned()];
    let mut n = 0;
    while n < paths.len() {
        if paths[n].symlink_metadata().unwrap().is_dir() {
            let items = fs_err::read_dir(&paths[n]).unwrap().map(|item| item.unwrap().path()).collect::<Vec<_>>();
            paths.extend(items);
        }
        n += 1;
    }
    paths
}

#[track_caller]
fn assert_harmless(tree: &Path, what: &str) {
    let root = tree.canonicalize().unwrap();
    for path in walkdir(tree) {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        assert!(!kind.is_fifo() && !kind.is_char_device() && !kind.is_block_device() && !kind.is_socket(), "{what}");
        if kind.is_symlink() {
            // A link may lead nowhere or in a circle, but not out.
            let target = path.canonicalize().unwrap_or_else(|_| root.clone());
            assert!(target.starts_with(&root), "{what}: {} leads to {}", path.display(), target.display());
        } else {
            let mode = meta.permissions().mode() & 0o7777;
            assert!([0o644, 0o755].contains(&mode), "{what}: {} is {mode:o}", path.display());
        }
    }
}

#[test]
fn nothing_of_a_hostile_archive_gets_out_of_its_tree() {
    let mut n = 0;
    for Hostile { name, bytes, refusal } in archives::escapes("demo") {
        let dir = tempfile::tempdir().unwrap();
        let place = |path: &str| dir.path().join(path);
        fs_err::create_dir(place("around")).unwrap();
        for canary in ["canary", "outside", "evil", "x", "around/canary", "around/x"] {
            fs_err::write(place(canary), "untouched").unwrap();
        }
        let forms = if bytes.starts_with(b"PK") { vec![bytes] } else { vec![archives::gzip(&bytes), bytes] };
        for (form, bytes) in forms.into_iter().enumerate() {
            n += 1;
            fs_err::write(place("archive"), bytes).unwrap();
            let before = listing(dir.path());
            let tree = place("around/tree");
            let result = unpack(&place("archive"), &tree, &Options::default(), &|| false);
            match (&result, refusal) {
                (Ok(_), None) => assert_harmless(&tree, name),
                (Err(error), Some(words)) if error.to_string().contains(words) => {
                    assert!(tree.symlink_metadata().is_err(), "{name}: {error}");
                }
                _ => panic!("{name}, form {form}: expected {refusal:?}, not {result:?}"),
            }
            let _ = fs_err::remove_dir_all(&tree);
            assert_eq!(listing(dir.path()), before, "{name}");
            // Looking for one file must not take it ill either.
            let _ = unpack::peek(&place("archive"), "DESCRIPTION");
        }
    }
    assert!(n >= 130, "{n}");
}

/// Runs the command on a package with each of these archives: it must end as it should, and the world around must
/// stay as it is.
fn solve_each(corpus: Vec<Hostile>) {
    let world = World::new();
    let r = FakeR::working(&world);
    world.write("canary", "untouched");
    for Hostile { name, bytes, refusal } in corpus {
        let lockfile = world.lock([world.publish_as(&Package::new("demo", "1.0"), bytes, "tar.gz")]);
        let around = ["home", "tmp"].map(|dir| listing(&world.path(dir)));
        let mut command = limited(&world);
        let ran = world.finish(command.arg(&lockfile).args(["--json", "--r", r.path.to_str().unwrap()]));
        assert!(!ran.stderr.contains("panicked"), "{name}: {}", ran.stderr);
        let ran = ran.exits(i32::from(refusal.is_some()));
        assert!(ran.error("demo").contains(refusal.unwrap_or_default()), "{name}: {}", ran.stdout);
        assert_eq!(ran.error("demo").is_empty(), refusal.is_none(), "{name}: {}", ran.stdout);
        assert!(refusal.is_none() || !world.has("library/demo"), "{name}");
        assert_eq!(["home", "tmp"].map(|dir| listing(&world.path(dir))), around, "{name}");
        assert_eq!(world.read("canary"), "untouched", "{name}");
        assert!(world.items("store/.staging").is_empty(), "{name}");
        if world.has("library") {
            fs_err::remove_dir_all(world.path("library")).unwrap();
        }
    }
}

#[test]
fn the_command_survives_hostile_archives() {
    solve_each(archives::escapes("demo"));
}

#[test]
fn the_command_stops_bombs_within_a_gib_of_memory() {
    solve_each(archives::bombs("demo"));
}

/// Lockfiles that are read in one way or refused, but never make the reader fall over.
fn lockfiles() -> Vec<(&'static str, Vec<u8>)> {
    let entry = |fields: &str| {
        format!(
            "{{\"lockfile_version\":1,\"packages\":[{{\"package\":\"demo\",\"version\":\"1.0\",\"type\":\"standard\",\
             \"platform\":\"source\",\"rversion\":\"*\"{fields}}}]}}"
        )
        .into_bytes()
    };
    let nested = |open: &str, n: usize, close: &str| open.repeat(n) + &close.repeat(n);
    let megabytes = |text: &str| text.repeat(100_000_000 / text.len());
    let list = |item: &str| {
        let items = megabytes(item);
        format!("{{\"lockfile_version\":1,\"packages\":[{}]}}", items.trim_end_matches(',')).into_bytes()
    };
    let fields = |name: &str, value: &str| entry(&format!(",\"{name}\":{value}"));
    let mut all = vec![
        ("10,000 lists", nested("[", 10_000, "]").into_bytes()),
        ("a million lists without end", "[".repeat(1_000_000).into_bytes()),
        ("10,000 objects", nested("{\"a\":", 10_000, "}").into_bytes()),
        ("bad UTF-8", b"{\"lockfile_version\":1,\"packages\":[{\"package\":\"\xff\xfe\"}]}".to_vec()),
        ("half a surrogate", fields("metadata", "{\"RemoteSha\":\"\\ud800\"}")),
        ("huge number", fields("filesize", "1e999")),
        ("number of 100,000 digits", fields("filesize", &"9".repeat(100_000))),
        ("negative size", fields("filesize", "-1")),
        ("the same field twice", fields("version", "\"2.0\"")),
        ("two lists of packages", b"{\"lockfile_version\":1,\"packages\":[],\"packages\":[{}]}".to_vec()),
        ("a field of 100 MB", fields("x", &format!("\"{}\"", megabytes("x")))),
        ("metadata of 100 MB", fields("metadata", &format!("{{\"RemoteSha\":\"{}\"}}", megabytes("x")))),
        ("100 MB of empty entries", list("{},")),
        ("100 MB of projects", list("{\"type\":\"deps\"},")),
        ("100 MB of lists", list("[],")),
        ("100 MB of spaces", megabytes(" ").into_bytes()),
    ];
    for (name, field) in ["x", "metadata", "dependencies", "deps", "version", "sources", "sysreqs_packages"]
        .iter()
        .flat_map(|field| [("nested lists in a field", *field), ("nested objects in a field", *field)])
    {
        let value = if name.contains("lists") { nested("[", 10_000, "]") } else { nested("{\"a\":", 10_000, "}") };
        all.push((name, fields(field, &value.replace(":}", ":1}"))));
    }
    all
}

#[test]
fn no_lockfile_makes_the_command_panic_or_take_more_than_a_gib() {
    let world = World::new();
    for (name, text) in lockfiles() {
        world.write("hostile.lock", text);
        let ran = world.finish(limited(&world).args(["plan", "hostile.lock", "--json"]));
        assert!([Some(0), Some(2)].contains(&ran.code), "{name}: {:?}: {}", ran.code, ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{name}: {}", ran.stderr);
        assert!(ran.stderr.len() < 2000, "{name}: a message of {} bytes", ran.stderr.len());
    }
}

#[test]
fn a_chain_of_ten_thousand_packages_is_planned() {
    let world = World::new();
    let n = 10_000;
    let entries = (0..n).map(|index| {
        let mut package = Package::new(&format!("p{index}"), "1.0");
        if index > 0 {
            package = package.field("LinkingTo", &format!("p{}", index - 1));
        }
        let mut entry = package.entry("http://127.0.0.1:9/x.tar.gz");
        entry["deps"] = match index {
            0 => serde_json::json!([]),
            _ => serde_json::json!([{"package": format!("p{}", index - 1), "type": "LinkingTo"}]),
        };
        entry
    });
    let lockfile = world.lock(entries);
    let ran = world.finish(limited(&world).args(["plan", lockfile.to_str().unwrap(), "--json"])).ok();
    assert_eq!(ran.events_of("plan-vertex").len(), n);
}
