//! The body of a request, as far as there is room for it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Body;
use tokio::time::timeout;

/// The longest body, in bytes.
pub(in crate::control) const BODY_BYTES: usize = 64 << 10;
/// It must be here within this time.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum BodyError {
    TooLong,
    TooSlow,
    /// The client closed the connection, or what it sent is not HTTP.
    Broken,
}

impl BodyError {
    pub(in crate::control) fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }

    pub(in crate::control) fn sentence(self) -> &'static str {
        match self {
            Self::TooLong => "the body of a request is at most 65536 bytes",
            Self::TooSlow => "the body of the request did not come in time",
            Self::Broken => "the body of the request is not complete",
        }
    }
}

/// Reads a body to its end.
pub(in crate::control) async fn read<B: Body<Data: AsRef<[u8]>> + Unpin>(
    body: B,
) -> Result<Vec<u8>, BodyError> {
    // What is announced to be too long is not read at all.
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return Err(BodyError::TooLong);
    }
    timeout(BODY_TIME, read_all(body)).await.unwrap_or(Err(BodyError::TooSlow))
}

async fn read_all<B: Body<Data: AsRef<[u8]>> + Unpin>(mut body: B) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| BodyError::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.as_ref().len() > BODY_BYTES {
            return Err(BodyError::TooLong);
        }
        bytes.extend_from_slice(data.as_ref());
    }
    Ok(bytes)
}
