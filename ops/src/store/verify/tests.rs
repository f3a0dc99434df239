use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use crate::key::PackageKey;
use crate::store::testing::{Shop, key, paths};
use crate::store::{Depth, OnExisting, Sidecar};

fn check(shop: &Shop, repairs: bool) -> Verified {
    verify(shop.store.root(), &Options { repairs, ..Options::default() }, &|_, _| {}).unwrap()
}

/// What is wrong, one line each, with the entry's directory and package left out.
fn told(shop: &Shop, verified: &Verified) -> Vec<String> {
    let platform = shop.store.root().join(shop.store.platform());
    let line = |finding: &Finding| {
        let path = finding.path.strip_prefix(&platform).unwrap();
        let path: PathBuf = path.components().skip(2).collect();
        let path = path.display().to_string();
        let path = match finding.reference {
            Some(reference) => path.replace(&reference.config.to_string(), "@"),
            None => path,
        };
        format!("{path} {}", finding.problem)
    };
    verified.findings.iter().map(line).collect()
}

fn inspect(shop: &Shop, key: &PackageKey, depth: Depth) -> Result<bool, String> {
    let found = shop.store.inspect(key.package(), key.reference(), depth);
    found.map(|tree| tree.is_some()).map_err(|broken| broken.to_string())
}

fn write(path: &Path, content: &str) {
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o444)).unwrap();
}

#[test]
fn a_store_as_it_was_filled_is_clean() {
    let shop = Shop::new();
    let rcpp = key("Rcpp", &[]);
    shop.publish(&rcpp);
    shop.publish(&key("plyr", &[&rcpp]));
    let verified = check(&shop, false);
    assert_eq!(told(&shop, &verified), [""; 0]);
    assert_eq!((verified.n_entries, verified.n_unrecorded), (2, 0));
    let sidecar = shop.store.sidecar(rcpp.package(), rcpp.reference()).unwrap();
    assert_eq!((sidecar.n_files, sidecar.tree.is_some(), sidecar.interface.is_some()), (4, true, true));
    assert_eq!(verified.bytes, 2 * sidecar.size);
}

#[test]
fn every_kind_of_damage_to_a_tree_is_found_and_named() {
    let shop = Shop::new();
    let demo = key("demo", &[]);
    let tree = shop.publish(&demo);
    write(&tree.join("R/code.rdb"), "the code of demo, and some MORE of it");
    write(&tree.join("include/a header.h"), "int");
    fs::remove_dir(tree.join("empty")).unwrap();
    fs::write(tree.join("extra"), "").unwrap();
    fs::remove_file(tree.join("R/tool")).unwrap();
    rustix::fs::symlink("/etc/passwd", tree.join("R/tool")).unwrap();
    fs::set_permissions(tree.join("bin/tool"), PermissionsExt::from_mode(0o644)).unwrap();
    let expected = [
        "@/R/code.rdb has another content than when it was stored",
        "@/R/tool is another kind of thing than when it was stored, or points elsewhere",
        "@/bin/tool has mode 0644 instead of 0555",
        "@/empty is missing",
        "@/extra does not belong there",
        "@/include/a header.h has 3 bytes instead of 7",
    ];
    assert_eq!(told(&shop, &check(&shop, false)), expected);
    assert_eq!(inspect(&shop, &demo, Depth::Glance), Ok(true), "a glance does not read it");
    assert!(inspect(&shop, &demo, Depth::Full).unwrap_err().ends_with(", and 5 more"));
}

#[test]
fn repair_sets_broken_entries_aside_with_a_note_and_leaves_a_clean_store() {
    let shop = Shop::new();
    let (rcpp, demo) = (key("Rcpp", &[]), key("demo", &[]));
    shop.publish(&rcpp);
    let tree = shop.publish(&demo);
    write(&tree.join("R/code.rdb"), "x");
    let verified = check(&shop, true);
    assert!(verified.is_good() && verified.findings.len() == 1);
    assert_eq!(inspect(&shop, &demo, Depth::Full), Ok(false));
    let aside = items(&shop.store.root().join(".aside")).unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read_to_string(aside[0].join("tree/R/code.rdb")).unwrap(), "x");
    let note = fs::read_to_string(aside[0].join("why.txt")).unwrap();
    assert!(note.contains("R/code.rdb has 1 bytes instead of"), "{note}");
    let verified = check(&shop, false);
    assert_eq!((told(&shop, &verified), verified.n_entries), (Vec::new(), 1));
    shop.publish(&demo);
    assert_eq!(check(&shop, false).n_entries, 2);
}

#[test]
fn modes_are_set_back_where_the_content_is_right() {
    let shop = Shop::new();
    let demo = key("demo", &[]);
    let tree = shop.publish(&demo);
    for path in ["bin/tool", "R"] {
        fs::set_permissions(tree.join(path), PermissionsExt::from_mode(0o700)).unwrap();
    }
    let verified = check(&shop, true);
    assert_eq!(
        told(&shop, &verified),
        ["@/R has mode 0700 instead of 0755", "@/bin/tool has mode 0700 instead of 0555"]
    );
    assert_eq!(told(&shop, &check(&shop, false)), [""; 0]);
    assert_eq!(inspect(&shop, &demo, Depth::Full), Ok(true));
    fs::set_permissions(tree.join("bin/tool"), PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(inspect(&shop, &demo, Depth::Full), Ok(true), "and before it is used");
    assert_eq!(tree.join("bin/tool").metadata().unwrap().permissions().mode() & 0o7777, 0o555);
}

#[test]
fn halves_of_entries_and_what_nobody_knows_are_found() {
    let shop = Shop::new();
    let trees: Vec<_> = ["aa", "bb", "cc", "dd"].map(|name| shop.publish(&key(name, &[]))).into();
    fs::remove_file(trees[0].with_extension("json")).unwrap();
    fs::remove_dir_all(&trees[1]).unwrap();
    fs::remove_file(trees[2].with_extension("files")).unwrap();
    fs::write(trees[3].with_file_name("notes.txt"), "").unwrap();
    fs::write(shop.store.root().join("some-platform/not-a-package"), "").unwrap();
    let verified = check(&shop, true);
    let mut lines = told(&shop, &verified);
    lines.sort();
    let named = |package: &str| key(package, &[]).reference().config.short();
    let expected = [
        " does not belong there".to_owned(),
        "@ has no sidecar".to_owned(),
        "@.files is missing".to_owned(),
        "@.json has no tree".to_owned(),
        format!("configs.json is not to be believed: it names `{}`, which is not there", named("aa")),
        format!("configs.json is not to be believed: it names `{}`, which is not there", named("bb")),
        "notes.txt does not belong there".to_owned(),
    ];
    assert_eq!(lines, expected);
    let verified = check(&shop, false);
    assert_eq!((told(&shop, &verified), verified.n_entries), (Vec::new(), 1));
}

#[test]
fn records_that_lie_are_not_believed() {
    let shop = Shop::new();
    let (rcpp, demo) = (key("Rcpp", &[]), key("demo", &[]));
    let (a, b) = (shop.publish(&rcpp), shop.publish(&demo));
    // Whole, but of another entry.
    for ending in ["json", "files"] {
        fs::copy(a.with_extension(ending), b.with_extension(ending)).unwrap();
    }
    let lines = told(&shop, &check(&shop, false));
    assert!(lines.contains(&"@.json is not to be believed: it is that of another package".to_owned()), "{lines:?}");
    // One digit changed: still JSON, still a sidecar, but not what was written.
    let text = fs::read_to_string(a.with_extension("json")).unwrap();
    fs::write(a.with_extension("json"), text.replacen("\"build_ms\": 7", "\"build_ms\": 8", 1)).unwrap();
    assert!(inspect(&shop, &rcpp, Depth::Glance).unwrap_err().contains("checksum"));
    assert!(shop.store.sidecar(rcpp.package(), rcpp.reference()).is_none());
}

#[test]
fn configs_that_lie_are_made_good_and_nothing_is_lost() {
    let shop = Shop::new();
    let (one, two) = (key("aa", &[]), key("bb", &[]));
    let (demo, other) = (key("demo", &[&one]), key("demo", &[&two]));
    shop.publish(&demo);
    let tree = shop.publish(&other);
    let path = tree.with_file_name(CONFIGS);
    let right = fs::read_to_string(&path).unwrap();
    let gone = Sha256Digest::of(b"gone").to_string();
    let wrong = [
        ("cannot be read", "{".to_owned()),
        ("cannot be read", right.replacen('"', "", 1)),
        ("is missing", String::new()),
        ("is not what that was made with", right.replacen("\"aa\"", "\"ab\"", 1)),
        (
            "which is not there",
            right.replacen("\"configs\": {", &format!("\"configs\": {{ \"{gone}\": {{\"a\": \"b\"}},"), 1),
        ),
        (
            "which is not there",
            right.replacen(&other.reference().config.to_string(), &Sha256Digest::of(b"").to_string(), 1),
        ),
        ("is in no sidecar", right.replacen("\"linkingto\": []", "\"linkingto\": [\"BH\"]", 1)),
    ];
    for (what, text) in wrong {
        fs::remove_file(&path).unwrap();
        if !text.is_empty() {
            fs::write(&path, &text).unwrap();
        }
        let lines = told(&shop, &check(&shop, false)).join("\n");
        assert!(
            lines.contains("configs.json") && (lines.contains(what) || lines.contains("is not what")),
            "{text}: {lines}"
        );
        assert!(check(&shop, true).is_good());
        assert_eq!(fs::read_to_string(&path).unwrap(), right, "{what}");
    }
}

#[test]
fn entries_of_earlier_versions_and_other_implementations_get_a_manifest() {
    let shop = Shop::new();
    let (demo, foreign) = (key("demo", &[]), key("foreign", &[]));
    for key in [&demo, &foreign] {
        fs::remove_file(shop.publish(key).with_extension("files")).unwrap();
    }
    let path = |key: &PackageKey| shop.store.sidecar_path(key.package(), key.reference());
    let mut old = serde_json::to_value(Sidecar::new(&demo, Duration::ZERO)).unwrap();
    old.as_object_mut().unwrap().retain(|name, _| !["tree", "size", "n_files", "checksum"].contains(&&**name));
    fs::write(path(&demo), old.to_string()).unwrap();
    fs::write(path(&foreign), r#"{"created_at": "2024-01-01T00:00:00Z", "theirs": 1}"#).unwrap();
    let tree = shop.store.tree(foreign.package(), foreign.reference());
    fs::set_permissions(tree.join("DESCRIPTION"), PermissionsExt::from_mode(0o644)).unwrap();
    let used = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().append(true).open(path(&demo)).unwrap().set_modified(used).unwrap();

    let verified = check(&shop, false);
    assert_eq!((told(&shop, &verified), verified.n_unrecorded), (Vec::new(), 2));
    assert_eq!(inspect(&shop, &foreign, Depth::Full), Ok(true), "there is nothing to hold it against");
    let verified = check(&shop, true);
    assert_eq!((told(&shop, &verified), verified.n_recorded), (Vec::new(), 2));
    let verified = check(&shop, false);
    assert_eq!((told(&shop, &verified), verified.n_unrecorded), (Vec::new(), 0));
    assert_eq!(fs::metadata(path(&demo)).unwrap().modified().unwrap(), used, "no use");
    assert!(fs::read_to_string(path(&foreign)).unwrap().contains("theirs"));
    write(&tree.join("R/code.rdb"), "x");
    assert_eq!(told(&shop, &check(&shop, false)).len(), 1);
}

#[test]
fn what_another_process_works_on_is_not_judged() {
    let shop = Shop::new();
    let demo = key("demo", &[]);
    let tree = shop.publish(&demo);
    fs::remove_file(tree.with_extension("json")).unwrap();
    let lock = shop.store.lock_source(demo.reference().source).unwrap();
    let verified = check(&shop, true);
    assert_eq!((verified.findings.len(), verified.busy.len()), (0, 1));
    drop(lock);
    assert_eq!(check(&shop, true).findings.len(), 2);
}

#[test]
fn a_broken_entry_gives_way_to_a_new_one() {
    let shop = Shop::new();
    let demo = key("demo", &[]);
    for damage in 0..3 {
        let tree = shop.publish(&demo);
        match damage {
            0 => fs::remove_file(tree.join("DESCRIPTION")).unwrap(),
            1 => fs::write(tree.with_extension("json"), "{").unwrap(),
            _ => fs::write(tree.with_extension("json"), "").unwrap(),
        }
        assert!(inspect(&shop, &demo, Depth::Glance).is_err());
        shop.publish(&demo);
        assert_eq!(told(&shop, &check(&shop, false)), [""; 0]);
    }
    assert_eq!(items(&shop.store.root().join(".aside")).unwrap().len(), 3);
}

#[test]
fn an_adopted_entry_has_the_manifest_of_what_it_was_adopted_from() {
    let shop = Shop::new();
    let (demo, other) = (key("demo", &[&key("aa", &[])]), key("demo", &[&key("bb", &[])]));
    shop.publish(&demo);
    shop.store.adopt(&other, demo.reference()).unwrap().unwrap();
    let tree_of = |key: &PackageKey| shop.store.sidecar(key.package(), key.reference()).unwrap().tree;
    assert_eq!(tree_of(&demo), tree_of(&other));
    assert_eq!(told(&shop, &check(&shop, false)), [""; 0]);
}

#[test]
fn replacing_leaves_one_whole_entry_and_nothing_aside() {
    let shop = Shop::new();
    let demo = key("demo", &[]);
    shop.publish(&demo);
    let staging = shop.store.stage().unwrap();
    let built = staging.path().join("built");
    fs::create_dir(&built).unwrap();
    fs::write(built.join("DESCRIPTION"), "Package: demo\nBuilt: R 4.2\n").unwrap();
    let sidecar = Sidecar::new(&demo, Duration::ZERO);
    shop.store.publish(&built, &demo, &sidecar, OnExisting::Replace).unwrap();
    assert_eq!(told(&shop, &check(&shop, false)), [""; 0]);
    assert!(!shop.store.root().join(".aside").exists());
}

/// One thing that happens to a disk, by chance.
fn corrupt(shop: &Shop, key: &PackageKey, random: &mut fastrand::Rng) -> String {
    let tree = shop.store.tree(key.package(), key.reference());
    let mut files: Vec<PathBuf> = paths(&tree)
        .into_iter()
        .map(|path| tree.join(path))
        .filter(|p| p.symlink_metadata().unwrap().is_file())
        .collect();
    files.extend([tree.with_extension("json"), tree.with_extension("files")]);
    let file = random.choice(&files).unwrap().clone();
    let mut bytes = fs::read(&file).unwrap();
    let kind = random.u8(0..7);
    match kind {
        0 | 1 => {
            let at = random.usize(0..bytes.len());
            bytes[at] ^= 1 << random.u8(0..8);
        }
        2 => bytes.truncate(random.usize(0..bytes.len())),
        3 => bytes.extend(b"more"),
        4 => bytes.fill(0),
        5 => {}
        _ => fs::write(file.parent().unwrap().join("extra"), "").unwrap(),
    }
    fs::remove_file(&file).unwrap();
    if kind != 5 {
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
    }
    format!("kind {kind} at {}", file.display())
}

#[test]
fn of_fifty_random_corruptions_all_are_found_and_none_is_loaded() {
    let shop = Shop::new();
    let demo = key("demo", &[]);
    let mut random = fastrand::Rng::with_seed(4);
    for round in 0..50 {
        shop.publish(&demo);
        assert_eq!(told(&shop, &check(&shop, false)), [""; 0], "round {round}");
        let what = corrupt(&shop, &demo, &mut random);
        let lines = told(&shop, &check(&shop, false));
        assert!(!lines.is_empty(), "round {round}: {what}");
        // What lies beside a tree is no part of it.
        let is_beside = lines.iter().all(|line| line.starts_with("extra "));
        assert_eq!(inspect(&shop, &demo, Depth::Full) == Ok(true), is_beside, "round {round}: {what}: {lines:?}");
        assert!(check(&shop, true).is_good(), "round {round}: {what}");
    }
}
