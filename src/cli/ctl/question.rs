//! What is asked of a control socket, and how an answer is shown.

use serde_json::Value;

use crate::cli::Outcome;
use crate::cli::http::HttpAnswer;
use crate::nbd::printable::printable;

/// How an answer is shown.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Form {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A request to the control socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) method: &'static str,
    pub(super) target: String,
    /// Lines, each with its end.
    pub(super) headers: String,
    pub(super) body: String,
}

impl Question {
    pub(super) fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: String::new(), body: String::new() }
    }
}

/// The server did not do what was asked, and says why.
pub(super) fn refused(answer: &HttpAnswer) -> Outcome {
    let why = sentence(&answer.body).unwrap_or_else(|| format!("the server answered {}", answer.status));
    Outcome::refused(why)
}

pub(super) fn sentence(body: &Value) -> Option<String> {
    body["error"].as_str().map(printable)
}
