//! Text of the other side, made safe to show.

use alloc::string::String;

/// `text` with control characters escaped, so that a name or message from a peer cannot steer a terminal or
/// forge a log line.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        // Bidirectional controls are not "control" to Unicode, but they reorder what a person reads.
        if character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// [`printable`] for bytes that should be UTF-8 and may not be.
pub fn printable_bytes(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_cannot_reach_the_terminal() {
        assert_eq!(printable("plain äöü 日本"), "plain äöü 日本");
        assert_eq!(printable("a\x1b[31m\nb\u{9b}"), "a\\u{1b}[31m\\nb\\u{9b}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(printable_bytes(b"\xff\0"), "\u{fffd}\\u{0}");
    }
}
