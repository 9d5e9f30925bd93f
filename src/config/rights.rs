//! Rules as a configuration file has them.

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use toml::Spanned;

use crate::rights::{Listing, Rights, Rule, RuleError, RuleList};

/// A rule, or a list of rules: texts, and where each begins. They are parsed later, so that a mistake has the
/// line of its rule and not of its list.
#[derive(Debug)]
pub(super) struct RuleTexts(Vec<(Option<usize>, String)>);

/// A mistake in a rule that begins there.
pub(super) type RuleMistake = (usize, RuleError);

/// What a table says of rights.
pub(super) fn rights(
    allow: Option<Spanned<RuleTexts>>,
    write: Option<Spanned<RuleTexts>>,
    listed: Option<Listing>,
) -> Result<Rights, RuleMistake> {
    Ok(Rights { allow: allow.map(parsed).transpose()?, write: write.map(parsed).transpose()?, listed })
}

fn parsed(texts: Spanned<RuleTexts>) -> Result<Arc<RuleList>, RuleMistake> {
    let start = texts.span().start;
    let texts = texts.into_inner().0.into_iter();
    let rules = texts.map(|(place, text)| text.parse().map_err(|error| (place.unwrap_or(start), error)));
    Ok(Arc::new(RuleList::new(rules.collect::<Result<Vec<Rule>, _>>()?)))
}

impl<'de> Deserialize<'de> for RuleTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rules;
        impl<'de> Visitor<'de> for Rules {
            type Value = RuleTexts;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of rules, such as [\"uid=1000\", \"cert.cn=vm1\"]")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RuleTexts, E> {
                Ok(RuleTexts(vec![(None, text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RuleTexts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element::<Spanned<String>>()? {
                    texts.push((Some(text.span().start), text.into_inner()));
                }
                Ok(RuleTexts(texts))
            }
        }
        deserializer.deserialize_any(Rules)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;
    use crate::config::difference::difference;
    use crate::rights::Rights;

    fn rights(text: &str) -> Vec<Rights> {
        let settings = Settings::from_toml(text).unwrap();
        let machine =
            crate::config::Machine { cpus: vec![0], parallelism: 1, memory: 8 << 30, open_files: 1 << 20 };
        let config = crate::config::Config::resolve(settings, &machine).unwrap();
        config.exports.into_iter().map(|export| export.rights).collect()
    }

    const THREE: &str = r#"
allow = "uid=1"
listed = "never"

[[export]]
name = "default"
uri = "mem:1M"

[[export]]
name = "own"
uri = "mem:1M"
allow = [
    "uid=2",
    "ip=10.0.0.0/8 & cert.cn=vm1",
]
write = []
listed = "always"
"#;

    #[test]
    fn an_export_has_its_own_rules_or_the_defaults() {
        let all = rights(THREE);
        let [default, own] = &all[..] else { panic!() };
        let alone = rights("allow = \"uid=1\"\nlisted = \"never\"\n");
        assert_eq!(alone[0], *default, "so has the export that is served when none is named");
        assert_eq!(
            (default.allow == own.allow, default.write.is_some(), own.write.is_some()),
            (false, false, true)
        );
        assert!(rights("")[0].are_open());
    }

    #[test]
    fn a_mistake_has_the_line_of_its_rule() {
        for (from, to, line, word) in [
            ("cert.cn=vm1", "cert.cn=", 14, "cert.cn has no value"),
            ("uid=2", "uid=65534", 13, "names nobody"),
            ("uid=1", "everybody", 2, "is no condition"),
            ("\"always\"", "\"maybe\"", 17, "listed cannot be maybe: use "),
            ("write = []", "write = [7]", 16, "a text in quotes"),
            ("write = []", "write = 7", 16, "a list of rules"),
        ] {
            let error = Settings::from_toml(&THREE.replacen(from, to, 1)).unwrap_err();
            assert!(error.message.contains(word), "{word:?} is missing in: {error}");
            assert_eq!(error.line, line, "{error}");
        }
    }

    #[test]
    fn other_rules_are_a_change() {
        let of = |text: &str| Settings::from_toml(text).unwrap();
        assert!(difference(&of(THREE), &of(&THREE.replace("uid=2", " uid = 2"))).is_empty());
        let changed = difference(&of(THREE), &of(&THREE.replace("uid=2", "uid=3")));
        assert_eq!((changed.changed, changed.settings), (vec!["own".to_owned()], vec![]));
        let changed =
            difference(&of(THREE), &of(&THREE.replace("uid=1", "uid=3").replace("never", "always")));
        assert_eq!((changed.changed, changed.settings), (vec![], vec!["allow", "listed"]));
    }
}
