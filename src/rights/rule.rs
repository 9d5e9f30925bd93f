//! A rule: conditions that hold together.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::asker::Asker;
use super::error::RuleError;
use super::term::Term;

/// Conditions, all of which have to hold; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule(pub(super) Vec<Term>);

/// Bytes of a rule.
const LONGEST: usize = 8192;
/// Conditions of a rule.
const TERMS: usize = 16;

impl Rule {
    /// Whether all conditions hold.
    pub(super) fn matches(&self, asker: &Asker) -> bool {
        self.0.iter().all(|term| asker.has(term))
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.len() > LONGEST {
            return Err(RuleError::TooLong);
        }
        if text.trim().is_empty() {
            return Err(RuleError::Empty);
        }
        let texts = conditions(text);
        if texts.len() > TERMS {
            return Err(RuleError::TooMany);
        }
        let mut terms: Vec<Term> = Vec::with_capacity(texts.len());
        for text in texts {
            let term: Term = text.trim().parse()?;
            if let Some(other) = terms.iter().find(|other| other.excludes(&term)) {
                return Err(RuleError::Contradiction(other.to_string(), term.to_string()));
            }
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
        Ok(Self(terms))
    }
}

/// The text between each `&`; a `\&` is an `&` that belongs to a value.
fn conditions(text: &str) -> Vec<String> {
    let mut conditions = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let current = conditions.last_mut().expect("there is one");
        match character {
            '\\' if characters.next_if_eq(&'&').is_some() => current.push('&'),
            '&' => conditions.push(String::new()),
            character => current.push(character),
        }
    }
    conditions
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            write!(f, "{}{term}", if index > 0 { " & " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_shown() {
        for (text, shown) in [
            ("cert.cn=vm1", "cert.cn=vm1"),
            ("cert.san=dns:Host1.Example", "cert.san=dns:host1.example"),
            ("cert.san=email:Me@Example.ORG", "cert.san=email:Me@example.org"),
            ("cert.san=ip:::ffff:1.2.3.4", "cert.san=ip:1.2.3.4"),
            ("cert.dn=CN=vm1, O=AT\\&T", "cert.dn=CN=vm1,O=AT\\&T"),
            ("psk=vm1", "psk=vm1"),
            (" uid = 1000 ", "uid=1000"),
            ("gid=0", "gid=0"),
            ("ip=10.0.0.0/8 & cert.san=uri:spiffe://x/vm1", "ip=10.0.0.0/8 & cert.san=uri:spiffe://x/vm1"),
            ("uid=1&gid=2", "uid=1 & gid=2"),
            ("uid=1 & uid=1", "uid=1"),
            ("ip=10.0.0.0/8 & ip=10.1.0.0/16", "ip=10.0.0.0/8 & ip=10.1.0.0/16"),
            ("cert.san=dns:a & cert.san=dns:b", "cert.san=dns:a & cert.san=dns:b"),
            (r"cert.san=uri:https://x?a=1\&b=2", r"cert.san=uri:https://x?a=1\&b=2"),
        ] {
            let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(rule), "{text}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        let long = format!("cert.cn={}", "x".repeat(LONGEST));
        let many = (0..17).map(|index| format!("cert.san=dns:{index}")).collect::<Vec<_>>().join("&");
        for (text, word) in [
            ("", "empty rule"),
            (" ", "empty rule"),
            ("everybody", "\"everybody\" is no condition"),
            ("user=1", "cert.cn="),
            ("CERT.CN=a", "no condition"),
            ("uid=1 &", "no condition"),
            ("uid=1 && gid=1", "no condition"),
            ("cert.san=uri:x?a=1&b=2", "\\&"),
            ("cert.cn=", "cert.cn has no value"),
            ("psk= ", "psk has no value"),
            ("uid=root", "\"root\" is no number"),
            ("uid=-1", "is no number"),
            ("uid=+1", "is no number"),
            ("uid=4294967295", "is no number"),
            ("uid=65534", "names nobody"),
            ("gid=65534", "names nobody"),
            ("ip=10.0.0.0/40", "10.0.0.0/8"),
            ("ip=10.1.0.0/8", "ip=10.0.0.0/8"),
            ("cert.san=vm1", "cert.san=dns:NAME"),
            ("cert.san=dns:", "cert.san=dns:NAME"),
            ("cert.san=ip:10.0.0.0/8", "cert.san=ip:ADDRESS"),
            ("cert.san=dns:*.example", "letter by letter"),
            ("cert.cn=*", "letter by letter"),
            ("cert.dn=vm1", "openssl x509"),
            ("uid=1 & uid=2", "no client is uid=1 and uid=2 at once"),
            ("uid=1 & ip=::/0", "no client is uid=1 and ip=::/0 at once"),
            ("cert.cn=a & psk=b", "at once"),
            ("ip=10.0.0.0/8 & ip=11.0.0.0/8", "at once"),
            (&long, "8192 bytes"),
            (&many, "16 conditions"),
        ] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(word), "{word:?} is missing in: {error}");
            assert!(error.len() < 400 && !error.contains('\n'), "{error}");
        }
    }
}
