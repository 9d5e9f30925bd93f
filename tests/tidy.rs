//! The style is a test: who imports whom, where `unsafe` may stand, how long files and functions may be, what may not be left behind.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/sources.rs"]
mod sources;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sources::{Findings, Source, findings, sources};

/// Who may import whom: the page of the crate's documentation, read as a table.
const RULES: &str = include_str!("../src/doc/imports.md");

/// A module and the modules of this crate that it may import; `everything` is all of them.
fn may_import() -> BTreeMap<&'static str, Vec<&'static str>> {
    let table = RULES.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a table");
    table
        .lines()
        .map(|line| {
            let (module, allowed) =
                line.split_once('►').unwrap_or_else(|| panic!("src/doc/imports.md: {line}"));
            (module.trim(), allowed.split_whitespace().collect())
        })
        .collect()
}

/// Outside crates that only one place may know.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("tokio_uring", &["control"]),
    // `sys` watches a descriptor for it, which is unsafe.
    ("tokio", &["control", "daemon", "server", "sys", "tier"]),
    ("io_uring", &["ring"]),
    ("libc", &["ring", "sys", "backend", "shard", "control", "client", "config", "daemon", "sandbox"]),
    ("landlock", &["sandbox"]),
    ("object_store", &["tier"]),
    ("aws_lc_rs", &["tls"]),
    ("rustls", &["tls"]),
    ("redb", &["store"]),
    ("nix", &["control", "sandbox"]),
    ("seccompiler", &["sandbox"]),
];

/// Modules that may use `unsafe`.
const MAY_BE_UNSAFE: &[&str] = &["ring", "sys"];
/// Modules that forbid it in their tests too, so that no `#[allow]` below can bring it back.
const FORBID_UNSAFE: &[&str] = &[
    "attach", "backend", "cli", "client", "config", "control", "daemon", "exec", "identity", "mutex", "nbd",
    "pause", "random", "rights", "shard", "stats", "store", "tier", "tls",
];
/// Lines of a file without its tests, and of a function.
const FILE_LINES: usize = 450;
const FUNCTION_LINES: usize = 70;
/// Columns of a comment: as many as rustfmt gives to code.
const COLUMNS: usize = 110;

fn none(complaints: String) {
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn imports_go_downhill() {
    let rules = may_import();
    let mut complaints = String::new();
    for (source, findings) in findings() {
        // The protocol is a crate of its own: what it names are its own modules.
        if source.module == "nbd" {
            continue;
        }
        let Some(allowed) = rules.get(source.module.as_str()) else { continue };
        for (path, line) in &findings.imports {
            let own = path.split("::").next() == Some(&source.module);
            let permitted = allowed.iter().any(|rule| {
                *rule == "everything"
                    || path == rule
                    || path.starts_with(&format!("{rule}::"))
                    || rule.starts_with(&format!("{path}::"))
            });
            if !own && !permitted {
                writeln!(
                    complaints,
                    "src/{}:{line}: {} may not import {path}",
                    source.path.display(),
                    source.module
                )
                .unwrap();
            }
        }
    }
    none(complaints);
}

#[test]
fn every_module_has_a_rule() {
    let (mut complaints, rules) = (String::new(), may_import());
    for source in sources() {
        if source.module != "lib" && !rules.contains_key(source.module.as_str()) {
            writeln!(complaints, "src/{}: no rule for module {}", source.path.display(), source.module)
                .unwrap();
        }
    }
    none(complaints);
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let mut complaints = String::new();
    for (source, findings) in findings() {
        for (name, line) in &findings.crates {
            for (restricted, places) in ONLY_IN {
                if name == restricted && !places.contains(&source.module.as_str()) {
                    writeln!(
                        complaints,
                        "src/{}:{line}: only {places:?} may use {name}",
                        source.path.display()
                    )
                    .unwrap();
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn the_protocol_has_no_sockets_and_no_clock() {
    let mut complaints = String::new();
    for (source, _) in findings().iter().filter(|(source, _)| source.module == "nbd") {
        for word in ["std::net", "std::io", "std::time", "std::os", "std::fs", "std::thread", "Instant"] {
            if source.text.contains(word) {
                writeln!(complaints, "src/{}: {word}", source.path.display()).unwrap();
            }
        }
    }
    none(complaints);
}

/// Builds for a machine without an operating system need what the compiler cannot tell here: a host has `std` for every crate.
#[test]
fn the_protocol_needs_no_std() {
    let root = std::fs::read_to_string("src/nbd/lib.rs").unwrap();
    assert!(root.contains("\n#![no_std]\n"));
    let mut complaints = String::new();
    let findings = findings();
    let of_the_protocol =
        |source: &&(Source, Findings)| source.0.module == "nbd" && !source.0.path.starts_with("nbd/examples");
    for (source, findings) in findings.iter().filter(of_the_protocol) {
        for (_, line) in findings.crates.iter().filter(|(name, _)| name == "std") {
            writeln!(complaints, "src/{}:{line}: std", source.path.display()).unwrap();
        }
    }
    // What it depends on is asked to do without, too.
    let manifest = std::fs::read_to_string("src/nbd/Cargo.toml").unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    for line in dependencies.expect("dependencies").lines().filter(|line| !line.is_empty()) {
        if !line.contains("default-features = false") {
            writeln!(complaints, "src/nbd/Cargo.toml: {line}").unwrap();
        }
    }
    none(complaints);
}

#[test]
fn unsafe_stands_in_two_places_only_and_says_why() {
    let mut complaints = String::new();
    for (source, findings) in findings() {
        let lines: Vec<&str> = source.text.lines().collect();
        for &line in &findings.unsafes {
            if !MAY_BE_UNSAFE.contains(&source.module.as_str()) {
                writeln!(complaints, "src/{}:{line}: unsafe", source.path.display()).unwrap();
            }
            let before = lines[line.saturating_sub(9)..line].iter();
            if !before.rev().any(|text| text.contains("SAFETY:")) {
                writeln!(complaints, "src/{}:{line}: unsafe without a SAFETY line", source.path.display())
                    .unwrap();
            }
        }
    }
    none(complaints);
}

#[test]
fn modules_without_unsafe_forbid_it() {
    let roots =
        |name: &&str| [format!("src/{name}.rs"), format!("src/{name}/mod.rs"), format!("src/{name}/lib.rs")];
    let forbids = |name: &&str| {
        let texts = roots(name).into_iter().filter_map(|path| std::fs::read_to_string(path).ok());
        texts.into_iter().any(|text| text.contains("\n#![forbid(unsafe_code)]\n"))
    };
    let missing: Vec<_> = FORBID_UNSAFE.iter().filter(|name| !forbids(name)).collect();
    assert!(missing.is_empty(), "without #![forbid(unsafe_code)]: {missing:?}");
}

#[test]
fn files_and_functions_can_be_read_in_one_go() {
    let mut complaints = String::new();
    for (source, findings) in findings() {
        let code = source.text.split("\n#[cfg(test)]\nmod tests").next().unwrap().lines().count();
        if code > FILE_LINES {
            writeln!(complaints, "src/{}: {code} lines, at most {FILE_LINES}", source.path.display())
                .unwrap();
        }
        for &(ref name, line, length) in &findings.functions {
            if length > FUNCTION_LINES {
                writeln!(
                    complaints,
                    "src/{}:{line}: {name} has {length} lines, at most {FUNCTION_LINES}",
                    source.path.display()
                )
                .unwrap();
            }
        }
    }
    none(complaints);
}

/// Tables, blocks of code and words that cannot be cut are as wide as they are.
fn is_too_wide(line: &str) -> bool {
    let text = line.trim_start();
    let Some(text) = text.strip_prefix("//") else { return false };
    let text = text.trim_start_matches(['/', '!']).trim_start();
    line.chars().count() > COLUMNS && !text.starts_with('|') && text.split(' ').all(|word| word.len() < 80)
}

#[test]
fn comments_keep_to_the_columns_of_code() {
    let mut complaints = String::new();
    for source in sources() {
        let mut in_code = false;
        for (index, line) in source.text.lines().enumerate() {
            in_code ^= line.trim_start().trim_start_matches(['/', '!']).trim_start().starts_with("```");
            if in_code || !is_too_wide(line) {
                continue;
            }
            let path = source.path.display();
            writeln!(complaints, "src/{path}:{}: more than {COLUMNS} columns", index + 1).unwrap();
        }
    }
    none(complaints);
}

#[test]
fn nothing_unfinished_is_left_behind() {
    let mut complaints = String::new();
    for (source, findings) in findings() {
        for (name, line) in &findings.macros {
            if ["todo", "dbg", "unimplemented"].contains(&name.as_str()) {
                writeln!(complaints, "src/{}:{line}: {name}!", source.path.display()).unwrap();
            }
        }
        for (index, line) in source.text.lines().enumerate() {
            if ["TODO", "FIXME", "XXX"].iter().any(|word| line.contains(word)) {
                writeln!(complaints, "src/{}:{}: {}", source.path.display(), index + 1, line.trim()).unwrap();
            }
        }
    }
    none(complaints);
}
