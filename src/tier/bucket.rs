//! Clients of buckets, made of their addresses and of the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::known_hosts::KnownHosts;
use super::uri::{BucketPlace, BucketService, TierUriError};

/// What the crate tries by itself, for requests that may be sent twice: after that time whoever asked is
/// told, and asks again.
const TRIES: usize = 3;
const TRIES_TIME: Duration = Duration::from_secs(5);
/// After which a request counts as not answered: in all, and without any byte of the answer.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const REQUEST_TIME: Duration = Duration::from_secs(60);
const SILENT_TIME: Duration = Duration::from_secs(10);

/// How often a request is sent that may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemoteTries {
    /// As often as the crate does.
    Few,
    /// Once: whoever asks has a deadline, and asks again.
    One,
}

impl RemoteTries {
    fn client(self) -> ClientOptions {
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIME)
            .with_timeout(REQUEST_TIME)
            .with_dns_resolver(Arc::new(KnownHosts::default()));
        match self {
            Self::Few => options,
            Self::One => options.with_read_timeout(SILENT_TIME),
        }
    }

    fn retry(self) -> RetryConfig {
        let max_retries = if self == Self::One { 0 } else { TRIES };
        RetryConfig { backoff: BackoffConfig::default(), max_retries, retry_timeout: TRIES_TIME }
    }
}

/// What the crate does with requests that were refused, for whoever simulates it.
#[cfg(test)]
pub(crate) fn tries_of_the_crate() -> RetryConfig {
    RemoteTries::Few.retry()
}

/// A client of a bucket. What the place does not say is taken from the environment, by the names that the
/// programs of its service use.
///
/// # Errors
/// What was given does not fit.
pub(super) fn open(place: &BucketPlace, tries: RemoteTries) -> Result<Arc<dyn ObjectStore>, TierUriError> {
    let built = match place.service {
        BucketService::S3 => s3(place, tries),
        BucketService::Google => google(place, tries),
        BucketService::Azure => azure(place, tries),
    };
    built.map_err(|error| TierUriError::Setup(error.to_string()))
}

/// Whoever writes http means it.
fn is_plain(endpoint: &str) -> bool {
    endpoint.starts_with("http://")
}

fn s3(place: &BucketPlace, tries: RemoteTries) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::from_env()
        .with_client_options(tries.client())
        .with_retry(tries.retry())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_bucket_name(&place.bucket);
    if let Some(region) = &place.region {
        builder = builder.with_region(region);
    }
    let endpoint = place.endpoint.clone().or_else(endpoint_of_environment);
    if let Some(endpoint) = endpoint {
        builder = builder.with_allow_http(is_plain(&endpoint)).with_endpoint(endpoint);
    }
    Ok(Arc::new(builder.build()?))
}

/// As Amazon's programs have it, and as the crate has it.
fn endpoint_of_environment() -> Option<String> {
    let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    names.iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty())
}

fn google(place: &BucketPlace, tries: RemoteTries) -> object_store::Result<Arc<dyn ObjectStore>> {
    let is_plain = place.endpoint.as_deref().is_some_and(is_plain);
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_client_options(tries.client().with_allow_http(is_plain))
        .with_retry(tries.retry())
        .with_bucket_name(&place.bucket);
    if let Some(endpoint) = &place.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(place: &BucketPlace, tries: RemoteTries) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_client_options(tries.client())
        .with_retry(tries.retry())
        .with_container_name(&place.bucket);
    if let Some(account) = &place.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &place.endpoint {
        builder = builder.with_allow_http(is_plain(endpoint)).with_endpoint(endpoint.clone());
    }
    Ok(Arc::new(builder.build()?))
}
