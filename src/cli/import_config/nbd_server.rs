//! What nbd-server's keys mean here (nbd-server(5)).

use std::fmt::Write;
use std::path::Path;

use super::keyfile::Section;
use crate::config::uri_parts::escaped_path;

const DEFAULT_PORT: &str = "10809";

/// The outcome.
#[derive(Debug, Default)]
pub(super) struct Imported {
    pub(super) toml: String,
    /// What has no counterpart; sentences.
    pub(super) left_out: Vec<String>,
}

/// Reads a file that a configuration names; `None` if that cannot be.
type ReadFile<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// Keys of the server that have no counterpart, and why.
const GENERIC_LEFT_OUT: [(&str, &str); 4] = [
    ("max_threads", "shards do the work: `shards` in [server], by default one for each CPU"),
    ("duallisten", "who has no TLS is let in unless an export demands it"),
    ("tlsprio", "TLS is 1.3 with AES-GCM and ChaCha20"),
    ("oldstyle", "the old handshake is not offered"),
];

/// Keys of an export that have no counterpart, and why.
const EXPORT_LEFT_OUT: [(&str, &str); 14] = [
    ("filesize", "the size is that of the file"),
    ("timeout", "idle clients stay; a dead machine is found by keep-alive of TCP"),
    ("maxconnections", "the limit is that of the server: max-connections in [server]"),
    ("prerun", "no commands are run by connections; what they log can be watched"),
    ("postrun", "no commands are run by connections; what they log can be watched"),
    ("transactionlog", "requests can be logged by --slow and measured by --latency-log"),
    ("datalog", "no data is logged"),
    ("cowdir", "what is written apart lies in the directory for temporary files"),
    ("sparse_cow", "what is written apart is sparse"),
    ("waitfile", "a file has to be there at the start; add the export later (`ringnbd ctl`)"),
    ("port", "all exports share the addresses of the server"),
    ("listenaddr", "all exports share the addresses of the server"),
    ("sync", "a write lasts when the client's FLUSH or FUA was answered"),
    ("virtstyle", "an export has one file for all clients"),
];

/// Keys that say nothing that is not so here anyway.
const ALWAYS_SO: [&str; 9] =
    ["flush", "fua", "trim", "sdp", "splice", "exportname", "readonly", "rotational", "authfile"];
const MEANT: [&str; 3] = ["copyonwrite", "temporary", "force_tls"];
const GENERIC_MEANT: [&str; 11] = [
    "user",
    "group",
    "listenaddr",
    "port",
    "unixsock",
    "includedir",
    "allowlist",
    "force_tls",
    "certfile",
    "keyfile",
    "cacertfile",
];

/// Translates sections.
pub(super) fn import(sections: &[Section], read: ReadFile<'_>) -> Imported {
    let mut imported = Imported::default();
    let nothing = Section::default();
    let generic = sections.iter().find(|section| section.name == "generic").unwrap_or(&nothing);
    imported.server(generic);
    imported.tls(generic);
    for section in sections.iter().filter(|section| section.name != "generic") {
        imported.export(section, read);
    }
    imported
}

/// A text in TOML. JSON's form of it is one of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Imported {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.toml.write_fmt(line).expect("a String takes everything");
        self.toml.push('\n');
    }

    fn leave_out(&mut self, section: &str, key: &str, why: &str) {
        self.line(format_args!("# {key} of [{}] is left out: {why}", section.escape_debug()));
        self.left_out.push(format!("{key} of [{section}] is left out: {why}"));
    }

    fn server(&mut self, generic: &Section) {
        // The client may ask for a list only if it says so.
        let listed = if generic.is("allowlist") { "always" } else { "never" };
        self.line(format_args!("listed = {}\n\n[server]", quoted(listed)));
        let port = generic.value("port").map_or(DEFAULT_PORT, str::trim);
        let addresses = generic.value("listenaddr").unwrap_or("0.0.0.0,::");
        let addresses = addresses.split([',', ';', ' ']).map(str::trim).filter(|address| !address.is_empty());
        let tcp: Vec<_> = addresses
            .map(|address| match address.contains(':') {
                true => quoted(&format!("[{}]:{port}", address.trim_matches(['[', ']']))),
                false => quoted(&format!("{address}:{port}")),
            })
            .collect();
        self.line(format_args!("tcp = [{}]", tcp.join(", ")));
        if let Some(path) = generic.value("unixsock") {
            self.line(format_args!("unix = {}", quoted(path)));
        }
        match (generic.value("user"), generic.value("group")) {
            (Some(user), Some(group)) => {
                self.line(format_args!("user = {}", quoted(&format!("{user}:{group}"))))
            }
            (Some(user), None) => self.line(format_args!("user = {}", quoted(user))),
            (None, Some(_)) => self.leave_out("generic", "group", "name a user too"),
            (None, None) => {}
        }
        self.others(generic, &GENERIC_LEFT_OUT, &GENERIC_MEANT);
    }

    fn tls(&mut self, generic: &Section) {
        let (Some(certificate), Some(key)) = (generic.value("certfile"), generic.value("keyfile")) else {
            return;
        };
        let mode = if generic.is("force_tls") { "required" } else { "selective" };
        self.line(format_args!(
            "\n[tls]\nmode = {}\ncert = {}\nkey = {}",
            quoted(mode),
            quoted(certificate),
            quoted(key)
        ));
        if let Some(authority) = generic.value("cacertfile") {
            self.line(format_args!("client-ca = {}", quoted(authority)));
        }
    }

    fn export(&mut self, section: &Section, read: ReadFile<'_>) {
        let name = section.name.as_str();
        self.toml.push('\n');
        for (key, why) in [
            (
                "multifile",
                "an export is one file or block device: join them (device-mapper), or copy them into one",
            ),
            ("treefiles", "an export is one file or block device: copy the tree into one"),
        ] {
            if section.is(key) {
                return self.leave_out(name, key, why);
            }
        }
        let Some(path) = section.value("exportname") else {
            return self.leave_out(name, "all", "it names no file (exportname)");
        };
        if section.value("virtstyle").is_some_and(|style| style.trim() != "none") && path.contains("%s") {
            return self.leave_out(
                name,
                "virtstyle",
                "the name of the file depends on the client: write an export for each",
            );
        }
        let is_apart = section.is("copyonwrite") || section.is("temporary");
        let path = escaped_path(Path::new(path));
        let rotational = if section.is("rotational") { "?rotational=true" } else { "" };
        let uri = match is_apart {
            true => format!("overlay:temp?base={path}"),
            false => format!("file:{path}{rotational}"),
        };
        self.line(format_args!("[[export]]\nname = {}\nuri = {}", quoted(name), quoted(&uri)));
        if is_apart {
            self.leave_out(
                name,
                "copyonwrite",
                "all clients see the same writes, which are thrown away at the server's end",
            );
        }
        if section.is("readonly") {
            self.line(format_args!("read-only = true"));
        }
        if section.is("force_tls") {
            self.line(format_args!("tls = \"required\""));
        }
        if let Some(file) = section.value("authfile") {
            self.addresses(name, file, read);
        }
        let meant = [&ALWAYS_SO[..], &MEANT, &["multifile", "treefiles"]].concat();
        self.others(section, &EXPORT_LEFT_OUT, &meant);
    }

    /// The addresses that a file lets in.
    fn addresses(&mut self, name: &str, file: &str, read: ReadFile<'_>) {
        let Some(text) = read(Path::new(file)) else {
            self.line(format_args!("allow = []"));
            return self.leave_out(
                name,
                "authfile",
                "it cannot be read, so nobody is let in: write allow = [\"ip=ADDRESS\"]",
            );
        };
        let rules = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let rules: Vec<_> =
            rules.filter(|rule| !rule.is_empty()).map(|rule| quoted(&format!("ip={rule}"))).collect();
        self.line(format_args!("allow = [{}]", rules.join(", ")));
    }

    fn others(&mut self, section: &Section, left_out: &[(&str, &str)], meant: &[&str]) {
        for key in section.keys().filter(|key| !meant.contains(key)) {
            let why = left_out.iter().find_map(|(name, why)| (*name == key).then_some(*why));
            self.leave_out(
                &section.name,
                &key.escape_debug().to_string(),
                why.unwrap_or("it is not known here"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keyfile::KeyFile;
    use super::*;
    use crate::config::Settings;

    fn imported(text: &str) -> Imported {
        import(&KeyFile::parse(text).unwrap(), &|path| {
            (path == Path::new("/allow")).then(|| "10.0.0.0/8 # inside\n\n::1\n".to_owned())
        })
    }

    #[test]
    fn what_is_served_stays_the_same() {
        let text = "[generic]\nuser = nbd\ngroup = disk\nlistenaddr = 127.0.0.1\nport = 7\nunixsock = /s\nallowlist = true\n\
                    [a b]\nexportname = /srv/a%b\nreadonly = true\nflush = true\nauthfile = /allow\n\
                    [c]\nexportname = /srv/c\ncopyonwrite = true\n";
        let Imported { toml, left_out } = imported(text);
        let settings = Settings::from_toml(&toml).unwrap();
        assert_eq!(settings.exports.len(), 2, "{toml}");
        assert_eq!((&*settings.exports[0].name, settings.exports[0].read_only), ("a b", true));
        assert_eq!(settings.exports[0].uri.to_string(), "file:/srv/a%25b");
        assert_eq!(settings.exports[1].uri.to_string(), "overlay:temp?base=/srv/c");
        assert!(toml.contains("allow = [\"ip=10.0.0.0/8\", \"ip=::1\"]"), "{toml}");
        assert_eq!(settings.listen.len(), 2);
        assert_eq!(settings.user, Some("nbd:disk".parse().unwrap()));
        assert_eq!(left_out.len(), 1, "{left_out:?}");
    }

    #[test]
    fn what_has_no_counterpart_is_named() {
        let text = "[generic]\nmax_threads = 4\nfrob = 1\n[a]\nexportname = /a\nprerun = x\n[m]\nmultifile = true\n[n]\n";
        let Imported { toml, left_out } = imported(text);
        assert_eq!(left_out.len(), 5, "{left_out:?}");
        assert!(left_out.iter().all(|note| toml.contains(note.as_str())), "{toml}");
        assert_eq!(Settings::from_toml(&toml).unwrap().exports.len(), 1);
    }

    #[test]
    fn addresses_that_cannot_be_read_let_nobody_in() {
        let Imported { toml, left_out } = imported("[a]\nexportname = /a\nauthfile = /nowhere\n");
        assert!(toml.contains("allow = []") && left_out.len() == 1, "{toml}");
    }

    #[test]
    fn encryption_is_as_strict_as_it_was() {
        let tls = "[generic]\ncertfile = /c\nkeyfile = /k\ncacertfile = /a\n";
        assert!(imported(tls).toml.contains("mode = \"selective\""));
        assert!(imported(&format!("{tls}force_tls = true\n")).toml.contains("mode = \"required\""));
        assert!(imported("[a]\nexportname = /a\nforce_tls = true\n").toml.contains("tls = \"required\""));
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(name in "\\PC{1,6}", value in ".{1,12}") {
            let text = format!("[{name}]\nexportname = /{value}\n");
            if let Ok(sections) = KeyFile::parse(&text) {
                let toml = import(&sections, &|_| None).toml;
                let parsed: toml::Table = toml.parse().expect("it is TOML");
                let exports = parsed.get("export").and_then(|exports| exports.as_array()).map_or(0, Vec::len);
                prop_assert!(exports <= 1, "{toml}");
            }
        }
    }
}
