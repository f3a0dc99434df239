//! How much memory process groups use, read from `/proc` now and then.
//!
//! Sampled, since nothing else gives the sum: `wait4` knows the largest process that was waited for, and of a make with
//! four compilers that is a quarter; and of what a warm R forks it knows nothing. Whatever is over within one interval
//! is not seen, and did not take much. Pages that processes share are counted in each, so the sum errs upwards.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::process::Pid;

/// How often is looked. A look takes some milliseconds of CPU time, for all groups together.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks at all processes once for all who ask at about the same time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Mutex<Look>>);

#[derive(Debug, Default)]
struct Look {
    when: Option<Instant>,
    bytes_by_group: HashMap<i32, u64>,
}

impl Meter {
    /// Tells every second how many bytes a group has in memory. Never ends.
    pub(crate) async fn watch(&self, group: Pid, tell: impl Fn(u64)) -> Infallible {
        let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL / 2, INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let meter = self.clone();
            if let Ok(bytes) = tokio::task::spawn_blocking(move || meter.bytes(group)).await {
                tell(bytes);
            }
        }
    }

    fn bytes(&self, group: Pid) -> u64 {
        let mut look = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if look.when.is_none_or(|when| when.elapsed() >= INTERVAL / 2) {
            *look = Look { when: Some(Instant::now()), bytes_by_group: bytes_by_group() };
        }
        look.bytes_by_group.get(&group.as_raw_nonzero().get()).copied().unwrap_or(0)
    }
}

/// Adds up what the processes of each group have in memory. Those that go meanwhile are left out.
fn bytes_by_group() -> HashMap<i32, u64> {
    let mut groups = HashMap::new();
    for item in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if item.file_name().as_encoded_bytes()[0].is_ascii_digit()
            && let Some((group, pages)) =
                fs::read_to_string(item.path().join("stat")).ok().as_deref().and_then(resident)
        {
            *groups.entry(group).or_insert(0) += pages * rustix::param::page_size() as u64;
        }
    }
    groups
}

/// Reads group and resident pages from `/proc/PID/stat`: `pid (name) state parent group ...`, where the name may have
/// anything in it.
fn resident(stat: &str) -> Option<(i32, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    // The 24th of all, where the group is the fifth.
    Some((group, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_pages_are_read_whatever_the_program_is_called() {
        let stat = "1422 (a) R 1 (b) S 1420 1399 1399 0 -1 4194304 103 0 0 0 0 0 0 0 20 0 1 0 41206 2600960 214 1844";
        assert_eq!(resident(stat), Some((1399, 214)));
        assert_eq!(resident("1422 (short) S 1420 1399"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let group = rustix::process::getpgrp();
        assert!(Meter::default().bytes(group) > 1 << 20);
    }
}
