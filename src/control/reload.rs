//! Reading the configuration again, when a signal or the control socket asks for it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::{Mutex, oneshot};

use super::enforce::enforce;
use super::stores::Stores;
use crate::config::difference::{Difference, NewRights};

/// How a reload ended. What runs is as it was, but for rights and for what TLS needs.
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
    /// A certificate, a key or what belongs to them is: a sentence.
    WrongTls(String),
    /// The configuration could not be read: a sentence.
    Unreadable(String),
    /// The server was started without one.
    NoConfiguration,
}

/// The answer of a host, some time later.
pub type Reloading = Pin<Box<dyn Future<Output = Reloaded>>>;

/// A file to read; `None` when there is none, or a sentence.
pub type OpenedFile = Pin<Box<dyn Future<Output = Result<Option<OwnedFd>, String>>>>;

/// Reads the configuration again and compares it with what runs.
pub trait Reload {
    /// A reload begins.
    fn begins(&self) {}

    /// Opens a file of TLS that the server was started with, as it is now.
    fn open(&self, path: &Path) -> OpenedFile;

    /// Reads and compares. If it says that new rights are in force, they will be.
    fn reload(&self) -> Reloading;

    /// What the reload has brought is in force.
    fn ended(&self) {}
}

/// What a reload came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReloadEnd {
    pub(super) reloaded: Reloaded,
    /// Certificates, keys or what belongs to them are others than before.
    is_tls_renewed: bool,
    /// Sessions that end because their clients would be refused now.
    ended: usize,
}

impl From<Reloaded> for ReloadEnd {
    fn from(reloaded: Reloaded) -> Self {
        Self { reloaded, is_tls_renewed: false, ended: 0 }
    }
}

/// `POST /api/v1/reload`. Its keys are part of the interface.
#[derive(Debug, Serialize)]
pub(super) struct ReloadView {
    result: &'static str,
    /// Null when nothing was to change.
    error: Option<String>,
    /// New handshakes are made with other certificates or keys.
    tls_renewed: bool,
    sessions_ended: usize,
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
            Self::WrongTls(_) => "wrong_tls",
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
            Self::Unreadable(why) | Self::WrongTls(why) => format!("nothing was changed: {why}"),
            Self::NoConfiguration => {
                "there is no configuration to read again: the server was started without --config".to_owned()
            }
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unchanged | Self::Rights(_) => StatusCode::OK,
            Self::NeedsRestart(_) | Self::NoConfiguration => StatusCode::CONFLICT,
            Self::Wrong(_) | Self::WrongTls(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether the configuration is in force as it is.
    fn is_in_force(&self) -> bool {
        matches!(self, Self::Unchanged | Self::Rights(_))
    }
}

impl ReloadEnd {
    pub(super) fn view(&self) -> ReloadView {
        let difference = match &self.reloaded {
            Reloaded::NeedsRestart(difference) => difference.clone(),
            Reloaded::Rights(new) => {
                let changed = new.iter().map(|(name, ..)| name.clone()).collect();
                Difference { changed, ..Difference::default() }
            }
            _ => Difference::default(),
        };
        ReloadView {
            result: self.reloaded.word(),
            error: (!self.reloaded.is_in_force()).then(|| self.reloaded.sentence()),
            tls_renewed: self.is_tls_renewed,
            sessions_ended: self.ended,
            difference,
        }
    }

    /// What was done, as a sentence.
    fn sentence(&self) -> String {
        let mut sentence = self.reloaded.sentence();
        if self.is_tls_renewed {
            sentence += "; clients that come see the new certificates and keys";
        }
        if self.ended > 0 {
            sentence += &format!("; {} sessions end, which would be refused now", self.ended);
        }
        sentence
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

    /// Reloads in a task of its own: the client that asked may leave before the end. `enforces`: sessions
    /// that would be refused then are ended.
    pub(super) fn begin(self: &Rc<Self>, enforces: bool) -> oneshot::Receiver<ReloadEnd> {
        let (answer, answered) = oneshot::channel();
        let reloads = Rc::clone(self);
        tokio_uring::spawn(async move {
            let _turn = reloads.turn.lock().await;
            let end = match (&reloads.reloader, &reloads.stores) {
                (Some(reloader), Some(stores)) => {
                    reloader.begins();
                    let end = carry_out(reloader.as_ref(), stores, enforces).await;
                    reloader.ended();
                    end
                }
                _ => Reloaded::NoConfiguration.into(),
            };
            let (result, tls_renewed) = (end.reloaded.word(), end.is_tls_renewed);
            match end.reloaded.is_in_force() {
                true => tracing::info!(result, tls_renewed, sessions_ended = end.ended, "{}", end.sentence()),
                false => tracing::warn!(result, "{}", end.sentence()),
            }
            // It may have left.
            let _nobody = answer.send(end);
        });
        answered
    }

    /// Reloads and waits for the end.
    pub(super) async fn run(self: &Rc<Self>, enforces: bool) -> ReloadEnd {
        let ended = "the server ended before the reload did";
        self.begin(enforces).await.unwrap_or_else(|_| Reloaded::Unreadable(ended.to_owned()).into())
    }
}

/// All of it comes into force, or nothing.
async fn carry_out(reloader: &dyn Reload, stores: &Rc<Stores>, enforces: bool) -> ReloadEnd {
    let encryption = stores.plane.encryption.as_ref();
    // First, because nothing fails behind the configuration.
    let renewed = match encryption {
        None => None,
        Some(encryption) => {
            match encryption.read_again(async |path: &Path| reloader.open(path).await).await {
                Ok(renewed) => Some((encryption, renewed)),
                Err(why) => return Reloaded::WrongTls(why).into(),
            }
        }
    };
    let reloaded = reloader.reload().await;
    if !reloaded.is_in_force() {
        return reloaded.into();
    }
    if let Reloaded::Rights(new) = &reloaded {
        stores.set_rights(new);
    }
    let is_tls_renewed = renewed.is_some_and(|(encryption, renewed)| encryption.renew(renewed));
    let ended = if enforces { enforce(&stores.plane).await } else { 0 };
    ReloadEnd { reloaded, is_tls_renewed, ended }
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
        let view = serde_json::to_value(ReloadEnd::from(reloaded).view()).unwrap();
        let expected = serde_json::json!({
            "result": "needs_restart", "error": sentence, "added": ["new"], "removed": ["a", "b"], "changed": [],
            "settings": ["memory", "slow"], "tls_renewed": false, "sessions_ended": 0,
        });
        assert_eq!(view, expected);
        let end = ReloadEnd { reloaded: Reloaded::Unchanged, is_tls_renewed: true, ended: 3 };
        let view = serde_json::to_value(end.view()).unwrap();
        let expected = serde_json::json!({
            "result": "unchanged", "error": null, "added": [], "removed": [], "changed": [], "settings": [],
            "tls_renewed": true, "sessions_ended": 3,
        });
        assert_eq!(view, expected);
        for (reloaded, status) in [
            (Reloaded::Unchanged, 200),
            (Reloaded::Wrong("x".to_owned()), 422),
            (Reloaded::WrongTls("x".to_owned()), 422),
            (Reloaded::Unreadable("x".to_owned()), 503),
            (Reloaded::NoConfiguration, 409),
        ] {
            assert_eq!(reloaded.status().as_u16(), status);
        }
    }
}
