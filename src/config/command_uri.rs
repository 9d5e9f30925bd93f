//! `exec:COMMAND`: disks that a program serves on its standard input, as `nbdkit -s` does.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use percent_encoding::{percent_decode_str, percent_encode};

use super::sandbox::RunAs;
use super::size::parse_duration;
use super::uri_parts::{ESCAPED, ExportUriError, boolean};

/// The longest program with its arguments, in bytes.
const LONGEST: usize = 4000;
/// The longest name of an export, in bytes.
const LONGEST_NAME: usize = 4096;

/// A program that serves one connection on its standard input and output.
///
/// Blanks separate its words, and `%XX` is a byte of a word. There is no shell. Parameters:
///
/// * `export`: which of its exports; the default one otherwise
/// * `user`: the user and the group that it runs as, `NAME[:GROUP]`; those of the server by default
/// * `reconnect`: how long requests wait while it is started again; 30 s by default. After that they fail
///   until it serves again
/// * `open-timeout`: how long the start of the server tries to start it; once by default
/// * `readonly`, `description`: as of `file:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandUri {
    /// The program and its arguments: at least one, none of them empty or with a zero byte.
    pub words: Vec<OsString>,
    /// The name of the export to ask for.
    pub export: String,
    /// Who it runs as.
    pub user: Option<RunAs>,
    /// How long requests wait for it.
    pub reconnect: Duration,
    /// How long the start of the server waits for it.
    pub open_timeout: Duration,
    /// Writes are refused.
    pub read_only: bool,
    pub description: Option<String>,
}

impl CommandUri {
    const RECONNECT: Duration = Duration::from_secs(30);

    /// What stands behind `exec:`.
    pub(super) fn parse(text: &str) -> Result<Self, ExportUriError> {
        let (command, query) = text.split_once('?').unwrap_or((text, ""));
        let words =
            command.split_ascii_whitespace().map(|word| percent_decode_str(word).collect::<Vec<u8>>());
        let words: Vec<_> = words.map(OsString::from_vec).collect();
        if words.is_empty() {
            return Err(ExportUriError::NoCommand);
        }
        if words.iter().any(|word| word.as_bytes().contains(&0)) {
            return Err(ExportUriError::NulInCommand);
        }
        if words.iter().map(|word| word.len() + 1).sum::<usize>() > LONGEST {
            return Err(ExportUriError::LongCommand);
        }
        let mut uri = Self {
            words,
            export: String::new(),
            user: None,
            reconnect: Self::RECONNECT,
            open_timeout: Duration::ZERO,
            read_only: false,
            description: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = || percent_decode_str(value).decode_utf8().ok().map(|text| text.into_owned());
            match name {
                "reconnect" => uri.reconnect = parse_duration(value)?,
                "open-timeout" => uri.open_timeout = parse_duration(value)?,
                "readonly" => uri.read_only = boolean(name, value)?,
                "export" => {
                    let export = text().filter(|name| name.len() <= LONGEST_NAME && !name.contains('\0'));
                    uri.export = export.ok_or(ExportUriError::ExportOfCommand)?;
                }
                "user" => {
                    let user = text().and_then(|user| user.parse().ok());
                    uri.user = Some(user.ok_or_else(|| ExportUriError::UserOfCommand(value.to_owned()))?);
                }
                "description" => uri.description = Some(text().ok_or(ExportUriError::DescriptionNotText)?),
                _ => return Err(ExportUriError::UnknownCommandParameter(pair.to_owned())),
            }
        }
        Ok(uri)
    }

    /// Makes a program with a relative path one that begins in a directory. A name without a slash is looked
    /// for where programs are.
    pub(super) fn make_relative_to(&mut self, directory: &Path) {
        if self.words[0].as_bytes().contains(&b'/') {
            self.words[0] = directory.join(&self.words[0]).into_os_string();
        }
    }
}

fn escaped(word: &OsStr) -> String {
    percent_encode(word.as_bytes(), ESCAPED).to_string()
}

/// In the form that is read as the same.
impl Display for CommandUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.words.iter().map(|word| escaped(word)).collect();
        write!(f, "exec:{}", words.join(" "))?;
        let mut parameters = Vec::new();
        let duration = |name: &str, value| {
            format!("{name}={}", humantime::format_duration(value).to_string().replace(' ', ""))
        };
        if !self.export.is_empty() {
            parameters.push(format!("export={}", escaped(OsStr::new(&self.export))));
        }
        if let Some(user) = &self.user {
            parameters.push(format!("user={}", escaped(OsStr::new(&user.to_string()))));
        }
        if self.reconnect != Self::RECONNECT {
            parameters.push(duration("reconnect", self.reconnect));
        }
        if self.open_timeout != Duration::ZERO {
            parameters.push(duration("open-timeout", self.open_timeout));
        }
        if self.read_only {
            parameters.push("readonly=true".to_owned());
        }
        if let Some(description) = &self.description {
            parameters.push(format!("description={}", escaped(OsStr::new(description))));
        }
        if parameters.is_empty() { Ok(()) } else { write!(f, "?{}", parameters.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_command_is_words_and_parameters() {
        let text = "nbdkit  -s --filter=log sh%20x 1G?export=a%26b&user=nbd:disk&reconnect=1m&open-timeout=2s&readonly=on&description=d";
        let uri = CommandUri::parse(text).unwrap();
        assert_eq!(uri.words, ["nbdkit", "-s", "--filter=log", "sh x", "1G"]);
        assert_eq!((&*uri.export, uri.user.clone()), ("a&b", Some("nbd:disk".parse().unwrap())));
        assert_eq!((uri.reconnect.as_secs(), uri.open_timeout.as_secs(), uri.read_only), (60, 2, true));
        assert_eq!(CommandUri::parse(uri.to_string().strip_prefix("exec:").unwrap()), Ok(uri));
        assert_eq!(CommandUri::parse("a b").unwrap().to_string(), "exec:a b");
    }

    #[test]
    fn a_program_with_a_path_is_relative_to_the_configuration() {
        for (text, after) in [("nbdkit -s", "nbdkit"), ("./a", "/etc/./a"), ("b/c", "/etc/b/c"), ("/d", "/d")]
        {
            let mut uri = CommandUri::parse(text).unwrap();
            uri.make_relative_to(Path::new("/etc"));
            assert_eq!(uri.words[0], after, "{text}");
        }
    }

    #[test]
    fn wrong_ones_are_refused() {
        let long = "a".repeat(LONGEST);
        for text in [
            "",
            " ",
            "?readonly=true",
            "a%00b",
            "a?user=:x",
            "a?user=%ff",
            "a?export=%00",
            "a?reconnect=long",
            "a?readonly=perhaps",
            "a?connections=2",
            "a?description=%ff",
            &long,
        ] {
            assert!(CommandUri::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_shown_and_read_as_itself(text in ".{0,40}", words: Vec<Vec<u8>>) {
            let words: Vec<_> = words.iter().map(|word| escaped(OsStr::from_bytes(word))).collect();
            for text in [text, words.join(" ")] {
                if let Ok(uri) = CommandUri::parse(&text) {
                    let shown = uri.to_string();
                    prop_assert_eq!(CommandUri::parse(shown.strip_prefix("exec:").unwrap()), Ok(uri));
                }
            }
        }
    }
}
