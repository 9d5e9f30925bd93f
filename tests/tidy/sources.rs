//! The sources, parsed: what each file imports, and what it does that the style has rules for.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The top-level module it belongs to.
    pub(crate) module: String,
    pub(crate) text: String,
}

pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(found.len() > 30, "the sources are where they should be");
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).unwrap();
            let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
            let module = first.trim_end_matches(".rs").to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            found.push(Source { path: relative.to_owned(), module, text });
        }
    }
}

/// What one file does that somebody might object to.
#[derive(Default)]
pub(crate) struct Findings {
    /// `crate::a::b` as `a::b`, with the line.
    pub(crate) imports: Vec<(String, usize)>,
    /// First segments of other paths.
    pub(crate) crates: Vec<(String, usize)>,
    pub(crate) unsafes: Vec<usize>,
    pub(crate) functions: Vec<(String, usize, usize)>,
    pub(crate) macros: Vec<(String, usize)>,
}

impl Findings {
    fn path(&mut self, segments: &[String], span: Span) {
        let line = span.start().line;
        match segments.first().map(String::as_str) {
            Some("crate") => self.imports.push((segments[1..].join("::"), line)),
            Some(first) => self.crates.push((first.to_owned(), line)),
            None => {}
        }
    }

    fn tree(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.tree(&path.tree, prefix);
                prefix.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, prefix)),
            syn::UseTree::Name(name) => self.leaf(prefix, &name.ident),
            syn::UseTree::Rename(name) => self.leaf(prefix, &name.ident),
            syn::UseTree::Glob(glob) => self.path(&prefix.clone(), glob.span()),
        }
    }

    fn leaf(&mut self, prefix: &[String], name: &syn::Ident) {
        let mut segments = prefix.to_vec();
        segments.push(name.to_string());
        self.path(&segments, name.span());
    }

    fn function(&mut self, name: &syn::Ident, block: &syn::Block) {
        let (start, end) = (name.span().start().line, block.span().end().line);
        self.functions.push((name.to_string(), start, end - start + 1));
    }
}

impl<'ast> Visit<'ast> for Findings {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Test modules may do as they like.
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            return;
        }
        syn::visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<String> =
                path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.path(&segments, path.span());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafes.push(block.span().start().line);
        syn::visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if item.unsafety.is_some() {
            self.unsafes.push(item.span().start().line);
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let name = item.path.segments.last().unwrap().ident.to_string();
        self.macros.push((name, item.span().start().line));
    }
}

/// The sources without files of tests.
pub(crate) fn production() -> Vec<Source> {
    let is_test = |source: &Source| source.path.iter().any(|part| part == "tests" || part == "tests.rs");
    sources().into_iter().filter(|source| !is_test(source)).collect()
}

/// Of all of them, which are read once for all tests.
pub(crate) fn findings() -> &'static [(Source, Findings)] {
    static FINDINGS: LazyLock<Vec<(Source, Findings)>> = LazyLock::new(|| {
        let looked_at = |source: Source| {
            let file = syn::parse_file(&source.text)
                .unwrap_or_else(|error| panic!("{}: {error}", source.path.display()));
            let mut findings = Findings::default();
            findings.visit_file(&file);
            (source, findings)
        };
        production().into_iter().map(looked_at).collect()
    });
    &FINDINGS
}
