//! What the command says to lockfiles that are wrong, and what it puts up with.

use larder::lockfile::{Kind, Lockfile};
use larder_ops::package::PackageName;
use serde_json::{Value, json};

use crate::world::World;

/// A lockfile with one good entry, `demo`, that a test then spoils.
fn good() -> Value {
    json!({
        "lockfile_version": 1,
        "packages": [{
            "ref": "demo", "package": "demo", "version": "1.0", "type": "standard", "platform": "source",
            "rversion": "*", "dependencies": [], "sources": ["http://127.0.0.1:9/demo_1.0.tar.gz"],
        }],
    })
}

/// Returns the lockfile with the fields of its entry merged with these; `null` removes one.
fn with(fields: Value) -> Value {
    let mut lockfile = good();
    let entry = lockfile["packages"][0].as_object_mut().unwrap();
    let Value::Object(fields) = fields else { panic!("an object is needed") };
    for (name, value) in fields {
        if value.is_null() { drop(entry.remove(&name)) } else { drop(entry.insert(name, value)) }
    }
    lockfile
}

/// Returns the lockfile with these entries after its own.
fn and(others: &[Value]) -> Value {
    let mut lockfile = good();
    for fields in others {
        let entry = with(fields.clone())["packages"][0].clone();
        lockfile["packages"].as_array_mut().unwrap().push(entry);
    }
    lockfile
}

/// Runs the command with this lockfile, which must be refused with exit code 2; returns what is said.
#[track_caller]
fn refusal(lockfile: impl AsRef<str>) -> String {
    let world = World::new();
    world.write("bad.lock", lockfile.as_ref());
    let ran = world.run(["bad.lock"]).exits(2);
    assert_eq!(ran.stdout, "");
    assert!(!world.has("library"), "a lockfile that is refused changes nothing");
    ran.stderr.trim_end().to_owned()
}

/// As [`refusal`], for a value.
#[track_caller]
fn refused(lockfile: &Value) -> String {
    refusal(lockfile.to_string())
}

const REWRITE: &str = "\nhint: correct the entry, or write the lockfile again with `pak::lockfile_create()`";

#[test]
fn no_prefix_of_a_lockfile_is_taken_for_one_and_none_makes_it_panic() {
    let text = serde_json::to_string_pretty(&and(&[json!({"package": "other", "sha256": "", "deps": []})])).unwrap();
    let n = text.len();
    for end in 0..n {
        let error = Lockfile::parse(&text[..end]).unwrap_err().to_string();
        assert!(error.starts_with("not a JSON document"), "{end} of {n} bytes: {error}");
    }
    Lockfile::parse(&text).unwrap();
}

#[test]
fn a_truncated_file_is_called_that() {
    let text = good().to_string();
    assert_eq!(
        refusal(&text[..100]),
        "error: bad.lock: not a JSON document: EOF while parsing a string at line 1 column 100\n\
         hint: the file may be truncated; write it again with `pak::lockfile_create()`"
    );
}

#[test]
fn other_versions_of_the_format_are_refused() {
    let mut lockfile = good();
    lockfile["lockfile_version"] = json!(2);
    assert_eq!(
        refused(&lockfile),
        "error: bad.lock: `lockfile_version` is 2; larder reads version 1\n\
         hint: write it again with `pak::lockfile_create()` of a current pak"
    );
    lockfile.as_object_mut().unwrap().remove("lockfile_version");
    assert!(refused(&lockfile).contains("there is no `lockfile_version`"));
}

#[test]
fn a_lockfile_without_packages_is_refused() {
    let expected = "error: bad.lock: `packages` is missing or empty\n\
                    hint: nothing to install; was `pak::lockfile_create()` given the right packages?";
    assert_eq!(refused(&json!({"lockfile_version": 1})), expected);
    assert_eq!(refused(&json!({"lockfile_version": 1, "packages": []})), expected);
}

#[test]
fn an_renv_lockfile_is_called_that() {
    assert_eq!(
        refused(&json!({"R": {"Version": "4.5.0"}, "Packages": {"cli": {"Package": "cli"}}})),
        "error: bad.lock: this is an renv lockfile, not a pak lockfile\n\
         hint: write a pak lockfile with `pak::lockfile_create()` in the project"
    );
}

#[test]
fn a_field_that_is_missing_is_named() {
    for field in ["version", "type", "platform", "rversion"] {
        let message = refused(&with(json!({field: null})));
        assert_eq!(message, format!("error: bad.lock: entry 1 (`demo`): there is no `{field}`{REWRITE}"));
    }
    let message = refused(&with(json!({"package": null})));
    assert_eq!(message, format!("error: bad.lock: entry 1 (no name): there is no `package`{REWRITE}"));
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let said = |fields| refused(&and(&[fields]));
    for (fields, problem) in [
        (json!({"package": "other", "version": 1.5}), "entry 2 (`other`): `version`: "),
        (json!({"package": "other", "sources": 7}), "entry 2 (`other`): `sources`: "),
        (json!({"package": "other", "dependencies": [true]}), "entry 2 (`other`): `dependencies`: "),
        (json!({"package": "other", "metadata": "x"}), "entry 2 (`other`): `metadata`: "),
        (json!({"package": "other", "needscompilation": "yes"}), "entry 2 (`other`): `needscompilation`: "),
        (json!({"package": ["x", 5]}), "entry 2 ("),
    ] {
        let message = said(fields);
        assert!(message.starts_with(&format!("error: bad.lock: {problem}")), "{message}");
        assert!(message.ends_with(REWRITE), "{message}");
    }
    let mut lockfile = good();
    lockfile["packages"] = json!(["demo"]);
    let message = refused(&lockfile);
    assert!(message.starts_with("error: bad.lock: entry 1"), "{message}");
}

#[test]
fn packages_that_are_no_list_are_refused() {
    let mut lockfile = good();
    lockfile["packages"] = json!({"demo": {}});
    let message = refused(&lockfile);
    assert!(message.starts_with("error: bad.lock: `packages` is no list: "), "{message}");
}

#[test]
fn names_that_are_no_names_are_refused() {
    for name in ["../evil", "a/b", ".hidden", "x", "", "1up", "ends.", "nul\0", "ünicode"] {
        let message = refused(&with(json!({"package": name})));
        assert!(message.starts_with("error: bad.lock: entry 1: `package`: `"), "{message}");
        assert!(message.contains("is not a package name") && message.ends_with(REWRITE), "{message}");
    }
    let message = refused(&with(json!({"dependencies": ["../evil"]})));
    assert!(message.starts_with("error: bad.lock: entry 1 (`demo`): `dependencies`: `../evil` is not"), "{message}");
}

#[test]
fn two_entries_of_one_name_are_refused() {
    assert_eq!(
        refused(&and(&[json!({"package": "other"}), json!({"version": "2.0"})])),
        "error: bad.lock: entries 1 and 3 are both called `demo`\nhint: remove one of the two entries"
    );
}

#[test]
fn a_dependency_without_an_entry_is_refused() {
    assert_eq!(
        refused(&with(json!({"dependencies": ["stats", "absent"]}))),
        "error: bad.lock: entry 1 (`demo`): `dependencies` names `absent`, which is not in the lockfile\n\
         hint: add an entry for it, or write the lockfile again with `pak::lockfile_create()`"
    );
}

#[test]
fn versions_and_digests_are_checked() {
    for version in ["../1", "1.0/..", "", "1..0", "a.b", "1.0\n"] {
        let message = refused(&with(json!({"version": version})));
        assert!(message.starts_with("error: bad.lock: entry 1 (`demo`): `version`: "), "{message}");
    }
    for sha256 in ["abc", &"g".repeat(64), &"a".repeat(63)] {
        let message = refused(&with(json!({"sha256": sha256})));
        assert!(message.starts_with("error: bad.lock: entry 1 (`demo`): `sha256`: "), "{message}");
        assert!(message.ends_with(REWRITE), "{message}");
    }
}

#[test]
fn a_commit_is_what_identifies_a_repository() {
    for metadata in [json!({"RemoteType": "github"}), json!({"RemoteType": "github", "RemoteSha": ""})] {
        assert_eq!(
            refused(&with(json!({"type": "github", "metadata": metadata}))),
            format!(
                "error: bad.lock: entry 1 (`demo`): `metadata.RemoteSha`: missing; a `github` entry is identified by \
                 its commit{REWRITE}"
            )
        );
    }
}

#[test]
fn a_type_that_is_not_known_is_named() {
    assert_eq!(
        refused(&with(json!({"type": "svn"}))),
        format!("error: bad.lock: entry 1 (`demo`): `type`: larder does not know the type `svn`{REWRITE}")
    );
    let message = refused(&with(json!({"metadata": {"RemoteType": "svn"}})));
    assert!(message.contains("`metadata.RemoteType`: larder does not know the type `svn`"), "{message}");
}

#[test]
fn a_lockfile_that_cannot_be_read_is_named() {
    let world = World::new();
    let said = world.run(["absent.lock"]).exits(2).stderr;
    assert!(said.starts_with("error: absent.lock: cannot read the lockfile: "), "{said}");
    world.write("latin.lock", b"{\"lockfile_version\": \"\xe9\"}");
    let said = world.run(["latin.lock"]).exits(2).stderr;
    assert!(said.starts_with("error: latin.lock: not a lockfile: "), "{said}");
}

#[test]
fn the_habits_of_r_are_put_up_with() {
    let nothing = [json!({}), json!([])];
    for nothing in nothing {
        let lockfile = with(json!({
            "dependencies": nothing, "sha256": nothing, "install_args": nothing, "sysreqs_packages": nothing,
            "metadata": nothing, "filesize": nothing, "needscompilation": nothing, "deps": [],
            "a_field_of_tomorrow": {"x": [1, 2, null]},
        }));
        let lockfile = Lockfile::parse(&lockfile.to_string()).unwrap();
        let entry = &lockfile.entries()[0];
        assert_eq!((entry.dependencies.len(), entry.install_args.len(), entry.size_bytes), (0, 0, None));
        assert!(entry.sha256.is_none() && !entry.needs_compilation);
    }
    let lockfile = and(&[json!({
        "package": "other", "dependencies": "demo", "sources": "http://127.0.0.1:9/x", "install_args": "--no-docs --fake",
        "lockfile_version": "ignored", "version": ["2.0"],
    })]);
    let lockfile = Lockfile::parse(&lockfile.to_string()).unwrap();
    let other = &lockfile.entries()[1];
    assert_eq!(other.dependencies.iter().map(PackageName::as_str).collect::<Vec<_>>(), ["demo"]);
    assert_eq!(other.sources, ["http://127.0.0.1:9/x"]);
    assert_eq!(other.install_args, ["--no-docs", "--fake"]);
    assert_eq!(other.version, "2.0");
}

#[test]
fn what_is_r_itself_needs_no_entry() {
    let lockfile = with(json!({"dependencies": ["R", "stats", "methods", "tcltk"]}));
    assert!(Lockfile::parse(&lockfile.to_string()).unwrap().entries()[0].dependencies.is_empty());
}

#[test]
fn the_remote_type_wins_over_the_type() {
    let kind = |fields| Lockfile::parse(&with(fields).to_string()).unwrap().entries()[0].kind.clone();
    assert_eq!(kind(json!({"type": "any"})), Kind::Repository);
    assert_eq!(kind(json!({"type": "cran", "metadata": {"RemoteType": ""}})), Kind::Repository);
    assert_eq!(kind(json!({"type": "standard", "metadata": {"RemoteType": "bioc"}})), Kind::Bioc);
    let vcs = json!({"type": "any", "metadata": {"RemoteType": "gitlab", "RemoteSha": "f00", "RemoteSubdir": "pkg"}});
    assert_eq!(kind(vcs), Kind::Vcs { host: "gitlab", sha: "f00".to_owned(), subdir: "pkg".to_owned() });
}

#[test]
fn projects_are_no_packages() {
    let mut lockfile = and(&[]);
    let project =
        json!({"type": "deps", "package": "project-deps", "ref": "deps::.", "dependencies": ["demo", "gone"]});
    lockfile["packages"].as_array_mut().unwrap().push(project);
    assert_eq!(Lockfile::parse(&lockfile.to_string()).unwrap().entries().len(), 1);
}

#[test]
fn the_source_hash_depends_on_what_identifies_a_source_and_on_nothing_else() {
    let hash = |fields| Lockfile::parse(&with(fields).to_string()).unwrap().entries()[0].source_hash().unwrap();
    let sha256 = "ab".repeat(32);
    let plain = hash(json!({"sha256": sha256}));
    let fields =
        [json!({"package": "other"}), json!({"version": "1.1"}), json!({"sha256": "cd".repeat(32)}), json!({})];
    for fields in fields {
        assert_ne!(hash(fields.clone()), plain, "{fields}");
    }
    assert_eq!(hash(json!({"sha256": sha256, "type": "cran", "sources": "elsewhere", "ref": "x"})), plain);
    let vcs = |version, sha, subdir| {
        hash(json!({"version": version, "type": "github", "metadata": {"RemoteSha": sha, "RemoteSubdir": subdir}}))
    };
    assert_eq!(vcs("1.0", "f00", ""), vcs("2.0", "f00", ""), "a commit has one version");
    assert_ne!(vcs("1.0", "f00", ""), vcs("1.0", "f01", ""));
    assert_ne!(vcs("1.0", "f00", ""), vcs("1.0", "f00", "r"));
}
