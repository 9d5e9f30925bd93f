//! A scripted world in which the medium fails below a page that was in the page cache a moment ago.

use std::collections::BTreeSet;
use std::time::Duration;

use ringnbd::internal::ring::sim::Faults;

use super::neighbours::{LATENCY, Scene, in_all_worlds};
use super::run::Report;
use super::wire::{self, FLUSH, Form, READ};

/// The medium fails below a page that was in the page cache a moment ago and is not any more, so that a reply begins to leave from it: that
/// READ fails with EIO, and its connection goes on, with all else that was asked for beside it.
pub(crate) fn failing_medium(seed: u64) -> Result<Report, String> {
    const FAILING: u64 = 5;
    const READS: u64 = 8;
    // All replies are one packet, so that none of them has left in part when the page is found to be missing.
    let mut scene = Scene::new(seed, Faults { send_unit: 16 << 10, ..Faults::none() });
    let (reader, beside, other) = (scene.connect(0), scene.connect(0), scene.connect(1));
    // Twice: what was seen is trusted the second time.
    for page in (0..READS).chain(0..READS) {
        scene.ask(reader, READ, page * 4096, 512)?;
    }
    scene.wait(Duration::from_millis(20))?;
    scene.world.evict_all(scene.files[0]);
    scene.world.fail_medium(scene.files[0], FAILING as usize);
    let first = scene.random.below(READS);
    let pages: Vec<u64> = (0..READS).map(|read| (first + read) % READS).collect();
    let requests =
        pages.iter().flat_map(|page| wire::request(Form::Simple, 0, READ, *page, page * 4096, 512));
    let requests: Vec<u8> = requests.collect();
    assert_eq!(scene.world.client_send(reader, &requests), requests.len());
    for page in (0..READS).filter(|page| *page != FAILING) {
        scene.ask(beside, READ, page * 4096, 512)?;
    }
    let mut unanswered: BTreeSet<u64> = pages.into_iter().collect();
    while !unanswered.is_empty() {
        let head = scene.receive(reader, 16)?;
        let error = i32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        let page = u64::from_be_bytes(head[8..16].try_into().expect("eight bytes"));
        if !unanswered.remove(&page) || (error == libc::EIO) != (page == FAILING) {
            return Err(format!("page {page} was answered with {error}, and {unanswered:?} were not"));
        }
        if error == 0 && scene.receive(reader, 512)?.iter().any(|byte| *byte != 7) {
            return Err(format!("page {page} has other bytes than the file"));
        }
        scene.answered += 1;
    }
    if scene.world.most_faults_in_a_turn() == 0 {
        return Err("no reply began to leave from a page that was missing".into());
    }
    let times = [
        scene.ask(reader, READ, 4096, 512)?,
        scene.ask(reader, FLUSH, 0, 0)?,
        scene.ask(other, READ, 0, 512)?,
    ];
    scene.end("a request after a medium error", &times, 12 * LATENCY)
}

#[test]
fn a_medium_error_below_a_trusted_page_is_an_error_of_its_read_alone() {
    in_all_worlds(failing_medium);
}
