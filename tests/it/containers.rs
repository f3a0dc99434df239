//! The recipes of `docs/containers.md`, played without a container engine: what is mounted while an image is built is
//! gone when it runs.

use std::process::Command;

use fs_err as fs;

use crate::world::{Mounted, PATH, Package, World, need_r, skip};

/// R with nothing but this library and what the machine has, in a mount namespace of its own where `hidden` is empty.
fn r_without(world: &World, hidden: &[&str], library: &str, expression: &str) -> Result<String, String> {
    let script =
        "for dir in $HIDDEN; do mount -t tmpfs none \"$dir\" || exit 77; done; exec R --vanilla --no-echo -e \"$0\"";
    let hidden: Vec<_> = hidden.iter().map(|dir| world.path(dir).display().to_string()).collect();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, expression])
        .env_clear()
        .env("PATH", format!("{PATH}:/usr/sbin:/sbin"))
        .env("HIDDEN", hidden.join(" "))
        .env("R_LIBS", world.path(library))
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        Some(1 | 77) if text(&output.stderr).contains("not permitted") => Err(text(&output.stderr)),
        code => panic!("{expression}: {code:?}\n{}{}", text(&output.stdout), text(&output.stderr)),
    }
}

fn packages() -> [Package; 2] {
    [Package::header("hdr", "1.0", 7), Package::linker("lnk", "2.0", "hdr")]
}

#[test]
fn a_library_made_from_a_cache_mount_works_when_the_mount_is_gone() {
    need_r!();
    let world = World::new();
    let lockfile = world.lock_published(&packages().each_ref());
    let run = |image: &str| {
        // RUN --mount=type=cache,target=/root/.cache/larder
        let mut command = world.command();
        command.env_remove("LARDER_STORE").env("LARDER_LIBRARY", world.path(image)).env("HOME", world.path("root"));
        world.finish(command.arg(&lockfile).args(["--json", "--link", "copy"])).ok()
    };
    let mounted = match Mounted::tmpfs(&world.path("root/.cache/larder"), "size=64m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    let ran = run("image-1");
    assert_eq!((ran.outcomes(), ran.warnings()), ("hdr ingested, lnk ingested".to_owned(), String::new()));
    let ran = run("image-2");
    assert_eq!((ran.outcomes(), ran.warnings()), ("hdr loaded, lnk loaded".to_owned(), String::new()));
    drop(mounted);
    assert!(!world.has("root/.cache/larder/store"), "the image has nothing of it");
    for image in ["image-1", "image-2"] {
        let expression = format!("cat(loadNamespace('lnk', '{}')$answer())", world.path(image).display());
        assert_eq!(world.r(&expression), "7");
    }
}

#[test]
fn an_image_over_a_base_image_stores_what_is_new_and_runs_without_either_store() {
    need_r!();
    let world = World::new();
    let [hdr, lnk] = packages();
    let base = world.lock_published(&[&hdr, &lnk]);
    let mut command = world.command();
    command.env("LARDER_STORE", world.path("opt")).env("LARDER_LIBRARY", world.path("scratch"));
    world.finish(command.arg(&base)).ok();
    fs::remove_dir_all(world.path("scratch")).unwrap();

    let more = world.lock_published(&[&hdr, &lnk, &Package::linker("more", "1.0", "hdr").field("Imports", "lnk")]);
    let mut command = world.command();
    let stores = format!("{}:{}", world.path("mount").display(), world.path("opt").display());
    command.env("LARDER_STORE", stores).env("LARDER_LIBRARY", world.path("image"));
    let ran = world.finish(command.arg(&more).args(["--json", "--link", "copy"])).ok();
    assert_eq!(ran.outcomes(), "hdr loaded, lnk loaded, more ingested");
    match r_without(&world, &["mount", "opt"], "image", "cat(more::answer(), lnk::answer())") {
        Ok(said) => assert_eq!(said, "7 7"),
        Err(why) => skip(&format!("no mount namespace can be made here ({why})")),
    }
}
