//! TierObject stores that are asked over the network, by the crate `object_store`.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use object_store::path::Path;
use object_store::{
    GetOptions, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::bucket::{RemoteTries, open};
use super::objects::{
    ObjectError, ObjectFuture, ObjectMeta, ObjectVersion, Objects, PackBytes, PutIf, Sent, TierObject,
};
use super::records::MOST_BYTES;
use super::uri::{BucketPlace, TierUriError};
use super::waiting::spread;

/// Bytes of a part of an upload. A larger object has several, and at most 10,000 of them are possible.
const PART: u64 = 8 << 20;
/// An object store of the network, below a prefix.
#[derive(Debug)]
pub(super) struct RemoteObjects {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

impl RemoteObjects {
    /// # Errors
    /// What was given does not fit.
    pub(super) fn new(place: &BucketPlace, tries: RemoteTries) -> Result<Self, TierUriError> {
        Ok(Self { store: open(place, tries)?, prefix: place.prefix.clone() })
    }

    fn path(&self, key: &str) -> Path {
        if self.prefix.is_empty() { Path::from(key) } else { Path::from(format!("{}/{key}", self.prefix)) }
    }

    fn key_of(&self, path: &Path) -> Option<String> {
        let whole = path.as_ref();
        if self.prefix.is_empty() {
            return Some(whole.to_owned());
        }
        Some(whole.strip_prefix(&self.prefix)?.strip_prefix('/')?.to_owned())
    }

    async fn get_now(&self, key: &str) -> Result<TierObject, ObjectError> {
        let found = self.store.get(&self.path(key)).await.map_err(failure(key))?;
        if found.meta.size > MOST_BYTES as u64 {
            let why = format!("it has {} bytes, and such objects are small", found.meta.size);
            return Err(ObjectError::Other { key: key.to_owned(), why });
        }
        let version = ObjectVersion { etag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let bytes = received(key, found, MOST_BYTES as u64).await?;
        Ok(TierObject { bytes, version })
    }

    async fn put_now(&self, key: &str, bytes: Vec<u8>, when: PutIf) -> Result<(), ObjectError> {
        let mode = match when {
            PutIf::Absent => PutMode::Create,
            PutIf::Version(ObjectVersion { etag, version }) => {
                PutMode::Update(UpdateVersion { e_tag: etag, version })
            }
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let path = self.path(key);
        let put = self.store.put_opts(&path, PutPayload::from(bytes), options);
        put.await.map(drop).map_err(failure(key))
    }

    async fn upload_now(&self, key: &str, from: &dyn PackBytes, sent: &dyn Sent) -> Result<(), ObjectError> {
        let path = self.path(key);
        if from.length() <= PART {
            let bytes = piece(key, from, 0)?;
            tokio::time::sleep(sent.sent(from.length())?).await;
            return self.store.put(&path, bytes.into()).await.map(drop).map_err(failure(key));
        }
        let mut parts = self.store.put_multipart(&path).await.map_err(failure(key))?;
        let mut at = 0;
        let all = async {
            while at < from.length() {
                let bytes = piece(key, from, at)?;
                let count = bytes.len() as u64;
                parts.put_part(bytes.into()).await.map_err(failure(key))?;
                at += count;
                tokio::time::sleep(sent.sent(count)?).await;
            }
            parts.complete().await.map(drop).map_err(failure(key))
        };
        let Err(error) = all.await else { return Ok(()) };
        // The parts may have become the object though nobody was told; whoever says so once more is told
        // that there are no such parts.
        if self.store.head(&path).await.is_ok_and(|found| found.size == from.length()) {
            return Ok(());
        }
        if let Err(error) = parts.abort().await {
            tracing::debug!(key, %error, "parts of an upload that failed stay: have the bucket remove them");
        }
        Err(match error {
            ObjectError::Missing(key) => {
                let why = "the parts of an upload are gone".to_owned();
                ObjectError::Unreachable { key, why }
            }
            error => error,
        })
    }

    async fn list_now(&self, folder: &str) -> Result<Vec<ObjectMeta>, ObjectError> {
        let path = self.path(folder.trim_end_matches('/'));
        let mut listed = self.store.list(Some(&path));
        let mut all = Vec::new();
        while let Some(found) = poll_fn(|context| listed.as_mut().poll_next(context)).await {
            let found = found.map_err(failure(folder))?;
            if let Some(key) = self.key_of(&found.location) {
                all.push(ObjectMeta { key, bytes: found.size });
            }
        }
        all.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }
}

/// The bytes of an answer, which has no more than `most` of them, whatever it says.
async fn received(key: &str, found: GetResult, most: u64) -> Result<Vec<u8>, ObjectError> {
    let mut stream = found.into_stream();
    let mut bytes = Vec::new();
    while let Some(part) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
        let part = part.map_err(failure(key))?;
        if (bytes.len() + part.len()) as u64 > most {
            let why = format!("more than {most} bytes came");
            return Err(ObjectError::Unreachable { key: key.to_owned(), why });
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

fn piece(key: &str, from: &dyn PackBytes, at: u64) -> Result<Vec<u8>, ObjectError> {
    let mut bytes = vec![0; PART.min(from.length() - at) as usize];
    let read = from.read(at, &mut bytes);
    read.map_err(|error| ObjectError::Other {
        key: key.to_owned(),
        why: format!("cannot read the pack: {error}"),
    })?;
    Ok(bytes)
}

fn failure(key: &str) -> impl Fn(object_store::Error) -> ObjectError {
    move |error| {
        use object_store::Error;
        let key = key.to_owned();
        match &error {
            Error::NotFound { .. } => ObjectError::Missing(key),
            Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
                ObjectError::Precondition(key)
            }
            Error::PermissionDenied { source, .. } | Error::Unauthenticated { source, .. } => {
                denied(key, in_words(&**source))
            }
            Error::Generic { source, .. } => of_words(key, in_words(&**source)),
            other => ObjectError::Other { key, why: other.to_string() },
        }
    }
}

/// S3 refuses requests whose signature is of another time than its own.
fn denied(key: String, why: String) -> ObjectError {
    if why.contains("RequestTimeTooSkewed") {
        return ObjectError::Skewed { key, why };
    }
    ObjectError::Denied { key, why }
}

/// An error with all that it stands on, in one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        below = source.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The crate keeps what happened to itself, but for its words.
fn of_words(key: String, why: String) -> ObjectError {
    let status = why.split("status code: ").nth(1).and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    match status {
        Some(429 | 503) => ObjectError::Throttled { key, why },
        _ if why.contains("SlowDown") => ObjectError::Throttled { key, why },
        Some(status) if status < 500 => ObjectError::Other { key, why },
        _ => ObjectError::Unreachable { key, why },
    }
}

impl Objects for RemoteObjects {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject> {
        Box::pin(self.get_now(key))
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Vec<u8>> {
        Box::pin(async move {
            let (path, length) = (self.path(key), range.end - range.start);
            let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
            let found = self.store.get_opts(&path, options).await.map_err(failure(key))?;
            let bytes = received(key, found, length).await?;
            if bytes.len() as u64 == length {
                return Ok(bytes);
            }
            let why = format!("{} bytes came, and {length} were asked for", bytes.len());
            Err(ObjectError::Unreachable { key: key.to_owned(), why })
        })
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectMeta> {
        Box::pin(async move {
            let found = self.store.head(&self.path(key)).await.map_err(failure(key))?;
            Ok(ObjectMeta { key: key.to_owned(), bytes: found.size })
        })
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, when: PutIf) -> ObjectFuture<'a, ()> {
        Box::pin(self.put_now(key, bytes, when))
    }

    fn upload<'a>(
        &'a self,
        key: &'a str,
        from: &'a dyn PackBytes,
        sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()> {
        Box::pin(self.upload_now(key, from, sent))
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            match self.store.delete(&self.path(key)).await {
                Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(failure(key)(error)),
            }
        })
    }

    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>> {
        Box::pin(self.list_now(folder))
    }

    fn wait<'a>(&'a self, time: Duration) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            tokio::time::sleep(spread(time)).await;
            Ok(())
        })
    }

    fn now_s(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_for_its_time_is_told_apart() {
        let told = |text: &str| denied("k".to_owned(), text.to_owned()).to_string();
        assert!(told("<Code>RequestTimeTooSkewed</Code>").contains("set the clock of this host"));
        assert!(told("<Code>AccessDenied</Code>").contains("look at the credentials"));
    }

    #[test]
    fn errors_are_classed_by_their_status() {
        let class = |text: &str| of_words("k".to_owned(), text.to_owned());
        assert!(class("Server returned non-2xx status code: 503 Service Unavailable: x").is_passing());
        assert!(class("Server returned non-2xx status code: 500 Internal: x").is_passing());
        assert!(class("HTTP error: error sending request: connection refused").is_passing());
        assert!(!class("Server returned non-2xx status code: 400 Bad Request: x").is_passing());
    }
}
