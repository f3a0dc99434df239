//! Asking a run to end: first kindly, then at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A request to end, shared by everybody who holds a clone. It has two levels and is never taken back.
///
/// ```
/// use larder_graph::Stop;
///
/// let all = Stop::new();
/// let (one, other) = (all.child(), all.child());
/// one.request();
/// assert!(one.is_requested() && !other.is_requested());
/// all.force();
/// assert!(one.is_forced() && other.is_forced());
/// assert!(other.token().is_cancelled());
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// // Who waits for either goes on.
/// other.requested().await;
/// other.forced().await;
/// # });
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop {
    request: CancellationToken,
    force: CancellationToken,
}

impl Stop {
    /// Starts with nothing requested.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to start nothing more and to end cleanly what runs (the first Ctrl-C).
    pub fn request(&self) {
        self.request.cancel();
    }

    /// Asks to end what runs at once (the second Ctrl-C); requests as well.
    pub fn force(&self) {
        self.force.cancel();
        self.request.cancel();
    }

    /// Says whether either level was asked for.
    pub fn is_requested(&self) -> bool {
        self.request.is_cancelled()
    }

    /// Says whether the second level was asked for.
    pub fn is_forced(&self) -> bool {
        self.force.is_cancelled()
    }

    /// Waits until either level is asked for.
    pub async fn requested(&self) {
        self.request.cancelled().await;
    }

    /// Waits until the second level is asked for.
    pub async fn forced(&self) {
        self.force.cancelled().await;
    }

    /// Returns the token that either level cancels, for code that knows nothing of levels.
    pub fn token(&self) -> &CancellationToken {
        &self.request
    }

    /// Returns a stop that hears what this one is asked, but not the other way round.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { request: self.request.child_token(), force: self.force.child_token() }
    }

    /// Returns a bell that rings as soon as either level is asked for.
    pub(crate) fn bell(&self) -> Bell {
        let rung = Arc::new(Rung::default());
        let mut requested = Box::pin(self.request.clone().cancelled_owned());
        if requested.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&rung)))).is_ready() {
            rung.wake_by_ref();
        }
        Bell { rung, _requested: requested }
    }
}

/// A [`Stop`] for who looks before every step: a look costs a load, where a token takes a lock.
pub(crate) struct Bell {
    rung: Arc<Rung>,
    /// What the token wakes as long as this is there.
    _requested: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Bell {
    /// Says whether either level may have been asked for.
    pub(crate) fn has_rung(&self) -> bool {
        self.rung.0.load(Ordering::Acquire)
    }

    /// Rings for who has heard before the token came to wake it.
    pub(crate) fn ring(&self) {
        self.rung.wake_by_ref();
    }
}

#[derive(Default)]
struct Rung(AtomicBool);

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_includes_request_and_reaches_children_only() {
        let parent = Stop::new();
        let (child, other) = (parent.child(), parent.child());
        other.force();
        assert!(!parent.is_requested() && !child.is_requested());
        parent.force();
        assert!(child.is_requested() && child.is_forced());
    }

    #[test]
    fn a_bell_rings_at_once_whoever_is_asked() {
        let all = Stop::new();
        let one = all.child();
        let (mine, others) = (one.bell(), all.child().bell());
        one.token().cancel();
        assert!(mine.has_rung() && one.bell().has_rung() && !others.has_rung());
        all.force();
        assert!(others.has_rung());
    }
}
