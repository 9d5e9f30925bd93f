//! The order of names in tables for people. What is for scripts keeps the order in which it came.

use std::cmp::Ordering;

/// The order in which people count: numbers within names by their value.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (mut left, mut right) = (a, b);
    loop {
        let (of_left, of_right) = (digits(left), digits(right));
        if of_left > 0 && of_right > 0 {
            let (number, other) = (&left[..of_left], &right[..of_right]);
            let (value, against) = (number.trim_start_matches('0'), other.trim_start_matches('0'));
            let order = value.len().cmp(&against.len()).then_with(|| value.cmp(against));
            if order.is_ne() {
                return order;
            }
            (left, right) = (&left[of_left..], &right[of_right..]);
            continue;
        }
        match (left.chars().next(), right.chars().next()) {
            // The same numbers, perhaps with other zeroes before them.
            (None, None) => return a.cmp(b),
            (one, two) if one != two => return one.cmp(&two),
            (one, _) => {
                let length = one.map_or(0, char::len_utf8);
                (left, right) = (&left[length..], &right[length..]);
            }
        }
    }
}

/// Things by their names, where those are equal in the order in which they came.
pub(super) fn in_natural_order<'a, T>(all: &'a [T], name: impl Fn(&'a T) -> &'a str) -> Vec<&'a T> {
    let mut ordered: Vec<_> = all.iter().collect();
    ordered.sort_by(|one, other| natural(name(one), name(other)));
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_in_which_people_count() {
        let mut names = [
            "vm10",
            "vm2",
            "",
            "vm2b",
            "vm02",
            "vm",
            "b",
            "vm2-10",
            "vm2-9",
            "é1",
            "vm99999999999999999999999",
        ];
        names.sort_by(|a, b| natural(a, b));
        let wanted = [
            "",
            "b",
            "vm",
            "vm02",
            "vm2",
            "vm2-9",
            "vm2-10",
            "vm2b",
            "vm10",
            "vm99999999999999999999999",
            "é1",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn what_has_the_same_name_stays_as_it_came() {
        let all = [("vm10", 1), ("vm2", 2), ("vm10", 3), ("vm2", 4)];
        let ordered = in_natural_order(&all, |(name, _)| name);
        assert_eq!(ordered, [&("vm2", 2), &("vm2", 4), &("vm10", 1), &("vm10", 3)]);
    }
}
