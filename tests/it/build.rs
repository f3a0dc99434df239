//! What a build sees of the world: its dependencies, a clean environment, and nothing else.

use std::collections::BTreeMap;

use crate::world::{Package, World, need_r};

/// A package whose `configure` writes what it sees into files that are then installed.
fn curious() -> Package {
    let script = "mkdir -p inst\nenv > inst/env.txt\npwd > inst/pwd.txt\n\
                  \"$R_HOME/bin/Rscript\" -e 'writeLines(.libPaths(), \"inst/libpaths.txt\")' \
                  -e 'writeLines(dir(grep(\"/view$\", .libPaths(), value = TRUE)), \"inst/view.txt\")' \
                  -e 'writeLines(as.character(c(Sys.getlocale(\"LC_COLLATE\"), Sys.timezone(), path.expand(\"~\"))), \"inst/r.txt\")'\n\
                  { stty size < /dev/tty; } > inst/tty.txt 2>&1\nexit 0";
    Package::configured("curious", "1.0", script)
}

#[test]
fn a_build_sees_its_dependencies_and_nothing_of_the_user() {
    need_r!();
    let world = World::new();
    let mut low = Package::new("low", "1.0");
    low = low.imports(&[]);
    let packages = [
        low.file("NAMESPACE", "export(own)\n"),
        Package::new("mid", "1.0").field("Imports", "low"),
        Package::new("other", "1.0"),
        curious().field("Imports", "mid"),
    ];
    let lock = world.lock_published(&packages.each_ref());
    world.write("home/.Rprofile", "stop('the profile of the user was read')\n");
    world.write("home/.Renviron", "SECRET_OF_R=x\n");
    let mut command = world.command();
    let secrets = [
        ("R_LIBS", "/nowhere"),
        ("R_LIBS_USER", "/nowhere"),
        ("R_PROFILE_USER", "/nowhere"),
        ("SECRET", "x"),
        ("GITHUB_PAT", "x"),
        ("MAKEFLAGS", "-n"),
        ("CC", "false"),
        ("CFLAGS", "-bad"),
        ("LANG", "de_DE.UTF-8"),
        ("TZ", "Asia/Tokyo"),
        ("R_HOME", "/nowhere"),
        ("http_proxy", ""),
    ];
    // `curious` itself is all that is looked at; the others are there to be seen or not to be seen.
    world.finish(command.arg(&lock).arg("--json").args(["--jobs", "2"]).envs(secrets)).ok();
    let env: BTreeMap<String, String> = world
        .read("library/curious/env.txt")
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for name in ["SECRET", "GITHUB_PAT", "SECRET_OF_R", "LANG", "LARDER_STORE", "LARDER_LIBRARY"] {
        assert_eq!(env.get(name), None, "{name}");
    }
    let staging = world.path("store/.staging").display().to_string();
    for name in ["HOME", "TMPDIR", "R_LIBS", "R_LIBS_USER", "R_LIBS_SITE", "R_MAKEVARS_USER"] {
        assert!(env[name].starts_with(&staging), "{name}={}", env[name]);
    }
    assert_eq!((&*env["LC_ALL"], &*env["TZ"]), ("C.UTF-8", "UTC"));
    assert_ne!(env.get("CFLAGS").map(String::as_str), Some("-bad"));
    let lines = |name: &str| -> Vec<String> {
        world.read(&format!("library/curious/{name}")).lines().map(str::to_owned).collect()
    };
    assert_eq!(lines("view.txt"), ["low", "mid"], "the whole closure, and only that");
    let outside: Vec<String> = lines("libpaths.txt")
        .into_iter()
        .filter(|path| !path.starts_with(&staging) && !path.ends_with("/R/library"))
        .collect();
    assert_eq!(outside, Vec::<String>::new(), "only what the build may see, and R's own library");
    assert!(lines("pwd.txt")[0].starts_with(&staging));
    assert_eq!(lines("r.txt")[1], "UTC");
    assert!(lines("r.txt")[2].starts_with(&staging));
    assert!(!world.has("home/R"), "nothing is written to the user's home");
    assert_eq!(world.items("tmp"), Vec::<std::path::PathBuf>::new(), "nothing is left in the temporary directory");
}

#[test]
fn where_a_package_came_from_is_installed_with_it() {
    need_r!();
    let world = World::new();
    world.solve(&world.lock_published(&[&Package::new("demo", "1.0")]), &[]).ok();
    let told = world.r("d <- packageDescription('demo'); cat(d$RemoteType, d$RemoteSha, d$RemotePkgPlatform)");
    assert_eq!(told, "standard 1.0 source");
}

#[test]
fn equal_builds_give_equal_bytes() {
    need_r!();
    let header = Package::header("hdr", "1.0", 1);
    let trees = [(), ()].map(|()| {
        let world = World::new();
        world.solve(&world.lock_published(&[&header, &Package::linker("demo", "1.0", "hdr")]), &[]).ok();
        let tree = world.trees("demo")[0].clone();
        let mut files = BTreeMap::new();
        for item in walk(&tree) {
            let name = item.strip_prefix(&tree).unwrap().display().to_string();
            files.insert(name, fs_err::read(item).unwrap());
        }
        files
    });
    let [one, two] = &trees;
    assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
    // The address of the server is in the metadata. R itself writes the place of the build into the lazy-load
    // database of a package that has a shared object.
    let may_differ = ["DESCRIPTION", "Meta/package.rds", "R/demo.rdb", "R/demo.rdx"];
    let differing: Vec<_> =
        one.keys().filter(|name| !may_differ.contains(&name.as_str()) && one[*name] != two[*name]).collect();
    assert_eq!(differing, Vec::<&String>::new());
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(path) = open.pop() {
        if path.is_dir() { open.extend(crate::world::items(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_repository_may_have_to_be_made_ready_first() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0")
        .field("Config/build/bootstrap", "TRUE")
        .file("bootstrap.R", "dir.create('inst'); writeLines('made', 'inst/made.txt')\n");
    let dir = world.path("demo");
    package.write_to(&dir);
    let mut entry = package.entry(&format!("file://{}", dir.display()));
    entry["type"] = "local".into();
    entry["metadata"] = serde_json::json!({"RemoteType": "local"});
    world.solve(&world.lock([entry]), &[]).ok();
    assert_eq!(world.read("library/demo/made.txt"), "made\n");
    assert!(!dir.join("inst").exists());
}
