//! Load and kills, on the mutant.

use std::time::Duration;

use super::super::{
    Dialer, DurabilityVerdict, DurabilityWish, LoadVerdict, LoadWish, Subject, endure, torture,
};
use super::bugs::Bug;
use super::dying::Mortal;
use super::mutant;

fn subject(dialer: Dialer) -> Subject {
    Subject { dialer, export: String::new(), timeout: Duration::from_secs(20), danger: true }
}

fn loaded(bug: Option<Bug>, connections: usize) -> LoadVerdict {
    let subject = subject(Dialer::Address(mutant::start(bug, false)));
    let wish = LoadWish { duration: Duration::from_secs(2), connections, depth: 16, seed: 11 };
    torture(&subject, &wish).expect("the mutant answers")
}

#[test]
fn a_right_server_stands_the_load() {
    let verdict = loaded(None, 3);
    assert_eq!(verdict.broken.map(|(what, _)| what), None);
    let names: Vec<&str> = verdict.commands.iter().map(|(name, ..)| *name).collect();
    for name in ["read", "write", "flush", "trim", "cache", "write_zeroes", "block_status", "unknown"] {
        assert!(names.contains(&name), "{name} is asked: {names:?}");
    }
    assert!(verdict.is_shared && verdict.compared_bytes > 1 << 20, "{}", verdict.compared_bytes);
}

/// Bugs that the load finds, each with a part of what it says.
pub(super) const BY_LOAD: &[(Bug, &str)] = &[
    (Bug::DataOfAnother, "READ"),
    (Bug::WriteForgotten, "has to give"),
    (Bug::ZeroesForgotten, "has to give zeroes"),
    (Bug::ZeroFlagLies, "is said to read as zeroes"),
    (Bug::PrivateCopies, "has to give"),
    (Bug::CookieCut, "which no request has"),
    (Bug::HoldsOneBack, "hangs"),
    (Bug::TiresOfRequests, "closed"),
    (Bug::RawErrno, "no error value"),
    (Bug::UnknownCommandSucceeds, "has to fail"),
];

/// Bugs that kills find, each with the promise that it breaks.
pub(super) const BY_KILLS: &[(Bug, &str)] = &[
    (Bug::FlushIsLate, "flush"),
    (Bug::FuaForgotten, "fua"),
    (Bug::FlushOfOwnClient, "multi_conn"),
    (Bug::OlderCookieWins, "flush"),
    (Bug::SyncTears, "flush"),
];

#[test]
fn the_load_finds_bugs() {
    for (bug, part) in BY_LOAD.iter().copied() {
        let subject = Subject {
            timeout: Duration::from_secs(8),
            ..subject(Dialer::Address(mutant::start(Some(bug), false)))
        };
        let wish = LoadWish { duration: Duration::from_secs(20), connections: 2, depth: 16, seed: 5 };
        let verdict = torture(&subject, &wish);
        let found = match verdict {
            Ok(verdict) => verdict.broken.map(|(what, _)| what),
            Err(why) => Some(why),
        };
        println!("{bug:?}: {found:?}");
        assert!(found.as_ref().is_some_and(|what| what.contains(part)), "{bug:?}: {found:?}");
    }
}

fn killed(bug: Option<Bug>) -> DurabilityVerdict {
    let mut server = Mortal(mutant::world(bug, false));
    let subject = subject(Dialer::Command(Vec::new()));
    endure(&mut server, &subject, &DurabilityWish { rounds: 3, seed: 3 }).expect("the mutant lives again")
}

#[test]
fn a_right_server_keeps_its_promises() {
    let verdict = killed(None);
    assert_eq!(verdict.broken.map(|lost| lost.what), None);
    assert_eq!((verdict.kills, verdict.tried.len()), (9, 3));
    assert!(verdict.tried.iter().all(|(_, tried, skipped)| *tried == 3 && skipped.is_none()));
}

#[test]
fn each_broken_promise_is_named() {
    for (bug, means) in BY_KILLS.iter().copied() {
        let part = "which was there before";
        let lost = killed(Some(bug)).broken.map(|lost| (lost.means, lost.what, lost.transfers.len()));
        println!("{bug:?}: {lost:?}");
        let is_found = lost
            .as_ref()
            .is_some_and(|(found, what, transfers)| *found == means && what.contains(part) && *transfers > 0);
        assert!(is_found, "{bug:?}: {lost:?}");
    }
}
