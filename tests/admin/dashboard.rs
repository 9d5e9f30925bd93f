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
use crate::{Subject, images, peers};

/// How long a browser may take to start and to draw, on a machine that has other things to do.
const BROWSER_DEADLINE: Duration = Duration::from_secs(300);

/// It does not fit beside the figures of an export.
const LONG_NAME: &str = "customer-4711.production.virtual-machine-0042.root-disk.eu-central-1";

/// The name of an image too.
const LONG_IMAGE: &str = "customer-4711.production.virtual-machine-0042.root-disk";

/// Requests until it is told to stop.
fn load(mut client: Connection, stop: &AtomicBool) {
    let mut block = 0;
    while !stop.load(Ordering::Relaxed) {
        client.write(block % 256 * 4096, &[1; 4096]);
        client.read(block % 256 * 4096, 4096);
        block += 1;
        // A page has something to show, and the browser the processors.
        std::thread::sleep(Duration::from_millis(1));
    }
    client.disconnect();
}

/// A browser that draws a page once it has had `milliseconds` of its own time.
fn browser(profile: &std::path::Path, milliseconds: u32) -> Option<Command> {
    let mut command = chromium(profile)?;
    command.arg(format!("--virtual-time-budget={milliseconds}"));
    Some(command)
}

/// A browser without a window.
fn chromium(profile: &std::path::Path) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|place| place.join("chromium")).find(|file| file.exists());
    let Some(program) = program else {
        peers::skip("chromium", "install the package chromium");
        return None;
    };
    let mut command = Command::new(program);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]);
    command.args(["--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    Some(command)
}

#[test]
fn a_browser_shows_what_the_server_does() {
    let directory = tempfile::tempdir().unwrap();
    let strange = "<b>disk</b> & more";
    // A name with a slash can only be given in a file; with < and & it is a good test of the page's escaping.
    let config = directory.path().join("config.toml");
    let (_house, store) = images::store(&["vm1", LONG_IMAGE]);
    let text = format!(
        "[[export]]\nname = \"{strange}\"\nuri = \"mem:1M\"\n[[export]]\nname = \"slow\"\nuri = \"fault:delay.read=2ms:mem:1M\"\n\
         [[export]]\nname = \"{LONG_NAME}\"\nuri = \"fault:delay=1us,seed=77:mem:1M\"\n[[export]]\nuri = \"store:{}\"\n",
        store.display()
    );
    std::fs::write(&config, text).unwrap();
    let subject =
        Subject::start(Options::new().shards(1).memory("80M").args(["--config", config.to_str().unwrap()]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for export in [strange, "slow", LONG_NAME, LONG_IMAGE] {
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

/// Runs the page's own script with something behind it, away from any server, and gives what that leaves in the title.
fn evaluate(script: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page.html");
    let page = include_str!("../../src/control/admin/dashboard.html");
    let page =
        page.replace("loop();\n</script>", &format!("document.title = JSON.stringify({script});\n</script>"));
    assert!(page.contains(script), "the page ends as it did");
    std::fs::write(&file, page).unwrap();
    let mut command = browser(&directory.path().join("profile"), 1000)?;
    command.args(["--dump-dom", &format!("file://{}", file.display())]);
    let page = peers::run_within(BROWSER_DEADLINE, &mut command, b"").ok();
    Some(page.split("<title>").nth(1).unwrap().split("</title>").next().unwrap().to_owned())
}

/// Intervals that end late lie beside each other as early ones do: nothing between them looks like an outage.
#[test]
fn late_intervals_leave_no_gap() {
    // Of 1.0, 1.3, 1.0, 2.6 seconds; then two seconds that nobody recorded.
    let script = r#"columns([[1000, 1000], [2300, 1300], [3300, 1000], [5900, 2600], [8900, 1000]].map(([end_unix_ms, length_ms]) =>
        ({ end_unix_ms, length_ms, heat: [3], heat_first_row: 2 })), 1).map(column => [column.start, column.end, column.rows.get(2)])"#;
    let Some(found) = evaluate(script) else { return };
    assert_eq!(found, "[[0,1000,3],[1000,2300,3],[2300,3300,3],[3300,5900,3],[7900,8900,3]]");
    let script = script.replace(", 1)", ", 2000)");
    assert_eq!(evaluate(&script).unwrap(), "[[0,2300,6],[2300,5900,6],[7900,8900,3]]");
}

/// What an axis says when there is nothing, and one system of units for bytes.
#[test]
fn idle_axes_and_bytes_are_plain() {
    let script = r#"[CHARTS.filter(chart => chart.idle).map(chart => scale({ bottom: 100 }, 0, chart.idle, false, chart.whole, chart.binary).ticks
        .map(value => words(chart.text(value)).trim())), words(bytes(1536)), words(bytes(2 ** 30))]"#;
    let Some(found) = evaluate(script) else { return };
    assert!(found.contains(r#"["0","5","10"]"#), "{found}");
    for wrong in ["0.50", "0.5 ns", "kB", "MB", "ns"] {
        assert!(!found.contains(wrong), "{wrong}: {found}");
    }
    assert!(found.contains(r#""1.5 KiB","1 GiB""#), "{found}");
}

/// A browser that goes on, and shows its pages' titles at a port.
struct OpenBrowser {
    child: std::process::Child,
    port: u16,
}

impl OpenBrowser {
    fn start(mut command: Command, url: &str) -> Self {
        use std::io::{BufRead, BufReader};
        command.args(["--remote-debugging-port=0", url]);
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let address = line.strip_prefix("DevTools listening on ws://127.0.0.1:")?.split('/').next()?;
            address.parse().ok()
        });
        // What it says later goes nowhere, and must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port: port.expect("it tells its port") }
    }

    /// The pages, as JSON. A browser keeps the connection whatever it is told, so nobody waits for its end.
    fn list(&self) -> std::io::Result<Vec<u8>> {
        use std::io::{BufRead, BufReader, Read, Write};
        let mut stream = crate::http::Address::Tcp(([127, 0, 0, 1], self.port).into()).connect();
        stream.write_all(b"GET /json/list HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut stream = BufReader::new(stream);
        let (mut line, mut length) = (String::from("the first"), 0);
        while !line.trim().is_empty() {
            line.clear();
            stream.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut list = vec![0; length];
        stream.read_exact(&mut list)?;
        Ok(list)
    }

    /// The page's number and title.
    fn page(&self) -> Option<(String, String)> {
        let list: serde_json::Value = serde_json::from_slice(&self.list().ok()?).ok()?;
        let page = list.as_array()?.iter().find(|of| of["type"] == "page")?.clone();
        Some((page["id"].as_str()?.to_owned(), page["title"].as_str()?.to_owned()))
    }
}

impl Drop for OpenBrowser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The page counts events in its title, which begins anew when it is loaded anew.
#[test]
fn the_dashboard_follows_events_without_reloading() {
    let directory = tempfile::tempdir().unwrap();
    let Some(command) = chromium(&directory.path().join("profile")) else { return };
    let subject =
        crate::control::Subject::start(Options::new().export("mem:1M").args(["--admin", "127.0.0.1:0"]));
    let crate::http::Address::Tcp(address) = crate::http::Address::of(&subject.server) else { panic!() };
    let browser = OpenBrowser::start(command, &format!("http://{address}/"));
    let deadline = std::time::Instant::now() + BROWSER_DEADLINE;
    let (mut first, mut change) = (None, 0);
    loop {
        assert!(std::time::Instant::now() < deadline, "no event came: {:?}", browser.page());
        change += 1;
        let body = serde_json::json!({ "limit": { "iops": change } }).to_string();
        assert_eq!(crate::live::send(&subject, ("PATCH", "exports/"), "", &body).status, 200);
        // No faster than a browser can follow beside other tests.
        std::thread::sleep(Duration::from_millis(50));
        let Some((page, title)) = browser.page() else { continue };
        let Some(count) = title.strip_prefix('(').and_then(|rest| rest.split(')').next()) else { continue };
        assert!(title.contains("export changed"), "{title}");
        let count: u64 = count.parse().unwrap();
        match &first {
            None => first = Some((page, count)),
            Some((of, before)) if count > *before => {
                assert_eq!(*of, page);
                break;
            }
            Some(_) => {}
        }
    }
}

/// A table of the page.
fn table<'a>(page: &'a str, name: &str) -> &'a str {
    page.split(&format!("id=\"{name}\"")).nth(1).unwrap().split("</table>").next().unwrap()
}

/// Rows of the table of connections.
fn connections(page: &str) -> usize {
    table(page, "connections").matches("<tr>").count() - 1
}

/// A tree with more lines than the page has room for, below a store that answers no more.
#[test]
fn long_lists_of_images_end_and_trees_are_indented() {
    let script = r##"(() => {
        const of = (name, kind, origin) => ({ name, kind, origin, base: null, size: 4096, used: 2048, unique: 512, shared: 1536, depth: 2,
            open: name === "vm7", export: name === "vm7" ? "disk" : null, connections: name === "vm7" ? 3 : 0 });
        const nodes = [of("golden", "image", null), of("golden@v1", "snapshot", null)];
        for (let i = 0; i < 300; i++) nodes.push(of(`vm${i}`, "image", "golden@v1"));
        const store = { store: "/srv/<b>", age_seconds: 9, error: "it < failed", images: 9000, snapshots: 1, count: 9001, nodes, missing: [] };
        const empty = { store: "/srv/new", age_seconds: null, error: null, images: 0, snapshots: 0, count: 0, nodes: [], missing: [] };
        const before = id("images-card").hidden;
        imagesTable({ stores: [store, empty] });
        const rows = [...document.querySelectorAll("#images tbody tr")];
        const bar = rows[2].querySelectorAll(".split span");
        const found = [before, rows.length, rows[0].textContent, rows[1].textContent, rows[202].textContent, rows[203].textContent,
            [...levels(nodes).values()].slice(0, 4), bar[0].style.width, bar[1].style.width,
            rows.filter(row => row.querySelector(".dot.good")).map(row => row.textContent)];
        imagesTable({ stores: [] });
        return [...found, id("images-card").hidden];
    })()"##;
    let Some(found) = evaluate(script) else { return };
    let found: serde_json::Value =
        serde_json::from_str(&found.replace("&lt;", "<").replace("&gt;", ">")).unwrap();
    let expected = serde_json::json!([
        true,
        204,
        "/srv/<b> · 9000 images, 1 snapshot · as of 9 s ago",
        "it < failed",
        "and 8801 more",
        "/srv/new",
        [0, 1, 2, 2],
        "25%",
        "75%",
        ["vm7export disk4 KiB2 KiB512 B1.5 KiB23"],
        true
    ]);
    assert_eq!(found, expected);
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
        ["&lt;b&gt;disk&lt;/b&gt; &amp; more", "slow", "write", "class=\"dot good\"", "4 exports on 1 shard"]
    {
        assert!(page.contains(part), "no {part}: {page}");
    }
    assert!(!page.contains("<b>disk</b>"), "the name of an export became markup");
    assert!(!page.contains("class=\"lost\""), "{page}");
    assert_eq!(connections(&page), 4);
    let tree = table(&page, "images");
    // The line of the store, and those of three images and two snapshots.
    assert_eq!(tree.matches("<tr>").count() - 1, 1 + 3 + 2, "{tree}");
    let order = ["3 images, 2 snapshots", ">golden<", ">@v1<", LONG_IMAGE, ">vm1<", ">@monday<"]
        .map(|text| tree.find(text).unwrap_or_else(|| panic!("no {text}: {tree}")));
    assert!(order.is_sorted(), "{order:?}: {tree}");
    assert_eq!(tree.matches("title=\"open\"").count(), 2, "the dot and the clients of one: {tree}");
    // Nothing is cut off, on narrow screens least of all.
    for (width, of) in [(1024, ""), (1024, "#export=slow"), (1280, ""), (1920, "#export=slow")] {
        let profile = directory.join(format!("width-{width}-{}", of.len()));
        let Some(mut command) = browser(&profile, 4000) else { return };
        command.arg(format!("--window-size={width},900")).args(["--dump-dom", &format!("{url}{of}")]);
        let page = peers::run_within(BROWSER_DEADLINE, &mut command, b"").ok();
        assert!(
            page.contains("data-cut=\"0\""),
            "{width}: {}",
            &page[page.find("data-cut").unwrap_or(0)..][..40]
        );
        assert!(page.contains("<option value=\"1\">slow</option>"), "{page}");
        assert_eq!(connections(&page), if of.is_empty() { 4 } else { 1 }, "{page}");
    }
    let pictures =
        std::env::var_os("RINGNBD_SCREENSHOTS").map_or_else(|| directory.to_owned(), PathBuf::from);
    let sizes = [
        ("desktop", "1400,2100", 1),
        ("dark", "1400,2100", 0),
        ("phone", "500,3600", 1),
        ("small-dark", "1024,2100", 0),
        ("small", "1024,2100", 1),
        ("wide-dark", "1920,2100", 0),
        ("middle", "1440,2300", 1),
    ];
    for (name, size, scheme) in sizes {
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
