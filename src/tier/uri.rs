//! Where a tier is: `s3://BUCKET/PREFIX?endpoint=…&region=…`, `gs://BUCKET/PREFIX`,
//! `az://CONTAINER/PREFIX?account=…`, or `file:DIRECTORY`.

use std::path::PathBuf;
use std::str::FromStr;

use super::objects::ObjectError;

/// Why there is no tier to be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TierUriError {
    #[error(
        "a tier is written s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:DIRECTORY"
    )]
    Scheme,
    #[error("a tier has a bucket: s3://BUCKET/PREFIX")]
    NoBucket,
    #[error(
        "{0} is no part of the address of such a tier: endpoint is, and region of s3://, and account of az://; credentials come from \
         the environment"
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

/// Who keeps a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketService {
    /// Amazon, and what speaks the protocol of S3.
    S3,
    Google,
    Azure,
}

impl BucketService {
    const ALL: [Self; 3] = [Self::S3, Self::Google, Self::Azure];

    /// What an address of its buckets begins with.
    const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3://",
            Self::Google => "gs://",
            Self::Azure => "az://",
        }
    }
}

/// Whether an address is one of a bucket.
#[must_use]
pub fn is_of_bucket(address: &str) -> bool {
    BucketService::ALL.iter().any(|service| address.starts_with(service.scheme()))
}

/// A bucket, which Azure calls a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    pub service: BucketService,
    pub bucket: String,
    pub prefix: String,
    pub endpoint: Option<String>,
    /// Of S3.
    pub region: Option<String>,
    /// Of Azure.
    pub account: Option<String>,
}

/// Where a tier is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierUri {
    Bucket(BucketPlace),
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
        let of = |service: BucketService| Some((service, text.strip_prefix(service.scheme())?));
        let (service, rest) = BucketService::ALL.into_iter().find_map(of).ok_or(TierUriError::Scheme)?;
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
        let mut found = BucketPlace { service, bucket, prefix, endpoint: None, region: None, account: None };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("endpoint", value)) => found.endpoint = Some(value.to_owned()),
                Some(("region", value)) if service == BucketService::S3 => {
                    found.region = Some(value.to_owned())
                }
                Some(("account", value)) if service == BucketService::Azure => {
                    found.account = Some(value.to_owned());
                }
                _ => {
                    let name = parameter.split('=').next().unwrap_or_default();
                    return Err(TierUriError::Parameter(name.to_owned()));
                }
            }
        }
        Ok(Self::Bucket(found))
    }
}

impl std::fmt::Display for TierUri {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(to, "file:{}", path.display()),
            Self::Bucket(BucketPlace { service, bucket, prefix, endpoint, region, account }) => {
                write!(to, "{}{bucket}", service.scheme())?;
                if !prefix.is_empty() {
                    write!(to, "/{prefix}")?;
                }
                let parts = [("endpoint", endpoint), ("region", region), ("account", account)];
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
            "gs://bucket/a?endpoint=http://h",
            "az://container/a/b?account=one",
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
            ("s3://b?account=x", TierUriError::Parameter("account".to_owned())),
            ("gs://b?region=x", TierUriError::Parameter("region".to_owned())),
            ("az://?account=x", TierUriError::NoBucket),
        ] {
            assert_eq!(text.parse::<TierUri>(), Err(error), "{text}");
        }
    }
}
