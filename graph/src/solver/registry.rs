//! Which jobs are open, by name: what handles on several threads share besides the loop's inbox.

use std::collections::HashMap;

use super::OpenError;
use super::sync::{Arc, Mutex, Weak, lock};

/// Open jobs. One lives as long as its handles, not as long as its entry here.
pub(super) struct Registry<J> {
    inner: Mutex<Inner<J>>,
}

struct Inner<J> {
    is_closed: bool,
    jobs: HashMap<String, Weak<J>>,
    n_jobs: u32,
}

impl<J> Registry<J> {
    pub(super) fn new() -> Self {
        let inner = Inner { is_closed: false, jobs: HashMap::new(), n_jobs: 0 };
        Self { inner: Mutex::new(inner) }
    }

    /// Enters a new job, made from its number. `announce` is called before anybody can find the job.
    pub(super) fn open(
        &self,
        name: &str,
        make: impl FnOnce(u32) -> J,
        announce: impl FnOnce(&J),
    ) -> Result<Arc<J>, OpenError> {
        let mut inner = lock(&self.inner);
        if inner.is_closed {
            return Err(OpenError::Closed);
        }
        if inner.jobs.get(name).is_some_and(|job| job.strong_count() > 0) {
            return Err(OpenError::Duplicate(name.to_owned()));
        }
        let job = Arc::new(make(inner.n_jobs));
        inner.n_jobs += 1;
        announce(&job);
        inner.jobs.insert(name.to_owned(), Arc::downgrade(&job));
        Ok(job)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<J>> {
        lock(&self.inner).jobs.get(name).and_then(Weak::upgrade)
    }

    /// Gives a job's name free, unless that is another's by now.
    pub(super) fn remove(&self, name: &str, job: &J) {
        let mut inner = lock(&self.inner);
        if inner.jobs.get(name).is_some_and(|known| std::ptr::eq(known.as_ptr(), job)) {
            inner.jobs.remove(name);
        }
    }

    /// Opens no more jobs. `announce` comes after all announcements of jobs.
    pub(super) fn close(&self, announce: impl FnOnce()) {
        let mut inner = lock(&self.inner);
        inner.is_closed = true;
        announce();
    }
}
