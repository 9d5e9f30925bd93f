//! `ringnbd serve`.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use super::announce::{announce, banner};
use super::{Outcome, text};
use crate::config::cpus::CpuList;
use crate::config::listen::{FileMode, TcpAddress, UnixAccess, UnixAddress};
use crate::config::size::{parse_duration, parse_size};
use crate::config::{
    AdminAddress, AttachConfig, Config, ControlAddress, ExportConfig, ListenAddress, LogFormat, OldestTls,
    Pinning, RunAs, SandboxMode, Settings, Shutdown, TlsPolicy, TlsSettings,
};
use crate::control::{self, Ending, Ready, Service, Takeover};
use crate::daemon::configuration::ConfigurationSource;
use crate::daemon::log::LOG;
use crate::daemon::logging::Detail;
use crate::daemon::reload::RunningConfiguration;
use crate::daemon::surroundings::Surroundings;
use crate::daemon::{self, Daemon, logging, stdio};
use crate::store::StoreDirectory;

/// What an EXPORT may be; shown by `--help`.
const EXPORT_HELP: &str = "\
What to serve: [NAME=]URI, any number of times

  PATH                 a file or block device, as it stands
  file:PATH[?k=v&...]  the same with parameters, %XX decoded: direct=true (O_DIRECT),
                       mapped=false (copy what the page cache has, for a small
                       RSS), readonly=true, shared=true (others may write too), lock=off|on|auto,
                       rotational=true|false, description=TEXT
  store:STORE          all images of a store, each by its name, and snapshots as NAME@SNAPSHOT
  store:STORE/NAME     an image of a store (see `ringnbd image`), or NAME@SNAPSHOT, which is
                       read-only; direct=, mapped=, readonly=, description= as above; verify=first|always
  overlay:DIR?base=PATH  a disk that begins as a file or block device and never writes it;
                       overlay:temp is thrown away at the end; size= for another size; the base may
                       be nbd://HOST/NAME or nbd+unix://…, with %26 for its &
  nbd://HOST/NAME      an export of another server; nbd+unix:///NAME?socket=PATH is one on this machine;
                       reconnect=30s, connections=4 and open-timeout=1m are its parameters
  exec:COMMAND[?k=v&...]  what a program serves on its standard input, as in 'exec:nbdkit -s memory 1G';
                       it is started again when it ends; words are separated by blanks, %XX decoded;
                       export=NAME, user=NAME[:GROUP], reconnect=30s, open-timeout=1m
  mem:SIZE             memory, sparse, lost at exit
  null:SIZE            no storage: reads zeroes, forgets writes
  fault:k=v,...:URI    any of these made late or faulty, for tests: delay=5ms,
                       error=EIO@1% (delay.read=, error.write=, ... for one command),
                       stall=1s@N (once, from the Nth request on, all wait),
                       range=OFFSET+LENGTH, after=BYTES, seed=N

An export without a name is the default one. What stands before the first '=' is a name
unless it contains '/', ':' or '?', so a path with '=' is written /dir/a=b, ./a=b or file:a=b.
SIZE is in bytes, or has K, M, G, T, P or E (powers of 1024; KiB too, KB is refused).
[default: mem:1G, so that there is something to see]";

/// Examples, shown below the options.
const EXAMPLES: &str = "\
Examples:
  ringnbd serve disk.img                       the default export, on 127.0.0.1:10809
  ringnbd serve vm=/dev/vg/vm --unix /run/nbd.sock
  ringnbd serve 'a=file:a.img?direct=true' b=b.img --tcp 0.0.0.0:10809 --read-only
  ringnbd serve --config /etc/ringnbd.toml --pidfile /run/ringnbd.pid

Signals: SIGTERM, SIGINT, SIGHUP and SIGQUIT finish what has begun and exit; a second one exits at once.
With --config, SIGHUP has it read again, as `ringnbd ctl reload` does.
Sockets of systemd (ListenStream=) are used when they are there, and with its store of descriptors
(FileDescriptorStoreMax=, $FDSTORE) SIGTERM leaves connections to the next process.";

/// Options of `ringnbd serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to serve: [NAME=]URI, where URI is PATH, file:PATH, mem:SIZE or null:SIZE
    #[arg(value_name = "EXPORT", long_help = EXPORT_HELP)]
    pub exports: Vec<ExportConfig>,
    /// Listen on a unix socket; @NAME is an abstract one (repeatable)
    #[arg(long, short = 'U', value_name = "PATH", help_heading = "Where to listen")]
    pub unix: Vec<UnixAddress>,
    /// Who may connect to the --unix sockets, in octal, such as 0660 [default: as the umask says; 0660 with
    /// --unix-group]
    #[arg(long, value_name = "MODE", help_heading = "Where to listen")]
    pub unix_mode: Option<FileMode>,
    /// The group of the --unix sockets; the server has to be a member of it, or root
    #[arg(long, value_name = "GROUP", help_heading = "Where to listen")]
    pub unix_group: Option<String>,
    /// Listen on a TCP address, or with a PORT alone on localhost; [::] is IPv6 only, port 0 any free one
    /// (repeatable) [default: 127.0.0.1:10809]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Where to listen")]
    pub tcp: Vec<TcpAddress>,
    /// Serve the one client whose socket is the standard input, then exit
    #[arg(long, conflicts_with_all = ["unix", "tcp"], help_heading = "Where to listen")]
    pub stdio: bool,
    /// Run a command with the shell and stop when it has ended, with its exit code. It finds `$uri`,
    /// `$unixsocket` or `$port`, and `$exportname`. Without an address, or with `-U -`, the socket is one
    /// that nobody else knows
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["stdio", "pidfile"], help_heading = "How long")]
    pub run: Option<OsString>,
    /// Attach an export of this server to this machine's kernel, as `ringnbd attach` does, and detach it at
    /// the end: EXPORT, or EXPORT=/dev/nbdN (repeatable)
    #[arg(
        long,
        value_name = "EXPORT[=DEVICE]",
        conflicts_with_all = ["stdio", "exit_last", "run"],
        help_heading = "Operation"
    )]
    pub attach: Vec<AttachConfig>,
    /// Stop when the last client is gone, after the first has come
    #[arg(long, conflicts_with = "stdio", help_heading = "How long")]
    pub exit_last: bool,
    /// Stop when the process ends that started this one
    #[arg(long, help_heading = "How long")]
    pub exit_with_parent: bool,
    /// Once it is up, lead its output nowhere; for commands that start this one
    #[arg(long, hide = true)]
    pub leave_terminal: bool,
    /// Data-plane threads, each with its own ring [default: one per available CPU]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    pub shards: Option<usize>,
    /// CPUs to pin the shards to, such as 0-3,5 [default: those available]
    #[arg(long, value_name = "LIST", help_heading = "Resources")]
    pub cpus: Option<CpuList>,
    /// Buffer memory of the whole server, a hard cap [default: 128M for each shard]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Resources")]
    pub memory: Option<u64>,
    /// Lock buffer memory, which saves a little time: where the locked memory limit (ulimit -l) allows it, or
    /// as a must, or not at all [default: auto]
    #[arg(long, value_name = "MODE", hide_possible_values = true, help_heading = "Resources")]
    pub pinned: Option<Pinning>,
    /// The same as --pinned off
    #[arg(long, conflicts_with = "pinned", help_heading = "Resources")]
    pub unpinned: bool,
    /// The longest READ or WRITE that clients may send, 1M to 256M: with more memory, a longer one
    /// [default: 64M, or 32M with less than 108M for each shard]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Resources")]
    pub max_request: Option<u64>,
    /// Spin up to this long before sleeping while that pays, such as 50us: less latency, more CPU [default:
    /// 0]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Resources")]
    pub busy_poll: Option<Duration>,
    /// Connections at the same time; further clients wait [default: 16384]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    pub max_connections: Option<usize>,
    /// Requests that a device is given at the same time once there are weights, divided among the shards
    /// [default: 64, and no fewer than 16 for each shard]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    pub device_depth: Option<usize>,
    /// How long a client may take to choose an export [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Resources")]
    pub handshake_timeout: Option<Duration>,
    /// What becomes of requests that did not begin before SIGTERM [default: close]
    #[arg(long, value_name = "MODE", help_heading = "Resources")]
    pub shutdown: Option<Shutdown>,
    /// Serve metrics, a JSON API and a dashboard over HTTP: HOST:PORT, or unix:PATH; there is no
    /// authentication
    #[arg(long, value_name = "ADDRESS", help_heading = "What to see")]
    pub admin: Option<AdminAddress>,
    /// Operate the running server here, with `ringnbd ctl`: unix:PATH, for root and the user that starts the
    /// server; or off [default: with --config and --pidfile PIDFILE with the ending .control, with a store
    /// STORE/control.socket, otherwise off]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "stdio", help_heading = "Operation")]
    pub control: Option<ControlAddress>,
    /// Log requests that take longer than this, such as 10ms, each with where its time went
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "What to see")]
    pub slow: Option<Duration>,
    /// Write latencies by second as an HdrHistogram log for `ringnbd report`; an existing FILE is appended
    /// to, one that is emptied (copytruncate) is begun anew
    #[arg(long, value_name = "FILE", help_heading = "What to see")]
    pub latency_log: Option<PathBuf>,
    /// Record no latencies, only counts: saves a little time for each request
    #[arg(long, help_heading = "What to see")]
    pub no_histograms: bool,
    /// Become this user once everything is open, with no other groups: needs root
    #[arg(long, value_name = "NAME[:GROUP]", help_heading = "Security")]
    pub user: Option<RunAs>,
    /// Encrypt, with the certificates and keys in this directory, under the names that QEMU has for them:
    /// server-cert.pem with server-key.pem, or keys.psk, or both; ca-cert.pem and ca-crl.pem for clients
    #[arg(long, value_name = "DIR", help_heading = "Security")]
    pub tls: Option<PathBuf>,
    /// Who has to encrypt: everybody, or only clients of exports with `tls = "required"` in the configuration
    /// [default: required with --tls]
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub tls_mode: Option<TlsPolicy>,
    /// The oldest version of TLS that clients may speak; 1.2 only with certificates [default: 1.3]
    #[arg(long, value_name = "VERSION", help_heading = "Security")]
    pub tls_min_version: Option<OldestTls>,
    /// Give up what a running server does not need: system calls, files, new privileges [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub sandbox: Option<SandboxMode>,
    /// Refuse writes to every export
    #[arg(long)]
    pub read_only: bool,
    /// Read settings from a TOML file (`[server]` with the names of these flags, and allow-directories;
    /// `[[export]]`), whose paths are relative to it; EXPORTs add to the file's, flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on in the place of a server that runs, whose control socket this is: unix:PATH. Its clients stay
    /// connected and notice nothing. Everything else is said as to a server that is started alone
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["stdio", "run", "exit_last", "check"], help_heading = "How long")]
    pub takeover: Option<ControlAddress>,
    /// Only see whether this would start: settings, users and exports; nothing is served or locked, so that
    /// it can run beside a server of the same files; exit code 0 or 2
    #[arg(long, conflicts_with = "stdio")]
    pub check: bool,
    /// Write the process id here once everything is up
    #[arg(long, value_name = "PATH")]
    pub pidfile: Option<PathBuf>,
    /// The form of log lines on stderr [default: human on a terminal, json otherwise]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Log more; RUST_LOG=ringnbd::control=debug and the like choose exactly
    #[arg(long, short, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Log warnings and errors only
    #[arg(long)]
    pub quiet: bool,
}

impl Args {
    fn detail(&self) -> Detail {
        match (self.quiet, self.verbose) {
            (true, _) => Detail::Warnings,
            (false, true) => Detail::Debugging,
            (false, false) => Detail::Usual,
        }
    }
}

/// Serves until told to stop.
pub(crate) fn run(args: Args) -> Outcome {
    let outcome = serve(args);
    logging::finish();
    outcome
}

fn serve(args: Args) -> Outcome {
    let (on_stdin, detail, explicit) = (args.stdio, args.detail(), args.log_format);
    let (check, until_last) = (args.check, args.exit_last);
    let old_server = args.takeover.clone();
    let surroundings =
        Surroundings { ends_with_parent: args.exit_with_parent, leaves_terminal: args.leave_terminal };
    let ServeSettings { settings, notes: added, source } = match settings(args) {
        Ok(wanted) => wanted,
        Err(sentence) => {
            logging::start(explicit.unwrap_or(LogFormat::Human), detail, on_stdin);
            return refuse(explicit, sentence);
        }
    };
    let explicit = settings.log_format;
    let format = explicit.unwrap_or_else(logging::default_format);
    logging::start(format, detail, on_stdin);
    daemon::limits::raise_open_files();
    let (config, machine) = match control::machine::survey() {
        Err(error) => return refuse(explicit, format!("cannot see which CPUs are available: {error}")),
        Ok(machine) => match Config::resolve(settings.clone(), &machine) {
            Err(error) => return refuse(explicit, error),
            Ok(config) => (config, machine),
        },
    };
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    config.notes.iter().chain(&added).for_each(|note| tracing::info!("{note}"));
    if check {
        if let Err(error) = daemon::check(&config) {
            return refuse(explicit, error);
        }
        let mut commands = match daemon::commands(&config) {
            Ok(commands) => commands,
            Err(error) => return refuse(explicit, error),
        };
        return match control::check(&config, |command| commands.take(command)) {
            Ok(served) => {
                text::print(&format!("{}Nothing speaks against it.\n", banner(&served, &[], &[], None)))
            }
            Err(error) => refuse(explicit, error),
        };
    }
    let takeover = match old_server.as_ref().map(begin_takeover).transpose() {
        Ok(takeover) => takeover,
        Err(error) => return refuse(explicit, error),
    };
    let predecessor = takeover.as_ref().and_then(Takeover::process);
    let service = match on_stdin.then(stdio::client).transpose() {
        Ok(Some(client)) => Service::Client(client),
        Ok(None) => match takeover {
            Some(takeover) => Service::Takeover(Box::new(takeover)),
            None if until_last => Service::UntilLast,
            None => Service::Listeners,
        },
        Err(error) => return refuse(explicit, error),
    };
    let listens = !on_stdin;
    let running = source.filter(|_| listens).map(|source| RunningConfiguration {
        source,
        settings: settings.into(),
        machine,
    });
    let announce = |ready: Ready<'_>| announce(ready, format, listens);
    let daemon = Daemon::new(&config, listens, running, announce).within(surroundings);
    let mut daemon = daemon.in_place_of(predecessor);
    match control::run(&config, service, &mut daemon) {
        Ok(Ending::Stopped) => Outcome::Done,
        Ok(Ending::CutOff | Ending::Failed) => Outcome::Failed,
        Err(error) => refuse(explicit, error),
    }
}

/// Asks the old server what it has.
fn begin_takeover(address: &ControlAddress) -> Result<Takeover, String> {
    let ControlAddress::Path(path) = address else {
        return Err("a server without a control socket cannot be taken over: write unix:PATH".to_owned());
    };
    Takeover::begin(path).map_err(|error| error.to_string())
}

/// What a person asked for.
struct ServeSettings {
    /// Flags over file.
    settings: Settings,
    /// Sentences about what came of that.
    notes: Vec<String>,
    /// The file, to be read again.
    source: Option<ConfigurationSource>,
}

fn settings(args: Args) -> Result<ServeSettings, String> {
    if args.run.is_none() && args.unix.iter().any(UnixAddress::is_private) {
        return Err(
            "`--unix -` is a socket that only the command of --run knows: write a path, or ./- for a file \
                    of that name"
                .to_owned(),
        );
    }
    let unix = args.unix.into_iter().map(ListenAddress::Unix);
    let tcp = args.tcp.into_iter().map(ListenAddress::Tcp);
    let (mode, min_version) = (args.tls_mode, args.tls_min_version);
    let flags = Settings {
        exports: args.exports,
        attach: args.attach,
        tenants: Vec::new(),
        all_are_gone: false,
        listen: unix.chain(tcp).collect(),
        unix_access: UnixAccess { mode: args.unix_mode, group: args.unix_group },
        shards: args.shards,
        cpus: args.cpus,
        memory: args.memory,
        max_request: args.max_request,
        pinned: if args.unpinned { Some(Pinning::Off) } else { args.pinned },
        busy_poll: args.busy_poll,
        pidfile: args.pidfile,
        read_only: args.read_only.then_some(true),
        max_connections: args.max_connections,
        device_depth: args.device_depth,
        handshake_timeout: args.handshake_timeout,
        shutdown: args.shutdown,
        log_format: args.log_format,
        admin: args.admin,
        control: args.control,
        control_readers: Vec::new(),
        allow_directories: Vec::new(),
        slow: args.slow,
        latency_log: args.latency_log,
        no_histograms: args.no_histograms.then_some(true),
        user: args.user,
        sandbox: args.sandbox,
        rights: Default::default(),
        tls: TlsSettings { directory: args.tls, mode, min_version, ..TlsSettings::default() },
    };
    let Some(path) = args.config else {
        let control = flags.control.clone().or_else(|| default_control(&flags.exports));
        let control = control.filter(|_| !args.stdio);
        let settings = Settings { control, ..flags };
        return Ok(ServeSettings { settings, notes: Vec::new(), source: None });
    };
    let source = ConfigurationSource::new(path, flags, !args.stdio);
    let file = source.parse(&source.read()?)?;
    let notes = notes(&source, &file);
    let exports = [&source.flags().exports[..], &file.exports].concat();
    let source = source.with_default_control(default_control(&exports));
    Ok(ServeSettings { settings: source.merged(file), notes, source: Some(source) })
}

/// The commands about images have to reach the server that has a store. It listens in the first one, unless
/// it is told where to.
fn default_control(exports: &[ExportConfig]) -> Option<ControlAddress> {
    let mut stores = exports.iter().filter_map(ExportConfig::store).filter_map(StoreDirectory::own_store);
    stores.next().and_then(ControlAddress::within)
}

/// What the command line does to the settings of a file.
fn notes(source: &ConfigurationSource, file: &Settings) -> Vec<String> {
    let (shown, flags) = (source.path().display(), source.flags());
    let (own, more) = (file.exports.len(), flags.exports.len());
    let mut notes = Vec::new();
    if own > 0 && more > 0 {
        notes.push(format!("exports of {shown}: {own}; added by the command line: {more}"));
    }
    if !file.listen.is_empty() && !flags.listen.is_empty() {
        notes.push(format!("the addresses of the command line are used instead of those of {shown}"));
    }
    notes
}

/// A start-up error: a sentence for people, or a log line for those who asked for JSON.
fn refuse(format: Option<LogFormat>, sentence: impl Display) -> Outcome {
    if format == Some(LogFormat::Json) {
        tracing::error!("{sentence}");
    } else {
        LOG.write(format!("ringnbd: {sentence}\n").as_bytes());
    }
    Outcome::Refused
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
}
