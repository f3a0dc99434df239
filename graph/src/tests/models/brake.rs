//! `context/brake.rs`: the loop pulls while an op looks for the first time.

use loom::thread;

use super::sync;

#[allow(clippy::duplicate_mod, reason = "that is the point: with other primitives")]
#[path = "../../context/brake.rs"]
mod checked;

/// Stands for the real one, whose insides are another crate's: counts what it was told.
#[derive(Debug)]
struct Stop(loom::sync::atomic::AtomicUsize);

impl Stop {
    fn new() -> Self {
        Self(loom::sync::atomic::AtomicUsize::new(0))
    }

    fn request(&self) {
        self.0.fetch_or(1, loom::sync::atomic::Ordering::SeqCst);
    }

    fn force(&self) {
        self.0.fetch_or(3, loom::sync::atomic::Ordering::SeqCst);
    }

    fn level(&self) -> usize {
        self.0.load(loom::sync::atomic::Ordering::SeqCst)
    }
}

#[test]
fn a_brake_pulled_while_an_op_first_looks_is_never_missed() {
    for (is_forced, level) in [(false, 1), (true, 3)] {
        loom::model(move || {
            let brake = loom::sync::Arc::new(checked::Brake::default());
            let looker = loom::sync::Arc::clone(&brake);
            let look = thread::spawn(move || {
                looker.stop();
            });
            if is_forced {
                brake.request();
                brake.force();
            } else {
                brake.request();
            }
            look.join().unwrap();
            assert_eq!(brake.stop().level(), level);
        });
    }
}
