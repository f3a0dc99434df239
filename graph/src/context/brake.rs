//! A flight's request to end: the loop pulls, the op looks. All that a running op shares with the loop.

use super::Stop;
use super::sync::{Mutex, OnceLock, lock};

/// The solver's end of a request. The [`Stop`] itself is made only for an op that looks at it.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    /// How far it is pulled. Held while the stop is made or told, so that neither misses the other.
    level: Mutex<Level>,
    stop: OnceLock<Stop>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Free,
    Requested,
    Forced,
}

impl Brake {
    pub(crate) fn request(&self) {
        self.raise(Level::Requested);
    }

    pub(crate) fn force(&self) {
        self.raise(Level::Forced);
    }

    fn raise(&self, to: Level) {
        let mut level = lock(&self.level);
        *level = to.max(*level);
        if let Some(stop) = self.stop.get() {
            level.tell(stop);
        }
    }

    pub(crate) fn stop(&self) -> &Stop {
        if let Some(stop) = self.stop.get() {
            return stop;
        }
        let level = lock(&self.level);
        let stop = self.stop.get_or_init(Stop::new);
        level.tell(stop);
        stop
    }
}

impl Level {
    fn tell(self, stop: &Stop) {
        match self {
            Self::Free => {}
            Self::Requested => stop.request(),
            Self::Forced => stop.force(),
        }
    }
}
