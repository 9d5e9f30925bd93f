//! What a server says when it has started.

use std::io::{self, IsTerminal};

use crate::config::LogFormat;
use crate::control::{Ready, Served};
use crate::daemon::log::OUTPUT;

/// Says what is served: to programs as log lines, to people as a few lines with something to try.
pub(super) fn announce(ready: Ready<'_>, format: LogFormat, listens: bool) {
    if format == LogFormat::Json {
        for export in ready.exports {
            for uri in &export.uris {
                let Served { name, source, size, read_only, .. } = export;
                tracing::info!(export = name, uri, source, size, read_only, "serving");
            }
        }
        ready.stores.iter().for_each(|store| tracing::info!("{store}"));
        ready.admin.iter().for_each(|url| tracing::info!(url, "admin"));
        ready.control.iter().for_each(|address| tracing::info!(address, "control"));
    }
    // With --stdio the standard output may be the client's socket.
    let people_read = format == LogFormat::Human || io::stdout().is_terminal();
    if people_read && listens {
        OUTPUT.write(banner(ready.exports, ready.stores, ready.admin, ready.control).as_bytes());
    }
}

/// What people are told.
pub(super) fn banner(
    served: &[Served],
    stores: &[String],
    admin: &[String],
    control: Option<&str>,
) -> String {
    let mut text = String::new();
    for export in served {
        let name = if export.name.is_empty() { "(default)" } else { &export.name };
        let access = if export.read_only { ", read-only" } else { "" };
        text += &format!("{name}: {}, {} bytes{access}\n", export.source, export.size);
        for uri in &export.uris {
            text += &format!("    '{uri}'\n");
        }
    }
    for store in stores {
        text += &format!("{store}\n");
    }
    for url in admin {
        text += &format!("admin: {url}\n");
    }
    if let Some(address) = control {
        text += &format!("control: {address}\n");
    }
    if let Some(Served { uris, qemu, .. }) = served.first()
        && let (Some(uri), Some(qemu)) = (uris.first(), qemu.first())
    {
        text += &format!("Try: ringnbd info '{uri}'   or: qemu-img info {qemu}   Stop with Ctrl-C.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_has_every_uri_and_a_line_to_try() {
        let served = Served {
            name: "disk".to_owned(),
            source: "mem:1G".to_owned(),
            size: 1 << 30,
            read_only: true,
            uris: vec!["nbd://127.0.0.1:1/disk".to_owned(), "nbd+unix:///disk?socket=/s".to_owned()],
            qemu: vec!["'nbd://127.0.0.1:1/disk'".to_owned()],
        };
        let banner = banner(&[served], &[], &["http://127.0.0.1:9800/".to_owned()], Some("unix:/c"));
        assert!(banner.contains("admin: http://127.0.0.1:9800/\n"));
        assert!(banner.contains("control: unix:/c\n"));
        assert!(banner.contains("read-only"));
        assert!(banner.contains("    'nbd+unix:///disk?socket=/s'\n"));
        assert!(banner.contains("qemu-img info 'nbd://127.0.0.1:1/disk'"));
    }
}
