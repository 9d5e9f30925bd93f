//! Reading the configuration again, when a signal or the control socket asks for it.

use std::pin::Pin;
use std::rc::Rc;

use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::{Mutex, oneshot};

use crate::config::difference::Difference;

/// How a reload ended. What runs is as it was, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The configuration says what runs.
    Unchanged,
    /// The configuration is right, and says something else than what runs.
    NeedsRestart(Difference),
    /// The configuration is wrong: a sentence.
    Wrong(String),
    /// The configuration could not be read: a sentence.
    Unreadable(String),
    /// The server was started without one.
    NoConfiguration,
}

/// The answer of a host, some time later.
pub type Reloading = Pin<Box<dyn Future<Output = Reloaded>>>;

/// Reads the configuration again and compares it with what runs.
pub trait Reload {
    /// Begins with it.
    fn reload(&self) -> Reloading;
}

/// `POST /api/v1/reload`. Its keys are part of the interface.
#[derive(Debug, Serialize)]
pub(super) struct ReloadView<'a> {
    result: &'static str,
    /// Null when nothing was to change.
    error: Option<String>,
    #[serde(flatten)]
    difference: &'a Difference,
}

impl Reloaded {
    /// A word for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::NeedsRestart(_) => "needs_restart",
            Self::Wrong(_) => "wrong",
            Self::Unreadable(_) => "unreadable",
            Self::NoConfiguration => "no_configuration",
        }
    }

    /// A sentence for people.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Unchanged => "nothing to change: the configuration says what runs".to_owned(),
            Self::NeedsRestart(difference) => {
                format!("nothing was changed: restart the server to change {}", told(difference))
            }
            Self::Wrong(why) => format!("nothing was changed: the configuration is wrong: {why}"),
            Self::Unreadable(why) => format!("nothing was changed: {why}"),
            Self::NoConfiguration => {
                "there is no configuration to read again: the server was started without --config".to_owned()
            }
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unchanged => StatusCode::OK,
            Self::NeedsRestart(_) | Self::NoConfiguration => StatusCode::CONFLICT,
            Self::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn view(&self) -> ReloadView<'_> {
        const NOTHING: &Difference =
            &Difference { added: Vec::new(), removed: Vec::new(), changed: Vec::new(), settings: Vec::new() };
        ReloadView {
            result: self.word(),
            error: (*self != Self::Unchanged).then(|| self.sentence()),
            difference: if let Self::NeedsRestart(difference) = self { difference } else { NOTHING },
        }
    }
}

/// Names of exports in a sentence; the lists have all.
const NAMES: usize = 10;

/// What differs, in words.
fn told(difference: &Difference) -> String {
    let Difference { added, removed, changed, settings } = difference;
    let quoted = |names: &[String]| {
        let shown: Vec<_> = names.iter().take(NAMES).map(|name| format!("\"{name}\"")).collect();
        let more =
            if names.len() > NAMES { format!(" and {} more", names.len() - NAMES) } else { String::new() };
        shown.join(", ") + &more
    };
    let exports = [("new", added), ("removed", removed), ("changed", changed)].into_iter();
    let mut parts: Vec<_> = exports
        .filter(|(_, names)| !names.is_empty())
        .map(|(how, names)| format!("{how} exports {}", quoted(names)))
        .collect();
    if !settings.is_empty() {
        parts.push(format!("the settings {}", settings.join(", ")));
    }
    parts.join("; ")
}

/// Reloads, one at a time, for all that ask.
#[derive(Default)]
pub(super) struct Reloads {
    reloader: Option<Box<dyn Reload>>,
    turn: Mutex<()>,
}

impl Reloads {
    /// Without a reloader there is no configuration.
    pub(super) fn new(reloader: Option<Box<dyn Reload>>) -> Rc<Self> {
        Rc::new(Self { reloader, turn: Mutex::new(()) })
    }

    /// Reloads in a task of its own: the client that asked may leave before the end.
    pub(super) fn begin(self: &Rc<Self>) -> oneshot::Receiver<Reloaded> {
        let (answer, answered) = oneshot::channel();
        let reloads = Rc::clone(self);
        tokio_uring::spawn(async move {
            let _turn = reloads.turn.lock().await;
            let reloaded = match &reloads.reloader {
                Some(reloader) => reloader.reload().await,
                None => Reloaded::NoConfiguration,
            };
            match &reloaded {
                Reloaded::Unchanged => tracing::info!(result = reloaded.word(), "{}", reloaded.sentence()),
                _ => tracing::warn!(result = reloaded.word(), "{}", reloaded.sentence()),
            }
            // It may have left.
            let _nobody = answer.send(reloaded);
        });
        answered
    }

    /// Reloads and waits for the end.
    pub(super) async fn run(self: &Rc<Self>) -> Reloaded {
        let ended = "the server ended before the reload did";
        self.begin().await.unwrap_or_else(|_| Reloaded::Unreadable(ended.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_what_differs() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let difference = Difference {
            added: names(&["new"]),
            removed: names(&["a", "b"]),
            changed: Vec::new(),
            settings: vec!["memory", "slow"],
        };
        let reloaded = Reloaded::NeedsRestart(difference);
        let sentence = "nothing was changed: restart the server to change new exports \"new\"; removed exports \"a\", \"b\"; \
                        the settings memory, slow";
        assert_eq!(reloaded.sentence(), sentence);
        let view = serde_json::to_value(reloaded.view()).unwrap();
        let expected = serde_json::json!({
            "result": "needs_restart", "error": sentence, "added": ["new"], "removed": ["a", "b"], "changed": [],
            "settings": ["memory", "slow"],
        });
        assert_eq!(view, expected);
        let view = serde_json::to_value(Reloaded::Unchanged.view()).unwrap();
        let expected = serde_json::json!({
            "result": "unchanged", "error": null, "added": [], "removed": [], "changed": [], "settings": [],
        });
        assert_eq!(view, expected);
        for (reloaded, status) in [
            (Reloaded::Unchanged, 200),
            (Reloaded::Wrong("x".to_owned()), 422),
            (Reloaded::Unreadable("x".to_owned()), 503),
            (Reloaded::NoConfiguration, 409),
        ] {
            assert_eq!(reloaded.status().as_u16(), status);
        }
    }
}
