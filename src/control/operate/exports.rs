//! Requests about one export.

use hyper::header::{ETAG, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::Operator;
use crate::config::export_change::ExportChange;
use crate::control::catalogue::Entry;
use crate::control::events::EventKind;
use crate::control::http::reply::{self, error};
use crate::control::live::{Changed, Condition, LiveRefusal, ResizeWish};
use crate::shard::Removal;
use crate::store::request::StoreRequest;

impl Operator {
    pub(super) async fn show_export(&self, name: &str) -> Response<String> {
        self.collector.refresh(false).await;
        // An image of a store has a place among the exports while a client asks for it.
        match self.plane.find(name).filter(|entry| entry.export().is_some()) {
            Some(entry) => self.with_tag(StatusCode::OK, &entry),
            None => refuse(&LiveRefusal::Missing(name.to_owned())),
        }
    }

    /// A change of an export: with `is_whole` the body says all of it.
    pub(super) async fn change_export(
        &self,
        (name, condition): (&str, &Condition),
        body: &[u8],
        is_whole: bool,
    ) -> Response<String> {
        let change = match ExportChange::parse(body) {
            Ok(change) => change,
            Err(why) => return refuse(&LiveRefusal::Wrong(why)),
        };
        match self.live.change((name, condition), &change, is_whole).await {
            Ok((entry, changed)) => {
                let is_new = changed == Changed::Added;
                self.with_tag(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &entry)
            }
            Err(refusal) => refuse(&refusal),
        }
    }

    pub(super) async fn remove_export(
        &self,
        (name, condition): (&str, &Condition),
        query: &str,
    ) -> Response<String> {
        let (word, how) = match query {
            "" | "mode=soft" => ("soft", Removal::WithErrors),
            "mode=hide" => ("hide", Removal::WhenUnused),
            "mode=hard" => ("hard", Removal::CutOff),
            _ => return error(StatusCode::UNPROCESSABLE_ENTITY, "mode is hide, soft or hard"),
        };
        match self.live.remove((name, condition), how, || self.reloads.removed(name)).await {
            Ok(connections) => {
                let told = json!({ "export": name, "mode": word, "connections": connections });
                reply::json(StatusCode::OK, &told)
            }
            Err(refusal) => refuse(&refusal),
        }
    }

    /// Gives an export another size: a file or device, or the image of a store.
    pub(super) async fn resize_export(
        &self,
        (name, condition): (&str, &Condition),
        body: &[u8],
    ) -> Response<String> {
        let wish = match body {
            [] => ResizeWish::default(),
            body => match serde_json::from_slice::<ResizeWish>(body) {
                Ok(wish) => wish,
                Err(why) => {
                    let sentence = format!("the body is not understood: {why}");
                    return error(StatusCode::UNPROCESSABLE_ENTITY, &sentence);
                }
            },
        };
        let image = self.stores.image_of(name).await;
        if let Some((store, image)) = image.and_then(|(store, node)| Some((store, node.into_image().ok()?))) {
            let Some(size) = wish.size else {
                let sentence = "an image has the size that it was given: say a size";
                return error(StatusCode::UNPROCESSABLE_ENTITY, sentence);
            };
            let request = StoreRequest::Resize { image, size, shrink: wish.shrink };
            return match self.stores.perform(Some(store), request).await {
                Ok(_) => {
                    let told = json!({ "export": name, "size_bytes": size });
                    self.plane.events.tell(EventKind::ExportResized, told.clone());
                    reply::json(StatusCode::OK, &told)
                }
                Err(refusal) => error(refusal.status(), &refusal.to_string()),
            };
        }
        match self.live.resize((name, condition), wish).await {
            Ok(entry) => self.with_tag(StatusCode::OK, &entry),
            Err(refusal) => refuse(&refusal),
        }
    }

    fn with_tag(&self, status: StatusCode, entry: &Entry) -> Response<String> {
        let mut response = reply::json(status, &self.export(entry));
        let tag = HeaderValue::from_str(&format!("\"{}\"", entry.tag()));
        response.headers_mut().insert(ETAG, tag.expect("numbers are plain text"));
        response
    }
}

fn refuse(refusal: &LiveRefusal) -> Response<String> {
    error(refusal.status(), &refusal.to_string())
}
