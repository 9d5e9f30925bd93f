//! Why the exports stay as they are.

use hyper::StatusCode;

use crate::config::export_change::ExportChangeError;

/// Each a sentence with cause and remedy; nothing was changed.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(in crate::control) enum LiveRefusal {
    #[error("there is no export \"{0}\"")]
    Missing(String),
    #[error("the export \"{0}\" is not as If-Match or If-None-Match expects it: look at it again")]
    Condition(String),
    #[error("there is an export \"{0}\" already, which was added at the control socket: remove it first")]
    Taken(String),
    #[error("\"{0}\" is an image of a store, or has the name of one: images come and go by `ringnbd image`")]
    Image(String),
    #[error(
        "images of stores, and exports of commands, are there from the start of the server on: restart it to serve {0}"
    )]
    NeedsRestart(String),
    #[error("the export \"{name}\" cannot be opened: {why}")]
    NotOpened { name: String, why: String },
    #[error("the export \"{name}\" cannot be resized: {why}")]
    NotResized { name: String, why: String },
    #[error(
        "the export \"{name}\" has {now} bytes, and what lies behind a nearer end would be lost: say shrink, if that is meant"
    )]
    Smaller { name: String, now: u64 },
    #[error(
        "the export \"{0}\" has clients, which were told that it is larger: it can become smaller when they are gone; cut_off has them connect again"
    )]
    SmallerWithClients(String),
    #[error("the export \"{0}\" needs TLS, and the server has none: restart it with a certificate")]
    NoTls(String),
    #[error("there is no tenant \"{0}\": add it to the configuration and reload that")]
    NoTenant(String),
    #[error("there are {0} exports already: remove some first")]
    TooMany(usize),
    #[error("{0}")]
    Wrong(#[from] ExportChangeError),
    #[error("the server is stopping")]
    Stopping,
}

impl LiveRefusal {
    pub(in crate::control) fn status(&self) -> StatusCode {
        match self {
            Self::Missing(_) | Self::NoTenant(_) => StatusCode::NOT_FOUND,
            Self::Condition(_) => StatusCode::PRECONDITION_FAILED,
            Self::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Taken(_)
            | Self::Image(_)
            | Self::NeedsRestart(_)
            | Self::NotOpened { .. }
            | Self::NotResized { .. }
            | Self::Smaller { .. }
            | Self::SmallerWithClients(_)
            | Self::NoTls(_)
            | Self::TooMany(_) => StatusCode::CONFLICT,
        }
    }
}
