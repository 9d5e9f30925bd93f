//! A configuration of nbd-server, served by that one, and after `import-config` by this server: clients find the same.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::peers::{self, Daemon};
use crate::support::image::pattern;
use crate::support::raw::{Connection, Request};
use crate::support::wire::*;

/// Of each export: its name, its size, whether it is read-only. nbd-server keeps what is written apart in blocks of 4096 bytes, and cannot
/// read the rest of one.
const EXPORTS: [(&str, usize, bool); 3] =
    [("apart", (1 << 20) + 4096, false), ("locked", (2 << 20) + 512, true), ("plain", 3 << 20, false)];

/// A directory with the configuration and its disks.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Self {
        // Not the build directory: the path of a socket holds 107 bytes at most.
        let site = Self { directory: tempfile::Builder::new().prefix("ringnbd-import").tempdir().unwrap() };
        for (seed, (name, size, _)) in (1..).zip(EXPORTS) {
            std::fs::write(site.disk(name), pattern(seed, 0, size)).unwrap();
        }
        let (socket, included) = (site.path("s"), site.path("conf.d"));
        // nbd-server always listens on TCP too.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let export =
            |name: &str, more: &str| format!("[{name}]\nexportname = {}\n{more}", site.disk(name).display());
        let generic = format!(
            "[generic]\nunixsock = {}\nlistenaddr = 127.0.0.1\nport = {port}\nallowlist = true\nincludedir = {}\n",
            socket.display(),
            included.display(),
        );
        std::fs::create_dir(&included).unwrap();
        std::fs::write(included.join("apart.conf"), export("apart", "copyonwrite = true\n")).unwrap();
        let config =
            generic + &export("plain", "flush = true\nfua = true\n") + &export("locked", "readonly = true\n");
        std::fs::write(site.path("config"), config).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.img"))
    }

    fn start(&self, command: Command) -> Daemon {
        Daemon::start(command, || UnixStream::connect(self.path("s")).is_ok())
    }

    fn client(&self, export: &str) -> Connection {
        let mut client = Connection::over_unix(UnixStream::connect(self.path("s")).unwrap());
        client.greet(MODERN);
        client.go(export);
        client
    }

    /// What clients find of the exports, and what becomes of their writes. `seed` is of those to `plain`.
    fn visit(&self, before: u64, seed: u64) {
        let uri = format!("nbd+unix:///?socket={}", self.path("s").display());
        let listed = peers::run(Command::new(binary()).args(["list", "--json", &uri])).ok();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        // Sizes are those of GO: nbd-server has none in INFO, by which `list` asks.
        let name = |export: &Value| export["export"].as_str().expect("a name").to_owned();
        let mut found: Vec<_> = listed["exports"].as_array().expect("exports").iter().map(name).collect();
        found.sort();
        assert_eq!(found, EXPORTS.map(|(name, ..)| name));
        for (first, (name, size, is_read_only)) in (1..).zip(EXPORTS) {
            let old = pattern(if name == "plain" { before } else { first }, 0, size);
            let new = pattern(seed, 0, size);
            let mut client = self.client(name);
            assert_eq!(client.export.size, size as u64, "{name}");
            assert_eq!(client.export.has(NBD_FLAG_READ_ONLY), is_read_only, "{name}");
            assert!(client.read(0, size) == old, "what is read of {name}");
            if is_read_only {
                client.fail(&Request::write(0, new[..4096].to_vec()), NBD_EPERM);
            } else {
                // One block: of longer writes to what it keeps apart, nbd-server gives other bytes back.
                let length = if name == "apart" { 4096 } else { size };
                client.write(0, &new[..length]);
                assert!(client.read(0, length) == new[..length], "what was written to {name} ({seed})");
                client.flush();
            }
            let lasting = if name == "plain" { new } else { old };
            assert!(std::fs::read(self.disk(name)).unwrap() == lasting, "the file of {name}");
            client.disconnect();
        }
    }
}

#[test]
fn an_imported_configuration_serves_the_same() {
    let site = Site::new();
    let Some(mut theirs) = peers::command("nbd-server") else { return };
    theirs.arg("-C").arg(site.path("config")).arg("-n");
    let server = site.start(theirs);
    site.visit(3, 10);
    drop(server);
    let imported = peers::run(Command::new(binary()).arg("import-config").arg(site.path("config")));
    // One sentence: what is written apart is the same for all clients.
    assert_eq!(imported.stderr.lines().count(), 1, "{imported}");
    assert!(imported.stderr.contains("copyonwrite of [apart]"), "{imported}");
    std::fs::write(site.path("ringnbd.toml"), imported.ok()).unwrap();
    let mut ours = Command::new(binary());
    ours.args(["serve", "--shards", "1", "--config"]).arg(site.path("ringnbd.toml"));
    let server = site.start(ours);
    site.visit(10, 11);
    drop(server);
}
