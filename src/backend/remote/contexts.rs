//! The meta contexts of the remote: those that are passed on, and what a connection calls them.
//!
//! A device knows a context by its place among the names that the remote offered at the start. Each
//! connection has ids of its own for them, and may lack one: then a request for it fails there, and is never
//! answered with what another context says.

use std::sync::Arc;

use super::wire::extent;
use crate::backend::allocation::within;
use crate::backend::application::tidied;
use crate::block::{ByteRange, Extent, NumberedExtent};
use crate::nbd::client::handshake::{ContextId, FurtherContexts, Transmission};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::NBD_FLAG_BLOCK_STATUS_PAYLOAD;

pub(super) const BASE_ALLOCATION: &str = "base:allocation";
/// What a server of our kind offers to tell one opening of its export from another.
const INSTANCE: &str = "ringnbd:instance";
/// Contexts of a remote that are passed on: with those two it is as many as one of our servers lets a client
/// select.
pub(super) const MOST_PASSED: usize = 62;

/// What a BLOCK_STATUS is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum StatusOf {
    #[default]
    Allocation,
    /// The context with this place among those that are passed on.
    Passed(usize),
}

/// The contexts of one connection, by their ids there.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkContexts {
    pub(super) allocation: Option<u32>,
    /// In the order of the names that are passed on; none where the connection lacks it.
    passed: Vec<Option<u32>>,
    instance: Option<u32>,
    /// All that were selected: a status tells of each of them, unless it asks for one.
    pub(super) all: Vec<u32>,
    takes_one: bool,
}

impl LinkContexts {
    /// Those that a handshake has selected; `names` are passed on.
    pub(super) fn of(transmission: &Transmission, names: &[Arc<str>]) -> Self {
        let contexts = &transmission.contexts;
        let id = |name: &str| contexts.iter().find(|context| context.name == name).map(|context| context.id);
        Self {
            allocation: id(BASE_ALLOCATION),
            passed: names.iter().map(|name| id(name)).collect(),
            instance: id(INSTANCE),
            all: contexts.iter().map(|context| context.id).collect(),
            takes_one: transmission.dialect.reply_mode == ReplyMode::Extended
                && transmission.export.transmission_flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD != 0,
        }
    }

    #[cfg(test)]
    pub(super) fn allocation_only(id: u32) -> Self {
        Self { allocation: Some(id), all: vec![id], ..Self::default() }
    }

    /// What the connection calls that.
    pub(super) fn id(&self, of: StatusOf) -> Option<u32> {
        match of {
            StatusOf::Allocation => self.allocation,
            StatusOf::Passed(place) => self.passed.get(place).copied().flatten(),
        }
    }

    pub(super) fn instance(&self) -> Option<u32> {
        self.instance
    }

    /// Whether a request for one of them has to say so.
    pub(super) fn are_chosen_from(&self) -> bool {
        self.takes_one && self.all.len() > 1
    }
}

/// What the first handshake asks for, beside `base:allocation`.
pub(super) fn first_wish(most_passed: usize) -> FurtherContexts {
    FurtherContexts { names: vec![INSTANCE.to_owned()], most_offered: most_passed }
}

/// What a later one asks for.
pub(super) fn later_wish(passed: &[Arc<str>]) -> FurtherContexts {
    let names = passed.iter().map(|name| String::from(&**name)).chain([INSTANCE.to_owned()]);
    FurtherContexts { names: names.collect(), most_offered: 0 }
}

/// The names that are passed on, of those that the first handshake has selected.
pub(super) fn passed_names(selected: &[ContextId]) -> Vec<Arc<str>> {
    let names = selected.iter().map(|context| context.name.as_str());
    names
        .filter(|name| ![BASE_ALLOCATION, INSTANCE].contains(name))
        .take(MOST_PASSED)
        .map(Arc::from)
        .collect()
}

/// What is told of a range of which nothing is known.
pub(super) fn all_data(range: ByteRange) -> Vec<Extent> {
    vec![Extent { length: range.length(), hole: false, zero: false }]
}

/// What extents of `base:allocation`, which were asked for `asked`, tell of a part of that. All is data where
/// they tell nothing: a remote may tell of less than a block, in front of the part.
pub(super) fn allocation_within(
    told: &[NumberedExtent],
    asked: ByteRange,
    range: ByteRange,
    limit: usize,
) -> Vec<Extent> {
    let told = told.iter().map(|told| extent(told.length, told.number)).collect();
    let inside = within(&tidied(told, asked, limit), asked.offset(), range);
    match inside.is_empty() {
        true => all_data(range),
        false => inside,
    }
}

/// The part of extents that lies in `range`, merged, at most `limit` of them; they begin at `start`. None if
/// they do not tell of its first byte.
pub(super) fn numbers_within(
    told: &[NumberedExtent],
    start: u64,
    range: ByteRange,
    limit: usize,
) -> Option<Vec<NumberedExtent>> {
    let (mut from, mut found) = (start, Vec::<NumberedExtent>::new());
    for NumberedExtent { length, number } in told {
        let end = from.saturating_add(*length);
        let inside = end.min(range.end()).saturating_sub(from.max(range.offset()));
        from = end;
        let is_full = found.len() == limit;
        match found.last_mut() {
            _ if inside == 0 => {}
            Some(last) if last.number == *number => last.length += inside,
            _ if is_full => break,
            _ => found.push(NumberedExtent { length: inside, number: *number }),
        }
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &[&str]) -> Vec<ContextId> {
        (1..).zip(names).map(|(id, name)| ContextId { id, name: (*name).to_owned() }).collect()
    }

    #[test]
    fn a_connection_has_ids_of_its_own_and_may_lack_a_context() {
        let names = passed_names(&selected(&["base:allocation", "x:a", "ringnbd:instance", "x:b"]));
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["x:a", "x:b"]);
        let contexts = |ids: &[(u32, &str)]| {
            let id = |name: &str| ids.iter().find(|(_, of)| *of == name).map(|(id, _)| *id);
            let passed = names.iter().map(|name| id(name)).collect();
            LinkContexts { passed, ..LinkContexts::default() }
        };
        let (first, second) = (contexts(&[(7, "x:a"), (9, "x:b")]), contexts(&[(7, "x:b")]));
        assert_eq!((first.id(StatusOf::Passed(0)), first.id(StatusOf::Passed(1))), (Some(7), Some(9)));
        assert_eq!((second.id(StatusOf::Passed(0)), second.id(StatusOf::Passed(1))), (None, Some(7)));
        assert_eq!(second.id(StatusOf::Passed(2)), None);
    }

    #[test]
    fn no_more_contexts_are_passed_on_than_a_client_can_select() {
        let names: Vec<String> = (0..1000).map(|number| format!("x:{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let passed = passed_names(&selected(&names));
        assert_eq!(passed.len(), MOST_PASSED);
        assert_eq!(later_wish(&passed).names.len(), MOST_PASSED + 1);
    }

    #[test]
    fn what_ends_before_a_range_tells_nothing_of_it() {
        let (asked, range) = (ByteRange::new(0, 4096).unwrap(), ByteRange::new(512, 1024).unwrap());
        let hole = |length| [NumberedExtent { length, number: 3 }];
        let told = |length| allocation_within(&hole(length), asked, range, 1);
        assert_eq!(told(100), [Extent { length: 1024, hole: false, zero: false }]);
        assert_eq!(told(812), [Extent { length: 300, hole: true, zero: true }]);
        assert_eq!(told(1 << 40), [Extent { length: 1024, hole: true, zero: true }]);
    }

    #[test]
    fn extents_are_cut_to_the_range_merged_and_limited() {
        let extent = |(length, number)| NumberedExtent { length, number };
        let told: Vec<_> = [(10, 1), (10, 2), (5, 2), (100, 0)].into_iter().map(extent).collect();
        let within = |offset, length, limit| {
            let range = ByteRange::new(offset, length).unwrap();
            let found = numbers_within(&told, 100, range, limit)?;
            Some(found.iter().map(|extent| (extent.length, extent.number)).collect::<Vec<_>>())
        };
        assert_eq!(within(100, 50, 9), Some(vec![(10, 1), (15, 2), (25, 0)]));
        assert_eq!(within(105, 50, 1), Some(vec![(5, 1)]));
        assert_eq!(within(112, 3, 9), Some(vec![(3, 2)]));
        assert_eq!(within(400, 3, 9), None, "nothing is told of it");
        let endless = [extent((u64::MAX, 3))];
        let found = numbers_within(&endless, 100, ByteRange::new(512, 512).unwrap(), 1);
        assert_eq!(found, Some(vec![extent((512, 3))]));
    }
}
