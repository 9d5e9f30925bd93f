//! Where a tier is: `s3://BUCKET/PREFIX?endpoint=…&region=…`, or `file:DIRECTORY`.

use std::path::PathBuf;
use std::str::FromStr;

use super::objects::ObjectError;

/// Why there is no tier to be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TierUriError {
    #[error("a tier is written s3://BUCKET/PREFIX or file:DIRECTORY")]
    Scheme,
    #[error("a tier has a bucket: s3://BUCKET/PREFIX")]
    NoBucket,
    #[error(
        "{0} is no part of the address of a tier: endpoint and region are; credentials come from the environment"
    )]
    Parameter(String),
    #[error("the prefix of a tier has letters, digits, \"-\", \"_\", \".\" and \"/\"")]
    Prefix,
    #[error("{0}")]
    Setup(String),
    #[error("{0}")]
    Objects(#[from] ObjectError),
    #[error(
        "this ringnbd was built without object stores: build it with the feature tier, or use file:DIRECTORY"
    )]
    NotBuilt,
}

/// A bucket of S3, or of what speaks its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Place {
    pub bucket: String,
    pub prefix: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
}

/// Where a tier is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierUri {
    S3(S3Place),
    Directory(PathBuf),
}

impl FromStr for TierUri {
    type Err = TierUriError;

    fn from_str(text: &str) -> Result<Self, TierUriError> {
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(TierUriError::Scheme)
            } else {
                Ok(Self::Directory(path.into()))
            };
        }
        let rest = text.strip_prefix("s3://").ok_or(TierUriError::Scheme)?;
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return Err(TierUriError::NoBucket);
        }
        let prefix = prefix.trim_end_matches('/');
        let is_part = |part: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain)
        };
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err(TierUriError::Prefix);
        }
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        let mut found = S3Place { bucket, prefix, endpoint: None, region: None };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("endpoint", value)) => found.endpoint = Some(value.to_owned()),
                Some(("region", value)) => found.region = Some(value.to_owned()),
                _ => {
                    let name = parameter.split('=').next().unwrap_or_default();
                    return Err(TierUriError::Parameter(name.to_owned()));
                }
            }
        }
        Ok(Self::S3(found))
    }
}

impl std::fmt::Display for TierUri {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(to, "file:{}", path.display()),
            Self::S3(S3Place { bucket, prefix, endpoint, region }) => {
                write!(to, "s3://{bucket}")?;
                if !prefix.is_empty() {
                    write!(to, "/{prefix}")?;
                }
                let parts = [("endpoint", endpoint), ("region", region)];
                let given = parts.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
                for (index, (name, value)) in given.enumerate() {
                    write!(to, "{}{name}={value}", if index == 0 { '?' } else { '&' })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_themselves() {
        for text in [
            "s3://bucket",
            "s3://bucket/a/b",
            "s3://bucket/a?endpoint=http://127.0.0.1:9000",
            "s3://b/a?endpoint=http://h&region=eu",
            "file:/srv/tier",
        ] {
            assert_eq!(text.parse::<TierUri>().unwrap().to_string(), text);
        }
        assert_eq!("file:///srv/t".parse::<TierUri>(), Ok(TierUri::Directory("/srv/t".into())));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, error) in [
            ("/srv/tier", TierUriError::Scheme),
            ("file:", TierUriError::Scheme),
            ("s3:///a", TierUriError::NoBucket),
            ("s3://b/../a", TierUriError::Prefix),
            ("s3://b/a//c", TierUriError::Prefix),
            ("s3://b?secret=x", TierUriError::Parameter("secret".to_owned())),
        ] {
            assert_eq!(text.parse::<TierUri>(), Err(error), "{text}");
        }
    }
}
