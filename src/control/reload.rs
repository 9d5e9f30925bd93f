//! Reading the configuration again, when a signal or the control socket asks for it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::enforce::enforce;
use super::events::EventKind;
use super::live::Live;
use crate::config::Settings;
use crate::config::difference::{Difference, NewRights};
use crate::config::reload_plan::ReloadPlan;

/// How a reload ended, or, of a host, what is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Reloaded {
    /// The configuration says what runs.
    Unchanged,
    /// It says something else of rights, and of nothing else: that is in force for clients that come.
    Rights(NewRights),
    /// It says something else of exports too, and of nothing that needs a restart: this is to be done.
    Plan(Box<ReloadPlan>),
    /// That was done.
    Exports(Difference),
    /// That cannot be done, and none of it was: a sentence.
    Refused(String, Difference),
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

    /// Reads and compares. What it comes to is not in force yet.
    fn reload(&self) -> Reloading;

    /// A plan was carried out: this is in force.
    fn carried_out(&self, settings: &Settings);

    /// A reload has ended, with whatever result.
    fn ended(&self) {}

    /// An export is served no more, whatever the configuration says: the next reload may add it again.
    fn removed(&self, export: &str);
}

/// What is asked of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ReloadWish {
    /// Nothing is changed.
    pub(super) is_dry: bool,
    /// Sessions that would be refused then are ended.
    pub(super) enforces: bool,
}

/// What a reload came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReloadEnd {
    pub(super) reloaded: Reloaded,
    /// Nothing was done.
    is_dry: bool,
    /// Certificates, keys or what belongs to them are others than before.
    is_tls_renewed: bool,
    /// Sessions that end because their clients would be refused now.
    ended: usize,
}

impl From<Reloaded> for ReloadEnd {
    fn from(reloaded: Reloaded) -> Self {
        Self { reloaded, is_dry: false, is_tls_renewed: false, ended: 0 }
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
    /// Nothing was done: this is what would come of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

impl Reloaded {
    /// A word for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Rights(_) => "rights",
            Self::Plan(_) | Self::Exports(_) => "exports",
            Self::Refused(..) => "refused",
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
            Self::Plan(plan) => format!("to be changed: {}", told(&plan.difference)),
            Self::Exports(difference) => format!("changed: {}", told(difference)),
            Self::Refused(why, _) => format!("nothing was changed: {why}"),
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
            Self::Unchanged | Self::Rights(_) | Self::Plan(_) | Self::Exports(_) => StatusCode::OK,
            Self::NeedsRestart(_) | Self::Refused(..) | Self::NoConfiguration => StatusCode::CONFLICT,
            Self::Wrong(_) | Self::WrongTls(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether the configuration is in force as it is, or could be.
    fn is_in_force(&self) -> bool {
        self.status() == StatusCode::OK
    }
}

impl ReloadEnd {
    pub(super) fn view(&self) -> ReloadView {
        let difference = match &self.reloaded {
            Reloaded::NeedsRestart(difference)
            | Reloaded::Exports(difference)
            | Reloaded::Refused(_, difference) => difference.clone(),
            Reloaded::Plan(plan) => plan.difference.clone(),
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
            dry_run: self.is_dry,
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
    /// What carries it out.
    live: Option<Rc<Live>>,
}

impl Reloads {
    /// Without a reloader there is no configuration.
    pub(super) fn new(reloader: Option<Box<dyn Reload>>, live: &Rc<Live>) -> Rc<Self> {
        Rc::new(Self { reloader, live: Some(Rc::clone(live)) })
    }

    /// An export was removed at the control socket.
    pub(super) fn removed(&self, export: &str) {
        if let Some(reloader) = &self.reloader {
            reloader.removed(export);
        }
    }

    /// Reloads in a task of its own: the client that asked may leave before the end.
    pub(super) fn begin(self: &Rc<Self>, wish: ReloadWish) -> oneshot::Receiver<ReloadEnd> {
        let (answer, answered) = oneshot::channel();
        let reloads = Rc::clone(self);
        tokio_uring::spawn(async move {
            let mut end = match (&reloads.reloader, &reloads.live) {
                (Some(reloader), Some(live)) => reload(&**reloader, live, wish).await,
                _ => Reloaded::NoConfiguration.into(),
            };
            end.is_dry = wish.is_dry;
            let (result, dry_run, tls_renewed) = (end.reloaded.word(), end.is_dry, end.is_tls_renewed);
            let sessions_ended = end.ended;
            if let Some(live) = reloads.live.as_ref().filter(|_| !dry_run) {
                let told =
                    json!({ "result": result, "tls_renewed": tls_renewed, "sessions_ended": sessions_ended });
                live.plane().events.tell(EventKind::Reloaded, told);
            }
            match end.reloaded.is_in_force() {
                true => tracing::info!(result, dry_run, tls_renewed, sessions_ended, "{}", end.sentence()),
                false => tracing::warn!(result, dry_run, "{}", end.sentence()),
            }
            // It may have left.
            let _nobody = answer.send(end);
        });
        answered
    }

    /// Reloads and waits for the end.
    pub(super) async fn run(self: &Rc<Self>, wish: ReloadWish) -> ReloadEnd {
        let ended = "the server ended before the reload did";
        self.begin(wish).await.unwrap_or_else(|_| Reloaded::Unreadable(ended.to_owned()).into())
    }
}

/// All of it comes into force, or nothing, while nothing else changes exports.
async fn reload(reloader: &dyn Reload, live: &Live, wish: ReloadWish) -> ReloadEnd {
    let _turn = live.turn.lock().await;
    reloader.begins();
    let end = read_and_carry_out(reloader, live, wish).await;
    reloader.ended();
    end
}

async fn read_and_carry_out(reloader: &dyn Reload, live: &Live, wish: ReloadWish) -> ReloadEnd {
    let plane = live.plane();
    // First, because nothing fails behind the configuration.
    let renewed = match plane.encryption.as_ref() {
        None => None,
        Some(encryption) => {
            match encryption.read_again(async |path: &Path| reloader.open(path).await).await {
                Ok(renewed) => Some((encryption, renewed)),
                Err(why) => return Reloaded::WrongTls(why).into(),
            }
        }
    };
    let reloaded = match reloader.reload().await {
        Reloaded::Plan(plan) => carry_out(plan, reloader, live, wish.is_dry).await,
        other => other,
    };
    if wish.is_dry || !reloaded.is_in_force() {
        return reloaded.into();
    }
    let is_tls_renewed = renewed.is_some_and(|(encryption, renewed)| encryption.renew(renewed));
    let ended = if wish.enforces { enforce(plane).await } else { 0 };
    ReloadEnd { is_tls_renewed, ended, ..reloaded.into() }
}

async fn carry_out(plan: Box<ReloadPlan>, reloader: &dyn Reload, live: &Live, is_dry: bool) -> Reloaded {
    if let Err(refusal) = live.carry_out(&plan, is_dry).await {
        return Reloaded::Refused(refusal.to_string(), plan.difference);
    }
    if !is_dry {
        reloader.carried_out(&plan.settings);
    }
    match plan.wanted.is_empty() && plan.removed.is_empty() && plan.rates.is_empty() {
        true => Reloaded::Rights(plan.rights),
        false if is_dry => Reloaded::Plan(plan),
        false => Reloaded::Exports(plan.difference),
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
        let reloaded = Reloaded::NeedsRestart(difference.clone());
        let sentence = "nothing was changed: restart the server to change new exports \"new\"; removed exports \"a\", \"b\"; \
                        the settings memory, slow";
        assert_eq!(reloaded.sentence(), sentence);
        let view = serde_json::to_value(ReloadEnd::from(reloaded).view()).unwrap();
        let expected = serde_json::json!({
            "result": "needs_restart", "error": sentence, "added": ["new"], "removed": ["a", "b"], "changed": [],
            "settings": ["memory", "slow"], "tls_renewed": false, "sessions_ended": 0,
        });
        assert_eq!(view, expected);
        let end = ReloadEnd { is_tls_renewed: true, ended: 3, ..ReloadEnd::from(Reloaded::Unchanged) };
        let view = serde_json::to_value(end.view()).unwrap();
        let expected = serde_json::json!({
            "result": "unchanged", "error": null, "added": [], "removed": [], "changed": [], "settings": [],
            "tls_renewed": true, "sessions_ended": 3,
        });
        assert_eq!(view, expected);
        let end = ReloadEnd { is_dry: true, ..Reloaded::Exports(difference.clone()).into() };
        let view = serde_json::to_value(end.view()).unwrap();
        let parts = ["result", "error", "removed", "dry_run"].map(|key| view[key].clone());
        let expected = serde_json::json!(["exports", null, ["a", "b"], true]);
        assert_eq!(serde_json::Value::from(parts.to_vec()), expected);
        for (reloaded, status) in [
            (Reloaded::Unchanged, 200),
            (Reloaded::Refused("x".to_owned(), difference), 409),
            (Reloaded::Wrong("x".to_owned()), 422),
            (Reloaded::WrongTls("x".to_owned()), 422),
            (Reloaded::Unreadable("x".to_owned()), 503),
            (Reloaded::NoConfiguration, 409),
        ] {
            assert_eq!(reloaded.status().as_u16(), status);
        }
    }
}
