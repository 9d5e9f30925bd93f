//! `/api/v1/images`: the stores that are open, each with the beginning of its tree.

use hyper::{Response, StatusCode};
use serde::Serialize;

use super::Admin;
use crate::control::http::reply::json;
use crate::control::stores::{NodeUse, StoreOverview};
use crate::store::describe::BriefNode;

#[derive(Debug, Serialize)]
struct ImagesView<'a> {
    stores: Vec<StoreImagesView<'a>>,
}

#[derive(Debug, Serialize)]
struct StoreImagesView<'a> {
    store: String,
    /// Null before the store was asked.
    age_seconds: Option<f64>,
    /// Why it could not be asked.
    error: Option<&'a str>,
    images: usize,
    snapshots: usize,
    /// Both, whatever the limit of the list.
    count: usize,
    nodes: Vec<NodeView<'a>>,
    missing: &'a [String],
}

#[derive(Debug, Serialize)]
struct NodeView<'a> {
    #[serde(flatten)]
    of: &'a BriefNode,
    open: bool,
    /// Null for what is none.
    export: Option<String>,
    connections: usize,
}

fn node_view<'a>(of: &'a BriefNode, store: &StoreOverview<'_>) -> NodeView<'a> {
    let NodeUse { is_open, export, connections } = store.use_of(&of.node.name);
    NodeView { of, open: is_open, export, connections }
}

fn store_view<'a>(store: &'a StoreOverview<'_>, limit: usize) -> StoreImagesView<'a> {
    let nodes = store.nodes.as_ref().map(|(nodes, _)| &**nodes);
    let (images, snapshots) = nodes.map_or((0, 0), |nodes| (nodes.images, nodes.snapshots));
    let shown = nodes.into_iter().flat_map(|nodes| &nodes.nodes).take(limit);
    StoreImagesView {
        store: store.path().display().to_string(),
        age_seconds: store.nodes.as_ref().map(|(_, age)| age.as_secs_f64()),
        error: store.error.as_deref(),
        images,
        snapshots,
        count: images + snapshots,
        nodes: shown.map(|of| node_view(of, store)).collect(),
        missing: nodes.map_or(&[][..], |nodes| &nodes.missing[..]),
    }
}

impl Admin {
    /// `limit`: of the list of each store.
    pub(super) async fn images(&self, limit: Option<u64>) -> Response<String> {
        self.overviews.refresh().await;
        let stores = self.overviews.all();
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        json(
            StatusCode::OK,
            &ImagesView { stores: stores.iter().map(|store| store_view(store, limit)).collect() },
        )
    }
}
