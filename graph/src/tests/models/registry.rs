//! `solver/registry.rs`: jobs are opened, found and dropped by several threads.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;

use super::sync;
use crate::OpenError;

#[allow(clippy::duplicate_mod, reason = "that is the point: with other primitives")]
#[path = "../../solver/registry.rs"]
mod checked;

/// What the loop was told, in order: of which job, and what.
type Inbox = Arc<Mutex<Vec<(u32, &'static str)>>>;

struct Job {
    id: u32,
    inbox: Inbox,
    registry: Arc<checked::Registry<Job>>,
}

impl Job {
    fn tell(&self, what: &'static str) {
        self.inbox.lock().unwrap().push((self.id, what));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.registry.remove("job", self);
        self.tell("discard");
    }
}

struct World {
    inbox: Inbox,
    registry: Arc<checked::Registry<Job>>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { inbox: Arc::new(Mutex::new(Vec::new())), registry: Arc::new(checked::Registry::new()) })
    }

    fn open(&self) -> Result<Arc<Job>, OpenError> {
        let make = |id| Job { id, inbox: Arc::clone(&self.inbox), registry: Arc::clone(&self.registry) };
        self.registry.open("job", make, |job| job.tell("open"))
    }
}

#[test]
fn the_loop_hears_of_a_job_before_anybody_uses_it_and_of_its_end_once_and_last() {
    loom::model(|| {
        let world = World::new();
        let other = Arc::clone(&world);
        let user = thread::spawn(move || {
            if let Some(job) = other.registry.get("job") {
                job.tell("build");
            }
        });
        let job = world.open();
        // Loom switches threads at locks and sees no reference counts: without one here the job is gone at once.
        world.registry.get("another");
        drop(job);
        user.join().unwrap();
        let told: Vec<_> = world.inbox.lock().unwrap().iter().map(|(_, what)| *what).collect();
        assert!(matches!(*told, ["open", "discard"] | ["open", "build", "discard"]), "{told:?}");
    });
}

#[test]
fn a_name_is_free_as_soon_as_its_job_is_gone_and_never_found_dead() {
    loom::model(|| {
        let world = World::new();
        let (first, other) = (world.open().unwrap(), Arc::clone(&world));
        let second = thread::spawn(move || other.open());
        drop(first);
        match second.join().unwrap() {
            Ok(second) => {
                let found = world.registry.get("job").expect("the first one took only itself away");
                assert_eq!(found.id, second.id);
            }
            Err(error) => {
                assert_eq!(error, OpenError::Duplicate("job".into()));
                assert!(world.registry.get("job").is_none());
            }
        }
    });
}

#[test]
fn nothing_is_announced_after_the_close() {
    loom::model(|| {
        let world = World::new();
        let other = Arc::clone(&world);
        let opens = thread::spawn(move || other.open().err());
        world.registry.close(|| world.inbox.lock().unwrap().push((0, "close")));
        let error = opens.join().unwrap();
        let last = world.inbox.lock().unwrap().iter().rfind(|told| told.1 != "discard").copied();
        assert_eq!(last, Some((0, "close")));
        assert!(error.is_none_or(|error| error == OpenError::Closed));
    });
}
