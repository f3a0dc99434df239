//! How busy the machine is, as the kernel counts it.

use std::path::Path;
use std::time::Duration;

/// Reads how many cores worked since it was last asked: all programs together, this one and others.
#[derive(Debug, Default)]
pub struct CpuMeter {
    /// When it was last asked, and the ticks of work and of idleness until then.
    last: Option<(u64, u64)>,
    samples: Vec<(Duration, f64)>,
}

impl CpuMeter {
    /// Takes a sample for the time until `at`.
    pub fn sample(&mut self, at: Duration) {
        let Some((busy, idle, n_cores)) =
            fs_err::read_to_string(Path::new("/proc/stat")).ok().as_deref().and_then(ticks)
        else {
            return;
        };
        if let Some((busy_before, idle_before)) = self.last.replace((busy, idle)) {
            let (busy, idle) = (busy.saturating_sub(busy_before), idle.saturating_sub(idle_before));
            if busy + idle > 0 {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "ticks of a second or so, and as many cores as there are"
                )]
                let cores = busy as f64 / (busy + idle) as f64 * n_cores as f64;
                self.samples.push((at, cores));
            }
        }
    }

    /// Returns the samples, and starts anew.
    pub fn take(&mut self) -> Vec<(Duration, f64)> {
        std::mem::take(&mut self.samples)
    }
}

/// Returns the ticks of work and of idleness of all cores together, and how many those are.
fn ticks(stat: &str) -> Option<(u64, u64, usize)> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; what guests use is in `user` already.
    let ticks: Vec<u64> = all.split_whitespace().take(8).map_while(|tick| tick.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
    let n_cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    Some((ticks.iter().sum::<u64>() - idle, idle, n_cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_no_work() {
        let stat = "cpu  10 1 4 70 5 0 0 0 3 0\ncpu0 5 0 2 35 2 0 0 0 0 0\ncpu1 5 1 2 35 3 0 0 0 0 0\nintr 9\n";
        assert_eq!(ticks(stat), Some((15, 75, 2)));
        assert_eq!(ticks("nothing of the kind"), None);
    }
}
