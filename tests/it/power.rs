//! A loss of power, played with a file system in a file: what was not flushed to it is not in a copy of that file.
//!
//! The image is mounted with a journal that commits every five minutes only. While the command runs, killed at one of
//! its steps, the image is copied as the disk has it, the copy mounted (which replays the journal), and the command
//! run again on what is there. The kernel may write back earlier by itself; then a step shows less than it could, never more.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use larder_ops::store::verify::{self, verify};

use crate::faults::{Place, scenarios, tree};
use crate::world::{FakeR, World, skip};

/// A mounted image; unmounted when dropped.
struct Image {
    file: PathBuf,
    dir: PathBuf,
}

impl Image {
    fn run(command: &str, args: &[&str]) -> Result<(), String> {
        let output = Command::new(command).args(args).output().map_err(|error| format!("{command}: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{command}: {said}")) }
    }

    fn mount(file: &Path, dir: &Path, options: &str) -> Result<Self, String> {
        fs::create_dir_all(dir).unwrap();
        let (file, dir) = (file.to_owned(), dir.to_owned());
        Self::run("mount", &["-o", options, file.to_str().unwrap(), dir.to_str().unwrap()])?;
        Ok(Self { file, dir })
    }

    /// Makes a small ext4 file system.
    fn make(file: &Path) -> Result<(), String> {
        let _ = fs::remove_file(file);
        fs::File::create(file).unwrap().set_len(24 << 20).unwrap();
        Self::run("mkfs.ext4", &["-q", "-O", "^metadata_csum_seed", "-E", "lazy_itable_init=0", file.to_str().unwrap()])
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily: a build that a killed run left behind may still be in there.
        let _ = Command::new("umount").args(["-l", self.dir.to_str().unwrap()]).status();
    }
}

/// Copies what the disk has of an image: read around the cache of the mounted file system, holes kept.
fn snapshot(image: &Path, copy: &Path) {
    let _ = fs::remove_file(copy);
    Image::run("cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]).unwrap();
}

#[expect(clippy::print_stdout, reason = "counts, for whoever looks")]
fn lose_power(mode: &str, every: usize) {
    if !cfg!(feature = "faults") {
        return skip("the command was built without the feature `faults`");
    }
    let world = World::new();
    let image = world.path("template.img");
    if let Err(why) = Image::make(&image).and_then(|()| Image::mount(&image, &world.path("probe"), "loop").map(drop)) {
        return skip(&format!("no file system can be mounted here ({why})"));
    }
    let r = FakeR::working(&world);
    let wanted = ["cold", "upgrade", "copies", "symlinks", "adopt", "rebuild", "next generation"];
    let (mut n_losses, mut n_lost) = (0, 0);
    for scenario in scenarios(&world, &r).into_iter().filter(|scenario| wanted.contains(&scenario.name)) {
        let dir = |name: &str| world.path(&format!("{}/{name}", scenario.name.replace(' ', "-")));
        fs::create_dir_all(dir("")).unwrap();
        // Options of the mount, not of the image: the template is whole.
        let options = format!("loop,commit=300,noauto_da_alloc,data={mode}");
        Image::make(&image).unwrap();
        {
            let mounted = Image::mount(&image, &dir("mounted"), "loop").unwrap();
            let place = Place::at(&world, &mounted.dir.join("place"));
            scenario.before.iter().for_each(|args| drop(place.ok(args, scenario.name)));
            Image::run("umount", &[mounted.dir.to_str().unwrap()]).unwrap();
            std::mem::forget(mounted);
        }
        let expected = {
            let clean = dir("clean.img");
            snapshot(&image, &clean);
            let mounted = Image::mount(&clean, &dir("mounted"), "loop").unwrap();
            let place = Place::at(&world, &mounted.dir.join("place"));
            place.ok(&scenario.args, scenario.name);
            place.library()
        };
        let mut n = 1;
        loop {
            let (disk, after) = (dir("disk.img"), dir("after.img"));
            snapshot(&image, &disk);
            let when = format!("{}, no power before step {n}, data={mode}", scenario.name);
            let is_over = {
                let mounted = Image::mount(&disk, &dir("mounted"), &options).unwrap();
                let place = Place::at(&world, &mounted.dir.join("place"));
                let output = place.command(&scenario.args).env("LARDER_FAULT", format!("kill:{n}")).output().unwrap();
                if output.status.success() || n_losses % 2 == 1 {
                    // Somebody else flushes a file: all names so far reach the disk, but not what is in other files.
                    fs::File::create(mounted.dir.join("other")).unwrap().sync_all().unwrap();
                }
                snapshot(&mounted.file, &after);
                output.status.success()
            };
            let mounted = Image::mount(&after, &dir("mounted"), "loop").unwrap();
            let place = Place::at(&world, &mounted.dir.join("place"));
            n_losses += 1;
            n_lost += usize::from(tree(&place.path("store")).iter().any(|path| {
                path.is_file() && path.metadata().is_ok_and(|meta| meta.len() == 0) && !path.ends_with("lock")
            }));
            // Nothing that the store takes for an entry may be broken.
            let verified = verify(&place.path("store"), &verify::Options::default(), &|_, _| ()).unwrap();
            let broken: Vec<_> = verified
                .findings
                .iter()
                .filter(|found| {
                    !matches!(found.problem, larder_ops::store::Problem::NoSidecar | larder_ops::store::Problem::NoTree)
                })
                .filter(|found| !found.path.ends_with("configs.json"))
                .collect();
            assert!(broken.is_empty(), "{when}: {broken:?}");
            place.ok(&scenario.args, &when);
            assert_eq!(place.library(), expected, "{when}");
            drop(mounted);
            if is_over {
                break;
            }
            n += every;
        }
    }
    println!("data={mode}: power lost {n_losses} times; {n_lost} times files were empty afterwards");
    assert!(n_losses > 30, "{n_losses}");
}

#[test]
fn after_a_loss_of_power_the_next_run_succeeds_and_loads_nothing_broken() {
    lose_power("ordered", 14);
}

#[test]
fn so_it_does_where_the_file_system_writes_names_before_contents() {
    lose_power("writeback", 28);
}
