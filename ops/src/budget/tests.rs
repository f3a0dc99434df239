//! The budget with builds that are played by the test: what a make does to its pipes is done here by hand.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;

/// A build with a make in it.
struct Build {
    core: Core,
    pipes: Arc<Pipes>,
    number: u64,
    /// How many jobs its make has besides the first.
    n_taken: usize,
}

/// Gives a core to a build without waiting, or says that it would have to.
fn start(budget: &Arc<Budget>) -> Option<Build> {
    poll(&mut wait(budget)).map(with_make)
}

type Waiting = Pin<Box<dyn Future<Output = Core>>>;

/// Begins to wait for a core, but leaves it to the test how often is looked.
fn wait(budget: &Arc<Budget>) -> Waiting {
    let budget = Arc::clone(budget);
    Box::pin(tokio::task::unconstrained(async move { budget.core().await }))
}

/// Has a build run a make, from now on until it is dropped.
fn with_make(core: Core) -> Build {
    let pipes = Arc::new(Pipes::new().unwrap());
    let loan = Loan::open(&core, Arc::clone(&pipes));
    let number = loan.number;
    std::mem::forget(loan);
    Build { core, pipes, number, n_taken: 0 }
}

fn poll(future: &mut Waiting) -> Option<Core> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

impl Build {
    /// Takes as many more jobs as it gets, up to `n`; returns how many it has then.
    fn take(&mut self, n: usize) -> usize {
        for _ in 0..n {
            self.n_taken += usize::from(self.pipes.take());
            self.core.budget.change(|_| ());
        }
        self.n_taken
    }

    /// One of its jobs ends.
    fn give(&mut self) {
        self.n_taken -= 1;
        self.pipes.give();
        self.core.budget.change(|_| ());
    }

    fn has_offer(&self) -> bool {
        self.pipes.has_offer()
    }

    fn patienceends(&self) {
        self.core.budget.change(|state| state.lose_patience(self.number));
    }

    /// Its processes are gone; what they had not given back they never will.
    fn end(self) -> Core {
        drop(Loan { core: &self.core, number: self.number });
        self.core
    }
}

#[tokio::test]
async fn what_is_idle_is_lent_one_by_one_and_never_more() {
    let budget = Budget::new(4, None);
    let mut build = start(&budget).unwrap();
    assert!(build.has_offer());
    assert_eq!(build.take(10), 3);
    assert!(!build.has_offer());
    build.give();
    assert!(build.has_offer());
    assert_eq!(build.take(10), 3);
    let core = build.end();
    assert!(core.has_borrowed());
}

#[tokio::test]
async fn what_a_killed_build_kept_is_free_again() {
    let budget = Budget::new(3, None);
    let mut killed = start(&budget).unwrap();
    assert_eq!(killed.take(5), 2);
    drop(killed.end());
    let mut next = start(&budget).unwrap();
    assert_eq!(next.take(5), 2);
}

#[tokio::test]
async fn a_build_about_to_start_comes_before_make_in_those_that_run() {
    let budget = Budget::new(2, None);
    let mut first = start(&budget).unwrap();
    assert_eq!(first.take(1), 1);
    let mut waiting = wait(&budget);
    assert!(poll(&mut waiting).is_none(), "both cores are in use");
    first.give();
    assert!(!first.has_offer());
    let second = poll(&mut waiting).unwrap();
    assert_eq!(first.take(1), 0);
    drop(second);
    assert_eq!(first.take(1), 1);
}

#[tokio::test]
async fn an_offer_that_nobody_took_is_taken_back_for_a_build_about_to_start() {
    let budget = Budget::new(2, None);
    let first = start(&budget).unwrap();
    assert!(first.has_offer());
    let _second = start(&budget).unwrap();
    assert!(!first.has_offer());
    assert!(!first.core.has_borrowed());
}

#[tokio::test]
async fn who_no_longer_waits_gets_nothing() {
    let budget = Budget::new(1, None);
    let first = start(&budget).unwrap();
    let mut gone = wait(&budget);
    assert!(poll(&mut gone).is_none());
    let mut waiting = wait(&budget);
    assert!(poll(&mut waiting).is_none());
    // The one is gone before its turn, the other one after it was given the core.
    drop(gone);
    drop(first.end());
    drop(waiting);
    assert!(start(&budget).is_some());
}

#[tokio::test]
async fn the_last_idle_core_goes_to_whoever_uses_it() {
    let budget = Budget::new(3, None);
    let mut builds = [start(&budget).unwrap(), start(&budget).unwrap()];
    let idler = usize::from(builds[1].has_offer());
    // The offer stays for a while, and then goes to the other one.
    builds[idler].patienceends();
    assert!(builds[idler].has_offer());
    builds[idler].patienceends();
    let busy = 1 - idler;
    assert!(!builds[idler].has_offer() && builds[busy].has_offer());
    assert_eq!(builds[busy].take(5), 1);
    // Who uses it gets it again.
    builds[busy].give();
    assert!(builds[busy].has_offer() && !builds[idler].has_offer());
}

#[tokio::test]
async fn an_offer_stays_where_it_is_if_there_is_nobody_else() {
    let budget = Budget::new(2, None);
    let build = start(&budget).unwrap();
    build.patienceends();
    build.patienceends();
    build.patienceends();
    assert!(build.has_offer());
}

#[tokio::test]
async fn who_gives_back_what_it_never_took_gets_no_more_than_there_is() {
    let budget = Budget::new(2, None);
    let mut build = start(&budget).unwrap();
    for _ in 0..5 {
        build.pipes.give();
    }
    budget.change(|_| ());
    assert_eq!(build.take(5), 1);
}

#[tokio::test]
async fn a_thousand_random_steps_never_use_more_than_there_is_and_leave_nothing_idle() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let n_cores = random.usize(1..6);
        let budget = Budget::new(u32::try_from(n_cores).unwrap(), None);
        let (mut builds, mut waiting) = (Vec::<Build>::new(), Vec::new());
        for _ in 0..1000 {
            let any = (!builds.is_empty()).then(|| random.usize(0..builds.len()));
            match (random.u8(0..6), any) {
                // The solver never starts more than there are cores.
                (0, _) if builds.len() + waiting.len() < n_cores => waiting.push(wait(&budget)),
                (1, Some(any)) if random.bool() => drop(builds.swap_remove(any).end()),
                (2 | 3, Some(any)) => drop(builds[any].take(1)),
                (4, Some(any)) if builds[any].n_taken > 0 => builds[any].give(),
                (5, Some(any)) => builds[any].patienceends(),
                _ => {}
            }
            let mut still = Vec::new();
            for mut one in waiting {
                match poll(&mut one) {
                    Some(core) => builds.push(with_make(core)),
                    None => still.push(one),
                }
            }
            waiting = still;
            let n_used: usize = builds.iter().map(|build| 1 + build.n_taken + usize::from(build.has_offer())).sum();
            assert!(n_used <= n_cores, "{n_used} of {n_cores}");
            let is_full = n_used == n_cores || builds.iter().all(Build::has_offer);
            assert!(is_full, "{n_used} of {n_cores} although some would take more");
            assert!(waiting.is_empty() || builds.iter().all(|build| !build.has_offer()));
        }
    }
}

/// An outer make: its pipe, and what it would say of it.
struct Make {
    ends: (std::io::PipeReader, std::io::PipeWriter),
    flags: String,
    look: std::os::fd::OwnedFd,
}

impl Make {
    fn with(tokens: &[u8]) -> Self {
        use std::os::fd::AsRawFd;
        let ends = std::io::pipe().unwrap();
        rustix::io::write(&ends.1, tokens).unwrap();
        let flags = format!(" -j{} --jobserver-auth={},{}", tokens.len() + 1, ends.0.as_raw_fd(), ends.1.as_raw_fd());
        let look = pipes::reopen(ends.0.as_raw_fd(), rustix::fs::OFlags::RDONLY).unwrap();
        Self { ends, flags, look }
    }

    fn join(&self) -> Jobserver {
        Jobserver::join(self.flags.as_ref()).unwrap().expect("there is one")
    }

    /// Returns what it has not lent.
    fn n_left(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.look).unwrap()
    }

    /// Returns all that is there, in order.
    fn tokens(&self) -> Vec<u8> {
        let mut tokens = [0; 16];
        let n = rustix::io::read(&self.look, &mut tokens).unwrap();
        tokens[..n].sort_unstable();
        tokens[..n].to_vec()
    }
}

#[tokio::test]
async fn under_an_outer_make_cores_come_from_there_and_go_back() {
    let make = Make::with(b"abc");
    let budget = Budget::new(3, Some(make.join()));
    let mut build = start(&budget).unwrap();
    assert_eq!(make.n_left(), 2, "one is on offer, and no more");
    assert_eq!(build.take(5), 2);
    assert_eq!(make.n_left(), 1, "no more than the limit");
    build.give();
    build.give();
    assert_eq!(make.n_left(), 2);
    let mut other = start(&budget).unwrap();
    assert_eq!((build.take(5) + other.take(5), make.n_left()), (1, 1));
    drop(build.end());
    drop(other.end());
    assert_eq!(make.tokens(), b"abc", "the very same");
}

#[tokio::test]
async fn without_a_token_of_the_outer_make_builds_wait_but_for_the_first() {
    let make = Make::with(b"");
    let budget = Budget::new(8, Some(make.join()));
    let first = start(&budget).unwrap();
    assert!(!first.has_offer() && start(&budget).is_none());
    let mut waiting = wait(&budget);
    assert!(poll(&mut waiting).is_none());
    rustix::io::write(&make.ends.1, b"x").unwrap();
    let second = waiting.await;
    assert_eq!(make.n_left(), 0);
    drop(first.end());
    assert_eq!(make.n_left(), 1, "one core is our own");
    drop(second);
}

#[tokio::test]
async fn what_an_outer_make_lent_goes_back_whatever_still_runs() {
    let make = Make::with(b"xy");
    let jobserver = make.join();
    let budget = Budget::new(8, Some(jobserver.clone()));
    let mut build = start(&budget).unwrap();
    assert_eq!(build.take(5), 2);
    jobserver.close();
    assert_eq!(make.tokens(), b"xy");
    build.give();
    assert_eq!(build.take(5), 1, "nothing more is taken from there");
}

#[test]
fn what_makeflags_say_of_a_jobserver() {
    let join = |flags: &str| Jobserver::join(flags.as_ref());
    assert!(join("").unwrap().is_none() && join(" -j4").unwrap().is_none());
    assert!(join("n -- CFLAGS=--jobserver-auth=3,4").unwrap().is_none());
    // How make 4.3 says that it does not hand it on.
    assert!(join(" -j4 --jobserver-auth=-2,-2").unwrap().is_none());
    let error = join(" -j4 --jobserver-auth=998,999").unwrap_err().to_string();
    assert!(error.starts_with("the jobserver in MAKEFLAGS (`998,999`) cannot be used: "), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let (fifo, file) = (dir.path().join("fifo"), dir.path().join("file"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(join(&format!(" -j4 --jobserver-auth=fifo:{}", fifo.display())).unwrap().is_some());
    fs_err::write(&file, "").unwrap();
    assert!(join(&format!(" -j4 --jobserver-auth=fifo:{}", file.display())).is_err());
}
