//! One budget of cores for all builds and for all that make does within them.
//!
//! Each running build has a [`Core`]: that is for R, and for the one job that make always may have. What is idle besides is
//! offered to the builds that run, a token at a time, through a jobserver of their own (`Pipes`): taken means that
//! another job of make runs there, and the next is offered; given back means that it ended. So cores in use and tokens
//! on offer are never more than there are. A build that is about to start comes first: offers are taken back for it,
//! and else what comes back next is its own. Whatever a build that ends still had, killed or not, is free again.
//!
//! Under an outer make the budget is one core and what can be had from its [`Jobserver`], up to the limit.
//!
//! All accounts are in `State`, and only `State::balance` moves cores. Why something may have changed does not matter
//! to it: it looks at all pipes. This module knows nothing of packages.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Pid;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::process::Meter;

mod outer;
mod pipes;
#[cfg(test)]
mod tests;

pub use outer::{Jobserver, JobserverError};
pub(crate) use pipes::Pipes;

/// How long an offer stays where nobody takes it if another build has none.
const PATIENCE: Duration = Duration::from_millis(250);

/// The cores that builds share.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
    meter: Meter,
}

impl Budget {
    /// Has `n_cores` cores; under an outer make no more of them than its jobserver lends at the time.
    pub fn new(n_cores: u32, outer: Option<Jobserver>) -> Arc<Self> {
        let state = State {
            n_cores: n_cores.max(1) as usize,
            outer,
            n_running: 0,
            waiting: VecDeque::new(),
            borrowers: BTreeMap::new(),
            n_turns: 0,
        };
        Arc::new(Self { state: Mutex::new(state), meter: Meter::default() })
    }

    /// Waits for a core. Not to wait any longer, drop the future.
    pub async fn core(self: &Arc<Self>) -> Core {
        let (sender, receiver) = oneshot::channel();
        self.change(|state| state.waiting.push_back(sender));
        let mut receiver = pin!(receiver);
        loop {
            tokio::select! {
                core = &mut receiver => return core.expect("the budget drops nobody who waits"),
                () = self.outer_stirs() => self.change(|_| ()),
            }
        }
    }

    /// Changes something, and puts everything in balance.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let admitted = {
            let mut state = self.state();
            change(&mut state);
            state.balance()
        };
        for sender in admitted {
            // Who does not wait any more drops it, and so gives it back.
            drop(sender.send(Core {
                budget: Arc::clone(self),
                has_borrowed: AtomicBool::new(false),
                peak_bytes: AtomicU64::new(0),
            }));
        }
    }

    /// Waits until an outer jobserver may have something, if something is wanted from there.
    async fn outer_stirs(&self) {
        let outer = {
            let state = self.state();
            state.outer.clone().filter(|_| state.wants_more())
        };
        match outer {
            Some(outer) => outer.stir().await,
            None => std::future::pending().await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A core that a build has to itself. Dropped, it is free again.
#[derive(Debug)]
pub struct Core {
    budget: Arc<Budget>,
    has_borrowed: AtomicBool,
    peak_bytes: AtomicU64,
}

impl Core {
    /// Watches the memory of a process group, and lends to it through `pipes`, until `work` is done: see
    /// [`lend`](Self::lend).
    pub(crate) async fn accompany<T>(
        &self,
        group: Option<Pid>,
        pipes: Option<&Arc<Pipes>>,
        work: impl Future<Output = T>,
    ) -> T {
        let lend = async {
            match pipes {
                Some(pipes) => self.lend(pipes, work).await,
                None => work.await,
            }
        };
        let Some(group) = group else { return lend.await };
        let note = |bytes| {
            self.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        };
        tokio::select! {
            biased;
            done = lend => done,
            never = self.budget.meter.watch(group, note) => match never {},
        }
    }

    /// Lends to the processes behind `pipes` what is idle, until `work` is done. By then they must have ended, or be
    /// where they do not use the pipes.
    async fn lend<T>(&self, pipes: &Arc<Pipes>, work: impl Future<Output = T>) -> T {
        let loan = Loan::open(self, Arc::clone(pipes));
        let mut patience = tokio::time::interval(PATIENCE);
        patience.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = pipes.stir() => self.budget.change(|_| ()),
                () = self.budget.outer_stirs() => self.budget.change(|_| ()),
                _ = patience.tick() => self.budget.change(|state| state.lose_patience(loan.number)),
            }
        }
    }

    /// Says whether more cores than this one were ever in use.
    pub fn has_borrowed(&self) -> bool {
        self.has_borrowed.load(Ordering::Relaxed)
    }

    /// Returns the most memory that was seen in use at a time, in bytes; nothing if it was over too soon to be seen.
    pub fn peak_bytes(&self) -> Option<u64> {
        Some(self.peak_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.budget.change(|state| state.n_running -= 1);
    }
}

/// A build to which is lent.
struct Loan<'a> {
    core: &'a Core,
    number: u64,
}

impl<'a> Loan<'a> {
    fn open(core: &'a Core, pipes: Arc<Pipes>) -> Self {
        let mut number = 0;
        core.budget.change(|state| {
            number = state.next_turn();
            let last = Offer { state: OfferState::Taken, turn: number, is_old: false };
            state.borrowers.insert(number, Borrower { pipes, n_lent: 0, last, has_borrowed: false });
        });
        Self { core, number }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.core.budget.change(|state| {
            if let Some(mut borrower) = state.borrowers.remove(&self.number) {
                borrower.look();
                self.core.has_borrowed.fetch_or(borrower.has_borrowed, Ordering::Relaxed);
                borrower.pipes.reset();
            }
        });
    }
}

/// Who has how many cores. As far as it goes `n_running` and all that is lent make no more than there are.
#[derive(Debug)]
struct State {
    n_cores: usize,
    outer: Option<Jobserver>,
    n_running: usize,
    waiting: VecDeque<oneshot::Sender<Core>>,
    borrowers: BTreeMap<u64, Borrower>,
    n_turns: u64,
}

#[derive(Debug)]
struct Borrower {
    pipes: Arc<Pipes>,
    /// What it has taken and not given back, and what is on offer.
    n_lent: usize,
    last: Offer,
    has_borrowed: bool,
}

/// The latest offer made to a build.
#[derive(Debug)]
struct Offer {
    state: OfferState,
    turn: u64,
    /// It was there before somebody lost patience the last time.
    is_old: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfferState {
    /// It lies there.
    Open,
    /// Whoever took it may want more. So may one who had none.
    Taken,
    /// It was taken back, since nobody wanted it.
    Recalled,
}

impl Borrower {
    /// Finds out what happened at the other ends of the pipes.
    fn look(&mut self) {
        // In this order: what is taken and given back in between is seen the next time.
        let n_back = self.pipes.collect();
        if self.has_offer() && !self.pipes.has_offer() {
            self.last.state = OfferState::Taken;
            self.has_borrowed = true;
        }
        // Who gives back more than it took deceives only itself.
        self.n_lent = self.n_lent.saturating_sub(n_back).max(usize::from(self.has_offer()));
    }

    fn has_offer(&self) -> bool {
        self.last.state == OfferState::Open
    }

    /// Takes the offer back. Says whether there was one still.
    fn recall(&mut self) -> bool {
        let is_back = self.has_offer() && self.pipes.recall();
        if is_back {
            self.n_lent -= 1;
            self.last.state = OfferState::Recalled;
        }
        is_back
    }
}

impl State {
    /// Takes in what came back, lets those start who wait, and offers what is left. Returns who may start.
    #[must_use]
    fn balance(&mut self) -> Vec<oneshot::Sender<Core>> {
        self.borrowers.values_mut().for_each(Borrower::look);
        let mut admitted = Vec::new();
        self.waiting.retain(|waiting| !waiting.is_closed());
        while !self.waiting.is_empty() && (self.has_free() || self.recall_any()) {
            self.n_running += 1;
            admitted.extend(self.waiting.pop_front());
        }
        while self.waiting.is_empty()
            && let Some(number) = self.next_borrower()
            && self.has_free()
        {
            let turn = self.next_turn();
            let borrower = self.borrowers.get_mut(&number).expect("it was just found");
            if !borrower.pipes.offer() {
                break;
            }
            borrower.n_lent += 1;
            borrower.last = Offer { state: OfferState::Open, turn, is_old: false };
        }
        while self.n_free() > 0 && self.outer.as_ref().is_some_and(Jobserver::give_back) {}
        admitted
    }

    fn n_used(&self) -> usize {
        self.n_running + self.borrowers.values().map(|borrower| borrower.n_lent).sum::<usize>()
    }

    /// Returns how many cores are ours at this time.
    fn n_ours(&self) -> usize {
        match &self.outer {
            Some(outer) => 1 + outer.n_held(),
            None => self.n_cores,
        }
    }

    fn n_free(&self) -> usize {
        self.n_ours().saturating_sub(self.n_used())
    }

    /// Says whether a core is free, or can be had from outside.
    fn has_free(&self) -> bool {
        self.n_free() > 0 || self.can_grow() && self.outer.as_ref().is_some_and(Jobserver::take)
    }

    fn can_grow(&self) -> bool {
        self.n_ours() < self.n_cores && self.n_used() <= self.n_ours()
    }

    /// Says whether somebody waits for a core that only an outer jobserver could have.
    fn wants_more(&self) -> bool {
        self.can_grow() && (!self.waiting.is_empty() || self.next_borrower().is_some())
    }

    /// Returns to whom an offer is to be made next: one who took the last one rather than one who did not, and among
    /// equals the one whose last offer is the oldest.
    ///
    /// What lies on offer is idle as long as nobody takes it. Of our own cores that costs nothing; of those of an outer
    /// make only one at a time is.
    fn next_borrower(&self) -> Option<u64> {
        if self.outer.is_some() && self.borrowers.values().any(Borrower::has_offer) {
            return None;
        }
        let without = self.borrowers.iter().filter(|(_, borrower)| !borrower.has_offer());
        let rank =
            |(_, borrower): &(&u64, &Borrower)| (borrower.last.state == OfferState::Recalled, borrower.last.turn);
        without.min_by_key(rank).map(|(number, _)| *number)
    }

    fn recall_any(&mut self) -> bool {
        self.borrowers.values_mut().any(Borrower::recall)
    }

    /// A while has gone by: an offer that was there before is taken back if somebody else could have it.
    fn lose_patience(&mut self, number: u64) {
        let is_alone = self.borrowers.len() == 1;
        if let Some(borrower) = self.borrowers.get_mut(&number).filter(|_| !is_alone) {
            borrower.look();
            if borrower.has_offer() && borrower.last.is_old {
                borrower.recall();
            }
            borrower.last.is_old = true;
        }
    }

    fn next_turn(&mut self) -> u64 {
        self.n_turns += 1;
        self.n_turns
    }
}
