//! What a run has told so far, for whoever listens, whenever they come and however slowly they read.
//!
//! There is one record, and a listener is a place in it. So nothing piles up for those who do not read: progress and the
//! output of builds take the place of what was told before, and go when their package has settled.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use larder_graph::History;
use larder_ops::package::PackageName;

use crate::event::Event;

/// How many pieces of a build's output are kept at a time.
const OUTPUT_SLOTS: u64 = 64;

/// How many events a listener takes at a time. What it has taken is no longer replaced by what comes later.
const COPIES_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Journal {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// When, since the start, and what. By package: its progress is in slot 0, the latest output of its build in those
    /// after it.
    history: History<(PackageName, u64), (Duration, Event)>,
    /// The slots that each package that has not settled yet ever had something in. Most have nothing to tell.
    slots: HashMap<PackageName, Vec<u64>>,
    n_outputs: u64,
    is_over: bool,
    /// Whether there is something that nobody was woken for yet.
    has_news: bool,
    /// Those who wait for more.
    wakers: Vec<Waker>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { start: Instant::now(), inner: Mutex::default() }
    }
}

impl Journal {
    pub(super) fn tell(&self, event: Event) {
        let mut inner = self.lock();
        let at = self.start.elapsed();
        let slot = match &event {
            Event::Progress { package, .. } => Some((package.clone(), 0)),
            Event::Output { package, .. } => {
                inner.n_outputs += 1;
                Some((package.clone(), 1 + inner.n_outputs % OUTPUT_SLOTS))
            }
            Event::Settled(settled) => {
                for slot in inner.slots.remove(&settled.package).unwrap_or_default() {
                    inner.history.take_out(&(settled.package.clone(), slot));
                }
                None
            }
            _ => None,
        };
        if let Some((package, slot)) = &slot {
            let slots = inner.slots.entry(package.clone()).or_default();
            if !slots.contains(slot) {
                slots.push(*slot);
            }
        }
        inner.history.push(slot, (at, event));
        inner.has_news = true;
    }

    pub(super) fn listen(self: &Arc<Self>) -> Events {
        Events { journal: Arc::clone(self), next: 0, copied: VecDeque::new() }
    }

    /// Wakes those who wait for what was told since, or for the end. The lock is free by then: they take it next.
    fn wake(&self) {
        let mut inner = self.lock();
        let has_news = std::mem::take(&mut inner.has_news) || inner.is_over;
        let waiting = if has_news { std::mem::take(&mut inner.wakers) } else { Vec::new() };
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No method leaves it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Copies events from `next` on, until there are so many.
    fn copy(&self, next: &mut u64, copied: &mut VecDeque<(Duration, Event)>, n_max: usize) {
        while copied.len() < n_max
            && let Some((event, after)) = self.history.next(*next)
        {
            copied.push_back(event.clone());
            *next = after;
        }
    }
}

/// Ends the journal when it is dropped, however the run ended.
pub(super) struct Scribe(pub(super) Arc<Journal>);

impl Scribe {
    /// Writes it down. Listeners who wait are woken by [`Scribe::follow`].
    pub(super) fn tell(&self, event: Event) {
        self.0.tell(event);
    }

    /// Goes through a run, and lets listeners hear what it told each time that it waits for something. A listener that is
    /// woken for each event by itself takes turns with the run, many thousand times a second, if they share a core.
    pub(super) async fn follow<T>(&self, run: impl Future<Output = T>) -> T {
        let mut run = pin!(run);
        poll_fn(|cx| {
            let polled = run.as_mut().poll(cx);
            self.0.wake();
            polled
        })
        .await
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.wake();
    }
}

/// The events of one run, from its first on, whenever one begins to listen.
///
/// Of progress that is told again and again only the latest is there for who reads it late; the output of a build is
/// there, as far as its last pieces go, until its package settles.
#[derive(Debug, Clone)]
pub struct Events {
    journal: Arc<Journal>,
    next: u64,
    /// Copied from the journal, and not yet handed out: who tells is not to wait for who listens at each event.
    copied: VecDeque<(Duration, Event)>,
}

impl Events {
    /// Returns the next event, or `None` when the run is over.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Returns what was told so far and is not read yet, each with the time since the start of the run; waits for nothing.
    pub fn so_far(&mut self) -> Vec<(Duration, Event)> {
        self.journal.lock().copy(&mut self.next, &mut self.copied, usize::MAX);
        std::mem::take(&mut self.copied).into()
    }

    /// Returns how long ago the run began.
    pub fn elapsed(&self) -> Duration {
        self.journal.start.elapsed()
    }

    /// Returns another listener, who has heard nothing yet.
    pub(super) fn again(&self) -> Self {
        self.journal.listen()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.copied.is_empty() {
            let mut inner = self.journal.lock();
            inner.copy(&mut self.next, &mut self.copied, COPIES_MAX);
            if self.copied.is_empty() && !inner.is_over {
                if !inner.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    inner.wakers.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(self.copied.pop_front().map(|(_, event)| event))
    }
}

impl futures_core::Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Outcome, Step};
    use crate::ui::testing::{fetched, settled, started};

    fn output(package: &str, from: u64) -> Event {
        let package = PackageName::parse(package).unwrap();
        Event::Output { package, log: "log".into(), from, text: format!("line {from}\n") }
    }

    async fn heard(mut events: Events) -> Vec<Event> {
        let mut heard = Vec::new();
        while let Some(event) = events.next().await {
            heard.push(event);
        }
        heard
    }

    #[tokio::test]
    async fn who_listens_late_hears_it_from_the_beginning_without_what_was_replaced() {
        let journal = Arc::new(Journal::default());
        let scribe = Scribe(Arc::clone(&journal));
        let mut early = journal.listen();
        journal.tell(started("cli", Step::Fetch));
        journal.tell(fetched("cli", 1, 9));
        assert_eq!(early.next().await, Some(started("cli", Step::Fetch)));
        assert_eq!(early.next().await, Some(fetched("cli", 1, 9)));
        journal.tell(fetched("cli", 9, 9));
        drop(scribe);
        assert_eq!(heard(journal.listen()).await, [started("cli", Step::Fetch), fetched("cli", 9, 9)]);
        assert_eq!(heard(early).await, [fetched("cli", 9, 9)]);
    }

    #[tokio::test]
    async fn of_endless_output_the_last_pieces_are_kept_and_none_once_the_package_has_settled() {
        let journal = Arc::new(Journal::default());
        let scribe = Scribe(Arc::clone(&journal));
        let waiting = tokio::spawn(heard(journal.listen()));
        for from in 0..10_000 {
            journal.tell(output("cli", from));
        }
        {
            let inner = journal.lock();
            let kept: Vec<_> = inner.history.iter().map(|(_, event)| event.clone()).collect();
            assert_eq!(kept, (10_000 - OUTPUT_SLOTS..10_000).map(|from| output("cli", from)).collect::<Vec<_>>());
        }
        journal.tell(Event::Settled(settled("cli", Outcome::Ingested)));
        drop(scribe);
        assert_eq!(heard(journal.listen()).await, [Event::Settled(settled("cli", Outcome::Ingested))]);
        assert!(waiting.await.unwrap().contains(&Event::Settled(settled("cli", Outcome::Ingested))));
    }
}
