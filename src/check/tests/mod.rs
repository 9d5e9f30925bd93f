//! The statements, asked of a server that is right, and of one for each bug that they have to find.

mod bugs;
mod dying;
mod haggling;
mod mutant;
mod serving;
mod trials;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Dialer, Examined, Judgement, Statement, Subject, all, examine};
use crate::client::uri::ServerAddress;
use bugs::{BUGS, Bug};
use trials::{BY_KILLS, BY_LOAD};

/// A statement that a bug makes hang has to be given up soon.
const TIMEOUT: Duration = Duration::from_secs(5);

fn asked(address: ServerAddress, timeout: Duration, only: Option<&str>) -> Vec<Examined> {
    let subject = Subject { dialer: Dialer::Address(address), export: String::new(), timeout, danger: true };
    let is_wanted = |statement: &Statement| only.is_none_or(|id| statement.id == id);
    let statements = all().into_iter().filter(is_wanted).collect();
    examine(&subject, statements, |_| {}).expect("the mutant answers")
}

fn told(examined: &Examined) -> String {
    format!("{}: {:?} {}", examined.statement.id, examined.standing, examined.reason)
}

#[test]
fn a_server_without_a_bug_meets_all() {
    for is_read_only in [false, true] {
        let examined = asked(mutant::start(None, is_read_only), Duration::from_secs(60), None);
        let wrong: Vec<String> =
            examined.iter().filter(|one| one.standing == Judgement::NotMet).map(told).collect();
        assert_eq!(wrong, Vec::<String>::new());
        let skipped: Vec<&str> = examined
            .iter()
            .filter(|one| one.standing != Judgement::Met)
            .map(|one| one.statement.id)
            .collect();
        if !is_read_only {
            assert_eq!(skipped, ["T6"], "all but the one about read-only exports can be asked");
        }
    }
}

/// Why `id` does not find `bug`, if so.
fn missed(bug: Bug, id: &str) -> Option<String> {
    let examined = asked(mutant::start(Some(bug), bug == Bug::ReadOnlyIsIgnored), TIMEOUT, Some(id));
    let told = format!("{bug:?}, {}", told(&examined[0]));
    println!("{told}");
    let is_found = examined[0].standing == Judgement::NotMet && !examined[0].transfers.is_empty();
    (!is_found).then_some(told)
}

#[test]
fn each_bug_is_found_by_its_statement() {
    let next = AtomicUsize::new(0);
    let pairs: Vec<(Bug, &str)> =
        BUGS.iter().flat_map(|(bug, ids)| ids.iter().map(|id| (*bug, *id))).collect();
    let work = || {
        let mine = std::iter::from_fn(|| pairs.get(next.fetch_add(1, Ordering::Relaxed)));
        mine.filter_map(|(bug, id)| missed(*bug, id)).collect::<Vec<_>>()
    };
    // Some of them are found by a server that hangs.
    let missed: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(missed, Vec::<String>::new());
}

/// A statement that no planted bug breaks may be one that nothing can break.
#[test]
fn each_statement_has_a_bug_that_it_finds() {
    let found: BTreeSet<&str> = BUGS.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    let statements: BTreeSet<&str> = all().iter().map(|statement| statement.id).collect();
    assert_eq!(found, statements);
}

/// `FlushIsLate` as *flush is late*.
fn in_words(bug: Bug) -> String {
    let name = format!("{bug:?}");
    let mut words = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// The table of the page: each bug, and all that finds it.
fn table_of_bugs() -> String {
    let statements = all();
    let title = |id: &str| statements.iter().find(|one| one.id == id).map_or("", |one| one.title);
    let mut table = String::new();
    for (bug, ids) in BUGS {
        let mut found: Vec<String> = ids.iter().map(|id| format!("{id} {}", title(id))).collect();
        found.extend(BY_LOAD.iter().any(|(of, _)| of == bug).then(|| "`--load`".to_owned()));
        let kills = BY_KILLS.iter().filter(|(of, _)| of == bug);
        found.extend(kills.map(|(_, promise)| format!("`--durability`, the promise of {promise}")));
        assert!(!found.is_empty(), "nothing finds {bug:?}");
        table += &format!("| {} | {} |\n", in_words(*bug), found.join("; "));
    }
    table
}

#[test]
fn the_page_has_each_bug_and_what_finds_it() {
    let (page, table) = (include_str!("../../doc/planted.md"), table_of_bugs());
    let on_page: String = page.split_inclusive('\n').filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(on_page == table, "src/doc/planted.md has to have this table:\n{table}");
    let count = format!("{} bugs", BUGS.len());
    assert!(page.contains(&count), "the page says how many: {count}");
}

/// The headings of doc/proto.md, and of its branch for extended headers.
#[test]
fn headings_are_those_of_the_document() {
    const HEADINGS: &[&str] = &[
        "Conventions",
        "Newstyle negotiation",
        "Fixed newstyle negotiation",
        "Transmission",
        "Request message",
        "Simple reply message",
        "Structured reply chunk message",
        "Extended request message",
        "Extended reply chunk message",
        "Terminating the transmission phase",
        "NOTLS mode",
        "Size constraints",
        "Metadata querying",
        "`base:allocation` metadata context",
        "Transmission flags",
        "Option types",
        "Command flags",
        "Structured reply types",
        "Request types",
        "Error values",
        "Baseline",
    ];
    for statement in all() {
        assert!(HEADINGS.contains(&statement.heading), "{}: {}", statement.id, statement.heading);
    }
}

#[test]
fn a_server_that_says_nothing_is_a_finding_and_no_hang() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("ringnbd-mute-{}", std::process::id()).into_bytes();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _accepts_nobody = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let subject = Subject {
        dialer: Dialer::Address(ServerAddress::Abstract(name)),
        export: String::new(),
        timeout: Duration::from_millis(200),
        danger: false,
    };
    let Err(error) = examine(&subject, all(), |_| {}) else { panic!("nothing was said") };
    assert!(error.contains("hangs"), "{error}");
}
