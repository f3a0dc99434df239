//! Where the time of a run went: the page, the trace, and what both say when a run ends badly.

use std::path::Path;
use std::process::Command;

use fs_err as fs;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{Package, World, need_r, skip};

/// Returns what a page says to programs.
fn data(html: &str) -> Value {
    let start = "<script type=\"application/json\" id=\"timings\">";
    let (_, rest) = html.split_once(start).expect("the page has its data");
    let (data, _) = rest.split_once("</script>").expect("the page is whole");
    serde_json::from_str(data).unwrap()
}

fn package<'a>(data: &'a Value, name: &str) -> &'a Value {
    let packages = data["packages"].as_array().unwrap();
    packages.iter().find(|package| package["package"] == name).unwrap_or_else(|| panic!("no {name} in {data:#}"))
}

/// Returns a package's steps, having seen that none begins before the last one has ended.
fn steps(package: &Value) -> String {
    let steps = package["steps"].as_array().unwrap();
    let time = |step: &Value, of: &str| step[of].as_u64().unwrap();
    assert!(steps.iter().all(|step| time(step, "start_ms") <= time(step, "end_ms")), "{package:#}");
    assert!(steps.windows(2).all(|pair| time(&pair[0], "end_ms") <= time(&pair[1], "start_ms")), "{package:#}");
    steps.iter().map(|step| step["step"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_page_and_a_trace_tell_when_each_package_was_at_which_step() {
    need_r!();
    let world = World::new();
    let base = Package::new("base1", "1.0");
    let user = Package::new("user1", "2.0").imports(&["base1"]);
    let lockfile = world.lock_published(&[&base, &user]);
    world.solve(&lockfile, &["--timings", "--trace", "trace.json"]).ok();

    let html = world.read("solve-timings.html");
    let data = data(&html);
    let place = |name| data["packages"].as_array().unwrap().iter().position(|package| package["package"] == name);
    assert_eq!(data["critical_path"], json!([place("base1"), place("user1")]));
    assert_eq!(data["outcome"], "ok");
    for name in ["base1", "user1"] {
        let package = package(&data, name);
        assert_eq!((steps(package).as_str(), &package["outcome"]), ("fetch unpack build publish", &json!("ingested")));
    }
    assert_eq!(package(&data, "user1")["needs"], json!([place("base1")]));
    let on: Vec<_> = data["on_cores"].as_array().unwrap().iter().map(|on| on["cores"].as_u64().unwrap()).collect();
    assert!(on.starts_with(&[1, 2]), "{on:?}");

    let trace: Value = serde_json::from_str(&world.read("trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|event| event["ph"] == "X" && event["name"] == "build user1"));

    // From the store: nothing was built, and the page says so.
    world.solve(&lockfile, &["-l", "other", "--timings=again.html"]).ok();
    let data = self::data(&world.read("again.html"));
    assert_eq!((&data["work_ms"], &package(&data, "user1")["outcome"]), (&json!(0), &json!("loaded")));
}

#[test]
fn a_run_that_fails_has_a_page_in_which_what_was_said_is_text() {
    need_r!();
    let world = World::new();
    let broken = Package::configured("broken1", "1.0", "echo '<script>alert(1)</script>' >&2; exit 1");
    let lockfile = world.lock_published(&[&broken, &Package::new("user1", "1.0").imports(&["broken1"])]);
    world.solve(&lockfile, &["--timings=out.html"]).exits(1);
    let html = world.read("out.html");
    assert_eq!(html.matches("<script").count(), 2, "its own two");
    let data = data(&html);
    assert_eq!(data["outcome"], "failed");
    assert_eq!(
        (&package(&data, "broken1")["outcome"], &package(&data, "user1")["outcome"]),
        (&json!("failed"), &json!("skipped"))
    );
}

#[test]
fn an_interrupted_run_has_a_whole_page_and_a_valid_trace() {
    need_r!();
    let world = World::new();
    let (told, never) = (world.fifo("told"), world.fifo("never"));
    let script = format!("echo it builds > '{}'\nread line < '{}'", told.display(), never.display());
    let lockfile = world.lock_published(&[&Package::configured("slow1", "1.0", &script)]);
    let running = world.start(&lockfile, &["--timings=out.html", "--trace=out.json"]);
    fs::read(&told).unwrap();
    running.signal(Signal::INT);
    running.finish().exits(130);
    let data = data(&world.read("out.html"));
    assert_eq!(
        (&data["outcome"], steps(package(&data, "slow1")).as_str()),
        (&json!("interrupted"), "fetch unpack build")
    );
    let trace: Value = serde_json::from_str(&world.read("out.json")).unwrap();
    assert_eq!(trace["otherData"]["outcome"], "interrupted");
}

#[test]
fn a_page_that_cannot_be_written_is_an_error_after_the_work_is_done() {
    need_r!();
    let world = World::new();
    let lockfile = world.lock_published(&[&Package::new("base1", "1.0")]);
    let ran = world.solve(&lockfile, &["--timings=nowhere/out.html"]).exits(3);
    assert!(ran.stderr.contains("nowhere/out.html: cannot write where the time went"), "{}", ran.stderr);
    assert!(world.has("library/base1/DESCRIPTION"));
}

/// Returns the browser, if there is one.
fn chromium() -> Option<&'static str> {
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .into_iter()
        .find(|path| Path::new(path).is_file())
}

#[test]
fn a_browser_shows_the_page_in_light_and_dark() {
    need_r!();
    let Some(chromium) = chromium() else { return skip("there is no chromium to open the page with") };
    let world = World::new();
    let lockfile =
        world.lock_published(&[&Package::new("base1", "1.0"), &Package::new("user1", "1.0").imports(&["base1"])]);
    world.solve(&lockfile, &["--timings=out.html"]).ok();
    let page = format!("file://{}", world.path("out.html").display());
    let browse = |args: &[&str]| {
        let mut browser = Command::new(chromium);
        browser.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1200,900",
        ]);
        let output = browser.args(args).arg(&page).env("HOME", world.path("home")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // The script has run: it shows the tools that are of no use without it.
    let dom = browse(&["--dump-dom"]);
    assert!(dom.contains("<div id=\"tools\" class=\"tools\">"), "{dom}");
    let pictures: Vec<_> = ["light", "dark"]
        .into_iter()
        .map(|scheme| {
            let picture = world.path(&format!("{scheme}.png"));
            let dark: &[&str] = if scheme == "dark" { &["--blink-settings=preferredColorScheme=0"] } else { &[] };
            browse(&[&[format!("--screenshot={}", picture.display()).as_str()], dark].concat());
            fs::read(picture).unwrap()
        })
        .collect();
    assert!(pictures.iter().all(|picture| picture.len() > 10_000), "there is something to see");
    assert_ne!(pictures[0], pictures[1], "dark looks otherwise than light");
}

#[test]
fn nobody_writes_a_page_unasked() {
    need_r!();
    let world = World::new();
    world.solve(&world.lock_published(&[&Package::new("base1", "1.0")]), &[]).ok();
    assert!(!world.has("solve-timings.html"));
}
