//! Why a rule says nothing.

/// A mistake in a rule; each a sentence with cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("an empty rule matches nobody: write whom it lets in, such as uid=1000 or cert.cn=NAME")]
    Empty,
    #[error("a rule is longer than 8192 bytes: write several rules, of which each is enough by itself")]
    TooLong,
    #[error("a rule has more than 16 conditions: write several rules, of which each is enough by itself")]
    TooMany,
    #[error(
        "\"{0}\" is no condition: write cert.cn=, cert.san=, cert.dn=, psk=, uid=, gid= or ip= (and \\& for an & \
         that belongs to a value)"
    )]
    Kind(String),
    #[error("{0} has no value: an empty one would match nobody")]
    NoValue(&'static str),
    #[error("\"{value}\" is no number: write {kind}=NUMBER, as `id` shows it")]
    Number { kind: &'static str, value: String },
    #[error(
        "{0}=65534 is what the kernel calls everybody that has no number here, so it names nobody: write the real \
         number"
    )]
    Overflow(&'static str),
    #[error("\"{0}\" is no range of addresses: write ip=10.0.0.0/8, ip=10.1.2.3 or ip=fd00::/8")]
    Range(String),
    #[error("{given} has bits behind its length: write ip={meant}")]
    HostBits { given: String, meant: String },
    #[error(
        "\"{0}\" is no alternative name: write cert.san=dns:NAME, cert.san=uri:URI, cert.san=email:ADDRESS or \
         cert.san=ip:ADDRESS"
    )]
    AlternativeName(String),
    #[error("\"{0}\" would be compared letter by letter: write each name, because * stands for nothing else")]
    Wildcard(String),
    #[error(
        "\"{text}\" is no distinguished name: {why}; write it as `openssl x509 -noout -subject -nameopt RFC2253` does, \
         such as cert.dn=CN=vm1,O=Example"
    )]
    DistinguishedName { text: String, why: &'static str },
    #[error("no client is {0} and {1} at once: write two rules, or leave one of them out")]
    Contradiction(String, String),
}

/// So much of a text is shown in a sentence.
const SHOWN: usize = 100;

/// A text, cut to what fits into a sentence.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
