//! The primitives of what threads share besides messages. Where this is used a model checker can put its own in place:
//! `tests/models.rs` compiles the same files a second time with those of loom.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Locks, also after a panic: nothing here is ever left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
