//! What the command says it would do, and that it does nothing by saying so.

use serde_json::Value;

use crate::world::{Package, World, need_r};

/// Header-only `hdr`, `lnk` that links to it, `top` that imports that.
fn three(world: &World) -> std::path::PathBuf {
    let packages = [
        Package::new("top", "3.0").imports(&["lnk"]),
        Package::linker("lnk", "2.0", "hdr"),
        Package::header("hdr", "1.0", 1),
    ];
    world.lock(packages.iter().map(|package| world.publish(package)))
}

#[test]
fn a_plan_tells_what_is_known_and_what_is_not() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    let plan = world.solve(&lock, &["--dry-run"]).ok();
    assert_eq!(plan.actions(), "hdr ingest, lnk unknown, top unknown");
    assert_eq!(plan.because("lnk"), "its source has not been seen");
    assert_eq!(plan.because("hdr"), "the store does not have it");
    world.solve(&lock, &[]).ok();
    assert_eq!(world.solve(&lock, &["--dry-run"]).ok().actions(), "hdr keep, lnk keep, top keep");
    let elsewhere = world.solve(&lock, &["--dry-run", "--library", "other"]).ok();
    assert_eq!(elsewhere.actions(), "hdr load, lnk load, top load");
    assert!(!world.has("other"));
    let newer = world.lock([
        world.publish(&Package::header("hdr", "1.1", 2)),
        world.publish(&Package::linker("lnk", "2.0", "hdr")),
        world.publish(&Package::new("top", "3.0").imports(&["lnk"])),
    ]);
    let plan = world.solve(&newer, &["--dry-run"]).ok();
    assert_eq!(plan.actions(), "hdr ingest, lnk recompile, top keep");
}

#[test]
fn a_plan_names_what_a_recompilation_is_for() {
    need_r!();
    let world = World::new();
    let old = [world.publish(&Package::header("hdr", "1.0", 1)), world.publish(&Package::linker("lnk", "2.0", "hdr"))];
    world.solve(&world.lock(old.clone()), &[]).ok();
    let mut newer = world.publish(&Package::header("hdr", "1.1", 2));
    newer["deps"] = serde_json::json!([]);
    let plan = world.solve(&world.lock([newer, old[1].clone()]), &["--dry-run"]).ok();
    assert_eq!(plan.actions(), "hdr ingest, lnk recompile");
    assert_eq!(plan.because("lnk"), "hdr 1.0 -> 1.1");
}

#[test]
fn plan_lines_have_the_shape_that_programs_rely_on() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    world.solve(&lock, &[]).ok();
    let lines = world.run(["plan", lock.to_str().unwrap(), "--json"]).ok().events();
    let [plan, vertices @ ..] = lines.as_slice() else { panic!("{lines:?}") };
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap();
    assert_eq!((&plan["v"], &plan["reason"], &plan["vertices"]), (&1.into(), &"plan".into(), &3.into()));
    assert!(text(&plan["platform"]).contains("-g"));
    assert!(text(&plan["library"]).ends_with("library") && text(&plan["store"]).ends_with("store"));
    for vertex in vertices {
        let mut fields: Vec<&str> = vertex.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "action",
                "because",
                "config_hash",
                "dependencies",
                "linking_to",
                "package",
                "reason",
                "source_hash",
                "type",
                "v",
                "version"
            ]
        );
        assert_eq!((&vertex["v"], &vertex["reason"]), (&1.into(), &"plan-vertex".into()));
        for hash in ["source_hash", "config_hash"] {
            assert_eq!(text(&vertex[hash]).len(), 64);
        }
    }
    let lnk = vertices.iter().find(|vertex| vertex["package"] == "lnk").unwrap();
    assert_eq!(lnk["linking_to"], serde_json::json!(["hdr"]));
    assert_eq!(lnk["dependencies"], serde_json::json!(["hdr"]));
    assert_eq!(lnk["type"], "standard");
}

#[test]
fn what_is_not_known_is_null_in_a_plan() {
    need_r!();
    let world = World::new();
    let lnk = world.solve(&three(&world), &["--dry-run"]).ok().of("lnk");
    assert!(lnk["config_hash"].is_null() && lnk["linking_to"].is_null(), "{lnk}");
    assert_eq!(lnk["source_hash"].as_str().map(str::len), Some(64));
}

#[test]
fn a_plan_writes_nothing_but_the_memory_of_r() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    for args in [&["plan"][..], &["why", "hdr"], &["graph"]] {
        let mut words = vec![args[0], lock.to_str().unwrap()];
        words.extend(&args[1..]);
        world.run(words).ok();
    }
    world.solve(&lock, &["--dry-run"]).ok();
    assert!(!world.has("library"));
    let left: Vec<_> = world.items("store").into_iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, [".probes"]);
    assert_eq!(world.server.requests().len(), 0, "planning needs no network");
}

#[test]
fn a_plan_for_people_sorts_by_cost_and_counts() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    insta::assert_snapshot!(world.run(["plan", lock.to_str().unwrap(), "-j2"]).transcript(), @"
    exit 0
    --- stdout
    Plan for 3 packages on [platform]
      ingest     hdr 1.0  the store does not have it
      unknown    lnk 2.0  its source has not been seen
      unknown    top 3.0  its source has not been seen
    1 to build, 2 to be decided when the source is there
    builds take about [time] on 2 cores: [time] of work in 3 packages, and no less than [time] in a row for hdr -> lnk -> top (a guess: none was built here before)
    ");
}

#[test]
fn a_plan_foretells_how_long_builds_take_from_how_long_they_took() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    let outlook = |args: &[&str]| {
        let mut words = vec!["plan", lock.to_str().unwrap(), "--json", "-j", "4"];
        words.extend(args);
        world.run(words).ok().events_of("outlook")
    };
    let before = &outlook(&[])[0];
    assert_eq!((&before["cores"], &before["built"], &before["guessed"]), (&4.into(), &3.into(), &3.into()));
    assert_eq!(before["critical_path"], serde_json::json!(["hdr", "lnk", "top"]));
    world.solve(&lock, &[]).ok();
    assert_eq!(outlook(&[]), Vec::<Value>::new(), "nothing is left to build");
    let again = &outlook(&["--rebuild", "hdr", "--rebuild", "lnk"])[0];
    assert_eq!((&again["built"], &again["guessed"]), (&2.into(), &0.into()));
    let took = |package: &str| {
        let [tree] = world.trees(package).try_into().unwrap();
        let sidecar: Value = serde_json::from_slice(&fs_err::read(tree.with_extension("json")).unwrap()).unwrap();
        sidecar["build_ms"].as_u64().unwrap()
    };
    assert_eq!(again["work_ms"], took("hdr") + took("lnk"));
    assert_eq!(again["wall_ms"], again["critical_path_ms"], "one links to the other");
}

#[test]
fn why_shows_what_a_key_is_made_of() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    world.solve(&lock, &[]).ok();
    insta::assert_snapshot!(world.run(["why", lock.to_str().unwrap(), "lnk"]).transcript(), @"
    exit 0
    --- stdout
    lnk 2.0: keep (the library has it)
      source          [digest] (standard)
      config          [digest]
      links to        hdr 1.0  [digest]
      in the store    yes
      in the library  yes
      needs           hdr (links)
      needed by       top
      would recompile nothing
    ");
    let said = world.run(["why", lock.to_str().unwrap(), "absent"]).exits(2).stderr;
    assert_eq!(said, "error: the lockfile has no package `absent`\n");
}

#[test]
fn why_names_the_difference_to_what_there_is() {
    need_r!();
    let world = World::new();
    let old = [world.publish(&Package::header("hdr", "1.0", 1)), world.publish(&Package::linker("lnk", "2.0", "hdr"))];
    world.solve(&world.lock(old.clone()), &[]).ok();
    let mut newer = world.publish(&Package::header("hdr", "1.1", 2));
    newer["deps"] = serde_json::json!([]);
    let lock = world.lock([newer, old[1].clone()]);
    let said = world.run(["why", lock.to_str().unwrap(), "lnk"]).ok().stdout;
    assert!(said.contains("which differs: hdr 1.0 -> 1.1"), "{said}");
    assert!(said.contains("another build: hdr 1.0 -> 1.1"), "{said}");
    let json = world.run(["why", lock.to_str().unwrap(), "hdr", "--json"]).ok().events();
    assert_eq!(json[0]["needed_by"], serde_json::json!(["lnk"]));
}

#[test]
fn the_graph_comes_in_three_forms() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    world.solve(&lock, &[]).ok();
    let graph = |form: &str| world.run(["graph", lock.to_str().unwrap(), "--format", form]).ok().stdout;
    insta::assert_snapshot!(graph("dot"), @r#"
    digraph larder {
      rankdir = LR;
      node [shape = box, style = filled];
      "top" [label = "top\n3.0", fillcolor = "white"];
      "top" -> "lnk" [style = dashed];
      "lnk" [label = "lnk\n2.0", fillcolor = "white"];
      "lnk" -> "hdr" [style = bold];
      "hdr" [label = "hdr\n1.0", fillcolor = "white"];
    }
    "#);
    insta::assert_snapshot!(graph("mermaid"), @r#"
    flowchart LR
      v0["top 3.0"]
      v0 -.-> v1
      v1["lnk 2.0"]
      v1 ==> v2
      v2["hdr 1.0"]
    "#);
    let json: Value = serde_json::from_str(&graph("json")).unwrap();
    let of = |name: &str| json["vertices"].as_array().unwrap().iter().find(|it| it["package"] == name).unwrap().clone();
    assert_eq!((&json["v"], &of("top")["inputs"][0]["kind"]), (&1.into(), &"ordering".into()));
    let input = &of("lnk")["inputs"][0];
    assert_eq!((&input["package"], &input["kind"]), (&"hdr".into(), &"linking-to".into()));
    assert_eq!(json["vertices"][usize::try_from(input["vertex"].as_u64().unwrap()).unwrap()]["package"], "hdr");
    let read = larder_ops::wire::Graph::read(graph("json").as_bytes()).unwrap();
    assert_eq!(read.platform, json["platform"]);
    assert_eq!(json["vertices"].as_array().unwrap().len(), 3);
}

#[test]
fn a_circle_of_dependencies_is_named_in_full() {
    need_r!();
    let world = World::new();
    let circle = ["aa", "bb", "cc"].map(|name| Package::new(name, "1.0"));
    let needs = ["bb", "cc", "aa"];
    let lock = world.lock(circle.iter().zip(needs).map(|(package, needs)| {
        let mut entry = world.publish(package);
        entry["dependencies"] = serde_json::json!([needs]);
        entry
    }));
    let said = world.run([lock.to_str().unwrap()]).exits(2).stderr;
    let turns = ["aa -> bb -> cc -> aa", "bb -> cc -> aa -> bb", "cc -> aa -> bb -> cc"];
    assert!(turns.iter().any(|turn| said.contains(turn)), "{said}");
    assert!(said.contains("pkg-0.lock") && said.contains("\nhint: remove one of these `dependencies`"), "{said}");
    let mut selfish = world.publish(&Package::new("aa", "1.0"));
    selfish["dependencies"] = serde_json::json!(["aa"]);
    let said = world.run([world.lock([selfish]).to_str().unwrap()]).exits(2).stderr;
    assert!(said.contains("aa -> aa"), "{said}");
}

#[test]
fn a_lockfile_may_come_from_standard_input() {
    need_r!();
    let world = World::new();
    let lock = three(&world);
    let stdin = fs_err::File::open(&lock).unwrap().into_file();
    let ran = world.finish(world.command().args(["plan", "-", "--json"]).stdin(stdin)).ok();
    assert_eq!(ran.actions(), "hdr ingest, lnk unknown, top unknown");
}
