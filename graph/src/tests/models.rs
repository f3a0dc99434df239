//! What threads share besides messages, in every order that there is: the same files as in the library, compiled with
//! loom's primitives in place of the standard library's.

mod brake;
mod registry;

/// As `crate::sync`, for loom.
mod sync {
    pub(super) use loom::sync::Mutex;
    pub(super) use std::sync::{Arc, Weak};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> loom::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    /// Loom has none. What is in it stays for the rest of the test.
    #[derive(Debug)]
    pub(super) struct OnceLock<T: 'static>(Mutex<Option<&'static T>>);

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self(Mutex::new(None))
        }
    }

    impl<T> OnceLock<T> {
        pub(super) fn get(&self) -> Option<&T> {
            *lock(&self.0)
        }

        pub(super) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            lock(&self.0).get_or_insert_with(|| Box::leak(Box::new(init())))
        }
    }
}
