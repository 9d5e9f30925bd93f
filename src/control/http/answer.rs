//! The body of an answer: a text, or events without an end.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode};

use super::reply::{error, reply};
use crate::control::event_stream::EventStream;
use crate::control::events::Events;

const EVENTS: &str = "text/event-stream";

/// See the module.
pub(in crate::control) enum HttpBody {
    Text(String),
    Events(EventStream),
}

impl From<String> for HttpBody {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Body for HttpBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Text(text) => Pin::new(text).poll_frame(context),
            Self::Events(events) => events.poll_bytes(context).map(|bytes| Some(Ok(Frame::data(bytes?)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// Answers with what happens from now on, or behind the event that the client names as its last one.
pub(in crate::control) fn follow(
    events: &std::rc::Rc<Events>,
    headers: &HeaderMap,
    since: Option<&str>,
) -> Response<HttpBody> {
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let Some(stream) = EventStream::begin(events, last.or(since)) else {
        let sentence = "too many follow the events already: try again when one has gone";
        let mut response = error(StatusCode::SERVICE_UNAVAILABLE, sentence).map(HttpBody::from);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return response;
    };
    reply(StatusCode::OK, EVENTS, String::new()).map(|_| HttpBody::Events(stream))
}
