//! A list of rules, of which one is enough.

use std::collections::{BTreeSet, HashMap};

use super::address::AddressRange;
use super::asker::Asker;
use super::rule::Rule;
use super::term::Term;

/// Rules, by what they ask for. Without any it matches nobody.
///
/// Each rule stands under its rarest condition, so a client is compared with few rules, however many there
/// are.
#[derive(Debug, Clone, Default)]
pub struct RuleList {
    rules: Vec<Rule>,
    by_term: HashMap<Term, Vec<u32>>,
    /// The lengths of ranges of addresses under which rules stand.
    lengths_v4: BTreeSet<u8>,
    lengths_v6: BTreeSet<u8>,
}

impl RuleList {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        let mut counts: HashMap<&Term, usize> = HashMap::new();
        for term in rules.iter().flat_map(|rule| &rule.0) {
            *counts.entry(term).or_default() += 1;
        }
        let mut list = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let rarest = rule.0.iter().min_by_key(|term| counts[*term]);
            let rarest = rarest.expect("a rule has a condition").clone();
            if let Term::Address(range) = &rarest {
                let lengths = if range.is_v4() { &mut list.lengths_v4 } else { &mut list.lengths_v6 };
                lengths.insert(range.length());
            }
            list.by_term.entry(rarest).or_default().push(index as u32);
        }
        list.rules = rules;
        list
    }

    /// Whether a rule matches.
    pub(super) fn matches(&self, asker: &Asker) -> bool {
        self.candidates(asker).any(|rule| rule.matches(asker))
    }

    /// The rules whose rarest condition holds.
    fn candidates<'a>(&'a self, asker: &'a Asker) -> impl Iterator<Item = &'a Rule> {
        let by_address = asker.address().into_iter().flat_map(|address| {
            let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
            let ranges = lengths.iter().map(move |length| AddressRange::around(address, *length));
            ranges.filter_map(|range| self.by_term.get(&Term::Address(range)))
        });
        let by_name = asker.terms().filter_map(|term| self.by_term.get(term));
        by_name.chain(by_address).flatten().map(|index| &self.rules[*index as usize])
    }
}

/// The rest follows from the rules.
impl PartialEq for RuleList {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn term(text: &str) -> Term {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn ten_thousand_rules_are_a_few_comparisons() {
        // All ask for the same network and for one of ten users: only the name is rare.
        let rules = (0..10_000).map(|index| {
            let network = if index % 2 == 0 { "10.0.0.0/8" } else { "10.1.0.0/16" };
            rule(&format!("ip={network} & cert.cn=vm{index}"))
        });
        let list = RuleList::new(rules.collect());
        let asker = |name: &str| {
            let address = Some("10.1.2.3".parse().unwrap());
            Asker::made_up([term(&format!("cert.cn={name}"))].into(), address)
        };
        let (known, begun) = (asker("vm9999"), std::time::Instant::now());
        let matched = (0..1000).filter(|_| list.matches(&known)).count();
        eprintln!("{:?} a decision", begun.elapsed() / matched as u32);
        for (name, count) in [("vm7", 1), ("vm9999", 1), ("other", 0)] {
            assert_eq!(list.candidates(&asker(name)).count(), count, "{name}");
            assert_eq!(list.matches(&asker(name)), count == 1, "{name}");
        }
        let ranges = (0..10_000).map(|index| rule(&format!("ip=10.{}.{}.0/24", index / 256, index % 256)));
        let list = RuleList::new(ranges.collect());
        let of = |address: &str| Asker::made_up(BTreeSet::new(), Some(address.parse().unwrap()));
        assert_eq!(list.candidates(&of("10.3.4.5")).count(), 1);
        assert!(list.matches(&of("10.3.4.5")) && !list.matches(&of("11.3.4.5")) && !list.matches(&of("::1")));
    }

    /// A small world, in which much matches.
    fn any_term() -> impl Strategy<Value = Term> {
        let texts = [
            "uid=1",
            "uid=2",
            "gid=1",
            "psk=a",
            "psk=b",
            "cert.cn=a",
            "cert.cn=b",
            "cert.san=dns:a",
            "cert.san=dns:b",
            "cert.san=ip:10.0.0.1",
            "cert.dn=CN=a",
            "cert.dn=CN=a,O=b",
            "ip=10.0.0.0/8",
            "ip=10.128.0.0/9",
            "ip=0.0.0.0/0",
            "ip=10.0.0.1",
            "ip=::/0",
            "ip=fd00::/8",
            "ip=::1",
        ];
        prop::sample::select(texts.to_vec()).prop_map(term)
    }

    fn any_asker() -> impl Strategy<Value = Asker> {
        let addresses = ["10.0.0.1", "10.200.0.1", "11.0.0.1", "::1", "fd00::1", "::"];
        let address = prop::option::of(prop::sample::select(addresses.to_vec()));
        (prop::collection::btree_set(any_term(), 0..5), address).prop_map(|(mut terms, address)| {
            terms.retain(|term| !matches!(term, Term::Address(_)));
            Asker::made_up(terms, address.map(|address| address.parse().unwrap()))
        })
    }

    /// The oracle: every condition of every rule, one after the other, addresses bit by bit.
    fn naive(rules: &[Vec<Term>], asker: &Asker) -> bool {
        let bits = |address: IpAddr| -> Vec<bool> {
            let bytes = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
        };
        let holds = |wanted: &Term| match wanted {
            Term::Address(range) => {
                let text = range.to_string();
                let (first, length) = text.split_once('/').unwrap();
                let (first, length) = (bits(first.parse().unwrap()), length.parse::<usize>().unwrap());
                asker
                    .address()
                    .map(bits)
                    .is_some_and(|own| own.len() == first.len() && own[..length] == first[..length])
            }
            wanted => asker.terms().any(|term| term == wanted),
        };
        rules.iter().any(|rule| rule.iter().all(holds))
    }

    proptest! {
        #[test]
        fn an_index_finds_what_a_walk_finds(
            rules in prop::collection::vec(prop::collection::vec(any_term(), 1..4), 0..8),
            askers in prop::collection::vec(any_asker(), 1..8),
        ) {
            let list = RuleList::new(rules.iter().cloned().map(Rule).collect());
            for asker in &askers {
                prop_assert_eq!(list.matches(asker), naive(&rules, asker), "{:?}", asker);
            }
        }
    }
}
