//! Addresses of hosts. A confined server may be refused a look-up: then those are used that were found last.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use object_store::client::{DnsError, DnsFuture, DnsResolver};

/// Hosts that are remembered: an endpoint redirects to few others.
const MOST_HOSTS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct KnownHosts {
    found: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
}

/// What a look-up has found, or what is known of an earlier one.
fn addresses(
    host: &str,
    looked_up: std::io::Result<Vec<IpAddr>>,
    known: &Mutex<BTreeMap<String, Vec<IpAddr>>>,
) -> std::io::Result<Vec<IpAddr>> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    match looked_up {
        Ok(found) if !found.is_empty() => {
            if known.len() < MOST_HOSTS || known.contains_key(host) {
                known.insert(host.to_owned(), found.clone());
            }
            Ok(found)
        }
        failed => known.get(host).map_or(failed, |found| Ok(found.clone())),
    }
}

impl DnsResolver for KnownHosts {
    fn resolve(&self, host: &str) -> DnsFuture {
        let (host, known) = (host.to_owned(), Arc::clone(&self.found));
        Box::pin(async move {
            let look_up = move || {
                let found = (host.as_str(), 0).to_socket_addrs();
                let found = found.map(|found| found.map(|address| address.ip()).collect());
                addresses(&host, found, &known)
            };
            let found = tokio::task::spawn_blocking(look_up).await.map_err(DnsError::from)?;
            found.map_err(DnsError::from)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_last_is_used_when_nothing_is_found() {
        let known = Mutex::default();
        let refused = || Err(std::io::ErrorKind::PermissionDenied.into());
        let (one, other) = ([IpAddr::from([10, 0, 0, 1])], [IpAddr::from([10, 0, 0, 2])]);
        assert!(addresses("s3", refused(), &known).is_err());
        assert_eq!(addresses("s3", Ok(one.to_vec()), &known).unwrap(), one);
        assert_eq!(addresses("s3", refused(), &known).unwrap(), one);
        assert_eq!(addresses("s3", Ok(other.to_vec()), &known).unwrap(), other);
        assert_eq!(addresses("s3", Ok(Vec::new()), &known).unwrap(), other);
        assert!(addresses("another", refused(), &known).is_err());
        for host in 0..2 * MOST_HOSTS {
            addresses(&host.to_string(), Ok(one.to_vec()), &known).unwrap();
        }
        assert_eq!(known.lock().unwrap().len(), MOST_HOSTS);
    }
}
