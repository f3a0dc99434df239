//! What a change of headers means: who is compiled again, who is not, and what is found again on the way back.

use fs_err as fs;
use serde_json::{Value, json};

use crate::world::{Package, World, need_r};

/// Two libraries of the same packages but for the header: `hdr` (header only), `lnk` (links to it), `far` (links to
/// `lnk`, and so to `hdr`), `top` (imports `lnk`), `alone`. No `deps`: what links to what is learnt from the sources.
fn packages(hdr: &str, number: u32) -> Vec<Package> {
    let lnk = Package::linker("lnk", "2.0", "hdr")
        .file("inst/include/lnk.h", "#include <hdr.h>\n#define LNK_NUMBER HDR_NUMBER\n");
    let far = Package::linker("far", "1.0", "lnk").file("src/Makevars", "").field("LinkingTo", "lnk, hdr");
    vec![
        Package::new("top", "3.0").imports(&["lnk"]),
        far,
        lnk,
        Package::header("hdr", hdr, number),
        Package::new("alone", "1.0"),
    ]
}

fn lock(world: &World, hdr: &str, number: u32) -> std::path::PathBuf {
    world.lock(packages(hdr, number).iter().map(|package| world.publish(package)))
}

#[test]
fn a_changed_header_recompiles_what_links_to_it_and_nothing_else() {
    need_r!();
    let world = World::new();
    let (old, new) = (lock(&world, "1.0", 1), lock(&world, "1.1", 2));
    let ran = world.solve(&old, &[]).ok();
    assert_eq!(ran.outcomes(), "alone ingested, far ingested, hdr ingested, lnk ingested, top ingested");
    assert_eq!(world.r("cat(lnk::answer(), far::answer(), top::own())"), "1 1 3.0 1");

    let ran = world.solve(&new, &[]).ok();
    assert_eq!(ran.outcomes(), "alone kept, far recompiled, hdr ingested, lnk recompiled, top kept");
    assert_eq!(ran.because("lnk"), "hdr 1.0 -> 1.1");
    assert_eq!(ran.because("far"), "hdr 1.0 -> 1.1 (through lnk)");
    assert_eq!(world.r("cat(lnk::answer(), far::answer(), top::own())"), "2 2 3.0 2");

    let ran = world.solve(&old, &[]).ok();
    assert_eq!(ran.outcomes(), "alone kept, far loaded, hdr loaded, lnk loaded, top kept");
    assert_eq!(world.r("cat(lnk::answer(), far::answer())"), "1 1");
    assert_eq!(world.trees("lnk").len(), 2);

    let ran = world.solve(&old, &[]).ok();
    assert_eq!(ran.outcomes(), "alone kept, far kept, hdr kept, lnk kept, top kept");
}

#[test]
fn linking_through_another_package_counts_without_naming_the_last() {
    need_r!();
    let world = World::new();
    // `far` itself says that it links to `mid` only; what `mid` links to is part of its key.
    let entries = |hdr: &str, number| -> Vec<Value> {
        let mid = Package::header("mid", "1.0", 5).field("LinkingTo", "hdr").file("src/empty.c", "int mid_empty;\n");
        [Package::header("hdr", hdr, number), mid, Package::linker("far", "1.0", "mid")]
            .iter()
            .map(|package| world.publish(package))
            .collect()
    };
    let (old, new) = (world.lock(entries("1.0", 1)), world.lock(entries("1.1", 2)));
    world.solve(&old, &[]).ok();
    let ran = world.solve(&new, &[]).ok();
    assert_eq!(ran.outcomes(), "far recompiled, hdr ingested, mid recompiled");
    assert_eq!(ran.because("far"), "hdr 1.0 -> 1.1 (through mid)");
}

#[test]
fn what_links_to_nothing_that_exists_is_refused_before_anything_is_built() {
    need_r!();
    let world = World::new();
    let mut nowhere = world.publish(&Package::linker("lnk", "2.0", "absent"));
    nowhere["dependencies"] = json!([]);
    nowhere["deps"] = json!([{"ref": "absent", "type": "LinkingTo", "package": "absent", "op": "", "version": ""}]);
    let ran = world.solve(&world.lock([world.publish(&Package::new("other", "1.0")), nowhere]), &[]).exits(2);
    assert!(
        ran.stderr.contains("`lnk` links to `absent`, which is neither in the lockfile nor in R's own library"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.outcomes(), "");
}

#[test]
fn what_links_to_nothing_that_exists_fails_when_only_its_source_tells() {
    need_r!();
    let world = World::new();
    let mut nowhere = world.publish(&Package::linker("lnk", "2.0", "absent"));
    nowhere["dependencies"] = json!(["other"]);
    let ran = world.solve(&world.lock([world.publish(&Package::new("other", "1.0")), nowhere]), &[]).exits(1);
    assert_eq!(ran.error("lnk"), "it links to `absent`, which is neither in the lockfile nor in R's own library");
    assert!(!world.has("store/logs/lnk"), "it is never built");
}

#[test]
fn a_package_of_r_itself_may_be_linked_to_and_is_part_of_the_key() {
    need_r!();
    let world = World::new();
    let mut entry = world.publish(&Package::new("lnk", "1.0").field("LinkingTo", "stats"));
    entry["dependencies"] = json!([]);
    let ran = world.solve(&world.lock([entry.clone()]), &[]).ok();
    assert_eq!(ran.outcomes(), "lnk ingested");
    let sidecar = world.trees("lnk")[0].with_extension("json");
    let sidecar: Value = serde_json::from_slice(&fs::read(sidecar).unwrap()).unwrap();
    assert_eq!(sidecar["config"]["stats"].as_str().map(str::len), Some(64), "{sidecar}");
}

#[test]
fn arguments_of_the_installation_are_used_and_keyed() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0")
        .file("man/demo.Rd", "\\name{demo}\\title{x}\\description{x}\n")
        .file("inst/notes.txt", "x");
    let mut entry = world.publish(&package);
    world.solve(&world.lock([entry.clone()]), &[]).ok();
    assert!(world.has("library/demo/notes.txt"));
    entry["install_args"] = json!("--no-inst");
    let ran = world.solve(&world.lock([entry.clone()]), &[]).ok();
    assert_eq!(ran.outcomes(), "demo recompiled");
    assert_eq!(ran.because("demo"), "install-args changed");
    assert!(!world.has("library/demo/notes.txt"));
    entry["install_args"] = json!([]);
    assert_eq!(world.solve(&world.lock([entry]), &[]).ok().outcomes(), "demo loaded");
}

#[test]
fn the_makevars_of_the_user_are_used_and_keyed() {
    need_r!();
    let world = World::new();
    let code = "#include <R.h>\n#include <Rinternals.h>\n#ifndef CHOSEN\n#define CHOSEN 0\n#endif\n\
                SEXP number(void) { return Rf_ScalarInteger(CHOSEN); }\n";
    let package = Package::new("demo", "1.0")
        .file("NAMESPACE", "useDynLib(demo, number)\nexport(answer)\n")
        .file("R/code.R", "answer <- function() .Call(number)\n")
        .file("src/number.c", code);
    let lock = world.lock([world.publish(&package)]);
    world.write("home/.R/Makevars", "CPPFLAGS += -DCHOSEN=7\n");
    world.solve(&lock, &[]).ok();
    assert_eq!(world.r("cat(demo::answer())"), "7");
    world.write("home/.R/Makevars", "CPPFLAGS += -DCHOSEN=8\n");
    let ran = world.solve(&lock, &[]).ok();
    assert_eq!((ran.outcomes(), ran.because("demo")), ("demo recompiled".to_owned(), "makevars changed".to_owned()));
    assert_eq!(world.r("cat(demo::answer())"), "8");
    fs::remove_file(world.path("home/.R/Makevars")).unwrap();
    assert_eq!(world.solve(&lock, &[]).ok().because("demo"), "makevars no longer counts");
    assert_eq!(world.r("cat(demo::answer())"), "0");
    world.write("other/Makevars", "CPPFLAGS += -DCHOSEN=7\n");
    let ran =
        world.finish(world.command().arg(&lock).arg("--json").env("R_MAKEVARS_USER", world.path("other/Makevars")));
    assert_eq!(ran.ok().outcomes(), "demo loaded", "the same text in another file is the same");
}

#[test]
fn a_package_is_built_again_when_asked_for() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0"), &Package::new("other", "1.0")]);
    world.solve(&lock, &[]).ok();
    let before = fs::read_to_string(world.trees("demo")[0].with_extension("json")).unwrap();
    let plan = world.solve(&lock, &["--rebuild", "demo", "--dry-run"]).ok();
    assert_eq!(
        (plan.actions(), plan.because("demo")),
        ("demo ingest, other keep".to_owned(), "asked for by --rebuild".to_owned())
    );
    assert_eq!(world.solve(&lock, &["--rebuild", "demo"]).ok().outcomes(), "demo ingested, other kept");
    assert_eq!(world.items("store/logs/demo").len(), 2);
    assert_ne!(fs::read_to_string(world.trees("demo")[0].with_extension("json")).unwrap(), before);
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo kept, other kept");
    let said = world.solve(&lock, &["--rebuild", "absent"]).exits(2).stderr;
    assert!(said.contains("`--rebuild absent`: the lockfile has no such package"), "{said}");
}

#[test]
fn a_changed_import_rebuilds_only_when_that_is_wanted() {
    need_r!();
    let world = World::new();
    let entries = |version| {
        [
            world.publish(&Package::new("low", version)),
            world.publish(&Package::new("mid", "1.0").imports(&["low"])),
            world.publish(&Package::new("top", "1.0").field("Imports", "mid")),
        ]
    };
    let (old, new) = (world.lock(entries("1.0")), world.lock(entries("1.1")));
    world.solve(&old, &[]).ok();
    assert_eq!(world.solve(&new, &[]).ok().outcomes(), "low ingested, mid kept, top kept");
    let strict = ["--rebuild-when", "imports"];
    world.solve(&old, &strict).ok();
    let ran = world.solve(&new, &strict).ok();
    assert_eq!(ran.outcomes(), "low loaded, mid recompiled, top recompiled");
    assert_eq!(ran.because("mid"), "imports changed");
    assert_eq!(world.solve(&old, &strict).ok().outcomes(), "low loaded, mid loaded, top loaded");
}
