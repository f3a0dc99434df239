//! Solves a lockfile from a program: typed events while it goes, a stop that can be asked for, a report at the end.
//!
//! ```sh
//! cargo run --example watch_events -- pkg.lock library
//! ```
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "an example is its own caller and its own ui")]

use std::path::PathBuf;
use std::sync::Arc;

use larder::event::Event;
use larder::larder::{Config, Larder, Request};
use larder::lockfile::Lockfile;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(lockfile), Some(library)) = (args.next(), args.next()) else {
        return Err("usage: watch_events LOCKFILE LIBRARY".into());
    };
    let lockfile = Lockfile::parse(&fs_err::read_to_string(lockfile)?)?;
    let store = std::path::absolute("store")?;
    let larder = Arc::new(Larder::open(Config::new(store, std::env::vars_os().filter(|(name, _)| name == "PATH")))?);
    println!("building for {}", larder.host().platform);

    let mut run = larder.solve(&lockfile, Request::new(PathBuf::from(library)));
    let stop = run.stop();
    while let Some(event) = run.next().await {
        match event {
            Event::Started { package, step, .. } => println!("{package}: {}", step.as_str()),
            Event::Output { package, text, .. } => text.lines().for_each(|line| println!("{package}| {line}")),
            Event::Settled(settled) => println!("{}: {}", settled.package, settled.outcome.as_str()),
            // An orchestrator would ask for it when its own client goes away.
            Event::Warning { message } if message.contains("waiting") => stop.request(),
            _ => {}
        }
    }
    let report = run.finish().await?;
    println!("{:?} in {:?}", report.outcome, report.duration);
    Ok(())
}
