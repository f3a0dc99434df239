//! Work that waits for the disk, kept from where it would keep others waiting.

/// Runs `work` on a thread that may block, and waits for its end. A panic of it goes on in the caller.
///
/// Must be called within a tokio runtime. Dropping the future does not end the work.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert_eq!(larder_ops::blocking(|| 2 + 2).await, 4);
/// # });
/// ```
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Nobody aborts it, so it panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
