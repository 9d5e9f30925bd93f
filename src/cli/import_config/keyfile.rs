//! The form of nbd-server's configuration: a key file of GLib.
//!
//! Not by a crate for INI files: those take comments behind values, quotes or other escapes, which would be
//! other values than nbd-server reads.

/// A section with its keys, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Section {
    pub(super) name: String,
    entries: Vec<(String, String)>,
}

/// What is no key file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("line {0}: a key stands before the first [section]")]
    NoSection(usize),
    #[error("line {0}: this is neither [section] nor key = value")]
    NoKey(usize),
}

/// The reader of key files.
#[derive(Debug)]
pub(super) struct KeyFile;

impl KeyFile {
    /// Reads all sections. One that comes twice is one section, and of a key that comes twice the last value
    /// counts.
    pub(super) fn parse(text: &str) -> Result<Vec<Section>, KeyFileError> {
        let mut sections: Vec<Section> = Vec::new();
        let mut current = None;
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.trim_end().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                let at = sections.iter().position(|section| section.name == name);
                current = Some(at.unwrap_or_else(|| {
                    sections.push(Section { name: name.to_owned(), entries: Vec::new() });
                    sections.len() - 1
                }));
                continue;
            }
            let (key, value) = line.split_once('=').ok_or(KeyFileError::NoKey(number))?;
            let section: &mut Section = &mut sections[current.ok_or(KeyFileError::NoSection(number))?];
            let (key, value) = (key.trim_end(), unescaped(value.trim_start()));
            match section.entries.iter_mut().find(|(name, _)| name == key) {
                Some((_, old)) => *old = value,
                None => section.entries.push((key.to_owned(), value)),
            }
        }
        Ok(sections)
    }
}

impl Section {
    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.entries.iter().find_map(|(name, value)| (name == key).then_some(value.as_str()))
    }

    /// Whether a key is true.
    pub(super) fn is(&self, key: &str) -> bool {
        matches!(self.value(key).map(str::trim_end), Some("true" | "1"))
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }
}

/// `\s`, `\n`, `\t`, `\r` and `\\`; another escape stays as it is.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('s') => out.push(' '),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('\\') => out.push('\\'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sections_and_keys() {
        let text = "# c\n[a]\n  x = 1 # no comment\ny=\\s2\\\\\n\n[b]\n[a]\nx=3\n";
        let sections = KeyFile::parse(text).unwrap();
        assert_eq!(sections.iter().map(|section| &*section.name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((sections[0].value("x"), sections[0].value("y")), (Some("3"), Some(" 2\\")));
        assert_eq!(sections[0].keys().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(KeyFile::parse("x=1"), Err(KeyFileError::NoSection(1)));
        assert_eq!(KeyFile::parse("\n[a]\nx"), Err(KeyFileError::NoKey(3)));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in "(\\[[a-c]\\]\n|[a-c]=.{0,4}\n|.{0,6}\n){0,8}") {
            let _either = KeyFile::parse(&text);
        }
    }
}
