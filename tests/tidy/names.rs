//! One meaning a name: a type's name is defined once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use syn::Item;

use crate::sources::production;

/// Names that stand for more than one type, and why. This list only gets shorter.
const SHARED: &[(&str, &str)] = &[
    ("Args", "the options of a sub-command, one type in each file of `cli`"),
    ("Event", "what a machine of the protocol gives, one type for each of the four; to rename: the ring's"),
];

fn type_names(items: &[Item], found: &mut Vec<String>) {
    for item in items {
        let (name, attributes) = match item {
            Item::Struct(item) => (&item.ident, &item.attrs),
            Item::Enum(item) => (&item.ident, &item.attrs),
            Item::Trait(item) => (&item.ident, &item.attrs),
            Item::Type(item) => (&item.ident, &item.attrs),
            Item::Mod(item) if !item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) => {
                if let Some((_, items)) = &item.content {
                    type_names(items, found);
                }
                continue;
            }
            _ => continue,
        };
        if !attributes.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            found.push(name.to_string());
        }
    }
}

#[test]
fn a_type_name_has_one_meaning() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in production() {
        let file = syn::parse_file(&source.text).unwrap();
        let mut names = Vec::new();
        type_names(&file.items, &mut names);
        for name in names {
            places.entry(name).or_default().insert(format!("src/{}", source.path.display()));
        }
    }
    let shared: BTreeSet<_> = SHARED.iter().map(|(name, _)| *name).collect();
    let mut complaints = String::new();
    for (name, places) in &places {
        match (places.len() > 1, shared.contains(&**name)) {
            (true, false) => writeln!(complaints, "{name} is defined in {places:?}").unwrap(),
            (false, true) => writeln!(complaints, "{name} has one meaning: take it off the list").unwrap(),
            _ => {}
        }
    }
    for (name, _) in SHARED.iter().filter(|(name, _)| !places.contains_key(*name)) {
        writeln!(complaints, "there is no {name} any more: take it off the list").unwrap();
    }
    crate::none(complaints);
}

#[test]
fn the_glossary_has_each_word_once() {
    let glossary = include_str!("../../src/doc/glossary.md");
    let rows = glossary.lines().filter_map(|line| line.strip_prefix("| "));
    let words: Vec<&str> = rows.filter_map(|row| row.split(" | ").next()).collect();
    assert!(words.len() > 40, "the glossary has words: {words:?}");
    let once: BTreeSet<_> = words.iter().collect();
    assert_eq!(once.len(), words.len(), "a word stands twice: {words:?}");
}
