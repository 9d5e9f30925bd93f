//! README.md taken apart: its blocks, their command lines, and what each needs.

/// A code block.
pub(crate) struct Block {
    /// As the fence says; `""` is a block of command lines.
    pub(crate) language: String,
    pub(crate) text: String,
}

pub(crate) struct Document {
    pub(crate) blocks: Vec<Block>,
    /// What stands outside of blocks.
    prose: String,
    /// Text between backticks, outside of blocks.
    spans: Vec<String>,
}

/// What is done with a command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// A server: started, asked for its exports, stopped.
    Serve,
    /// Run to its end, which must be a good one.
    Run,
    /// It needs a machine or a time of its own; this says where it is run.
    Elsewhere(&'static str),
}

/// The line is known by its first words.
#[track_caller]
pub(crate) fn how(line: &str) -> How {
    let starts =
        |words: &str| line.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    if starts("ringnbd serve --check") || starts("ringnbd serve --help") {
        return How::Run;
    }
    // It ends with its command.
    if starts("ringnbd serve") && line.contains(" --run ") {
        return How::Run;
    }
    if starts("ringnbd serve") || starts("cargo run --release -- serve") {
        return How::Serve;
    }
    if ["ringnbd", "qemu-system-x86_64", "qemu-img", "fio", "curl", "truncate"].into_iter().any(starts) {
        return How::Run;
    }
    // The file is one of this repository, and names the program.
    for (words, file) in [("./tests/run", "tests/run"), ("nbd-client", "tests/vm.rs")] {
        if starts(words) {
            return How::Elsewhere(file);
        }
    }
    panic!(
        "README.md has a command line of a new kind: let tests/readme/document.rs run it, or say where it is run: {line}"
    );
}

impl Document {
    pub(crate) fn read() -> Self {
        Self::read_page("README.md")
    }

    /// A page of the repository.
    pub(crate) fn read_page(page: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{page}: {error}"));
        let (mut blocks, mut prose) = (Vec::<Block>::new(), String::new());
        let (mut fenced, mut was_indented) = (false, false);
        for line in text.lines() {
            let indented = line.strip_prefix("    ").filter(|_| !fenced);
            if let Some(language) = line.strip_prefix("```") {
                fenced = !fenced;
                if fenced {
                    blocks.push(Block { language: language.to_owned(), text: String::new() });
                }
            } else if fenced || indented.is_some() {
                if indented.is_some() && !was_indented {
                    blocks.push(Block { language: String::new(), text: String::new() });
                }
                let block = blocks.last_mut().expect("a block was begun");
                block.text += indented.unwrap_or(line);
                block.text.push('\n');
            } else {
                prose += line;
                prose.push('\n');
            }
            was_indented = indented.is_some();
        }
        assert!(!fenced, "a fence is not closed");
        let spans = prose.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Self { blocks, prose, spans }
    }

    /// Where links and pictures lead, as they are written.
    pub(crate) fn links(&self) -> impl Iterator<Item = &str> {
        self.prose.split("](").skip(1).filter_map(|rest| rest.split(')').next())
    }

    /// The names under which links reach headings.
    pub(crate) fn anchors(&self) -> impl Iterator<Item = String> {
        let headings = self.prose.lines().filter(|line| line.starts_with('#'));
        headings.map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            text.chars().filter(|&c| c.is_alphanumeric() || c == '-' || c == '_').collect()
        })
    }

    pub(crate) fn spans(&self) -> impl Iterator<Item = &str> {
        self.spans.iter().map(String::as_str)
    }

    pub(crate) fn of(&self, language: &str) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.language == language)
    }

    pub(crate) fn commands(&self) -> impl Iterator<Item = &str> {
        self.of("").flat_map(|block| command_lines(&block.text))
    }

    /// Flags that stand in the text with two dashes, but for those of other programs.
    pub(crate) fn flags(&self) -> impl Iterator<Item = String> {
        const OF_OTHERS: [&str; 3] = ["--open", "--output-format", "--release"];
        let flags = self.spans.iter().flat_map(|span| {
            span.split_whitespace().filter(|word| word.starts_with("--")).map(|word| {
                let end = |c: char| !c.is_ascii_lowercase() && c != '-';
                word.split(end).next().unwrap_or(word).to_owned()
            })
        });
        flags.filter(|flag| !OF_OTHERS.contains(&&**flag))
    }
}

/// The commands of a block: lines that end with a backslash go on, comments are left out.
pub(crate) fn command_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut from = 0;
        let end = loop {
            let end = rest[from..].find('\n').map_or(rest.len(), |at| from + at);
            if !rest[..end].ends_with('\\') {
                break end;
            }
            from = end + 1;
        };
        let line = without_comment(&rest[..end]).trim();
        if !line.is_empty() {
            lines.push(line);
        }
        rest = rest.get(end + 1..).unwrap_or("");
    }
    lines
}

/// Calls `look` with each character that is not quoted and with the rest of the text from there, until it finds something.
fn unquoted<'a, T>(text: &'a str, mut look: impl FnMut(char, &'a str) -> Option<T>) -> Option<T> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None => {
                if let Some(found) = look(c, &text[at..]) {
                    return Some(found);
                }
            }
        }
    }
    None
}

fn without_comment(line: &str) -> &str {
    if line.starts_with('#') {
        return "";
    }
    let rest = unquoted(line, |c, rest| (c == ' ' && rest.trim_start().starts_with('#')).then_some(rest));
    rest.map_or(line, |rest| &line[..line.len() - rest.len()])
}

/// The first character that a shell would take for a pattern: `zsh` refuses a pattern without a match.
pub(crate) fn unquoted_pattern(line: &str) -> Option<char> {
    unquoted(line, |c, _rest| "?*[]{}~&|;<>$()`!".contains(c).then_some(c))
}

/// The command that a unit of systemd starts.
#[track_caller]
pub(crate) fn start_of(unit: &str) -> String {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    line.expect("ExecStart=/usr/bin/...").to_owned()
}

/// The value of an attribute; that of `<source>` where `name` is one of several elements.
#[track_caller]
pub(crate) fn attribute(xml: &str, name: &str) -> String {
    let after = |text: &str| text.split_once(&format!(" {name}='")).map(|(_, rest)| rest.to_owned());
    let source = xml.split_once("<source").map_or(xml, |(_, rest)| rest);
    let rest = after(source).unwrap_or_else(|| panic!("no {name}= in {xml}"));
    rest.split('\'').next().unwrap_or_default().to_owned()
}

#[test]
fn comments_and_patterns_are_seen_through_quotes() {
    assert_eq!(command_lines("a 'b # c' # d\n# e\nf \\\n  g\n"), ["a 'b # c'", "f \\\n  g"]);
    assert_eq!(unquoted_pattern("info nbd+unix:///?socket=x"), Some('?'));
    assert_eq!(unquoted_pattern("info 'nbd+unix:///?socket=x' \"[::]\""), None);
}

#[test]
#[should_panic(expected = "a command line of a new kind")]
fn an_unknown_program_is_told() {
    let _panics = how("mount /dev/nbd0 /mnt");
}
