//! What a person asked for, on the command line or in a file: everything optional, nothing checked against
//! the machine.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::attach::{AttachConfig, AttachTable};
use super::cpus::CpuList;
use super::export::ExportConfig;
use super::limits::{Pinning, Shutdown};
use super::listen::{AdminAddress, ControlAddress, ListenAddress, UnixAccess, UnixAddress};
use super::rate::{ExportRates, RateLimits, TenantConfig};
use super::rights::{RuleTexts, rights};
use super::sandbox::{RunAs, SandboxMode};
use super::size::{parse_duration, parse_size};
use super::tls::{ExportTls, TlsSettings};
use super::toml_words::explain;
use super::weight::Weight;
use crate::rights::{Listing, Rights};

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Text for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Settings of the server; `None` and an empty list mean the default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    pub exports: Vec<ExportConfig>,
    /// Exports that become disks of this machine's kernel.
    pub attach: Vec<AttachConfig>,
    /// Exports that share rates.
    pub tenants: Vec<TenantConfig>,
    /// All exports were removed while the server ran: that there is none does not mean the example.
    pub all_are_gone: bool,
    pub listen: Vec<ListenAddress>,
    /// Who may connect to unix sockets.
    pub unix_access: UnixAccess,
    /// Data-plane threads.
    pub shards: Option<usize>,
    /// The CPUs that they are pinned to.
    pub cpus: Option<CpuList>,
    /// Bytes of buffer memory of the whole server.
    pub memory: Option<u64>,
    /// Bytes of the longest READ or WRITE.
    pub max_request: Option<u64>,
    /// Whether buffer memory is locked.
    pub pinned: Option<Pinning>,
    /// How long a shard spins before it sleeps.
    pub busy_poll: Option<Duration>,
    pub pidfile: Option<PathBuf>,
    /// Every export is read-only.
    pub read_only: Option<bool>,
    /// Connections of the whole server.
    pub max_connections: Option<usize>,
    /// Requests that one device is given at the same time by all shards, once there are weights.
    pub device_depth: Option<usize>,
    pub handshake_timeout: Option<Duration>,
    /// How requests are treated that had not begun at shutdown.
    pub shutdown: Option<Shutdown>,
    pub log_format: Option<LogFormat>,
    /// Where the admin server listens; `None`: there is none.
    pub admin: Option<AdminAddress>,
    /// Where the control socket is.
    pub control: Option<ControlAddress>,
    /// Users who may look at the control socket and change nothing.
    pub control_readers: Vec<u32>,
    /// Directories from which exports may be opened while the server runs; by default those of its exports.
    pub allow_directories: Vec<PathBuf>,
    /// Requests that take longer are logged.
    pub slow: Option<Duration>,
    /// Where latencies are logged as histograms.
    pub latency_log: Option<PathBuf>,
    /// Latencies are not recorded.
    pub no_histograms: Option<bool>,
    /// The user that the server becomes.
    pub user: Option<RunAs>,
    pub sandbox: Option<SandboxMode>,
    /// Rights to exports that say nothing themselves.
    pub rights: Rights,
    /// Encryption.
    pub tls: TlsSettings,
}

/// A configuration file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct FileError {
    /// From 1.
    pub line: usize,
    pub message: String,
}

impl Settings {
    /// These settings, with those of `below` where these have none. Exports add up, those of `below` first;
    /// addresses given here replace all of `below`'s.
    pub fn or(self, below: Self) -> Self {
        Self {
            exports: below.exports.into_iter().chain(self.exports).collect(),
            attach: below.attach.into_iter().chain(self.attach).collect(),
            tenants: first_of(self.tenants, below.tenants),
            all_are_gone: self.all_are_gone,
            listen: first_of(self.listen, below.listen),
            unix_access: UnixAccess {
                mode: self.unix_access.mode.or(below.unix_access.mode),
                group: self.unix_access.group.or(below.unix_access.group),
            },
            shards: self.shards.or(below.shards),
            cpus: self.cpus.or(below.cpus),
            memory: self.memory.or(below.memory),
            max_request: self.max_request.or(below.max_request),
            pinned: self.pinned.or(below.pinned),
            busy_poll: self.busy_poll.or(below.busy_poll),
            pidfile: self.pidfile.or(below.pidfile),
            read_only: self.read_only.or(below.read_only),
            max_connections: self.max_connections.or(below.max_connections),
            device_depth: self.device_depth.or(below.device_depth),
            handshake_timeout: self.handshake_timeout.or(below.handshake_timeout),
            shutdown: self.shutdown.or(below.shutdown),
            log_format: self.log_format.or(below.log_format),
            admin: self.admin.or(below.admin),
            control: self.control.or(below.control),
            control_readers: first_of(self.control_readers, below.control_readers),
            allow_directories: first_of(self.allow_directories, below.allow_directories),
            slow: self.slow.or(below.slow),
            latency_log: self.latency_log.or(below.latency_log),
            no_histograms: self.no_histograms.or(below.no_histograms),
            user: self.user.or(below.user),
            sandbox: self.sandbox.or(below.sandbox),
            rights: self.rights.or(&below.rights),
            tls: self.tls.or(below.tls),
        }
    }

    /// The same with paths that are relative to a directory.
    #[must_use]
    pub fn relative_to(mut self, directory: &Path) -> Self {
        self.exports.iter_mut().for_each(|export| export.uri.make_relative_to(directory));
        let admin = self.admin.iter_mut().map(|address| &mut address.0);
        for address in self.listen.iter_mut().chain(admin) {
            if let ListenAddress::Unix(UnixAddress::Path(path)) = address {
                *path = directory.join(&*path);
            }
        }
        let control = match &mut self.control {
            Some(ControlAddress::Path(path)) => Some(path),
            _ => None,
        };
        self.tls.make_relative_to(directory);
        self.allow_directories.iter_mut().for_each(|path| *path = directory.join(&*path));
        for path in [self.pidfile.as_mut(), self.latency_log.as_mut(), control].into_iter().flatten() {
            *path = directory.join(&*path);
        }
        self
    }

    /// Reads the text of a configuration file (TOML).
    pub fn from_toml(text: &str) -> Result<Self, FileError> {
        let located = |start: usize, message: &str| {
            let before = text.bytes().take(start).filter(|&byte| byte == b'\n').count();
            let message = explain(message, text.lines().nth(before).unwrap_or_default());
            FileError { line: 1 + before, message }
        };
        let file: File = toml::from_str(text)
            .map_err(|error| located(error.span().map_or(0, |span| span.start), error.message()))?;
        let mut exports = Vec::new();
        for entry in file.export {
            let start = entry.span().start;
            let mut table = entry.into_inner();
            let own = rights(table.allow.take(), table.write.take(), table.listed);
            let rights = own.map_err(|(start, error)| located(start, &error.to_string()))?;
            let export = table.checked().map_err(|error| located(start, &error.to_string()))?;
            exports.push(ExportConfig { rights, ..export });
        }
        let mut attach = Vec::new();
        for entry in file.attach {
            let start = entry.span().start;
            let checked = entry.into_inner().checked();
            attach.push(checked.map_err(|error| located(start, &error.to_string()))?);
        }
        let rights = rights(file.allow, file.write, file.listed);
        let rights = rights.map_err(|(start, error)| located(start, &error.to_string()))?;
        let server = file.server;
        let unix = server.unix.0.into_iter().map(|address| ListenAddress::Unix(address.0));
        let tcp = server.tcp.0.into_iter().map(|address| ListenAddress::Tcp(address.0));
        Ok(Self {
            exports,
            attach,
            tenants: file.tenant,
            all_are_gone: false,
            listen: unix.chain(tcp).collect(),
            unix_access: UnixAccess { mode: server.unix_mode.map(|mode| mode.0), group: server.unix_group },
            shards: server.shards,
            cpus: server.cpus.map(|cpus| cpus.0),
            memory: server.memory.map(|size| size.0),
            max_request: server.max_request.map(|size| size.0),
            pinned: server.pinned.or((server.unpinned == Some(true)).then_some(Pinning::Off)),
            busy_poll: server.busy_poll.map(|duration| duration.0),
            pidfile: server.pidfile,
            read_only: server.read_only,
            max_connections: server.max_connections,
            device_depth: server.device_depth,
            handshake_timeout: server.handshake_timeout.map(|duration| duration.0),
            shutdown: server.shutdown,
            log_format: server.log_format,
            admin: server.admin.map(|address| address.0),
            control: server.control.map(|address| address.0),
            control_readers: server.control_readers,
            allow_directories: server.allow_directories,
            slow: server.slow.map(|duration| duration.0),
            latency_log: server.latency_log,
            no_histograms: server.no_histograms,
            user: server.user.map(|user| user.0),
            sandbox: server.sandbox,
            rights,
            tls: file.tls,
        })
    }
}

fn first_of<T>(mine: Vec<T>, theirs: Vec<T>) -> Vec<T> {
    if mine.is_empty() { theirs } else { mine }
}

/// The file as it stands.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: ServerTable,
    allow: Option<toml::Spanned<RuleTexts>>,
    write: Option<toml::Spanned<RuleTexts>>,
    listed: Option<Listing>,
    tls: TlsSettings,
    tenant: Vec<TenantConfig>,
    export: Vec<toml::Spanned<ExportTable>>,
    attach: Vec<toml::Spanned<AttachTable>>,
}

/// `[server]`: the flags of the same names.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct ServerTable {
    unix: List<super::listen::UnixAddress>,
    unix_mode: Option<TextValue<super::listen::FileMode>>,
    unix_group: Option<String>,
    tcp: List<super::listen::TcpAddress>,
    shards: Option<usize>,
    cpus: Option<TextValue<CpuList>>,
    memory: Option<Bytes>,
    max_request: Option<Bytes>,
    pinned: Option<Pinning>,
    unpinned: Option<bool>,
    busy_poll: Option<Time>,
    pidfile: Option<PathBuf>,
    read_only: Option<bool>,
    max_connections: Option<usize>,
    device_depth: Option<usize>,
    handshake_timeout: Option<Time>,
    shutdown: Option<Shutdown>,
    log_format: Option<LogFormat>,
    admin: Option<TextValue<AdminAddress>>,
    control: Option<TextValue<ControlAddress>>,
    control_readers: Vec<u32>,
    allow_directories: Vec<PathBuf>,
    slow: Option<Time>,
    latency_log: Option<PathBuf>,
    no_histograms: Option<bool>,
    user: Option<TextValue<RunAs>>,
    sandbox: Option<SandboxMode>,
}

/// `[[export]]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ExportTable {
    #[serde(default)]
    name: String,
    uri: TextValue<super::export_uri::ExportUri>,
    description: Option<String>,
    #[serde(default)]
    read_only: bool,
    allow: Option<toml::Spanned<RuleTexts>>,
    write: Option<toml::Spanned<RuleTexts>>,
    listed: Option<Listing>,
    tls: Option<ExportTls>,
    #[serde(default)]
    limit: RateLimits,
    tenant: Option<String>,
    weight: Option<Weight>,
}

impl ExportTable {
    fn checked(self) -> Result<ExportConfig, super::export::ExportError> {
        let requires_tls = self.tls == Some(ExportTls::Required);
        let export = ExportConfig::new(&self.name, self.uri.0, self.description.as_deref(), self.read_only)?;
        let rates = ExportRates { limits: self.limit, tenant: self.tenant, weight: self.weight };
        Ok(ExportConfig { requires_tls, rates, ..export })
    }
}

/// A value written as text.
#[derive(Debug)]
struct TextValue<T>(T);

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for TextValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// A duration, always with its unit.
#[derive(Debug)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

/// A size: a number of bytes, or text with a unit.
#[derive(Debug)]
struct Bytes(u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size such as \"2G\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                parse_size(text).map(Bytes).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Bytes, E> {
                u64::try_from(bytes).map(Bytes).map_err(|_| E::custom("a size cannot be negative"))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// One text or a list of them.
#[derive(Debug)]
struct List<T>(Vec<TextValue<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(std::marker::PhantomData<T>);
        impl<'de, T: FromStr<Err: std::fmt::Display>> Visitor<'de> for OneOrMany<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an address, or a list of addresses")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<List<T>, E> {
                text.parse().map(|value| List(vec![TextValue(value)])).map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_any(OneOrMany(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExportUri;

    const WHOLE: &str = r#"
[server]
unix = "/run/ringnbd.sock"
tcp = ["127.0.0.1:10809", "[::1]:0"]
shards = 2
cpus = "0-1"
memory = "1G"
pinned = "on"
unix-mode = "0660"
unix-group = "kvm"
busy-poll = "50us"
pidfile = "/run/ringnbd.pid"
read-only = false
max-connections = 100
handshake-timeout = "5s"
shutdown = "errors"
log-format = "json"
admin = "127.0.0.1:9800"
control = "unix:/run/ringnbd.control"
control-readers = [1001, 1002]
allow-directories = ["/srv/images", "more"]
slow = "10ms"
latency-log = "/var/log/ringnbd.hlog"
no-histograms = false
user = "nbd:disk"
sandbox = "on"

[tls]
mode = "selective"
cert = "/t/server.pem"
key = "server.key"
client-ca = "ca.pem"
crl = "crl.pem"
psk = "keys.psk"

[[export]]
uri = "mem:1G"

[[export]]
name = "vm/disk:0"
uri = "file:/data/a.img?direct=true"
description = "a disk"
read-only = true
tls = "required"

[[attach]]
export = "vm/disk:0"
device = "/dev/nbd3"
connections = 2
timeout = "1m"
dead-timeout = "10m"
read-only = true

[[attach]]
export = ""
"#;

    #[test]
    fn a_file_says_what_the_flags_say() {
        let settings = Settings::from_toml(WHOLE).unwrap();
        assert_eq!(settings.listen.len(), 3);
        assert_eq!(settings.memory, Some(1 << 30));
        assert_eq!(settings.busy_poll, Some(Duration::from_micros(50)));
        assert_eq!(settings.log_format, Some(LogFormat::Json));
        assert_eq!(settings.shutdown, Some(Shutdown::Errors));
        assert_eq!(settings.admin, Some("127.0.0.1:9800".parse().unwrap()));
        assert_eq!(settings.control, Some("unix:/run/ringnbd.control".parse().unwrap()));
        assert_eq!(settings.control_readers, [1001, 1002]);
        assert_eq!(settings.allow_directories, ["/srv/images", "more"].map(PathBuf::from));
        assert_eq!(settings.slow, Some(Duration::from_millis(10)));
        assert_eq!(settings.latency_log.as_deref(), Some("/var/log/ringnbd.hlog".as_ref()));
        assert_eq!(settings.no_histograms, Some(false));
        assert_eq!(settings.user, Some("nbd:disk".parse().unwrap()));
        assert_eq!(settings.sandbox, Some(SandboxMode::On));
        assert_eq!(settings.exports.len(), 2);
        assert_eq!(settings.pinned, Some(Pinning::On));
        assert_eq!(settings.unix_access.effective_mode(), Some(0o660));
        assert_eq!(settings.unix_access.group.as_deref(), Some("kvm"));
        let unpinned = |value| Settings::from_toml(&format!("[server]\nunpinned = {value}")).unwrap().pinned;
        assert_eq!((unpinned(true), unpinned(false)), (Some(Pinning::Off), None));
        assert_eq!(settings.exports[1].name, "vm/disk:0");
        assert!(settings.exports[1].read_only && settings.exports[1].requires_tls);
        let attach = &settings.attach;
        assert_eq!(
            (&*attach[0].export, attach[0].device, attach[0].connections),
            ("vm/disk:0", Some(3), Some(2))
        );
        assert_eq!((attach[0].timeout.as_secs(), attach[0].dead_timeout.as_secs()), (60, 600));
        assert!(attach[0].read_only);
        assert_eq!(attach[1], "".parse().unwrap());
        assert_eq!(settings.tls.mode, Some(crate::config::TlsPolicy::Selective));
        assert_eq!(settings.tls.client_ca.as_deref(), Some("ca.pem".as_ref()));
        assert_eq!(Settings::from_toml(""), Ok(Settings::default()));
        assert_eq!(Settings::from_toml("[server]\nmemory = 4096").unwrap().memory, Some(4096));
    }

    #[test]
    fn errors_name_their_line_and_are_one_sentence() {
        for (text, line, part) in [
            ("[server]\nshard = 2", 2, "shard"),
            ("[server]\n\nmemory = \"10GB\"", 3, "10GiB"),
            ("[server]\nmemory = -1", 2, "negative"),
            ("[server]\nbusy-poll = \"5\"", 2, "duration"),
            ("[server]\ntcp = [\"a:1\", \":1\"]", 2, "host"),
            ("[server]\nlog-format = \"xml\"", 2, "xml"),
            ("[server]\nuser = \":disk\"", 2, "NAME:GROUP"),
            ("[server]\nsandbox = \"yes\"", 2, "yes"),
            ("[server]\nunix-mode = \"rw\"", 2, "octal"),
            ("[servers]\n", 1, "servers"),
            ("[[export]]\nuri = \"mem:1G\"\n[[export]]\nname = \"x\"\n", 3, "uri"),
            ("[[export]]\nuri = \"mem:x\"", 2, "size"),
            ("[[export]]\nuri = \"mem:1\"\ndescription = \"a\\u0000\"", 1, "description"),
            ("\n[[attach]]\nexport = \"a\"\ndevice = \"/dev/sda\"", 2, "/dev/nbd3"),
            ("[[attach]]\nexport = \"a\"\nconnections = 0", 1, "1 to 64"),
            ("[[attach]]\nexport = \"a\"\ntimeout = \"5\"", 1, "duration"),
            ("[[attach]]\ndevice = \"/dev/nbd1\"", 1, "export"),
            ("x = [", 1, ""),
        ] {
            let error = Settings::from_toml(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.message.contains(part), "{text}: {error}");
            assert!(!error.to_string().contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn no_sentence_is_for_programmers() {
        let wrong = ["\"x\"", "7", "-7", "1.5", "true", "[1]", "[\"x\"]", "{ a = 1 }", "[[]]", "1979-05-27"];
        let server = WHOLE
            .lines()
            .take_while(|line| !line.starts_with("[["))
            .filter_map(|line| line.split_once(" = "));
        let exports = ["name", "uri", "description", "read-only", "allow", "write", "listed"]
            .map(|key| (key, "[[export]]"));
        let all: Vec<_> = server.map(|(key, _)| (key, "[server]")).chain(exports).collect();
        assert!(all.len() > 20);
        let mut texts: Vec<String> = [
            "server = 3",
            "allow = 3",
            "write = [3]",
            "listed = 3",
            "server = [1]",
            "export = 3",
            "export = [3]",
            "export = \"x\"",
            "attach = 3",
            "[[attach]]\nexport = 3",
            "[[attach]]\nexport = \"x\"\nconnections = 300",
            "[[attach]]\nexport = \"x\"\nconnections = \"x\"",
            "[[attach]]\nexport = \"x\"\ntimeout = 3",
            "[[attach]]\nexport = \"x\"\nread-only = 3",
        ]
        .map(str::to_owned)
        .to_vec();
        for (key, table) in &all {
            texts.extend(wrong.iter().map(|value| format!("{table}\n{key} = {value}")));
        }
        let mut refused = 0;
        for text in texts {
            let Err(error) = Settings::from_toml(&text) else { continue };
            refused += 1;
            let message = error.message;
            for word in [
                "usize", "u64", "struct", "invalid", "expected", "sequence", "map", "variant", "field", "`",
                "integer",
            ] {
                assert!(!message.contains(word), "{word:?} in {text:?}: {message}");
            }
        }
        assert!(refused > 100, "{refused}");
        let message = |text: &str| Settings::from_toml(text).unwrap_err().to_string();
        assert_eq!(
            message("[server]\nshards = \"two\""),
            "line 2: shards is the text \"two\": write a whole number, such as 4"
        );
        assert_eq!(message("[server]\nread-only = 1"), "line 2: read-only is 1: write true or false");
        assert!(
            message("[server]\nlog-format = \"xml\"").starts_with("line 2: log-format cannot be xml: use ")
        );
        assert_eq!(message("[[export]]\nname = \"x\""), "line 1: uri is missing");
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = "[server]\nunix = [\"s\", \"@s\", \"/s\"]\npidfile = \"pid\"\nadmin = \"unix:admin\"\nlatency-log = \"../log\"\n\
                    [[export]]\nuri = \"fault:delay=1s:file:a.img?direct=true\"\n[[export]]\nname = \"b\"\nuri = \"/b.img\"";
        let settings = Settings::from_toml(text).unwrap().relative_to(Path::new("/etc/nbd"));
        let shown: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["/etc/nbd/s", "@s", "/s"]);
        assert_eq!(settings.admin, Some("unix:/etc/nbd/admin".parse().unwrap()));
        assert_eq!(settings.pidfile.as_deref(), Some(Path::new("/etc/nbd/pid")));
        assert_eq!(settings.latency_log.as_deref(), Some(Path::new("/etc/nbd/../log")));
        let uris: Vec<_> = settings.exports.iter().map(|export| export.uri.to_string()).collect();
        assert_eq!(
            uris[0],
            "fault:delay=1s:file:/etc/nbd/a.img?direct=true".parse::<ExportUri>().unwrap().to_string()
        );
        assert_eq!(uris[1], "file:/b.img");
        let here = Settings::from_toml(text).unwrap();
        assert_eq!(here.clone().relative_to(Path::new("")), here);
    }

    #[test]
    fn flags_win_and_exports_add_up() {
        let file = Settings::from_toml(WHOLE).unwrap();
        let export: ExportConfig = "x=mem:2G".parse().unwrap();
        let flags = Settings { exports: vec![export.clone()], shards: Some(7), ..Settings::default() };
        let both = flags.or(file.clone());
        assert_eq!(both.exports, [file.exports.clone(), vec![export]].concat());
        assert_eq!(both.shards, Some(7));
        assert_eq!(both.listen, file.listen);
        assert_eq!(both.memory, file.memory);
        assert_eq!(Settings::default().or(file.clone()), file);
    }
}
