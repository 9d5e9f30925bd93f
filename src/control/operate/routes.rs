//! What the control socket can do: one table.

use hyper::Method;
use percent_encoding::percent_decode_str;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    ListExports,
    ShowExport,
    /// Add an export, or have it be what the body says.
    PutExport,
    /// Change what the body says.
    PatchExport,
    RemoveExport,
    ListTenants,
    ShowTenant,
    /// Change its rates as the body says.
    PatchTenant,
    ListConnections,
    ShowConnection,
    EndConnection,
    Health,
    /// What a terminal shows each second.
    ShowFigures,
    Drain,
    /// What a hand-over to a new process would move.
    ShowHandover,
    /// Begin one.
    HandOver,
    Reload,
    /// What happens, from now on.
    FollowEvents,
    /// This API, as OpenAPI has it.
    ShowDescription,
    /// An export gets another size.
    Resize,
    /// The stores that are open.
    ListStores,
    /// A question about a store or an image, by the name of a
    /// [`StoreRequest`](crate::store::request::StoreRequest).
    AskStore(&'static str),
    /// A change of them.
    ChangeStore(&'static str),
}

impl Verb {
    /// Whether it is to be found in the log.
    pub(super) fn changes_exports(self) -> bool {
        matches!(
            self,
            Self::PutExport
                | Self::PatchExport
                | Self::PatchTenant
                | Self::RemoveExport
                | Self::EndConnection
                | Self::Resize
        )
    }
}

/// Paths are compared as they are. One that ends in a slash has a name behind it, percent-encoded.
pub(super) const ROUTES: [(Method, &str, Verb); 41] = [
    (Method::GET, "/api/v1/exports", Verb::ListExports),
    (Method::GET, "/api/v1/exports/", Verb::ShowExport),
    (Method::PUT, "/api/v1/exports/", Verb::PutExport),
    (Method::PATCH, "/api/v1/exports/", Verb::PatchExport),
    (Method::DELETE, "/api/v1/exports/", Verb::RemoveExport),
    (Method::GET, "/api/v1/tenants", Verb::ListTenants),
    (Method::GET, "/api/v1/tenants/", Verb::ShowTenant),
    (Method::PATCH, "/api/v1/tenants/", Verb::PatchTenant),
    (Method::GET, "/api/v1/connections", Verb::ListConnections),
    (Method::GET, "/api/v1/connections/", Verb::ShowConnection),
    (Method::DELETE, "/api/v1/connections/", Verb::EndConnection),
    (Method::GET, "/api/v1/health", Verb::Health),
    (Method::GET, "/api/v1/figures", Verb::ShowFigures),
    (Method::POST, "/api/v1/drain", Verb::Drain),
    (Method::GET, "/api/v1/handover", Verb::ShowHandover),
    (Method::POST, "/api/v1/handover", Verb::HandOver),
    (Method::POST, "/api/v1/reload", Verb::Reload),
    (Method::GET, "/api/v1/events", Verb::FollowEvents),
    (Method::GET, "/api/v1/openapi.json", Verb::ShowDescription),
    (Method::POST, "/api/v1/resize/", Verb::Resize),
    (Method::GET, "/api/v1/stores", Verb::ListStores),
    (Method::GET, "/api/v1/stores/info", Verb::AskStore("store")),
    (Method::GET, "/api/v1/stores/sealed", Verb::AskStore("sealed")),
    (Method::POST, "/api/v1/stores/gc", Verb::ChangeStore("gc")),
    (Method::POST, "/api/v1/stores/ingest", Verb::ChangeStore("ingest")),
    (Method::POST, "/api/v1/stores/push", Verb::ChangeStore("push")),
    (Method::GET, "/api/v1/images", Verb::AskStore("images")),
    (Method::GET, "/api/v1/images/info", Verb::AskStore("image")),
    (Method::GET, "/api/v1/images/layers", Verb::AskStore("layers")),
    (Method::POST, "/api/v1/images/create", Verb::ChangeStore("create")),
    (Method::POST, "/api/v1/images/snapshot", Verb::ChangeStore("snapshot")),
    (Method::POST, "/api/v1/images/checkpoint", Verb::ChangeStore("checkpoint")),
    (Method::POST, "/api/v1/images/clone", Verb::ChangeStore("clone")),
    (Method::POST, "/api/v1/images/clone-from-tier", Verb::ChangeStore("clone_from_tier")),
    (Method::POST, "/api/v1/images/remove", Verb::ChangeStore("remove")),
    (Method::POST, "/api/v1/images/rename", Verb::ChangeStore("rename")),
    (Method::POST, "/api/v1/images/resize", Verb::ChangeStore("resize")),
    (Method::POST, "/api/v1/images/rollback", Verb::ChangeStore("rollback")),
    (Method::POST, "/api/v1/images/flatten", Verb::ChangeStore("flatten")),
    (Method::POST, "/api/v1/images/rebase", Verb::ChangeStore("rebase")),
    (Method::POST, "/api/v1/images/import", Verb::ChangeStore("import")),
];

/// Why a request asks for nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteError {
    NotFound,
    /// There is the path, with these methods.
    Method(Vec<Method>),
}

/// What a method and a path ask for, and the name behind the path, decoded. HEAD is GET without the body of
/// the answer.
pub(super) fn find(method: &Method, path: &str) -> Result<(Verb, String), RouteError> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let is_of = |route: &str| if route.ends_with('/') { path.starts_with(route) } else { path == route };
    let of_path = || ROUTES.iter().filter(|(_, route, _)| is_of(route));
    if let Some((_, route, verb)) = of_path().find(|(of, _, _)| of == method) {
        let name = percent_decode_str(&path[route.len()..]).decode_utf8();
        return name.map(|name| (*verb, name.into_owned())).map_err(|_| RouteError::NotFound);
    }
    let allowed: Vec<_> = of_path().map(|(method, _, _)| method.clone()).collect();
    Err(if allowed.is_empty() { RouteError::NotFound } else { RouteError::Method(allowed) })
}

/// All of it, for people.
pub(super) fn overview() -> String {
    let name = |path: &str| if path.ends_with('/') { "NAME" } else { "" };
    let routes = ROUTES.iter().map(|(method, path, _)| format!("{method} {path}{}", name(path)));
    routes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_methods() {
        let named = |verb, name: &str| Ok((verb, name.to_owned()));
        assert_eq!(find(&Method::GET, "/api/v1/exports"), named(Verb::ListExports, ""));
        assert_eq!(find(&Method::HEAD, "/api/v1/exports"), named(Verb::ListExports, ""));
        assert_eq!(find(&Method::POST, "/api/v1/reload"), named(Verb::Reload, ""));
        assert_eq!(find(&Method::GET, "/api/v1/reload"), Err(RouteError::Method(vec![Method::POST])));
        assert_eq!(find(&Method::DELETE, "/api/v1/exports"), Err(RouteError::Method(vec![Method::GET])));
        assert_eq!(find(&Method::PUT, "/api/v1/exports/vm%2Fdisk%3A0"), named(Verb::PutExport, "vm/disk:0"));
        assert_eq!(
            find(&Method::DELETE, "/api/v1/exports/"),
            named(Verb::RemoveExport, ""),
            "the default export"
        );
        assert_eq!(find(&Method::DELETE, "/api/v1/connections/0.17"), named(Verb::EndConnection, "0.17"));
        let methods = vec![Method::GET, Method::PUT, Method::PATCH, Method::DELETE];
        assert_eq!(find(&Method::POST, "/api/v1/exports/a"), Err(RouteError::Method(methods)));
        for path in [
            "/",
            "",
            "*",
            "/api/v1/exports/%ff",
            "/api/v1/../v1/exports",
            "/API/V1/EXPORTS",
            "/api/v1/reload/",
        ] {
            assert_eq!(find(&Method::GET, path), Err(RouteError::NotFound), "{path}");
        }
        assert!(
            overview()
                .starts_with("GET /api/v1/exports, GET /api/v1/exports/NAME, PUT /api/v1/exports/NAME, ")
        );
    }
}
