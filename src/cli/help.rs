//! Help as it is printed: paragraphs are as wide as the terminal, whatever lines they have in the source.

use clap::Command;

/// The same command whose paragraphs of help, and those of all below it, are one line each.
///
/// A paragraph whose first line ends in a colon is a list: its lines stay. So does what is indented from the
/// start.
pub(crate) fn with_paragraphs(command: Command) -> Command {
    let [short, long] = [command.get_after_help(), command.get_after_long_help()]
        .map(|help| help.map(|text| flowing(&text.to_string())));
    let command = match short {
        Some(text) => command.after_help(text),
        None => command,
    };
    let command = match long {
        Some(text) => command.after_long_help(text),
        None => command,
    };
    command.mut_subcommands(with_paragraphs)
}

fn flowing(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let first = paragraph.lines().next().unwrap_or_default();
        if first.ends_with(':') || first.starts_with(' ') {
            return paragraph.to_owned();
        }
        paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ")
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_flow_and_lists_stay() {
        let text =
            "One sentence\nof two lines.\n\nExamples:\n  first\n  second\n\nKeys: one,\n  two\n\n  a\n  b";
        let flown =
            "One sentence of two lines.\n\nExamples:\n  first\n  second\n\nKeys: one, two\n\n  a\n  b";
        assert_eq!(flowing(text), flown);
    }

    #[test]
    fn all_commands_have_it() {
        let inner = Command::new("inner").after_long_help("a\nb");
        let outer = with_paragraphs(Command::new("outer").after_help("c\nd").subcommand(inner));
        assert_eq!(outer.get_after_help().unwrap().to_string(), "c d");
        let inner = outer.find_subcommand("inner").unwrap();
        assert_eq!(inner.get_after_long_help().unwrap().to_string(), "a b");
    }
}
