//! The state of the repository itself: what a reviewer would otherwise have to look for.

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::world::{items, skip};

const LINES_MAX: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all Rust files of the workspace with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut open: Vec<PathBuf> =
        ["src", "graph", "ops", "tests", "examples", "benches"].map(|dir| root().join(dir)).into();
    let mut sources = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(items(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            sources.push((path.strip_prefix(root()).unwrap().to_owned(), text));
        }
    }
    assert!(sources.len() > 50, "the workspace has moved");
    sources
}

/// Insists that no line of these files has one of these words.
#[track_caller]
fn assert_nowhere(sources: &[(PathBuf, String)], words: &[String]) {
    let mut found = Vec::new();
    for (path, text) in sources {
        for (number, line) in (1..).zip(text.lines()) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let too_long = sources().into_iter().filter(|(_, text)| text.lines().count() > LINES_MAX);
    assert_eq!(too_long.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_undone_and_no_test_is_off() {
    // In two parts each, or this file would find itself.
    let words = [("to", "do!("), ("unimple", "mented!("), ("#[ig", "nore"), ("FIX", "ME"), ("TO", "DO")];
    assert_nowhere(&sources(), &words.map(|(a, b)| [a, b].concat()));
}

#[test]
fn no_test_sleeps() {
    let is_test = |path: &Path| path.starts_with("tests") || path.ends_with("tests.rs") || path.ends_with("testing.rs");
    let tests: Vec<_> = sources().into_iter().filter(|(path, _)| is_test(path)).collect();
    // Sleeping in tokio's paused time is no sleeping.
    assert_nowhere(&tests, &[["thread::", "sleep"].concat()]);
}

#[test]
fn the_graph_has_never_heard_of_r() {
    let graph: Vec<_> = sources().into_iter().filter(|(path, _)| path.starts_with("graph/src")).collect();
    let words = ["Rcpp", "CRAN", "lockfile", "LinkingTo", "DESCRIPTION", "R package", "larder_ops"];
    assert_nowhere(&graph, &words.map(str::to_owned));
}

#[test]
fn crates_point_one_way() {
    let manifest = |dir: &str| fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
    assert!(!manifest("graph").contains("larder-ops"));
    assert!(!manifest("ops").contains("larder.workspace"));
}

#[test]
fn the_map_names_only_what_exists() {
    let Ok(map) = fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        return skip("there is no ARCHITECTURE.md");
    };
    let is_path = |word: &&str| {
        ["src/", "graph/", "ops/", "tests/", "examples/", "benches/", ".ci/"].iter().any(|top| word.starts_with(top))
            && !word.contains(['*', '{', '<', ' '])
    };
    let quoted = map.split('`').skip(1).step_by(2);
    let missing: Vec<&str> = quoted.filter(is_path).filter(|path| !root().join(path).exists()).collect();
    assert_eq!(missing, Vec::<&str>::new(), "in ARCHITECTURE.md");
}

#[test]
fn the_tables_of_scenarios_name_only_tests_that_exist() {
    let Ok(table) = fs::read_to_string(root().join("ops/SCENARIOS.md")) else {
        return skip("there is no ops/SCENARIOS.md");
    };
    let all: String = sources().into_iter().map(|(_, text)| text).collect();
    let quoted = table.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| word.matches('_').count() > 2 && word.chars().all(|c| c == '_' || c.is_alphanumeric());
    let missing: Vec<&str> = quoted.filter(is_name).filter(|name| !all.contains(&format!("fn {name}("))).collect();
    assert_eq!(missing, Vec::<&str>::new(), "in ops/SCENARIOS.md");
}
