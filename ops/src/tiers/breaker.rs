//! A tier that fails again and again is left alone for a while, so that it costs a run no more than a few seconds.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many failures in a row open it.
const FAILURES_MAX: u32 = 3;
/// How long it stays open; then one may try again.
const PAUSE: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    n_failures: u32,
    /// Since when nobody is let through, if so.
    opened: Option<Instant>,
}

impl Breaker {
    /// Says whether to try; after the pause one is let through, and decides for all.
    pub(super) fn admits(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.opened {
            None => true,
            Some(opened) if opened.elapsed() < PAUSE => false,
            Some(_) => {
                state.opened = Some(Instant::now());
                true
            }
        }
    }

    /// Notes how it went. Returns whether the tier is left alone from now on.
    pub(super) fn note(&self, is_well: bool) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_well {
            *state = State::default();
            return false;
        }
        state.n_failures += 1;
        let opens = state.n_failures >= FAILURES_MAX && state.opened.is_none();
        if opens {
            state.opened = Some(Instant::now());
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_close_a_tier_until_one_try_succeeds() {
        let breaker = Breaker::default();
        assert_eq!([false, false, true, false, false].map(|is_well| breaker.note(is_well)), [false; 5]);
        assert!(breaker.admits());
        assert!(breaker.note(false), "the third in a row");
        assert!(!breaker.admits());
        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits());
        assert!(!breaker.admits(), "one is enough to find out");
        assert!(!breaker.note(true));
        assert!(breaker.admits());
    }
}
