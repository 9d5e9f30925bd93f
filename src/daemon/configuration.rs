//! The configuration of a server: what its command line says, over what a file says, which can be read again.

use std::path::{Path, PathBuf};

use crate::config::{ControlAddress, Settings};

/// A configuration file, and the flags that win over it.
#[derive(Debug, Clone)]
pub(crate) struct ConfigurationSource {
    /// As it was given.
    path: PathBuf,
    flags: Settings,
    /// Without `--stdio`: then there can be a control socket.
    listens: bool,
    /// Where it is if nothing says so.
    default_control: Option<ControlAddress>,
}

impl ConfigurationSource {
    pub(crate) fn new(path: PathBuf, flags: Settings, listens: bool) -> Self {
        Self { path, flags, listens, default_control: None }
    }

    /// The same with a control socket of its own accord, unless the settings have one.
    pub(crate) fn with_default_control(self, default_control: Option<ControlAddress>) -> Self {
        Self { default_control, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn flags(&self) -> &Settings {
        &self.flags
    }

    /// Reads the file.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn read(&self) -> Result<String, String> {
        std::fs::read_to_string(&self.path)
            .map_err(|error| format!("cannot read the configuration {}: {error}", self.path.display()))
    }

    /// The settings of the file alone, its paths relative to it.
    ///
    /// # Errors
    /// A sentence with the line.
    pub(crate) fn parse(&self, text: &str) -> Result<Settings, String> {
        let file = Settings::from_toml(text).map_err(|error| format!("{}, {error}", self.path.display()))?;
        Ok(file.relative_to(self.path.parent().unwrap_or(Path::new(""))))
    }

    /// The flags over the file. A server that has a pidfile too gets a control socket beside it, unless
    /// `control` is set.
    pub(crate) fn merged(&self, file: Settings) -> Settings {
        let mut settings = self.flags.clone().or(file);
        if settings.control.is_none() && self.listens {
            let beside = settings.pidfile.as_deref().and_then(ControlAddress::beside);
            settings.control = beside.or_else(|| self.default_control.clone());
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_socket_stands_beside_the_pidfile() {
        let control = |flags: Settings, listens, file: &str| {
            let source = ConfigurationSource::new("/etc/x.toml".into(), flags, listens);
            source.merged(source.parse(file).unwrap()).control
        };
        let path = |path: &str| Some(ControlAddress::Path(path.into()));
        let pidfile = "[server]\npidfile = \"/run/x.pid\"\n";
        let none = Settings::default;
        assert_eq!(control(none(), true, pidfile), path("/run/x.control"));
        assert_eq!(control(none(), false, pidfile), None, "--stdio");
        assert_eq!(control(none(), true, ""), None);
        let flag = |text: &str| Settings { control: Some(text.parse().unwrap()), ..none() };
        assert_eq!(control(flag("off"), true, pidfile), Some(ControlAddress::Off));
        assert_eq!(control(flag("unix:/c"), true, pidfile), path("/c"));
        let own = format!("{pidfile}control = \"unix:c\"\n");
        assert_eq!(control(none(), true, &own), path("/etc/c"));
        let source = ConfigurationSource::new("/etc/x.toml".into(), none(), true);
        let source = source.with_default_control(path("/store/control.socket"));
        let control = |file: &str| source.merged(source.parse(file).unwrap()).control;
        assert_eq!((control(""), control(pidfile)), (path("/store/control.socket"), path("/run/x.control")));
    }
}
