//! What a registry of crates gets: what the program is built of, and none of its tests.

use std::process::Command;

use crate::peers;

#[test]
fn a_published_package_has_the_sources_alone() {
    let list = ["package", "--list", "--allow-dirty", "--offline", "-p", "ringnbd"];
    let mut command = Command::new(env!("CARGO"));
    let listed = peers::run(command.args(list).current_dir(env!("CARGO_MANIFEST_DIR"))).ok();
    let files: Vec<_> = listed.lines().collect();
    for file in ["src/lib.rs", "src/main.rs", "README.md", "LICENSE-MIT", "tests/examples/client.rs"] {
        assert!(files.contains(&file), "{file} is missing");
    }
    // What the second line has is made by cargo.
    let wanted = ["src/", "tests/examples/", "README.md", "CHANGELOG.md", "LICENSE-"];
    let made = [".cargo_vcs_info.json", "Cargo.lock", "Cargo.toml", "Cargo.toml.orig"];
    for file in &files {
        let is_wanted = made.contains(file) || wanted.iter().any(|start| file.starts_with(start));
        assert!(is_wanted, "{file} is no source: see `include` in Cargo.toml");
    }
}
