//! Early cutoff: a release that leaves headers and libraries as they were is no reason to compile what links to it.

use crate::world::{Package, World, need_r};

fn lock(world: &World, hdr: &str, number: u32) -> std::path::PathBuf {
    let lnk = Package::linker("lnk", "2.0", "hdr");
    let far = Package::linker("far", "1.0", "hdr").field("Imports", "lnk");
    world.lock_published(&[&Package::header("hdr", hdr, number), &lnk, &far])
}

#[test]
fn a_release_without_a_changed_header_compiles_nothing() {
    need_r!();
    let world = World::new();
    let (old, same, changed) = (lock(&world, "1.0", 1), lock(&world, "1.1", 1), lock(&world, "1.2", 2));
    world.solve(&old, &[]).ok();

    let ran = world.solve(&same, &[]).ok();
    assert_eq!(ran.outcomes(), "far loaded, hdr ingested, lnk loaded");
    assert_eq!(ran.because("lnk"), "interface unchanged");
    assert_eq!(world.r("cat(lnk::answer())"), "1");
    assert_eq!(world.trees("lnk").len(), 2, "the build stands under its new key too");

    let ran = world.solve(&changed, &[]).ok();
    assert_eq!(ran.outcomes(), "far recompiled, hdr ingested, lnk recompiled");
    assert_eq!(world.r("cat(lnk::answer())"), "2");

    // From now on the new definition key is known by itself.
    let ran = world.solve(&same, &[]).ok();
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded");
    assert_eq!(ran.of("lnk")["because"], serde_json::Value::Null);
}
