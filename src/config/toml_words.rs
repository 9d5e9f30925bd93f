//! What a TOML parser says, in words for those who write configurations and not programs.

/// The sentence for a message of the parser's, found in a line of the file.
pub(super) fn explain(message: &str, line: &str) -> String {
    let message = message.trim().replace('\n', ", ");
    let key = key_of(line);
    let mistaken = ["invalid type: ", "invalid value: "].iter().find_map(|start| message.strip_prefix(start));
    if let Some((found, expected)) = mistaken.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!(
            "{} is {}: write {}",
            key.unwrap_or("this"),
            found_in_words(found),
            expected_in_words(expected)
        );
    }
    if let Some((name, known)) =
        message.strip_prefix("unknown field ").and_then(|rest| rest.split_once(", expected "))
    {
        return format!("there is no setting {}: use {}", plain(name), plain(known));
    }
    if let Some((value, known)) =
        message.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "))
    {
        return format!("{} cannot be {}: use {}", key.unwrap_or("this"), plain(value), plain(known));
    }
    match message.strip_prefix("missing field ") {
        Some(name) => format!("{} is missing", plain(name)),
        None => message,
    }
}

/// What stands before the `=` of a line.
fn key_of(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (!key.is_empty() && key.bytes().all(is_plain)).then_some(key)
}

fn plain(text: &str) -> String {
    text.replace('`', "")
}

fn found_in_words(found: &str) -> String {
    match found.split_once(' ') {
        Some(("string", text)) => format!("the text {text}"),
        Some(("integer" | "boolean", value)) => plain(value),
        Some(("floating", value)) => plain(value.trim_start_matches("point ")),
        _ => match found {
            "sequence" => "a list".to_owned(),
            "map" => "a table".to_owned(),
            other => plain(other),
        },
    }
}

fn expected_in_words(expected: &str) -> String {
    let words = match expected {
        "usize" | "u64" | "u32" => "a whole number, such as 4",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list of tables, each begun by [[export]]",
        "struct Server" => "a table, begun by [server]",
        "struct Export" => "a table, begun by [[export]]",
        "string or table" | "string or map" => "a text in quotes",
        other => return plain(other.strip_prefix("struct ").unwrap_or(other)),
    };
    words.to_owned()
}
