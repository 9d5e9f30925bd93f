//! Reading the configuration again, when a signal or the control socket asks for it.

use std::pin::Pin;
use std::rc::Rc;

use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::{Mutex, oneshot};

use super::stores::Stores;
use crate::config::difference::{Difference, NewRights};

/// How a reload ended. What runs is as it was, but for rights.
#[derive(Debug, Clone, PartialEq)]
pub enum Reloaded {
    /// The configuration says what runs.
    Unchanged,
    /// It says something else of rights, and of nothing else: that is in force for clients that come.
    Rights(NewRights),
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
pub(super) struct ReloadView {
    result: &'static str,
    /// Null when nothing was to change.
    error: Option<String>,
    #[serde(flatten)]
    difference: Difference,
}

impl Reloaded {
    /// A word for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Rights(_) => "rights",
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
            Self::Rights(new) => {
                let names: Vec<_> = new.iter().map(|(name, ..)| name.clone()).collect();
                format!("other rights are in force for clients that come, of the exports {}", quoted(&names))
            }
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
            Self::Unchanged | Self::Rights(_) => StatusCode::OK,
            Self::NeedsRestart(_) | Self::NoConfiguration => StatusCode::CONFLICT,
            Self::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn view(&self) -> ReloadView {
        let difference = match self {
            Self::NeedsRestart(difference) => difference.clone(),
            Self::Rights(new) => {
                let changed = new.iter().map(|(name, ..)| name.clone()).collect();
                Difference { changed, ..Difference::default() }
            }
            _ => Difference::default(),
        };
        let is_error = !matches!(self, Self::Unchanged | Self::Rights(_));
        ReloadView { result: self.word(), error: is_error.then(|| self.sentence()), difference }
    }
}

/// Names of exports in a sentence; the lists have all.
const NAMES: usize = 10;

/// Names of exports, in quotes.
fn quoted(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(NAMES).map(|name| format!("\"{name}\"")).collect();
    let more = if names.len() > NAMES { format!(" and {} more", names.len() - NAMES) } else { String::new() };
    shown.join(", ") + &more
}

/// What differs, in words.
fn told(difference: &Difference) -> String {
    let Difference { added, removed, changed, settings } = difference;
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
    /// What other rights are told.
    stores: Option<Rc<Stores>>,
    turn: Mutex<()>,
}

impl Reloads {
    /// Without a reloader there is no configuration.
    pub(super) fn new(reloader: Option<Box<dyn Reload>>, stores: &Rc<Stores>) -> Rc<Self> {
        Rc::new(Self { reloader, stores: Some(Rc::clone(stores)), turn: Mutex::new(()) })
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
            if let (Reloaded::Rights(new), Some(stores)) = (&reloaded, &reloads.stores) {
                stores.set_rights(new);
            }
            match &reloaded {
                Reloaded::Unchanged | Reloaded::Rights(_) => {
                    tracing::info!(result = reloaded.word(), "{}", reloaded.sentence())
                }
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
