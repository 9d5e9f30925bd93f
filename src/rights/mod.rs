//! Who may do what with an export: rules as text, what is known of a client, and the decision. Pure.
//!
//! ```text
//!  "ip=10.0.0.0/8 & cert.cn=vm1" ─► Rule ─► RuleList ─┐
//!                 PeerIdentity, certificate ─► Asker ─┴► Rights::decide ─► Decision
//! ```
//!
//! Rights are only granted. There is no rule that says who may not: a client would evade it by leaving away
//! what the rule knows it by. So what is not known matches nothing, and neither does what does not say
//! anything: the user that stands for all that have no number here, an empty common name, one of two.
#![forbid(unsafe_code)]

mod address;
mod asker;
#[cfg(feature = "tls")]
mod certificate;
mod distinguished;
mod error;
mod list;
mod rule;
mod term;

use std::sync::Arc;

pub(crate) use asker::Asker;
pub(crate) use error::RuleError;
pub(crate) use list::RuleList;
pub(crate) use rule::Rule;

/// Whether an export is in the list that a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listing {
    /// For everybody, even for those who may not use it.
    Always,
    /// For those who may use it.
    #[default]
    Allowed,
    /// For nobody: its clients know its name.
    Never,
}

/// The rights to one export. What is `None` was not said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rights {
    /// Who may use it; by default everybody.
    pub allow: Option<Arc<RuleList>>,
    /// Who of them may write; by default all of them.
    pub write: Option<Arc<RuleList>>,
    pub listed: Option<Listing>,
}

/// What a client may do with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    /// It is in the list.
    pub(crate) is_listed: bool,
    /// It may be used at all. Otherwise it is as if it were not there.
    pub(crate) may_read: bool,
    pub(crate) may_write: bool,
}

impl Rights {
    /// These, and those of `below` where nothing was said here.
    #[must_use]
    pub fn or(self, below: &Self) -> Self {
        Self {
            allow: self.allow.or_else(|| below.allow.clone()),
            write: self.write.or_else(|| below.write.clone()),
            listed: self.listed.or(below.listed),
        }
    }

    /// Whether everybody may do everything, and nothing was said.
    pub fn are_open(&self) -> bool {
        *self == Self::default()
    }

    /// What a client may do.
    pub(crate) fn decide(&self, asker: &Asker) -> Decision {
        #[cfg(test)]
        tests::DECISIONS.with(|decisions| decisions.set(decisions.get() + 1));
        let grants = |rules: &Option<Arc<RuleList>>| rules.as_ref().is_none_or(|rules| rules.matches(asker));
        // Both are looked at, whatever comes out: an export that is hidden takes as long as one that is not.
        let (is_allowed, is_writer) = (grants(&self.allow), grants(&self.write));
        let is_listed = match self.listed.unwrap_or_default() {
            Listing::Always => true,
            Listing::Allowed => is_allowed,
            Listing::Never => false,
        };
        Decision { is_listed, may_read: is_allowed, may_write: is_allowed && is_writer }
    }
}

#[cfg(test)]
pub(crate) mod tests;
