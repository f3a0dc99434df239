//! Asking a run to end: first kindly, then at once.

use tokio_util::sync::CancellationToken;

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
}
