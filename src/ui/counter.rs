//! How far something is, as one line on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how many of how many are done, while it lives. Nothing is shown where stderr is no terminal.
pub struct Counter(ProgressBar);

impl Counter {
    /// Starts with nothing done of `what`, such as `checking the store`.
    pub fn on_stderr(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{msg} {pos}/{len}").expect("a valid template");
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        Self(bar.with_style(style).with_message(what))
    }

    /// Shows that `n` of `n_all` are done.
    pub fn set(&self, n: usize, n_all: usize) {
        self.0.set_length(n_all as u64);
        self.0.set_position(n as u64);
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
