//! The oldest toolchain that is promised: all places that name one name the same. `src/packages/msrv` compiles with it.

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_place_names_the_same_toolchain() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert_eq!(oldest.split('.').count(), 2, "a minor version, as the image of a container has it: {oldest}");
    // All but `tests/fuzz`, which needs a nightly one.
    for directory in ["src/nbd/", "perf/devices/", "perf/floor/", "perf/shuru/"] {
        let manifest = read(&format!("{directory}Cargo.toml"));
        let line = format!("\nrust-version = \"{oldest}\"\n");
        assert!(manifest.contains(&line), "{directory}Cargo.toml promises another one than {oldest}");
    }
    let container = read("src/packages/container/Containerfile");
    let images: Vec<_> = container.lines().filter_map(|line| line.strip_prefix("FROM rust:")).collect();
    assert_eq!(images, [format!("{oldest}-bookworm AS build")]);
    for page in ["README.md", "src/doc/guide/first-steps.md"] {
        let page_text = read(page);
        let named: Vec<_> =
            page_text.split("Rust ").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
        let versions: Vec<_> = named.iter().filter(|word| word.starts_with("1.")).collect();
        assert_eq!(versions, [&oldest], "{page}");
    }
    assert!(read("tests/run").contains("src/packages/msrv\n"), "nobody compiles with it");
}
