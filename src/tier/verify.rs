//! Whether all is there that a tier says it has.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::change::{is_there, patiently, read};
use super::error::TierError;
use super::keys::{self, PackKey};
use super::objects::Objects;
use super::records::{MarkState, NameOwner, Published, PushRecord, TrashMark};
use super::together::all;

/// What a check has found. Its keys are part of the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckedTier {
    pub images: u64,
    pub snapshots: u64,
    pub packs: u64,
    /// Bytes of these packs.
    pub bytes: u64,
    /// A sentence each.
    pub problems: Vec<String>,
}

/// Looks at each name, each snapshot, and the size of each pack.
///
/// # Errors
/// The object store's.
pub async fn check_tier(objects: &dyn Objects) -> Result<CheckedTier, TierError> {
    let mut checked = CheckedTier::default();
    let mut packs: BTreeMap<PackKey, (u64, String)> = BTreeMap::new();
    for found in patiently(objects, || objects.list(keys::IMAGES)).await? {
        let Some(image) = keys::of_owner(&found.key) else { continue };
        let owner = match read::<NameOwner>(objects, &found.key).await {
            Ok(Some(owner)) => owner,
            Ok(None) => continue,
            Err(TierError::Record { key, why }) => {
                checked.problems.push(format!("{key}: {why}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        checked.images += 1;
        for (snapshot, id) in owner.snapshots {
            let (key, node) = (keys::record(image, id), format!("{image}@{snapshot}"));
            checked.snapshots += 1;
            match read::<PushRecord>(objects, &key).await {
                Ok(Some(record)) => note(&mut packs, &record, &node),
                Ok(None) => {
                    checked.problems.push(format!("{node}: {key} is missing: push the snapshot again"))
                }
                Err(TierError::Record { key, why }) => checked.problems.push(format!("{node}: {key}: {why}")),
                Err(error) => return Err(error),
            }
        }
    }
    for found in patiently(objects, || objects.list(keys::PUBLISHED)).await? {
        if let Some(Published { record: Some(record), .. }) = read(objects, &found.key).await? {
            note(&mut packs, &record, &found.key);
        }
    }
    checked.packs = packs.len() as u64;
    checked.bytes = packs.values().map(|(bytes, _)| bytes).sum();
    let problems = std::sync::Mutex::new(BTreeSet::new());
    all(&packs, |(key, (bytes, node))| {
        let problems = &problems;
        Box::pin(async move {
            if let Some(why) = problem_of(objects, key, *bytes).await? {
                let problem = format!("{node} and maybe others: {}: {why}", key.object());
                problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(problem);
            }
            Ok::<_, TierError>(())
        })
    })
    .await?;
    checked.problems.extend(problems.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok(checked)
}

fn note(packs: &mut BTreeMap<PackKey, (u64, String)>, record: &PushRecord, node: &str) {
    for pack in &record.packs {
        packs.entry(pack.key).or_insert_with(|| (pack.bytes, node.to_owned()));
    }
}

async fn problem_of(objects: &dyn Objects, key: &PackKey, bytes: u64) -> Result<Option<String>, TierError> {
    let there = is_there(objects, &key.object()).await?;
    let mark: Option<TrashMark> = read(objects, &key.mark()).await?;
    let is_going = mark.is_some_and(|mark| mark.state == MarkState::Deleting);
    Ok(match there {
        None => Some("it is missing".to_owned()),
        Some(there) if there != bytes => Some(format!("it has {there} bytes and should have {bytes}")),
        Some(_) if is_going => Some("it is being deleted".to_owned()),
        Some(_) => None,
    })
}
