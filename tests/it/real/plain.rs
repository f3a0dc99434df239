//! What packages become does not depend on how R was started to install them.

use std::process::Command;

use super::world::{World, cold, variable};

/// Those that take little time, with what they need; some compile C.
const QUICK: [&str; 7] = ["R6", "cachem", "fansi", "generics", "glue", "pkgconfig", "withr"];

/// The cold build has done it with warm R processes. Of all packages if `LARDER_REAL_ALL` is set, which takes as long as
/// a cold build; else of a few.
#[test]
fn trees_are_those_of_plain_installs() {
    let Some(world) = World::empty("trees_are_those_of_plain_installs") else { return };
    let (warm, ran) = cold(world.real);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lock = warm.lock("real");
    let lock = if variable("LARDER_REAL_ALL").is_some() { lock } else { lock.only(&QUICK) };
    let ran = world.solve(&lock).arg("--plain-install").run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let packages = lock.packages();
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let mut r = Command::new(&world.real.r);
    r.args(["--vanilla", "--no-echo"]).env_clear().env("PATH", &world.real.path).env("R_LIBS", warm.library());
    let told = crate::warm::differences(r, [&world.library(), &warm.library()], &packages);
    assert!(told.starts_with(&format!("compared: {} packages, ", packages.len())), "{told}");
}
