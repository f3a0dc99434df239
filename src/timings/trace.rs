//! A timeline in the Trace Event Format, which Perfetto and `chrome://tracing` show.
//!
//! Steps are complete events (`ph: X`) in lanes: a package takes the first lane that is free, builds in one process of
//! the trace, what runs ahead of them in another. Counters say how many builds and downloads go on.

use std::time::Duration;

use serde_json::{Value, json};

use super::timeline::{Stage, Timeline};
use crate::event::Step;

/// The processes of the trace, by what runs in them.
const LANES: [(u32, &str, &[Step]); 3] = [
    (1, "builds", &[Step::Build, Step::Publish]),
    (2, "downloads and sources", &[Step::Fetch, Step::Unpack]),
    (3, "store", &[Step::Load]),
];

/// The process of what concerns the run as a whole.
const RUN: u32 = 0;

/// Returns the trace as JSON.
pub fn trace(timeline: &Timeline) -> String {
    let mut events = vec![named(RUN, "run")];
    let whole = |name: &str, start: Duration, end: Duration| complete(RUN, 0, name, "run", (start, end), &json!({}));
    if let Some(planned) = timeline.planned {
        events.push(whole("plan", Duration::ZERO, planned));
    }
    if let Some((stage, n)) = &timeline.linked {
        let args = json!({ "packages": n });
        events.push(complete(RUN, 0, "link", "link", (stage.start, stage.end), &args));
    }
    for (pid, name, steps) in LANES {
        events.push(named(pid, name));
        events.extend(in_lanes(timeline, pid, steps));
    }
    for (name, step) in [("running builds", Step::Build), ("running downloads", Step::Fetch)] {
        let counts = timeline.concurrent(step).into_iter();
        events.extend(counts.map(|(at, n)| counter(name, at, &json!({ "running": n }))));
    }
    events.extend(timeline.busy.iter().map(|(at, cores)| counter("busy cores", *at, &json!({ "cores": cores }))));
    let other = json!({
        "cores": timeline.cores,
        "platform": timeline.platform,
        "outcome": timeline.outcome.map(super::html::word),
    });
    json!({ "traceEvents": events, "displayTimeUnit": "ms", "otherData": other }).to_string() + "\n"
}

fn in_lanes(timeline: &Timeline, pid: u32, steps: &[Step]) -> Vec<Value> {
    // What follows on one another without a break, as building and publishing do, stays in one lane.
    let mut runs: Vec<(usize, Vec<&Stage>)> = Vec::new();
    for (place, package) in timeline.packages.iter().enumerate() {
        for stage in package.stages.iter().filter(|stage| steps.contains(&stage.step)) {
            match runs.last_mut() {
                Some((of, run)) if *of == place && run.last().is_some_and(|last| last.end == stage.start) => {
                    run.push(stage);
                }
                _ => runs.push((place, vec![stage])),
            }
        }
    }
    runs.sort_by_key(|(place, run)| (run[0].start, *place));
    let mut free_from: Vec<Duration> = Vec::new();
    let mut events = Vec::new();
    for (place, run) in runs {
        let package = &timeline.packages[place];
        let (start, end) = (run[0].start, run[run.len() - 1].end);
        let lane = free_from.iter().position(|from| *from <= start).unwrap_or_else(|| {
            free_from.push(Duration::ZERO);
            free_from.len() - 1
        });
        free_from[lane] = end;
        let ended = package.ended.as_ref();
        let args = json!({
            "package": package.name.as_str(),
            "version": package.version,
            "outcome": ended.map(|ended| ended.outcome.as_str()),
            "because": ended.and_then(|ended| ended.because.as_deref()),
        });
        let tid = u32::try_from(lane).unwrap_or(u32::MAX).saturating_add(1);
        for stage in run {
            let name = format!("{} {}", stage.step.as_str(), package.name);
            events.push(complete(pid, tid, &name, stage.step.as_str(), (stage.start, stage.end), &args));
        }
    }
    events
}

fn complete(pid: u32, tid: u32, name: &str, category: &str, (start, end): (Duration, Duration), args: &Value) -> Value {
    let (ts, dur) = (micros(start), micros(end.saturating_sub(start)));
    json!({ "ph": "X", "pid": pid, "tid": tid, "name": name, "cat": category, "ts": ts, "dur": dur, "args": args })
}

fn counter(name: &str, at: Duration, args: &Value) -> Value {
    json!({ "ph": "C", "pid": RUN, "name": name, "ts": micros(at), "args": args })
}

fn named(pid: u32, name: &str) -> Value {
    json!({ "ph": "M", "pid": pid, "name": "process_name", "args": { "name": name } })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timings::analysis::testing::run_of_four;

    #[test]
    fn what_goes_on_at_once_is_in_lanes_side_by_side() {
        let trace: Value = serde_json::from_str(&trace(&run_of_four())).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let shown: Vec<String> = events
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                format!("{}.{} {} {}+{}", event["pid"], event["tid"], event["name"], event["ts"], event["dur"])
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        0.0 "plan" 0+3000
        0.0 "link" 3210000+20000
        1.1 "build Rcpp" 160000+1000000
        1.1 "publish Rcpp" 1160000+10000
        1.2 "build cli" 160000+500000
        1.1 "build later" 1180000+2000000
        1.1 "publish later" 3180000+20000
        2.1 "fetch Rcpp" 10000+100000
        2.1 "unpack Rcpp" 110000+50000
        2.2 "fetch later" 10000+50000
        2.3 "fetch cli" 20000+70000
        2.2 "unpack later" 120000+10000
        3.1 "load R6" 5000+5000
        "#);
        let counted = events.iter().filter(|event| event["name"] == "running builds");
        let counted: Vec<_> = counted.map(|event| event["args"]["running"].as_u64().unwrap()).collect();
        assert_eq!(counted, [0, 2, 1, 0, 1, 0]);
    }
}
