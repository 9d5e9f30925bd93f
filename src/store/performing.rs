//! A store carries requests out.

use std::path::{Path, PathBuf};

use super::base::{FoundBase, look_at_base};
use super::catalog::{self, BaseKind, CatalogExcerpt, NameError, NodeName, StoreName};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, Released};
use super::request::{
    CheckpointProgress, OpenFor, RebasedImages, RemovedNodes, RolledBack, StoreAnswer, StoreRequest,
    names_in_words,
};

/// The same name without a snapshot.
fn node(image: &StoreName) -> NodeName {
    NodeName { image: image.clone(), snapshot: None }
}

impl<M: LayerMaps> OpenStore<M> {
    /// Carries a request out. Nobody uses the images that it changes.
    ///
    /// # Errors
    /// A sentence.
    pub fn perform(&mut self, request: &StoreRequest) -> Result<StoreAnswer, StoreError> {
        let nodes = match request {
            StoreRequest::Images => return self.describe_all().map(StoreAnswer::Nodes),
            StoreRequest::Image { node } => return self.describe(node).map(StoreAnswer::Node),
            StoreRequest::Layers { node, other } => {
                return self.told(node, other.as_ref()).map(StoreAnswer::Layers);
            }
            StoreRequest::Sealed => return self.told_of_sealed(),
            StoreRequest::Store => return self.describe_store().map(StoreAnswer::Store),
            StoreRequest::Gc { grace } => {
                return self.collect_garbage(*grace, &mut |_| Ok(())).map(StoreAnswer::Collected);
            }
            StoreRequest::Remove { nodes, snapshots } => {
                return self.remove_all(nodes, *snapshots).map(StoreAnswer::Removed);
            }
            StoreRequest::Rollback { node: to, .. } => {
                let Released { layers, bytes } = self.roll_back(to.clone())?;
                let of = self.describe_some(&[node(&to.image)])?;
                return Ok(StoreAnswer::RolledBack(RolledBack { of, layers, bytes }));
            }
            StoreRequest::Flatten { .. } => return Err(StoreError::NeedsServer),
            StoreRequest::Ingest { .. } | StoreRequest::Push { .. } => return Err(StoreError::NeedsServer),
            StoreRequest::Rebase { image, base, is_unsafe } => {
                let rebased = self.rebase(image, base.clone(), *is_unsafe)?;
                let of = self.describe_some(&[node(image)])?;
                return Ok(StoreAnswer::Rebased(RebasedImages { of, rebased }));
            }
            StoreRequest::Create { image, size, base, remote } => {
                self.create_image(image, *size, base.as_deref(), remote.as_deref())?;
                vec![node(image)]
            }
            StoreRequest::Snapshot { nodes, changes_only } => {
                match changes_only {
                    true => self.keep_changes_only(nodes.clone())?,
                    false => self.snapshot(nodes.clone())?,
                }
                nodes.clone()
            }
            StoreRequest::Checkpoint { node } => {
                self.checkpoint(node, &mut |_| Ok(()))?;
                let size = self.size_of(node)?;
                let node = node.to_string();
                let progress = CheckpointProgress { node, ingested: true, done: size, total: size };
                return Ok(StoreAnswer::Checkpoint(progress));
            }
            StoreRequest::Clone { from, to } => {
                self.clone_images(from.clone(), to)?;
                to.iter().map(node).collect()
            }
            StoreRequest::CloneFromTier { from, to } => {
                self.clone_from_tier(from, to)?;
                to.iter().map(node).collect()
            }
            StoreRequest::Rename { node, to } => {
                self.rename(node, new_name(node, to)?)?;
                vec![to.clone()]
            }
            StoreRequest::Import { delta, complete: false } => {
                self.begin_delta(delta)?;
                Vec::new()
            }
            StoreRequest::Import { delta, complete: true } => vec![self.finish_delta(delta)?],
            StoreRequest::Resize { image, size, shrink } => {
                self.resize(image, *size, *shrink)?;
                vec![node(image)]
            }
        };
        self.describe_some(&nodes).map(StoreAnswer::Nodes)
    }

    fn create_image(
        &mut self,
        image: &StoreName,
        size: Option<u64>,
        base: Option<&Path>,
        remote: Option<&FoundBase>,
    ) -> Result<(), StoreError> {
        match (base, remote) {
            (_, Some(other)) if other.kind != BaseKind::Remote => {
                Err(StoreError::NotABase(PathBuf::from(&other.path)))
            }
            (_, Some(remote)) => self.create_on_base(image, size, remote.clone()),
            (Some(base), None) => self.create_on_base(image, size, look_at_base(base)?),
            (None, None) => self.create_empty(image, size.unwrap_or_default()),
        }
    }

    fn told_of_sealed(&self) -> Result<StoreAnswer, StoreError> {
        Ok(StoreAnswer::Layers(catalog::sealed_rows(self.view()?, self.header())))
    }

    /// The same while a server has the store, which can open no other file: a base is one that images have.
    ///
    /// # Errors
    /// A sentence.
    pub fn perform_served(&mut self, request: &StoreRequest) -> Result<StoreAnswer, StoreError> {
        if let StoreRequest::Rebase { image, base, .. } = request
            && self.view()?.base_of(image)?.identity.sample != base.identity.sample
        {
            return Err(StoreError::RebaseServed(PathBuf::from(&base.path)));
        }
        if let StoreRequest::CloneFromTier { from, .. } = request
            && !self.has_tier(from)?
        {
            return Err(StoreError::NewTier(from.address.clone()));
        }
        let named = match request {
            StoreRequest::Create { remote: Some(remote), .. } => Some(PathBuf::from(&remote.path)),
            StoreRequest::Create { base, .. } => base.clone(),
            _ => None,
        };
        let (StoreRequest::Create { image, size, .. }, Some(path)) = (request, named) else {
            let answer = self.perform(request);
            if let (StoreRequest::CloneFromTier { from, .. }, Ok(_)) = (request, &answer) {
                from.boot_trace.iter().for_each(|trace| self.fetch_ahead_of(trace));
            }
            if request.opens() == OpenFor::Removing {
                self.keep_reserve();
            }
            return answer;
        };
        let known = self.view()?.bases().find(|row| Path::new(&row.path) == path);
        let row = known.ok_or_else(|| StoreError::UnknownBase(path))?;
        let (kind, path, identity) = (row.kind, row.path.clone(), row.identity.clone());
        self.create_on_base(image, *size, FoundBase { kind, path, identity })?;
        self.describe_some(&[node(image)]).map(StoreAnswer::Nodes)
    }

    /// The rows of one or two snapshots. An image has a layer that may be written.
    pub(super) fn told(
        &self,
        node: &NodeName,
        other: Option<&NodeName>,
    ) -> Result<CatalogExcerpt, StoreError> {
        let nodes: Vec<&NodeName> = std::iter::once(node).chain(other).collect();
        let told = catalog::excerpt(self.view()?, self.header(), &self.records, &nodes)?;
        match nodes.iter().find(|node| node.snapshot.is_none()) {
            Some(image) => Err(StoreError::Live(image.to_string())),
            None => Ok(told),
        }
    }

    fn remove_all(&mut self, nodes: &[NodeName], snapshots: bool) -> Result<RemovedNodes, StoreError> {
        self.make_room_to_remove()?;
        let mut all = RemovedNodes { removed: Vec::new(), layers: 0, bytes: 0 };
        for node in nodes {
            match self.remove(node, snapshots) {
                Ok(released) => {
                    all.layers += released.layers;
                    all.bytes += released.bytes;
                    all.removed.push(node.to_string());
                }
                // Those before it are gone, which has to be told.
                Err(error) if !all.removed.is_empty() => {
                    let removed = names_in_words(&all.removed);
                    return Err(StoreError::RemovedPartly { removed, source: Box::new(error) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// The part of a name that a rename changes.
fn new_name<'a>(from: &NodeName, to: &'a NodeName) -> Result<&'a StoreName, StoreError> {
    match (&from.snapshot, &to.snapshot) {
        (None, None) => Ok(&to.image),
        (Some(_), Some(new)) if from.image == to.image => Ok(new),
        (None, Some(_)) => Err(NameError::NotAnImage(to.to_string()).into()),
        _ => Err(StoreError::OtherImage { from: from.to_string(), image: from.image.to_string() }),
    }
}
