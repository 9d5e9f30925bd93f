//! Every command line of README.md is run, every other block of it is used, and each flag that it names exists.
//!
//! A line that begins with `ringnbd` needs nothing here: it is run as it stands, with images where it names some, and a server where it
//! is a client. Another program has to be added to [`document::how`].

mod document;
mod guide;
mod stage;

use document::{Block, Document, How, how};
use stage::Stage;

#[test]
fn every_line_is_known_and_safe_in_any_shell() {
    let document = Document::read();
    let lines: Vec<_> = document.commands().collect();
    assert!(lines.len() > 15, "the README has command lines: {lines:?}");
    for line in lines {
        let _panics_when_it_is_not_known = how(line);
        assert_eq!(
            document::unquoted_pattern(line),
            None,
            "some shells refuse or expand it: quote it in {line}"
        );
    }
    for Block { language, text, .. } in &document.blocks {
        assert!(
            ["", "toml", "xml", "ini", "rust"].contains(&&**language),
            "a new kind of block: {language}\n{text}"
        );
    }
}

#[test]
fn command_lines_do_what_they_say() {
    let stage = Stage::build();
    let document = Document::read();
    stage.write("ringnbd.toml", &document.of("toml").next().expect("a configuration").text);
    tell(&stage, &document);
}

/// Runs what a page tells.
fn tell(stage: &Stage, document: &Document) {
    for block in document.of("") {
        // A block is a story: a server serves the lines below it, until the next one. Without, those of `serve_clients` do.
        let lines = document::command_lines(&block.text);
        let tells_of_servers = lines.iter().any(|line| how(line) == How::Serve);
        let mut servers = if tells_of_servers { Vec::new() } else { stage.serve_clients() };
        for line in &lines {
            match how(line) {
                How::Serve => {
                    servers.clear();
                    servers.push(stage.serve(line));
                }
                How::Run => stage.run(line),
                How::Elsewhere(where_it_is_run) => stage.exists_elsewhere(line, where_it_is_run),
            }
        }
    }
}

/// CI builds and runs the examples, so what stands there works.
#[test]
fn code_stands_in_an_example() {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    let example = dense(include_str!("../examples/embedded_server.rs"));
    let document = Document::read();
    let mut blocks = document.of("rust").peekable();
    assert!(blocks.peek().is_some());
    for Block { text, .. } in blocks {
        assert!(example.contains(&dense(text)), "not in tests/examples/embedded_server.rs:\n{text}");
    }
}

#[test]
fn configurations_are_served_as_they_stand() {
    let stage = Stage::build();
    for block in Document::read().of("toml") {
        stage.write("ringnbd.toml", &block.text);
        drop(stage.serve("ringnbd serve --config ringnbd.toml"));
    }
}

/// The unit, libvirt's disk and the clients between them speak of one socket and one export.
#[test]
fn the_recipes_fit_together() {
    let stage = Stage::build();
    let document = Document::read();
    let units: Vec<_> = document.of("ini").collect();
    let disks: Vec<_> = document.of("xml").collect();
    assert!(!units.is_empty() && !disks.is_empty());
    units.iter().for_each(|unit| stage.verify_units(&[("ringnbd.service", &*unit.text)]));
    let _server = stage.serve(&document::start_of(&units[0].text));
    for disk in disks {
        let value = |name| document::attribute(&disk.text, name);
        assert_eq!(value("protocol"), "nbd");
        assert_eq!(value("transport"), "unix");
        stage.run(&format!("ringnbd info 'nbd+unix:///{}?socket={}'", value("name"), value("socket")));
    }
}

#[test]
fn every_flag_exists() {
    let stage = Stage::build();
    let commands = [
        "serve",
        "ctl",
        "info",
        "list",
        "map",
        "bench",
        "report",
        "store gc",
        "store check",
        "attach",
        "devices",
        "check",
        "copy",
        "ctl reload",
        "ctl export rm",
        "ctl limit",
        "ctl resize",
        "ctl events",
        "store tier",
        "image checkpoint",
        "image push",
        "image pull",
        "image trace",
        "image own",
        "top",
        "upgrade",
        "tls init",
        "image create",
        "image export",
        "image import",
        "image rm",
        "image rebase",
        "image resize",
    ];
    let help: String =
        commands.iter().map(|command| stage.output(&format!("ringnbd {command} --help"))).collect();
    let known: Vec<_> = help.split(|c: char| !c.is_ascii_lowercase() && c != '-').collect();
    for page in ["README.md", "src/doc/reference.md"] {
        let flags: Vec<_> = Document::read_page(page).flags().collect();
        assert!(flags.len() > 5, "{page} speaks of flags: {flags:?}");
        for flag in flags {
            assert!(known.contains(&&*flag), "{flag} is in {page} but in no --help");
        }
    }
}
