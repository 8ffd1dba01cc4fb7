//! A progress bar on standard error, when that is a terminal and the work takes long enough to be worth one.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Work that ends sooner draws nothing.
const PATIENCE: Duration = Duration::from_millis(200);

/// A bar that appears late and vanishes when dropped.
pub struct Progress {
    what: &'static str,
    total: u64,
    started: Instant,
    enabled: bool,
    template: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar for `total` steps of `what`, a verb form such as "loading".
    pub fn new(what: &'static str, total: u64) -> Self {
        Self {
            what,
            total,
            started: Instant::now(),
            enabled: std::io::stderr().is_terminal(),
            template: "{msg} [{bar:40}] {percent}% {eta}",
            bar: None,
        }
    }

    /// A bar that counts pieces of work and tells how many are done per second. `total` is asked when it is drawn at all.
    pub fn counting(what: &'static str, total: impl FnOnce() -> u64) -> Self {
        let mut this = Self::new(what, 0);
        if this.enabled {
            this.total = total();
        }
        this.template = "{msg} [{bar:40}] {pos}/{len} {per_sec} {eta} left";
        this
    }

    /// Takes the bar off the screen while something else is written on standard error.
    pub fn suspend(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Whether anything would ever be drawn.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// `done` of the total are done.
    pub fn set(&mut self, done: u64) {
        if !self.enabled || (self.bar.is_none() && self.started.elapsed() < PATIENCE) {
            return;
        }
        let (what, total, template) = (self.what, self.total, self.template);
        self.bar
            .get_or_insert_with(|| {
                let bar = ProgressBar::new(total).with_message(what);
                let style = ProgressStyle::with_template(template);
                bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            })
            .set_position(done.min(total));
    }

    /// Removes the bar from the screen; nothing is drawn afterwards.
    pub fn clear(&mut self) {
        self.enabled = false;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
