//! How the running server is confined, and as whom it runs.

use std::fmt::{self, Display};
use std::str::FromStr;

/// How the running server is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// By all that the kernel offers; a log line says what that is.
    #[default]
    Auto,
    /// As with auto, but the server does not start if a part of it cannot be had.
    On,
    Off,
}

/// The user and the group to run as, by name or by number: `NAME[:GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    pub user: String,
    /// The group; the user's own when nothing was said.
    pub group: Option<String>,
}

/// A text that names no user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" names no user: write NAME or NAME:GROUP, such as nobody or nbd:disk")]
pub struct RunAsError(String);

impl FromStr for RunAs {
    type Err = RunAsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let is_name = |name: &str| !name.is_empty() && !name.contains([':', '\0', '/']);
        if !is_name(user) || !group.is_none_or(is_name) {
            return Err(RunAsError(text.to_owned()));
        }
        Ok(Self { user: user.to_owned(), group: group.map(str::to_owned) })
    }
}

impl Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_have_a_group() {
        for (text, user, group) in
            [("nobody", "nobody", None), ("nbd:disk", "nbd", Some("disk")), ("1:2", "1", Some("2"))]
        {
            let parsed: RunAs = text.parse().unwrap();
            assert_eq!((parsed.user.as_str(), parsed.group.as_deref()), (user, group));
            assert_eq!(parsed.to_string(), text);
        }
        for text in ["", ":", "a:", ":b", "a:b:c", "a\0", "a/b"] {
            assert!(text.parse::<RunAs>().is_err(), "{text:?}");
        }
    }
}
