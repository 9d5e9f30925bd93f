//! For callers that wait.

use super::error::TierError;

/// Waits for what is asked of a tier, on this thread.
///
/// # Errors
/// Its own.
pub fn run<T>(work: impl Future<Output = Result<T, TierError>>) -> Result<T, TierError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| super::objects::ObjectError::Other {
        key: "the tier".to_owned(),
        why: format!("no thread of this program can wait for it: {error}"),
    })?;
    runtime.block_on(work)
}
