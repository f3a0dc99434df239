//! Eviction in the background, for processes that live long.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::evict::{EvictError, Policy, Summary, evict};
use crate::blocking;

/// How often a store is looked through, unless it is to forget sooner than that.
const INTERVAL_MAX: Duration = Duration::from_hours(24);

/// Evicts by age again and again, until it is dropped.
#[derive(Debug)]
pub struct Sweeper {
    task: Option<AbortHandle>,
}

impl Sweeper {
    /// Evicts from the store at `root` what was not used for `retention`: now, and then every 24 hours or every half of
    /// `retention`, whichever is shorter. What came of it goes to `on_swept`. Zero is off.
    ///
    /// Must be called within a tokio runtime. An eviction that is under way when the sweeper is dropped goes on to its end.
    pub fn start(
        root: PathBuf,
        retention: Duration,
        on_swept: impl Fn(Result<Summary, EvictError>) + Send + Sync + 'static,
    ) -> Self {
        if retention.is_zero() {
            return Self { task: None };
        }
        let policy = Policy { older_than: Some(retention), ..Policy::default() };
        let task = tokio::spawn(async move {
            let mut ticks = interval(INTERVAL_MAX.min(retention / 2).max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let root = root.clone();
                on_swept(blocking(move || evict(&root, &policy, SystemTime::now(), |_| {})).await);
            }
        });
        Self { task: Some(task.abort_handle()) }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::Instant;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// Returns after how many hours each of the first three sweeps came.
    async fn sweeps(retention: Duration) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let (told, mut tells) = unbounded_channel();
        let start = Instant::now();
        let sweeper = Sweeper::start(dir.path().join("store"), retention, move |swept| {
            assert_eq!(swept.unwrap(), Summary::default());
            told.send(start.elapsed()).unwrap();
        });
        let mut hours = Vec::new();
        for _ in 0..3 {
            hours.push(tells.recv().await.unwrap().as_secs() / 3600);
        }
        drop(sweeper);
        assert!(tells.recv().await.is_none(), "it ends with its handle");
        hours
    }

    #[tokio::test(start_paused = true)]
    async fn p25_a_store_is_swept_daily_or_twice_in_a_retention_until_the_handle_is_dropped() {
        assert_eq!(sweeps(30 * 24 * HOUR).await, [0, 24, 48]);
        assert_eq!(sweeps(10 * HOUR).await, [0, 5, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn p25_without_a_retention_nothing_is_swept() {
        let (told, mut tells) = unbounded_channel::<()>();
        let _sweeper = Sweeper::start(PathBuf::from("store"), Duration::ZERO, move |_| told.send(()).unwrap());
        assert!(tells.recv().await.is_none());
    }
}
