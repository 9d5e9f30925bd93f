//! No circles inside a folder: its files can be read in an order in which each knows only those before it.
//!
//! The nodes of a folder are its files, its sub-folders, and its module file (`mod.rs`, or `folder.rs` beside it). A node imports another by
//! a path into it, or by the name of a type or function that the module file re-exports from it. A re-export is no import of the module file's
//! own, unless the module file uses that name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use syn::visit::Visit;

use crate::sources::{Source, production};

/// Files that import each other in a circle, by folder, and why they still may. This list only gets shorter.
const CIRCLES: &[(&str, &[&str], &str)] = &[];

/// The name of a folder's module file among its nodes.
const MODULE_FILE: &str = "mod.rs";

/// A file's module, and the names it refers to.
#[derive(Default)]
struct References {
    /// The module that is being visited, from the crate's root.
    module: Vec<String>,
    /// Absolute paths that the file uses.
    uses: BTreeSet<Vec<String>>,
    /// Names that it re-exports, with the absolute path of each.
    reexports: BTreeMap<String, Vec<String>>,
    /// Modules that it declares.
    children: BTreeSet<String>,
    /// First segments of its paths: names that it uses without saying from where.
    bare: BTreeSet<String>,
}

impl References {
    fn of(source: &Source) -> Self {
        let mut found = Self { module: module_of(&source.path), ..Self::default() };
        let file = syn::parse_file(&source.text).unwrap();
        for item in &file.items {
            if let syn::Item::Mod(item) = item {
                found.children.insert(item.ident.to_string());
            }
        }
        found.visit_file(&file);
        found
    }

    /// A path as it stands, from the crate's root; `None` for one into another crate.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let (mut module, mut rest) = (self.module.clone(), segments);
        match segments.first()?.as_str() {
            "crate" => (module, rest) = (Vec::new(), &segments[1..]),
            "self" => rest = &segments[1..],
            "super" => {
                while let Some(("super", after)) = rest.split_first().map(|(first, after)| (&**first, after))
                {
                    module.pop();
                    rest = after;
                }
            }
            first if self.children.contains(first) => {}
            _ => return None,
        }
        module.extend(rest.iter().cloned());
        Some(module)
    }

    fn tree(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>, is_public: bool) {
        let (name, alias) = match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.tree(&path.tree, prefix, is_public);
                prefix.pop();
                return;
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.tree(item, prefix, is_public));
                return;
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            syn::UseTree::Rename(name) => (name.ident.to_string(), name.rename.to_string()),
            syn::UseTree::Glob(_) => ("*".to_owned(), "*".to_owned()),
        };
        let mut segments = prefix.clone();
        if name != "self" {
            segments.push(name);
        }
        if let Some(path) = self.absolute(&segments) {
            if is_public {
                self.reexports.insert(alias, path);
            } else {
                self.uses.insert(path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for References {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"));
        if is_test || item.content.is_none() {
            return;
        }
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &mut Vec::new(), is_public);
    }

    /// Who may see an item is no import of it.
    fn visit_visibility(&mut self, _visibility: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.bare.extend(segments.first().cloned());
        if segments.len() > 1 {
            self.uses.extend(self.absolute(&segments));
        }
        syn::visit::visit_path(self, path);
    }
}

/// The module of a file, from its crate's root.
fn module_of(path: &Path) -> Vec<String> {
    let within = path.strip_prefix("nbd").unwrap_or(path).with_extension("");
    let mut module: Vec<String> = within.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if ["mod", "lib", "main"].contains(&&*module[module.len() - 1]) {
        module.pop();
    }
    module
}

/// What each node of a folder imports of the others.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The node of the folder `folder` that `path` leads to; `None` for one outside.
fn node(folder: &[String], path: &[String], files: &BTreeMap<Vec<String>, References>) -> Option<String> {
    let rest = path.strip_prefix(folder)?;
    let module_file = files.get(folder)?;
    let Some(first) = rest.first() else { return Some(MODULE_FILE.to_owned()) };
    if module_file.children.contains(first) {
        return Some(first.clone());
    }
    match module_file.reexports.get(first) {
        Some(origin) if origin != path => node(folder, origin, files),
        _ => Some(MODULE_FILE.to_owned()),
    }
}

fn graph(folder: &[String], files: &BTreeMap<Vec<String>, References>) -> Graph {
    let mut graph = Graph::new();
    for (module, references) in files.iter().filter(|(module, _)| module.starts_with(folder)) {
        let from = module.get(folder.len()).map_or(MODULE_FILE, String::as_str);
        let named = references.reexports.iter().filter(|(name, _)| references.bare.contains(*name));
        // Deeper module files hand on what they re-export; a folder's own only if it uses it.
        let paths = references.uses.iter().chain(named.map(|(_, path)| path));
        let targets = paths.filter_map(|path| node(folder, path, files)).filter(|to| to != from);
        graph.entry(from.to_owned()).or_default().extend(targets);
    }
    graph
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let (mut seen, mut to_do) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(node) = to_do.pop() {
        for next in graph.get(&node).into_iter().flatten() {
            if seen.insert(next.clone()) {
                to_do.push(next.clone());
            }
        }
    }
    seen
}

/// The nodes of each circle of a graph.
fn circles(graph: &Graph) -> BTreeSet<Vec<String>> {
    let reach: BTreeMap<&String, _> = graph.keys().map(|node| (node, reachable(graph, node))).collect();
    let together =
        |a: &String, b: &String| reach[a].contains(b) && reach.get(b).is_some_and(|of_b| of_b.contains(a));
    graph
        .keys()
        .map(|a| graph.keys().filter(|b| together(a, b)).cloned().collect::<Vec<_>>())
        .filter(|circle| circle.len() > 1)
        .collect()
}

/// The two crates of `src/`, each with its files by module.
fn crates() -> [(&'static str, BTreeMap<Vec<String>, References>); 2] {
    let (nbd, own): (Vec<_>, Vec<_>) = production()
        .into_iter()
        .filter(|source| !source.path.starts_with("nbd/examples") && source.path != Path::new("main.rs"))
        .partition(|source| source.module == "nbd");
    let by_module = |sources: Vec<Source>| {
        sources.iter().map(|source| (module_of(&source.path), References::of(source))).collect()
    };
    [("src", by_module(own)), ("src/nbd", by_module(nbd))]
}

/// The circles of every folder, with what makes each.
fn all_circles() -> Vec<(String, Vec<String>, String)> {
    let mut found = Vec::new();
    for (root, files) in crates() {
        let folders: BTreeSet<&[String]> =
            files.keys().filter_map(|module| module.split_last()).map(|(_, folder)| folder).collect();
        for folder in folders {
            let graph = graph(folder, &files);
            let name =
                std::iter::once(root).chain(folder.iter().map(String::as_str)).collect::<Vec<_>>().join("/");
            for circle in circles(&graph) {
                let edges = circle.iter().map(|from| {
                    let targets: Vec<_> = graph[from].iter().filter(|to| circle.contains(to)).collect();
                    format!("{from} -> {targets:?}")
                });
                let edges = edges.collect::<Vec<_>>().join("; ");
                found.push((name.clone(), circle, edges));
            }
        }
    }
    found
}

#[test]
fn files_of_a_folder_do_not_import_each_other_in_a_circle() {
    let mut complaints = String::new();
    let mut listed: BTreeSet<(String, String)> = CIRCLES
        .iter()
        .flat_map(|(folder, files, _)| files.iter().map(move |file| (folder.to_string(), file.to_string())))
        .collect();
    for (folder, circle, edges) in all_circles() {
        if !circle.iter().all(|file| listed.contains(&(folder.clone(), file.clone()))) {
            writeln!(complaints, "{folder}: {edges}").unwrap();
        }
        for file in circle {
            listed.remove(&(folder.clone(), file));
        }
    }
    for (folder, file) in listed {
        writeln!(complaints, "{folder}: {file} is in no circle: take it off the list").unwrap();
    }
    crate::none(complaints);
}

#[test]
fn circles_are_found() {
    let graph: Graph = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]
        .into_iter()
        .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])))
        .collect();
    assert_eq!(circles(&graph), BTreeSet::from([vec!["b".to_owned(), "c".to_owned()]]));
}
