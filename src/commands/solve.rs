//! `solve LOCKFILE`: makes the library complete.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use larder_ops::budget::Jobserver;
use larder_ops::link::LinkMode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::cicache::Auto;
use super::clock::Clock;
use super::{
    CommandError, Env, config, in_lockfile, larder, log_to_stderr, palette, parse_lockfile, plan, read_bytes, request,
    survey, with_caches,
};
use crate::OnFailure;
use crate::cli::{Link, Progress, SolveArgs};
use crate::event::Event;
use crate::exit::Exit;
use crate::larder::Run;
use crate::ui::{Format, ProgressMode, Ui, UiOptions, Verbosity};

/// How long a run that was told to end at once may still take before it is left alone.
const LAST_WAIT: Duration = Duration::from_secs(5);

pub(super) fn run(args: &SolveArgs, env: &Env) -> Result<Exit, CommandError> {
    let path = args.lockfile.as_deref().unwrap_or("-".as_ref());
    let bytes = read_bytes(path)?;
    let lockfile = parse_lockfile(path, &bytes)?;
    log_to_stderr(&args.output);
    let config = config(&args.place.store, args.place.r.as_deref(), Some(&args.source), env)?;
    let mut config = with_caches(config, &args.cache, env)?;
    if let Some(jobs) = args.jobs {
        config.jobs = jobs;
    }
    let jobs = config.jobs;
    if let Some(memory) = args.memory {
        config.memory_bytes = memory;
    }
    let outer = join(env);
    config.jobserver.clone_from(&outer.0);
    config.build_timeout = args.build.build_timeout;
    config.is_plain_install = args.build.plain_install;
    config.verifies = args.verify;
    config.link = match args.link {
        Link::Auto => None,
        Link::Reflink => Some(LinkMode::Reflink),
        Link::Hardlink => Some(LinkMode::Hardlink),
        Link::Symlink => Some(LinkMode::Symlink),
        Link::Copy => Some(LinkMode::Copy),
    };
    let mut request = request(&args.place, &args.wish, path);
    if args.keep_going {
        request.on_failure = OnFailure::KeepGoing;
    }
    request.is_exact = args.change.exact;
    request.reference.clone_from(&args.change.reference_lib);
    request.makes_generations = args.change.atomic_library;
    request.generations_kept = args.change.keep_generations;
    let larder = larder(config)?;
    if args.dry_run {
        survey(&larder, path, &lockfile, &request, env)?;
        return plan::show(&larder, path, &lockfile, &request, None, jobs, args.output.json);
    }
    let ci = Auto::of(args, env, &larder, &bytes)?;
    let options = UiOptions {
        format: if args.output.json { Format::Json } else { Format::Human },
        progress: match args.progress {
            // Log lines and bars cannot share a screen.
            _ if args.output.verbose => ProgressMode::Lines,
            Progress::Auto => ProgressMode::Auto,
            Progress::Bars => ProgressMode::Bars,
            Progress::Lines => ProgressMode::Lines,
            Progress::None => ProgressMode::None,
        },
        verbosity: match (args.output.quiet, args.output.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        },
        palette: palette(env, args.output.color),
        is_terminal: io::stderr().is_terminal(),
    };
    // The run has this thread: what has to be done at once is in processes and threads of its own, and workers that take
    // tasks from each other wake each other. It is shown by another: who reads the output slowly, or not at all, is not to
    // keep the run waiting.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (is_shown, shown) = oneshot::channel::<()>();
    let show = async {
        let mut signals = Signals::new()?;
        if let Some(ci) = &ci {
            tokio::select! {
                () = ci.before(&larder, &lockfile, &request) => {}
                () = signals.next() => return Ok((Exit::Interrupted, false)),
            }
        }
        let run = larder.solve(&lockfile, request.clone());
        let mut clock = Clock::new(&args.time, &run, jobs);
        let exit = watch(run, Ui::new(options), path, &mut clock, &mut signals).await;
        if let (Some(ci), Ok(_)) = (&ci, &exit) {
            let ended = (signals.n_seen > 0, signals.n_seen > 1);
            ci.after(&larder, (&lockfile, &request), ended, signals.next()).await;
        }
        // However it ended: what took so long before a failure is worth knowing, too.
        let written = clock.write(args.output.quiet || args.output.json);
        let exit = exit.and_then(|exit| written.map(|()| exit));
        exit.map(|exit| (exit, signals.n_seen > 1))
    };
    let shown = std::thread::scope(|threads| {
        let handle = runtime.handle();
        let showing = std::thread::Builder::new().name("ui".to_owned()).spawn_scoped(threads, move || {
            let _is_shown = is_shown;
            handle.block_on(show)
        })?;
        // It is never sent: the end of that thread, however it comes, is what is waited for.
        let _ = runtime.block_on(shown);
        showing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    give_back(runtime, shown.as_ref().is_ok_and(|(_, is_forced)| *is_forced));
    // The process ends: to give back each entry by itself would take longer.
    std::mem::forget(lockfile);
    shown.map(|(exit, _)| exit)
}

/// Ends what still runs, but for threads that wait for a lock of another process. What is removed with it may lie on a
/// disk that hangs, for which nobody waits who wants the end at once.
fn give_back(runtime: Runtime, is_forced: bool) {
    if !is_forced {
        return runtime.shutdown_background();
    }
    let (done, ended) = mpsc::channel();
    let end = move || {
        runtime.shutdown_background();
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(end).is_ok() {
        let _ = ended.recv_timeout(LAST_WAIT);
    }
}

/// The jobserver of the make that started this command; what was taken from it is given back at the end, come what may.
struct Outer(Option<Jobserver>);

impl Drop for Outer {
    fn drop(&mut self) {
        self.0.iter().for_each(Jobserver::close);
    }
}

fn join(env: &Env) -> Outer {
    let joined = env.get("MAKEFLAGS").map_or(Ok(None), Jobserver::join);
    Outer(joined.unwrap_or_else(|error| {
        tracing::warn!("{error}; put a `+` before the command in the Makefile, or limit it with `--jobs`");
        None
    }))
}

/// Ctrl-C and its like.
struct Signals {
    interrupts: Signal,
    terminations: Signal,
    /// How many came.
    n_seen: u32,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupts: signal(SignalKind::interrupt())?,
            terminations: signal(SignalKind::terminate())?,
            n_seen: 0,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
        self.n_seen += 1;
    }
}

/// Shows the run until its end. The first Ctrl-C asks it to end cleanly, the second at once.
async fn watch(
    mut run: Run,
    mut ui: Ui,
    lockfile: &Path,
    clock: &mut Clock,
    signals: &mut Signals,
) -> Result<Exit, CommandError> {
    let stop = run.stop();
    loop {
        let is_interrupted = tokio::select! {
            event = run.next() => match event {
                Some(event) => {
                    ui.handle(&event);
                    false
                }
                None => break,
            },
            () = signals.next() => true,
            () = clock.tick() => continue,
            () = abandoned(&stop) => return Ok(Exit::Interrupted),
        };
        if is_interrupted && stop.is_requested() {
            stop.force();
        } else if is_interrupted {
            stop.request();
            let message = "ending running builds; once more to end at once".to_owned();
            ui.handle(&Event::Warning { message });
        }
    }
    drop(ui);
    let report = run.finish().await.map_err(in_lockfile(lockfile))?;
    let is_environment = report.failed.iter().filter_map(|settled| settled.failure.as_ref()).any(|f| f.is_environment);
    Ok(if is_environment { Exit::Environment } else { report.outcome.into() })
}

/// Comes to its end when a run that was told to end at once has not done so for a while.
async fn abandoned(stop: &crate::Stop) {
    stop.forced().await;
    tokio::time::sleep(LAST_WAIT).await;
}
