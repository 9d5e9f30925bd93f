//! Reads the configuration of a running server again, and says what is different.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::broker::{Broker, BrokerError};
use super::configuration::ConfigurationSource;
use super::notify::Notifier;
use crate::config::difference::difference;
use crate::config::reload_plan::reload_plan;
use crate::config::{Config, Machine, Settings};
use crate::control::{OpenedFile, Reload, Reloaded, Reloading};

/// The longest configuration, in bytes: that of 100,000 exports.
const CONFIGURATION_BYTES: u64 = 32 << 20;

/// What a running server was started with.
#[derive(Debug)]
pub(crate) struct RunningConfiguration {
    /// Where its settings came from.
    pub(crate) source: ConfigurationSource,
    /// What is in force of them.
    pub(crate) settings: Mutex<Settings>,
    /// What the machine had: a confined server cannot look again.
    pub(crate) machine: Machine,
}

impl RunningConfiguration {
    fn running(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These settings are in force.
    fn set(&self, settings: &Settings) {
        self.running().clone_from(settings);
    }

    /// An export is served no more.
    fn forget(&self, export: &str) {
        let mut running = self.running();
        let had_example = running.exports.is_empty() && export.is_empty();
        let before = running.exports.len();
        running.exports.retain(|of| of.name != export || of.may_be_a_store());
        let has_removed = running.exports.len() < before || had_example;
        running.all_are_gone |= has_removed && running.exports.is_empty();
    }

    /// What a configuration changes. All of it is checked, as at the start, but for what its exports lead to.
    fn compare(&self, text: &str) -> Reloaded {
        let file = match self.source.parse(text) {
            Ok(file) => file,
            Err(why) => return Reloaded::Wrong(why),
        };
        let settings = self.source.merged(file);
        let config = match Config::resolve(settings.clone(), &self.machine) {
            Ok(config) => config,
            Err(error) => return Reloaded::Wrong(error.to_string()),
        };
        let running = self.running();
        let difference = difference(&running, &settings);
        if difference.is_empty() {
            return Reloaded::Unchanged;
        }
        match reload_plan(&running, &settings, &config) {
            Some(plan) => Reloaded::Plan(Box::new(plan)),
            None => Reloaded::NeedsRestart(difference),
        }
    }
}

/// See the module.
pub(super) struct Reloader {
    pub(super) running: Arc<RunningConfiguration>,
    pub(super) broker: Rc<Broker>,
    pub(super) notifier: Rc<Notifier>,
}

impl Reload for Reloader {
    fn begins(&self) {
        self.notifier.reloading();
    }

    fn open(&self, path: &Path) -> OpenedFile {
        let (broker, path) = (Rc::clone(&self.broker), path.to_owned());
        Box::pin(async move {
            match broker.read(&path).await {
                Ok(file) => Ok(Some(file)),
                Err(BrokerError::Missing) => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn reload(&self) -> Reloading {
        let (running, broker) = (Arc::clone(&self.running), Rc::clone(&self.broker));
        Box::pin(async move { read_and_compare(running, &broker).await })
    }

    fn carried_out(&self, settings: &Settings) {
        self.running.set(settings);
    }

    fn ended(&self) {
        self.notifier.tell("READY=1");
    }

    fn removed(&self, export: &str) {
        self.running.forget(export);
    }
}

async fn read_and_compare(running: Arc<RunningConfiguration>, broker: &Broker) -> Reloaded {
    let unreadable = |why: String| {
        Reloaded::Unreadable(format!(
            "the configuration {} was not read: {why}",
            running.source.path().display()
        ))
    };
    let file = match broker.configuration().await {
        Ok(file) => file,
        Err(error) => return unreadable(error.to_string()),
    };
    // On a thread: to read a file may take its time, and many exports take theirs.
    let (answer, answered) = oneshot::channel();
    let by = Arc::clone(&running);
    let work = move || answer.send(read(file).map(|text| by.compare(&text)));
    if let Err(error) = std::thread::Builder::new().name("reload".into()).spawn(work) {
        return unreadable(format!("there is no thread for it: {error}"));
    }
    match answered.await {
        Ok(Ok(reloaded)) => reloaded,
        Ok(Err(why)) => unreadable(why),
        Err(_panicked) => unreadable("its thread failed".to_owned()),
    }
}

fn read(file: OwnedFd) -> Result<String, String> {
    let mut text = String::new();
    let length = File::from(file).take(CONFIGURATION_BYTES + 1).read_to_string(&mut text);
    match length {
        Err(error) => Err(error.to_string()),
        Ok(length) if length as u64 > CONFIGURATION_BYTES => Err("it is longer than 32 MiB".to_owned()),
        Ok(_) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_checked_and_compared_as_a_whole() {
        let flags = Settings { memory: Some(1 << 30), ..Settings::default() };
        let source = ConfigurationSource::new("/etc/x.toml".into(), flags, true);
        let started = "[server]\npidfile = \"p\"\nmemory = \"2G\"\n[[export]]\nuri = \"mem:1G\"\n";
        let settings = source.merged(source.parse(started).unwrap());
        let machine = Machine { cpus: vec![0], parallelism: 1, memory: 8 << 30, open_files: 1 << 20 };
        let running = RunningConfiguration { source, settings: settings.into(), machine };
        let compare = |text: &str| running.compare(text);
        assert_eq!(compare(started), Reloaded::Unchanged);
        assert_eq!(compare(&started.replace("2G", "3G")), Reloaded::Unchanged, "a flag wins over it");
        let plan = |text: &str| match compare(text) {
            Reloaded::Plan(plan) => plan,
            other => panic!("{other:?}"),
        };
        let changes = plan(&started.replace("mem:1G", "mem:2G"));
        assert_eq!((&changes.difference.changed[..], changes.removed.len()), (&[String::new()][..], 0));
        let Reloaded::NeedsRestart(changes) = compare("[[export]]\nuri = \"mem:1G\"\n") else { panic!() };
        assert_eq!(changes.settings, ["pidfile", "control"], "the socket beside the pidfile goes with it");
        let rights = plan(&format!("{started}allow = \"uid=1\"\n"));
        assert_eq!((rights.difference.changed.len(), rights.removed.len()), (1, 0));
        running.set(&rights.settings);
        assert_eq!(
            compare(&format!("{started}allow = [\"uid=1\"]\n")),
            Reloaded::Unchanged,
            "it is in force"
        );
        plan(&format!("listed = \"never\"\n{started}"));
        running.forget("");
        assert_eq!(
            plan(&format!("{started}[[export]]\nname = \"b\"\nuri = \"mem:1G\"\n")).difference.added,
            ["", "b"]
        );
        running.set(&rights.settings);
        let both = started.replace("\"p\"", "\"q\"").replace("mem:1G", "mem:2G") + "allow = []\n";
        assert!(matches!(compare(&both), Reloaded::NeedsRestart(_)), "all of it or nothing");
        for (wrong, word) in [
            ("[server]\nshard = 1\n".to_owned(), "/etc/x.toml, line 2"),
            (format!("{started}[[export]]\nuri = \"mem:1G\"\n"), "two exports"),
            (format!("[server]\ncpus = \"7\"\n{}", &started[9..]), "CPU 7"),
        ] {
            let Reloaded::Wrong(why) = compare(&wrong) else { panic!("{wrong}") };
            assert!(why.contains(word), "{word:?} is missing in: {why}");
        }
    }
}
