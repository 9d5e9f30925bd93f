//! The guide: every command line of it is run, every configuration and unit is used, and every link of every page leads somewhere. What this
//! machine cannot run (a cluster, another hypervisor, the kernel's devices) has its form and its flags looked at.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use super::document::{Block, Document, command_lines, how, start_of, unquoted_pattern};
use super::stage::Stage;
use crate::python;

const GUIDE: &str = "src/doc/guide";

/// Programs that a page may name in a block of `sh`, which is not run.
const OF_OTHERS: [&str; 14] = [
    "apt",
    "chroot",
    "cloud-hypervisor",
    "docker",
    "echo",
    "ln",
    "mknod",
    "modprobe",
    "nbd-client",
    "perf/compare",
    "qemu-nbd",
    "src/packages/static",
    "systemctl",
    "tests/peers",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages below a directory of the repository, but for those of tools.
fn pages_below(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(directory)).expect("a directory") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name of text");
        let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        if root().join(&path).is_dir() {
            let is_made = name == "target" || name == ".git" || name.starts_with(".tmp");
            if !is_made {
                found.append(&mut pages_below(&path));
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn chapters() -> Vec<(String, Document)> {
    let pages = pages_below(GUIDE).into_iter().filter(|page| !page.ends_with("SUMMARY.md"));
    pages.map(|page| (page.clone(), Document::read_page(&page))).collect()
}

/// What the manual pages say of all commands.
fn manual(stage: &Stage) -> BTreeSet<String> {
    stage.output("mkdir manual");
    stage.output("ringnbd man manual");
    let text = stage.output("cat manual/*").replace("\\-", "-");
    text.split(|c: char| !c.is_ascii_lowercase() && c != '-').map(str::to_owned).collect()
}

fn flags_of(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
    words.map(|word| word.split('=').next().unwrap_or(word))
}

#[test]
fn every_line_is_safe_in_any_shell() {
    for (page, chapter) in chapters() {
        for line in chapter.commands() {
            let _panics_when_it_is_not_known = how(line);
            assert_eq!(unquoted_pattern(line), None, "{page}: quote it in {line}");
        }
        for Block { language, text } in &chapter.blocks {
            let is_known = ["", "ini", "json", "sh", "text", "toml", "xml", "yaml"].contains(&&**language);
            assert!(is_known, "{page}: a new kind of block: {language}\n{text}");
        }
    }
}

#[test]
fn command_lines_do_what_they_say() {
    for (page, chapter) in chapters() {
        println!("page: {page}");
        let stage = Stage::build();
        if let Some(configuration) = chapter.of("toml").next() {
            stage.write("ringnbd.toml", &configuration.text);
        }
        super::tell(&stage, &chapter);
        for block in chapter.of("toml") {
            stage.write("ringnbd.toml", &block.text);
            drop(stage.serve("ringnbd serve --config ringnbd.toml"));
        }
    }
}

/// What is only arithmetic is done again.
#[test]
fn the_table_of_large_tiers_is_what_the_model_prints() {
    let model = Command::new(root().join("perf/tier-model")).output().expect("run perf/tier-model");
    assert!(model.status.success(), "{}", String::from_utf8_lossy(&model.stderr));
    let table = String::from_utf8(model.stdout).expect("text");
    let page = std::fs::read_to_string(root().join(GUIDE).join("large-tiers.md")).expect("the page");
    assert!(page.contains(&table), "{table}");
}

#[test]
fn units_and_disks_are_used() {
    let stage = Stage::build();
    let _server = stage.serve("ringnbd serve --unix /run/ringnbd/vm1.sock vm1=vm1.img");
    let mut seen = (0, 0);
    for (_, chapter) in chapters() {
        // Its first line is a comment with its name.
        let name =
            |block: &Block| block.text.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned();
        let units: Vec<(String, &Block)> = chapter.of("ini").map(|block| (name(block), block)).collect();
        let named: Vec<_> = units.iter().map(|(name, block)| (&**name, &*block.text)).collect();
        if !named.is_empty() {
            stage.verify_units(&named);
        }
        for (name, unit) in named.iter().filter(|(name, _)| name.ends_with(".service")) {
            seen.0 += 1;
            // The socket of the first server is in use.
            let line = start_of(unit).replace("vm1.sock", &format!("{name}.sock"));
            drop(stage.serve(&line.replace("vm1=", "its=")));
        }
        for disk in chapter.of("xml") {
            seen.1 += 1;
            let value = |name| super::document::attribute(&disk.text, name);
            assert_eq!((&*value("protocol"), &*value("transport")), ("nbd", "unix"));
            stage.run(&format!("ringnbd info 'nbd+unix:///{}?socket={}'", value("name"), value("socket")));
        }
    }
    assert!(seen.0 > 1 && seen.1 > 0, "{seen:?}");
}

/// A link of QEMU's name makes of the program what QEMU's users know. `--fork` says when it serves.
#[test]
fn the_name_of_qemu_serves() {
    let stage = Stage::build();
    let page = Document::read_page(&format!("{GUIDE}/operate.md"));
    let lines: Vec<&str> = page.of("sh").flat_map(|block| command_lines(&block.text)).collect();
    assert!(lines.contains(&"ln -s /usr/bin/ringnbd /usr/local/bin/qemu-nbd"), "{lines:?}");
    stage.output("ln -s ringnbd bin/qemu-nbd");
    let serve = lines.iter().find(|line| line.starts_with("qemu-nbd ")).expect("a line that serves");
    stage.output(&format!("{serve} --fork --pid-file=pid"));
    stage.output("ringnbd info 'nbd+unix:///?socket=/run/ringnbd/vm1.sock'");
    stage.output("sh -c 'kill $(cat pid)'");
}

#[test]
fn what_is_not_run_has_a_form_and_flags() {
    let stage = Stage::build();
    let known = manual(&stage);
    let has_flags = |page: &str, line: &str| {
        for flag in flags_of(line) {
            assert!(known.contains(flag), "{page}: no command has {flag}, which stands in {line}");
        }
    };
    for (page, chapter) in chapters() {
        for block in chapter.of("json") {
            let parsed = serde_json::from_str::<serde_json::Value>(&block.text);
            assert!(parsed.is_ok(), "{page}: {parsed:?}\n{}", block.text);
        }
        for line in chapter.of("sh").flat_map(|block| command_lines(&block.text)) {
            let program = line.split(' ').next().unwrap_or_default();
            assert!(program == "ringnbd" || OF_OTHERS.contains(&program), "{page}: unknown: {line}");
            if program == "ringnbd" {
                has_flags(&page, line);
            }
            if let Some((_, arguments)) = line.split_once("ringnbd:0.1.0 ") {
                has_flags(&page, arguments);
            }
        }
        for block in chapter.of("yaml") {
            for line in arguments_in_yaml(&block.text) {
                has_flags(&page, &line);
            }
        }
        // Files of this repository that the text names, which may be programs with flags of their own; else flags.
        for span in chapter.spans() {
            let word = span.split(' ').next().unwrap_or_default();
            if ["src/", "tests/", "perf/"].iter().any(|top| word.starts_with(top)) {
                assert!(root().join(word).exists(), "{page}: there is no {word}");
            } else if word != "cargo" {
                has_flags(&page, span);
            }
        }
    }
}

/// The arguments of each container that runs ringnbd, as one line each.
fn arguments_in_yaml(text: &str) -> Vec<String> {
    const SCRIPT: &str = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.argv[1]))))";
    let Some(parsed) = python::json(SCRIPT, &[text]) else { return Vec::new() };
    let mut lines = Vec::new();
    let mut rest = vec![&parsed];
    while let Some(value) = rest.pop() {
        if let Some(object) = value.as_object() {
            let words = object.get("args").and_then(|args| args.as_array());
            let words = words.into_iter().flatten().filter_map(|word| word.as_str());
            lines.push(words.collect::<Vec<_>>().join(" "));
            rest.extend(object.values());
        }
        rest.extend(value.as_array().into_iter().flatten());
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// What the program is said to say, it says.
#[test]
fn messages_are_those_of_the_program() {
    let mut sources = String::new();
    collect_sources(&root().join("src"), &mut sources);
    let text = std::fs::read_to_string(root().join("src/doc/guide/troubleshooting.md")).expect("the page");
    let mut seen = 0;
    for table in text.split("| It says |").skip(1) {
        let table = table.split("\n\n").next().unwrap_or_default();
        for row in table.lines().filter(|row| row.starts_with("| `")) {
            let message = row.split('`').nth(1).expect("a message");
            seen += 1;
            assert!(sources.contains(message), "no error says {message:?}");
        }
    }
    assert!(seen > 10, "{seen}");
}

fn collect_sources(directory: &Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).expect("a source"));
        }
    }
}

/// The path without its `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts.into_iter().collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = String::new();
    let mut count = 0;
    for page in pages_below("") {
        let document = Document::read_page(&page);
        let directory = Path::new(&page).parent().expect("a file is in a directory");
        for link in document.links().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { PathBuf::from(&page) } else { resolved(&directory.join(path)) };
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            let exists = root().join(&target).exists();
            let has_anchor = || {
                let target = Document::read_page(target.to_str().expect("a path of text"));
                target.anchors().any(|name| name == anchor)
            };
            if !exists || !(anchor.is_empty() || is_page && has_anchor()) {
                broken += &format!("{page}: {link}\n");
            }
        }
    }
    assert!(broken.is_empty() && count > 60, "{count} links; broken:\n{broken}");
}

/// A book has the chapters that its summary names, and a link to any other page is dead in it.
#[test]
fn the_summary_names_every_chapter_and_what_they_link_to() {
    let summary = Document::read_page(&format!("{GUIDE}/SUMMARY.md"));
    let named: BTreeSet<PathBuf> =
        summary.links().map(|link| resolved(&Path::new(GUIDE).join(link))).collect();
    for (page, chapter) in chapters() {
        assert!(named.contains(Path::new(&page)), "{page} is not in SUMMARY.md");
        for link in chapter.links().filter(|link| !link.contains("://")) {
            let path = link.split('#').next().unwrap_or_default();
            let target = resolved(&Path::new(GUIDE).join(path));
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            assert!(!is_page || named.contains(&target), "{page} links to {link}, which is not in the book");
        }
    }
}
