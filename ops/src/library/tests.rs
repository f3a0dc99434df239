//! The library on trees of one file, without R.

use super::*;
use crate::digest::Sha256Digest;
use crate::link::LinkMode;

const PLATFORM_HERE: &str = "4.2-x86_64-pc-linux-gnu";

fn name(text: &str) -> PackageName {
    PackageName::parse(text).unwrap()
}

fn reference(text: &str) -> Reference {
    Reference { source: Sha256Digest::of(text.as_bytes()), config: Sha256Digest::of(b"") }
}

fn tree(dir: &Path, content: &str) -> PathBuf {
    let tree = dir.join(content);
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("DESCRIPTION"), content).unwrap();
    tree
}

fn change(dir: &Path, put: &[(&str, &str)], remove: &[&str]) -> Change {
    let put = put.iter().map(|(package, content)| Put {
        package: name(package),
        tree: tree(dir, content),
        what: What::Stored(reference(content)),
    });
    Change { put: put.collect(), remove: remove.iter().map(|package| name(package)).collect(), ..Change::default() }
}

fn put(library: &mut Library, dir: &Path, package: &str, content: &str) {
    library.apply(&change(dir, &[(package, content)], &[]), &Linker::new(None)).expect("it can be changed");
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn what_cannot_be_put_there_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    let mut change = change(dir.path(), &[("demo", "one"), ("gone", "two")], &[]);
    change.put[1].tree = dir.path().join("nowhere");
    library.apply(&change, &Linker::new(None)).unwrap_err();
    assert!(!has_package(&root, &name("demo")));
    drop(library);
    Library::open(&root, PLATFORM_HERE).unwrap();
    assert!(is_empty(&root.join(".larder/staging")), "what was never committed is swept");
    assert!(!root.join(".larder/pending.json").exists(), "what was not touched needs no second look");
}

#[test]
fn symlinks_that_cannot_all_be_put_there_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    let linker = Linker::new(Some(LinkMode::Symlink));
    library.apply(&change(dir.path(), &[("demo", "one")], &[]), &linker).unwrap();
    let mut change = change(dir.path(), &[("demo", "two"), ("fresh", "three"), ("long", "four")], &[]);
    // No file system takes such a target.
    change.put[2].tree = dir.path().join("x".repeat(5000));
    library.apply(&change, &linker).unwrap_err();
    assert!(library.holds(&name("demo"), reference("one")));
    assert!(root.join("fresh").symlink_metadata().is_err());
    change.put.pop();
    drop(library);
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    library.apply(&change, &linker).unwrap();
    assert!(library.holds(&name("demo"), reference("two")) && library.holds(&name("fresh"), reference("three")));
    assert_eq!(fs::read_to_string(root.join("demo/DESCRIPTION")).unwrap(), "two");
}

#[test]
fn symlinks_that_were_made_ahead_get_their_places_when_the_library_changes_and_else_go() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let linker = Arc::new(Linker::new(Some(LinkMode::Symlink)));
    let trees = ["one", "two", "three"].map(|content| tree(dir.path(), content));
    let open = || {
        let library = Library::open(&root, PLATFORM_HERE).unwrap();
        let stager = library.stager(&linker).expect("it takes symlinks");
        for (package, tree) in ["demo", "fresh", "unwanted"].iter().zip(&trees) {
            stager.stage(&name(package), tree);
        }
        assert_eq!(packages_in(&root).unwrap(), library.record().packages().into_iter().cloned().collect());
        (library, stager)
    };
    let is_clean = || is_empty(&root.join(".larder/staging"));
    drop(open());
    assert!(is_clean(), "the run came to nothing");

    let (mut library, stager) = open();
    // It is wanted from elsewhere in the end.
    let change = change(dir.path(), &[("demo", "one"), ("fresh", "three")], &[]);
    library.apply(&change, &linker).unwrap();
    assert!(is_clean());
    stager.stage(&name("late"), &trees[0]);
    assert!(is_clean(), "the library has changed");
    assert!(library.holds(&name("demo"), reference("one")) && library.holds(&name("fresh"), reference("three")));
    assert_eq!(fs::read_link(root.join("fresh")).unwrap(), trees[2]);
    drop((library, stager));

    // Now there is something in their places.
    let (mut library, _stager) = open();
    library.apply(&self::change(dir.path(), &[("demo", "one"), ("fresh", "two")], &[]), &linker).unwrap();
    assert_eq!(fs::read_link(root.join("fresh")).unwrap(), trees[1]);
    assert!(is_clean());
    assert!(library.stager(&Arc::new(Linker::new(None))).is_none(), "files may be replaced until then");
    assert!(library.into_generations().unwrap().stager(&linker).is_none());
}

#[test]
fn packages_are_replaced_and_removed_and_the_record_follows() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "one");
    put(&mut library, dir.path(), "other", "three");
    put(&mut library, dir.path(), "demo", "two");
    assert!(library.holds(&name("demo"), reference("two")));
    assert_eq!(fs::read_to_string(root.join("demo/DESCRIPTION")).unwrap(), "two");
    library.apply(&change(dir.path(), &[], &["other"]), &Linker::new(None)).unwrap();
    assert!(!root.join("other").exists());
    drop(library);
    let record = Record::read(&root, PLATFORM_HERE).unwrap();
    assert_eq!(record.packages(), BTreeSet::from([&name("demo")]));
    assert_eq!(record.get(&name("demo")), Some(reference("two")));
}

#[test]
fn what_a_killed_commit_was_replacing_is_not_taken_for_whole() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "one");
    drop(library);
    fs::write(root.join(".larder/pending.json"), "[\"demo\", \"fresh\"]").unwrap();
    let library = Library::open(&root, PLATFORM_HERE).unwrap();
    assert!(!library.holds(&name("demo"), reference("one")));
    assert_eq!(library.record().packages(), BTreeSet::from([&name("demo"), &name("fresh")]));
}

#[test]
fn what_a_loss_of_power_left_of_a_change_makes_the_next_run_look_at_all_packages_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    put(&mut Library::open(&root, PLATFORM_HERE).unwrap(), dir.path(), "demo", "one");
    for file in ["pending.json", "platform.json"] {
        for left in ["", "[\"de", "\0\0\0"] {
            fs::write(root.join(".larder").join(file), left).unwrap();
            let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
            assert!(!library.holds(&name("demo"), reference("one")), "{file}: {left:?}");
            put(&mut library, dir.path(), "demo", "one");
            drop(library);
            assert!(Library::open(&root, PLATFORM_HERE).unwrap().holds(&name("demo"), reference("one")));
        }
    }
}

#[test]
fn what_is_taken_into_the_record_is_believed_although_it_was_there_for_another_r() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "one");
    put(&mut library, dir.path(), "other", "two");
    drop(library);
    Library::open(&root, "another").unwrap().record_as([(name("demo"), reference("new"))]).unwrap();
    let library = Library::open(&root, "another").unwrap();
    assert!(library.holds(&name("demo"), reference("new")));
    assert!(!library.holds(&name("other"), reference("two")), "nobody said what it is now");
}

#[test]
fn what_a_library_holds_for_another_r_is_not_believed_whenever_a_change_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "one");
    drop(library);
    let mut library = Library::open(&root, "another").unwrap();
    put(&mut library, dir.path(), "fresh", "two");
    drop(library);
    let library = Library::open(&root, "another").unwrap();
    assert!(!library.holds(&name("demo"), reference("one")), "it was not put there for this one");
    assert!(library.holds(&name("fresh"), reference("two")));
}

#[test]
fn a_removed_package_is_not_held() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "one");
    fs::remove_dir_all(root.join("demo")).unwrap();
    assert!(!library.holds(&name("demo"), reference("one")));
}

#[test]
fn packages_of_others_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lib");
    tree(&root, "mine");
    tree(&root, "wanted");
    let library = Library::open(&root, PLATFORM_HERE).unwrap();
    assert_eq!(library.foreign(&BTreeSet::from([name("wanted")])).unwrap(), [name("mine")]);
}

/// A library of generations with `demo` one and then two; returns its place.
fn two_generations(dir: &Path) -> PathBuf {
    let place = dir.join("lib");
    for content in ["one", "two"] {
        let mut library = Library::open(&place, PLATFORM_HERE).unwrap().into_generations().unwrap();
        put(&mut library, dir, "demo", content);
    }
    place
}

fn content(place: &Path) -> String {
    fs::read_to_string(place.join("demo/DESCRIPTION")).unwrap()
}

fn numbers(place: &Path) -> Vec<u32> {
    generations(place).unwrap().iter().map(|generation| generation.number).collect()
}

#[test]
fn a_library_of_generations_keeps_those_before() {
    let dir = tempfile::tempdir().unwrap();
    let place = two_generations(dir.path());
    assert_eq!(fs::read_link(&place).unwrap(), Path::new(".lib.larder/2"));
    let all = generations(&place).unwrap();
    assert_eq!(all.iter().map(|it| (it.number, it.is_current)).collect::<Vec<_>>(), [(1, false), (2, true)]);
    let differing = all[1].differences(&all[0]);
    assert_eq!(differing.iter().map(|it| it.package.as_str()).collect::<Vec<_>>(), ["demo"]);
    assert_eq!(content(&dir.path().join(".lib.larder/1")), "one");
    assert_eq!(roll_back(&place, None).unwrap(), (2, 1));
    assert_eq!(content(&place), "one");
    assert_eq!(roll_back(&place, Some(2)).unwrap(), (1, 2));
    assert_eq!(content(&place), "two");
    let error = roll_back(&place, Some(7)).unwrap_err().to_string();
    assert_eq!(error, "there is no generation 7 (there are 1, 2; 2 is the current one)");
    roll_back(&place, Some(1)).unwrap();
    let error = roll_back(&place, None).unwrap_err().to_string();
    assert_eq!(error, "there is no generation before this one (there are 1, 2; 1 is the current one)");
}

#[test]
fn a_directory_becomes_generation_0_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("lib");
    let mut library = Library::open(&place, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "one");
    tree(&place, "mine");
    fs_err::os::unix::fs::symlink("../linked", place.join("other")).unwrap();
    tree(dir.path(), "linked");
    drop(library);
    let library = Library::open(&place, PLATFORM_HERE).unwrap().into_generations().unwrap();
    assert_eq!(fs::read_link(&place).unwrap(), Path::new(".lib.larder/0"));
    assert!(library.holds(&name("demo"), reference("one")));
    assert!(has_package(&place, &name("mine")) && has_package(&place, &name("other")));
    drop(library);
    let mut library = Library::open(&place, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "two");
    for package in ["mine", "other"] {
        assert!(has_package(&place, &name(package)), "{package} is carried over");
    }
    let inode = |number: u32| {
        let path = dir.path().join(format!(".lib.larder/{number}/mine/DESCRIPTION"));
        std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap())
    };
    assert_ne!(inode(0), inode(1), "a file of somebody else's may be written to");
    assert_eq!(numbers(&place), [0, 1]);
}

#[test]
fn a_conversion_that_was_killed_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("lib");
    put(&mut Library::open(&place, PLATFORM_HERE).unwrap(), dir.path(), "demo", "one");
    fs::create_dir(dir.path().join(".lib.larder")).unwrap();
    fs_err::os::unix::fs::symlink(".lib.larder/0", dir.path().join(".lib.larder/0")).unwrap();
    assert!(Library::open(&place, PLATFORM_HERE).unwrap().holds(&name("demo"), reference("one")));
    drop(Library::open(&place, PLATFORM_HERE).unwrap().into_generations().unwrap());
    assert_eq!((numbers(&place), content(&place)), (vec![0], "one".to_owned()));
}

#[test]
fn nothing_to_change_makes_no_generation() {
    let dir = tempfile::tempdir().unwrap();
    let place = two_generations(dir.path());
    let mut library = Library::open(&place, PLATFORM_HERE).unwrap();
    library.apply(&Change::default(), &Linker::new(None)).unwrap();
    assert_eq!(numbers(&place), [1, 2]);
}

#[test]
fn the_newest_generations_stay_and_the_current_one() {
    let dir = tempfile::tempdir().unwrap();
    let place = two_generations(dir.path());
    roll_back(&place, Some(1)).unwrap();
    let next = |content| {
        let mut library = Library::open(&place, PLATFORM_HERE).unwrap();
        let change = Change { generations_kept: 2, ..change(dir.path(), &[("demo", content)], &[]) };
        library.apply(&change, &Linker::new(None)).unwrap();
    };
    next("three");
    assert_eq!(numbers(&place), [2, 3]);
    roll_back(&place, Some(2)).unwrap();
    next("four");
    assert_eq!(numbers(&place), [3, 4]);
}

#[test]
fn what_a_killed_process_left_of_a_generation_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let place = two_generations(dir.path());
    let all = dir.path().join(".lib.larder");
    // Killed while it was made, while another was removed, before the symlink was renamed.
    tree(&all.join("3"), "half");
    fs::create_dir(all.join("3/.larder")).unwrap();
    fs::write(all.join("3/.larder/unfinished"), "").unwrap();
    tree(&all, "removed-0");
    fs_err::os::unix::fs::symlink(".lib.larder/3", all.join("next")).unwrap();
    // Killed after the symlink was renamed, before the generation was called finished.
    fs::write(all.join("2/.larder/unfinished"), "").unwrap();
    assert_eq!(numbers(&place), [1, 2]);
    roll_back(&place, Some(3)).unwrap_err();
    drop(Library::open(&place, PLATFORM_HERE).unwrap());
    let mut left: Vec<_> = fs::read_dir(&all).unwrap().map(|item| item.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["1", "2", "lock"]);
    assert!(!all.join("2/.larder/unfinished").exists());
}

#[test]
fn a_generation_is_not_taken_for_a_library_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let place = two_generations(dir.path());
    let generation = place.canonicalize().unwrap();
    let LibraryError::IsGeneration { library, .. } = Library::open(&generation, PLATFORM_HERE).unwrap_err() else {
        panic!("it was opened")
    };
    assert_eq!(library.canonicalize().unwrap(), generation);
}

#[test]
fn the_users_own_symlink_to_a_library_stays() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    fs_err::os::unix::fs::symlink("lib", &link).unwrap();
    let mut library = Library::open(&link, PLATFORM_HERE).unwrap().into_generations().unwrap();
    put(&mut library, dir.path(), "demo", "one");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("lib"));
    assert_eq!(fs::read_link(dir.path().join("lib")).unwrap(), Path::new(".lib.larder/1"));
    assert_eq!(content(&link.join("")), "one");
    drop(library);
    assert_eq!(numbers(&link.join("")), [1], "a slash at the end is no matter");
}

#[test]
fn readers_see_one_generation_or_another_and_writers_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("lib");
    let mut library = Library::open(&place, PLATFORM_HERE).unwrap();
    put(&mut library, dir.path(), "demo", "one");
    drop(library);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = ["one", "two", "three", "four"]
            .into_iter()
            .map(|content| {
                let (place, dir) = (&place, dir.path());
                let change = change(dir, &[("demo", content), ("other", content)], &[]);
                scope.spawn(move || {
                    for _ in 0..10 {
                        // The first of them makes it a library of generations, while others wait for its lock.
                        let library = Library::open(place, PLATFORM_HERE).unwrap();
                        library.into_generations().unwrap().apply(&change, &Linker::new(None)).unwrap();
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                content(&place);
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(numbers(&place), [38, 39, 40]);
    let current = place.canonicalize().unwrap();
    let both = ["demo", "other"].map(|name| fs::read_to_string(current.join(name).join("DESCRIPTION")).unwrap());
    assert_eq!(both[0], both[1]);
}
