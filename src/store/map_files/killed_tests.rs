//! What a server that was killed has left, and who takes it over.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use uuid::Uuid;

use super::*;
use crate::store::map::{LayerIdentity, Lookup};
use crate::store::map_medium::{load_node, open_map};
use crate::store::pending::attach_new_log;
use crate::store::pending::find_log;

const SIZE: u64 = 1 << 30;

struct Layer {
    directory: tempfile::TempDir,
    data: File,
    map: File,
    identity: LayerIdentity,
}

impl Layer {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            File::options().create_new(true).read(true).write(true).open(path).unwrap()
        };
        let (data, map) = (file("data"), file("map"));
        let [store, image, layer] = [1, 2, 3].map(Uuid::from_u128);
        let name = "vm".to_owned();
        let identity =
            LayerIdentity { store, image, layer, parent: None, name, created_s: 0, size: SIZE, base: None };
        create_map(&map, &identity).unwrap();
        Self { directory, data, map, identity }
    }

    /// A server that was killed: blocks have changed that no record has. `None` where there is no memory
    /// that outlives a process.
    fn is_killed(&self, blocks: &[(u64, BlockState)]) -> Option<()> {
        let files = LayerPair { data: &self.data, map: &self.map };
        let mut open = OpenMap { map: open_head_map(&files).unwrap(), files };
        attach_new_log(&mut open.map, &self.map).ok()?;
        blocks.iter().for_each(|(block, state)| open.set(*block, 1, *state).unwrap());
        Some(())
    }

    fn log(&self) -> Option<PathBuf> {
        find_log(&self.map, &self.identity).unwrap().map(|found| found.path)
    }

    fn states(&self, blocks: &[u64]) -> Vec<BlockState> {
        let mut map = open_map(&self.data, &self.map).unwrap();
        let files = LayerPair { data: &self.data, map: &self.map };
        let state = |block: &u64| loop {
            match map.lookup(*block, 1) {
                Lookup::Run(run) => return run.state,
                Lookup::Load(node) => load_node(&mut map, &files, node).unwrap(),
            }
        };
        blocks.iter().map(state).collect()
    }
}

#[test]
fn commands_take_over_what_a_killed_server_has_left() {
    use BlockState::{Absent, Data, Zero};
    let layer = Layer::new();
    for (round, command) in ["seal", "resize"].into_iter().enumerate() {
        let first = round as u64 * 20_000;
        let blocks = [(first, Data), (first + 9000, Data), (first + 9000, Zero), (first + 1, Data)];
        if layer.is_killed(&blocks).is_none() {
            return;
        }
        let places = [0, 1, 2, 9000].map(|block| first + block);
        assert_eq!(layer.states(&places), [Absent; 4], "no record has them");
        let done = match command {
            "seal" => MapFiles.seal(&layer.data, &layer.map, SIZE),
            _ => MapFiles.resize(&layer.data, &layer.map, SIZE),
        };
        done.unwrap();
        assert_eq!(layer.states(&places), [Data, Data, Absent, Zero], "{command}");
        assert_eq!(layer.log(), None);
    }
}

#[test]
fn a_damaged_log_is_a_sentence_and_one_of_another_file_is_none() {
    let layer = Layer::new();
    let Some(()) = layer.is_killed(&[(5, BlockState::Data)]) else { return };
    let path = layer.log().unwrap();
    let log = File::options().write(true).open(&path).unwrap();
    log.write_all_at(&u64::MAX.to_ne_bytes(), 16 * 8).unwrap();
    let sentence = MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap_err();
    assert!(sentence.contains(&path.display().to_string()) && sentence.contains("remove"), "{sentence}");
    // Others may write it: it is not looked at.
    log.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap();
    std::fs::remove_file(&path).unwrap();
    // A copy of a layer has the uuids of the first one.
    layer.is_killed(&[(6, BlockState::Data)]).unwrap();
    let copy = layer.directory.path().join("copy");
    std::fs::copy(layer.directory.path().join("map"), &copy).unwrap();
    let map = File::options().read(true).write(true).open(copy).unwrap();
    assert!(find_log(&map, &layer.identity).unwrap().is_none());
    // An older state of it, in its place.
    create_map(&layer.map, &layer.identity).unwrap();
    layer.is_killed(&[(6, BlockState::Data)]).unwrap();
    MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap();
    layer.is_killed(&[(7, BlockState::Data)]).unwrap();
    create_map(&layer.map, &layer.identity).unwrap();
    MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap();
    assert_eq!(layer.states(&[6, 7]), [BlockState::Absent; 2]);
    assert_eq!(layer.log(), None);
}
