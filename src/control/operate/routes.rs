//! What the control socket can do: one table.

use hyper::Method;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    ListExports,
    Reload,
    /// The stores that are open.
    ListStores,
    /// A question about a store or an image, by the name of a
    /// [`StoreRequest`](crate::store::request::StoreRequest).
    AskStore(&'static str),
    /// A change of them.
    ChangeStore(&'static str),
}

/// Paths are compared as they are.
const ROUTES: [(Method, &str, Verb); 19] = [
    (Method::GET, "/api/v1/exports", Verb::ListExports),
    (Method::POST, "/api/v1/reload", Verb::Reload),
    (Method::GET, "/api/v1/stores", Verb::ListStores),
    (Method::GET, "/api/v1/stores/info", Verb::AskStore("store")),
    (Method::GET, "/api/v1/stores/sealed", Verb::AskStore("sealed")),
    (Method::POST, "/api/v1/stores/gc", Verb::ChangeStore("gc")),
    (Method::GET, "/api/v1/images", Verb::AskStore("images")),
    (Method::GET, "/api/v1/images/info", Verb::AskStore("image")),
    (Method::GET, "/api/v1/images/layers", Verb::AskStore("layers")),
    (Method::POST, "/api/v1/images/create", Verb::ChangeStore("create")),
    (Method::POST, "/api/v1/images/snapshot", Verb::ChangeStore("snapshot")),
    (Method::POST, "/api/v1/images/checkpoint", Verb::ChangeStore("checkpoint")),
    (Method::POST, "/api/v1/images/clone", Verb::ChangeStore("clone")),
    (Method::POST, "/api/v1/images/remove", Verb::ChangeStore("remove")),
    (Method::POST, "/api/v1/images/rename", Verb::ChangeStore("rename")),
    (Method::POST, "/api/v1/images/resize", Verb::ChangeStore("resize")),
    (Method::POST, "/api/v1/images/rollback", Verb::ChangeStore("rollback")),
    (Method::POST, "/api/v1/images/flatten", Verb::ChangeStore("flatten")),
    (Method::POST, "/api/v1/images/rebase", Verb::ChangeStore("rebase")),
];

/// Why a request asks for nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteError {
    NotFound,
    /// There is the path, with these methods.
    Method(Vec<Method>),
}

/// What a method and a path ask for. HEAD is GET without the body of the answer.
pub(super) fn find(method: &Method, path: &str) -> Result<Verb, RouteError> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let of_path = || ROUTES.iter().filter(|(_, of, _)| *of == path);
    if let Some((_, _, verb)) = of_path().find(|(of, _, _)| of == method) {
        return Ok(*verb);
    }
    let allowed: Vec<_> = of_path().map(|(method, _, _)| method.clone()).collect();
    Err(if allowed.is_empty() { RouteError::NotFound } else { RouteError::Method(allowed) })
}

/// All of it, for people.
pub(super) fn overview() -> String {
    let routes = ROUTES.iter().map(|(method, path, _)| format!("{method} {path}"));
    routes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_methods() {
        assert_eq!(find(&Method::GET, "/api/v1/exports"), Ok(Verb::ListExports));
        assert_eq!(find(&Method::HEAD, "/api/v1/exports"), Ok(Verb::ListExports));
        assert_eq!(find(&Method::POST, "/api/v1/reload"), Ok(Verb::Reload));
        assert_eq!(find(&Method::GET, "/api/v1/reload"), Err(RouteError::Method(vec![Method::POST])));
        assert_eq!(find(&Method::DELETE, "/api/v1/exports"), Err(RouteError::Method(vec![Method::GET])));
        for path in ["/", "", "*", "/api/v1/exports/", "/api/v1/../v1/exports", "/API/V1/EXPORTS"] {
            assert_eq!(find(&Method::GET, path), Err(RouteError::NotFound), "{path}");
        }
        assert!(overview().starts_with("GET /api/v1/exports, POST /api/v1/reload, GET /api/v1/stores, "));
    }
}
