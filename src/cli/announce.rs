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
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, SubCommand};

    fn args(words: &[&str]) -> Result<Args, clap::Error> {
        let words = ["ringnbd", "serve"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            SubCommand::Serve(args) => *args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn flags_become_settings() {
        let all = [
            "a=mem:1G",
            "b.img",
            "--unix",
            "/s",
            "--unix",
            "@n",
            "--tcp",
            "[::1]:0",
            "--shards",
            "2",
            "--cpus",
            "0-1",
            "--memory",
            "1G",
            "--max-request",
            "16M",
            "--busy-poll",
            "50us",
            "--pidfile",
            "/p",
            "--read-only",
            "--max-connections",
            "9",
            "--device-depth",
            "128",
            "--handshake-timeout",
            "3s",
            "--shutdown",
            "errors",
            "--log-format",
            "json",
            "--user",
            "nbd",
            "--sandbox",
            "off",
            "--control",
            "unix:/c",
            "--unpinned",
            "--unix-mode",
            "0600",
            "--unix-group",
            "kvm",
        ];
        let settings = settings(args(&all).unwrap()).unwrap().settings;
        assert_eq!(settings.exports.len(), 2);
        assert_eq!(settings.listen.len(), 3);
        assert_eq!(settings.memory, Some(1 << 30));
        assert_eq!(settings.max_request, Some(16 << 20));
        assert_eq!(settings.busy_poll, Some(Duration::from_micros(50)));
        assert_eq!(settings.device_depth, Some(128));
        assert_eq!(settings.read_only, Some(true));
        assert_eq!(settings.log_format, Some(LogFormat::Json));
        assert_eq!(settings.shutdown, Some(Shutdown::Errors));
        assert_eq!(settings.user, Some("nbd".parse().unwrap()));
        assert_eq!(settings.sandbox, Some(SandboxMode::Off));
        assert_eq!(settings.control, Some(ControlAddress::Path("/c".into())));
        assert_eq!(settings.pinned, Some(Pinning::Off));
        assert_eq!(
            settings.unix_access,
            UnixAccess { mode: Some(FileMode(0o600)), group: Some("kvm".to_owned()) }
        );
    }

    #[test]
    fn wrong_flags_are_usage_errors() {
        for words in [
            &["mem:10GB"][..],
            &["qcow2:x"],
            &["--shards", "x"],
            &["--cpus", "a-b"],
            &["--memory", "lots"],
            &["--busy-poll", "5"],
            &["--tcp", ":"],
            &["--stdio", "--unix", "/s"],
            &["--log-format", "xml"],
            &["--sandbox", "yes"],
            &["--shutdown", "now"],
            &["--user", ":disk"],
            &["--pinned", "maybe"],
            &["--check", "--stdio"],
            &["--pinned", "on", "--unpinned"],
            &["--unix-mode", "rw"],
            &["--control", "/c"],
            &["--control", "unix:@c"],
            &["--control", "unix:/c", "--stdio"],
        ] {
            assert_eq!(args(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn the_file_is_below_the_flags() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        std::fs::write(&path, "[server]\nshards = 3\nmemory = \"1G\"\n").unwrap();
        let path = path.to_str().unwrap();
        let of =
            |words: &[&str]| settings(args(words).unwrap()).map(|wanted| (wanted.settings, wanted.notes));
        let (both, notes) = of(&["--config", path, "--shards", "5"]).unwrap();
        assert!(notes.is_empty());
        assert_eq!((both.shards, both.memory), (Some(5), Some(1 << 30)));
        std::fs::write(path, "[server]\ntcp = \"1\"\n[[export]]\nname = \"a\"\nuri = \"mem:1M\"\n").unwrap();
        let (both, notes) = of(&["--config", path, "b=mem:2M", "--tcp", "2"]).unwrap();
        assert_eq!(both.exports.iter().map(|export| &*export.name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(both.listen.len(), 1);
        assert_eq!(notes.len(), 2, "{notes:?}");
        std::fs::write(path, "[server]\nshard = 3\n").unwrap();
        let error = of(&["--config", path]).unwrap_err();
        assert!(error.contains("c.toml, line 2:"), "{error}");
        assert!(of(&["--config", "/nonexistent"]).is_err());
    }

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
