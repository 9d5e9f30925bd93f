//! The dashboard in a real browser, under load, wide and narrow, light and dark.
//!
//! `RINGNBD_SCREENSHOTS=DIR` keeps the pictures, for people to look at.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::raw::{Connection, Mode};
use crate::support::server::Options;
use crate::support::wait_until;
use crate::{Subject, peers};

/// How long a browser may take to start and to draw, on a machine that has other things to do.
const BROWSER_DEADLINE: Duration = Duration::from_secs(120);

/// Requests until it is told to stop.
fn load(mut client: Connection, stop: &AtomicBool) {
    let mut block = 0;
    while !stop.load(Ordering::Relaxed) {
        client.write(block % 256 * 4096, &[1; 4096]);
        client.read(block % 256 * 4096, 4096);
        block += 1;
    }
    client.disconnect();
}

/// A browser that draws a page once it has had `milliseconds` of its own time.
fn browser(profile: &std::path::Path, milliseconds: u32) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|place| place.join("chromium")).find(|file| file.exists());
    let Some(program) = program else {
        peers::skip("chromium", "install the package chromium");
        return None;
    };
    let mut command = Command::new(program);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]);
    command.args(["--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr"]);
    command.arg(format!("--virtual-time-budget={milliseconds}"));
    command.arg(format!("--user-data-dir={}", profile.display()));
    Some(command)
}

#[test]
fn a_browser_shows_what_the_server_does() {
    let directory = tempfile::tempdir().unwrap();
    let strange = "<b>disk</b> & more";
    // A name with a slash can only be given in a file; with < and & it is a good test of the page's escaping.
    let config = directory.path().join("config.toml");
    let text = format!(
        "[[export]]\nname = \"{strange}\"\nuri = \"mem:1M\"\n[[export]]\nname = \"slow\"\nuri = \"fault:delay.read=2ms:mem:1M\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let subject =
        Subject::start(Options::new().shards(1).memory("80M").args(["--config", config.to_str().unwrap()]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for export in [strange, "slow"] {
            let client = Connection::attach(&subject.server, export, Mode::Simple);
            let stop = &stop;
            scope.spawn(move || load(client, stop));
        }
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&subject, directory.path())));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn look(subject: &Subject, directory: &std::path::Path) {
    let seconds = || subject.json("/api/v1/history")["seconds"].as_array().unwrap().len();
    wait_until("some seconds of history", || seconds() >= 4);
    let crate::http::Address::Tcp(address) = &subject.admin else { panic!("{:?}", subject.admin) };
    let url = format!("http://{address}/");
    let Some(mut command) = browser(&directory.join("dom"), 4000) else { return };
    let finished = peers::run_within(BROWSER_DEADLINE, command.args(["--dump-dom", &url]), b"");
    let complaints: Vec<_> = finished
        .stderr
        .lines()
        .filter(|line| line.contains("CONSOLE") || line.contains("Uncaught"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let page = finished.ok();
    for part in
        ["&lt;b&gt;disk&lt;/b&gt; &amp; more", "slow", "write", "class=\"dot good\"", "2 exports on 1 shard"]
    {
        assert!(page.contains(part), "no {part}: {page}");
    }
    assert!(!page.contains("<b>disk</b>"), "the name of an export became markup");
    assert!(!page.contains("class=\"lost\""), "{page}");
    let rows = page.split("id=\"connections\"").nth(1).unwrap().split("</table>").next().unwrap();
    assert_eq!(rows.matches("<tr>").count(), 1 + 2, "{rows}");
    let pictures =
        std::env::var_os("RINGNBD_SCREENSHOTS").map_or_else(|| directory.to_owned(), PathBuf::from);
    for (name, size, scheme) in
        [("desktop", "1400,1500", 1), ("dark", "1400,1500", 0), ("phone", "500,2600", 1)]
    {
        let Some(mut command) = browser(&directory.join(name), 4000) else { return };
        let file = pictures.join(format!("dashboard-{name}.png"));
        command.arg(format!("--window-size={size}")).arg(format!("--screenshot={}", file.display()));
        command.arg(format!("--blink-settings=preferredColorScheme={scheme}")).arg(&url);
        peers::run_within(BROWSER_DEADLINE, &mut command, b"").ok();
        // An empty page of this size has a few kilobytes.
        let bytes =
            std::fs::metadata(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).len();
        assert!(bytes > 40_000, "{name}: {bytes} bytes");
    }
}
