//! From settings to a [`Config`] that fits the machine.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attach::{self, AttachConfig};
use super::cpus::ShowCpus;
use super::error::ConfigError;
use super::export::{ExportConfig, ExportDefaults};
use super::limits::{Limits, MAXIMUM_SHARDS};
use super::listen::{ControlAddress, ListenAddress, UnixAccess, UnixAddress};
use super::memory;
use super::rate::TenantConfig;
use super::sandbox::{RunAs, SandboxMode};
use super::settings::Settings;
use super::size::Size;
use super::tls::{TlsConfig, TlsPolicy};

/// What the server runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// At least one; names are unique.
    pub exports: Vec<ExportConfig>,
    /// Those that become disks of this machine's kernel.
    pub attach: Vec<AttachConfig>,
    /// Exports that share rates; names are unique, and include those that exports name.
    pub tenants: Vec<TenantConfig>,
    /// For exports that come later.
    pub defaults: ExportDefaults,
    /// Where to listen; empty means that nothing was said.
    pub listen: Vec<ListenAddress>,
    /// For each shard the CPU that it is pinned to; at least one.
    pub shards: Vec<usize>,
    /// Who may connect to the unix sockets.
    pub unix_access: UnixAccess,
    pub limits: Limits,
    /// How long a shard spins before it sleeps.
    pub busy_poll: Duration,
    pub pidfile: Option<PathBuf>,
    /// Where the admin server listens; there is none without.
    pub admin: Option<ListenAddress>,
    /// Where the control socket is; there is none without.
    pub control: Option<PathBuf>,
    /// Users who may look there and change nothing.
    pub control_readers: Vec<u32>,
    /// Where exports may be opened from while the server runs; empty means that nothing was said.
    pub allow_directories: Vec<PathBuf>,
    /// Requests that take longer are logged.
    pub slow: Option<Duration>,
    /// Where latencies are logged as histograms.
    pub latency_log: Option<PathBuf>,
    /// Latencies are recorded.
    pub histograms: bool,
    /// The user that the server becomes once everything is open.
    pub user: Option<RunAs>,
    pub sandbox: SandboxMode,
    /// `None`: nothing is encrypted.
    pub tls: Option<TlsConfig>,
    /// Sentences about settings that could not be met.
    pub warnings: Vec<String>,
    /// Sentences about defaults that had to be reduced.
    pub notes: Vec<String>,
}

/// What the machine lets this process have.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The CPUs that this process may run on (its affinity mask), ascending.
    pub cpus: Vec<usize>,
    /// How many of them it may keep busy (a control group may allow less).
    pub parallelism: usize,
    /// Bytes of memory: of the machine, or of the control group if that has less.
    pub memory: u64,
    /// File descriptors (RLIMIT_NOFILE, already raised).
    pub open_files: u64,
}

/// Fewer connections than this are worth a note if no number was asked for.
const NOTEWORTHY_CONNECTIONS: usize = 1024;

/// File descriptors of one connection in its handshake: its socket, and a second one for the ring of the
/// control plane.
const FILES_PER_HANDSHAKE: u64 = 2;
/// File descriptors of the admin server: its clients, its listeners, the latency log.
const ADMIN_FILES: u64 = 40;
/// Those of the control socket: its clients, its listener, the broker, what the broker opens for exports that
/// come later.
const CONTROL_FILES: u64 = 112;

impl Config {
    /// The files of TLS, wherever the process is.
    pub fn tls_files(&self) -> Vec<PathBuf> {
        let tls = self.tls.clone().map(TlsConfig::with_absolute_paths);
        tls.iter().flat_map(TlsConfig::paths).map(Path::to_owned).collect()
    }

    /// Fits settings to the machine and fills in what was not said.
    pub fn resolve(settings: Settings, machine: &Machine) -> Result<Self, ConfigError> {
        let (mut warnings, mut notes, mut limits) = (Vec::new(), Vec::new(), said_limits(&settings)?);
        let defaults =
            ExportDefaults { rights: settings.rights, read_only: settings.read_only.unwrap_or(false) };
        let mut exports = or_example(settings.exports);
        check_names(&exports, &settings.tenants)?;
        let tls = settings.tls.resolve(&exports)?;
        let needs_tls = tls.as_ref().is_some_and(|tls| tls.mode == TlsPolicy::Required);
        attach::check(&settings.attach, &exports, needs_tls)?;
        let unix_access = settings.unix_access;
        warnings.extend(check_access(&unix_access, &settings.listen)?);
        exports.iter_mut().for_each(|export| *export = defaults.in_force(export));
        let cpus = settings.cpus.as_ref().map(|cpus| cpus.as_slice());
        let shards = place_shards(settings.shards, cpus, machine)?;
        limits.device_depth = Limits::device_depth(settings.device_depth, shards.len());
        memory::divide(settings.memory, shards.len(), &mut limits)?;
        if tls.is_some() {
            limits.partial_records = limits.memory_per_shard / Limits::PARTIAL_RECORDS_PART;
        }
        let buffers = limits.memory_per_shard as u64 * shards.len() as u64 + limits.handshake_memory as u64;
        check_memory(buffers, machine.memory)?;
        warnings.extend(told_of_sharing(settings.shards, &shards));
        limits.longest_request = memory::longest_request(settings.max_request, shards.len(), &limits)?;
        let served_files = exports.iter().map(|export| export.uri.files()).sum();
        let files = files_for_clients(
            machine,
            shards.len(),
            served_files,
            settings.admin.is_some(),
            settings.control.is_some(),
        )?;
        fit_connections(settings.max_connections, files, &mut limits, machine, (&mut warnings, &mut notes))?;
        let histograms = !settings.no_histograms.unwrap_or(false);
        match (histograms, settings.slow, &settings.latency_log) {
            (false, Some(_), _) => return Err(ConfigError::NoHistograms("--slow")),
            (false, _, Some(_)) => return Err(ConfigError::NoHistograms("--latency-log")),
            _ => {}
        }
        Ok(Self {
            exports,
            attach: settings.attach,
            tenants: settings.tenants,
            defaults,
            listen: settings.listen,
            unix_access,
            shards,
            limits,
            busy_poll: settings.busy_poll.unwrap_or_default(),
            pidfile: settings.pidfile,
            admin: settings.admin.map(|address| address.0),
            control: control_socket(settings.control),
            control_readers: settings.control_readers,
            allow_directories: settings.allow_directories,
            slow: settings.slow,
            latency_log: settings.latency_log,
            histograms,
            user: settings.user,
            sandbox: settings.sandbox.unwrap_or_default(),
            tls,
            warnings,
            notes,
        })
    }
}

/// Limits that depend on nothing but the settings.
fn said_limits(settings: &Settings) -> Result<Limits, ConfigError> {
    if settings.device_depth == Some(0) {
        return Err(ConfigError::NoDepth);
    }
    if settings.handshake_timeout == Some(Duration::ZERO) {
        return Err(ConfigError::NoTime);
    }
    let defaults = Limits::default();
    Ok(Limits {
        pinned: settings.pinned.unwrap_or_default(),
        shutdown: settings.shutdown.unwrap_or_default(),
        handshake_timeout: settings.handshake_timeout.unwrap_or(defaults.handshake_timeout),
        ..defaults
    })
}

/// Connections and handshakes, as many as there are descriptors for. What does not fit is a warning if it was
/// asked for.
fn fit_connections(
    asked: Option<usize>,
    files: u64,
    limits: &mut Limits,
    machine: &Machine,
    (warnings, notes): (&mut Vec<String>, &mut Vec<String>),
) -> Result<(), ConfigError> {
    // Afterwards it has a place in its shard's table of registered files, to which the same limit applies
    // separately.
    let fit = usize::try_from(files).unwrap_or(usize::MAX);
    let wanted = asked.unwrap_or(limits.connections);
    if wanted == 0 {
        return Err(ConfigError::NoConnections);
    }
    if wanted > fit && (asked.is_some() || fit < NOTEWORTHY_CONNECTIONS) {
        let told = if asked.is_some() { warnings } else { notes };
        told.push(format!(
            "only {fit} of {wanted} connections fit into the limit of {} open files: raise it (ulimit -n, or \
             LimitNOFILE= of systemd) for more",
            machine.open_files
        ));
    }
    limits.connections = wanted.min(fit);
    limits.handshakes = limits.handshakes.min(fit / FILES_PER_HANDSHAKE as usize);
    Ok(())
}

fn or_example(exports: Vec<ExportConfig>) -> Vec<ExportConfig> {
    if exports.is_empty() { vec![ExportConfig::example()] } else { exports }
}

fn check_names(exports: &[ExportConfig], tenants: &[TenantConfig]) -> Result<(), ConfigError> {
    check_tenants(tenants, exports)?;
    let mut names = HashSet::new();
    // A store without a name may be one whose images have theirs.
    let named = exports.iter().filter(|export| !export.may_be_a_store());
    match named.into_iter().find(|export| !names.insert(&export.name)) {
        None => Ok(()),
        Some(export) if export.name.is_empty() => Err(ConfigError::TwoDefaults),
        Some(export) => Err(ConfigError::NameTwice(export.name.clone())),
    }
}

fn check_tenants(tenants: &[TenantConfig], exports: &[ExportConfig]) -> Result<(), ConfigError> {
    let mut names = HashSet::new();
    if let Some(twice) = tenants.iter().find(|tenant| !names.insert(&tenant.name)) {
        return Err(ConfigError::TenantTwice(twice.name.clone()));
    }
    let mut named = exports.iter().filter_map(|export| export.rates.tenant.as_ref());
    match named.find(|name| !names.contains(name)) {
        None => Ok(()),
        Some(name) => Err(ConfigError::NoTenant(name.clone())),
    }
}

/// Permissions apply to files; an abstract socket has none, and a warning says so.
fn check_access(access: &UnixAccess, listen: &[ListenAddress]) -> Result<Option<String>, ConfigError> {
    if *access == UnixAccess::default() {
        return Ok(None);
    }
    if !listen.iter().any(|address| matches!(address, ListenAddress::Unix(UnixAddress::Path(_)))) {
        return Err(ConfigError::NoSocketFile);
    }
    let open = listen.iter().find(|address| matches!(address, ListenAddress::Unix(UnixAddress::Abstract(_))));
    Ok(open.map(|address| {
        format!("{address} has no mode and no group: every user of this machine can connect to it")
    }))
}

fn control_socket(address: Option<ControlAddress>) -> Option<PathBuf> {
    match address? {
        ControlAddress::Off => None,
        ControlAddress::Path(path) => Some(path),
    }
}

/// A CPU for each shard. More shards than CPUs share them in turn.
fn place_shards(
    shards: Option<usize>,
    cpus: Option<&[usize]>,
    machine: &Machine,
) -> Result<Vec<usize>, ConfigError> {
    if let Some(&cpu) = cpus.unwrap_or_default().iter().find(|cpu| !machine.cpus.contains(cpu)) {
        return Err(ConfigError::Cpu { cpu, available: ShowCpus(&machine.cpus).to_string() });
    }
    let count = match (shards, cpus) {
        (Some(shards), _) => shards,
        (None, Some(cpus)) => cpus.len(),
        (None, None) => machine.parallelism.clamp(1, machine.cpus.len()),
    };
    if !(1..=MAXIMUM_SHARDS).contains(&count) {
        return Err(ConfigError::Shards(count));
    }
    Ok(cpus.unwrap_or(&machine.cpus).iter().copied().cycle().take(count).collect())
}

/// Fails if the buffers alone need more memory than there is: the kernel would kill this process, or others.
fn check_memory(wanted: u64, available: u64) -> Result<(), ConfigError> {
    let (wanted, available) = (Size(wanted), Size(available >> 20 << 20));
    if wanted.0 > available.0 { Err(ConfigError::TooMuchMemory { wanted, available }) } else { Ok(()) }
}

/// Shards that share a CPU take turns, which is slower than fewer of them.
fn told_of_sharing(asked: Option<usize>, shards: &[usize]) -> Option<String> {
    let cpus = shards.iter().collect::<HashSet<_>>().len();
    (asked.is_some() && shards.len() > cpus).then(|| {
        format!(
            "{} shards share {cpus} CPU{} and wait for each other: one shard for each CPU is fastest (--shards {cpus})",
            shards.len(),
            if cpus == 1 { "" } else { "s" }
        )
    })
}

/// Files that may be open beside those of the server itself.
fn files_for_clients(
    machine: &Machine,
    shards: usize,
    served_files: usize,
    admin: bool,
    control: bool,
) -> Result<u64, ConfigError> {
    // Standard streams, control plane and listeners; ring, doorbell, eventfds of a shard, and the descriptors
    // of each file that is served.
    let http = if admin { ADMIN_FILES } else { 0 } + if control { CONTROL_FILES } else { 0 };
    let own = 64 + 16 * shards as u64 + 3 * served_files as u64 + http;
    let files = machine.open_files.saturating_sub(own);
    if files < FILES_PER_HANDSHAKE { Err(ConfigError::OpenFiles(machine.open_files)) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { cpus: vec![0, 1, 4, 5], parallelism: 3, memory: 8 << 30, open_files: 1 << 20 }
    }

    fn resolve(settings: Settings) -> Result<Config, ConfigError> {
        Config::resolve(settings, &machine())
    }

    #[test]
    fn nothing_said_is_a_gigabyte_of_memory_on_every_core_that_may_be_busy() {
        let config = resolve(Settings::default()).unwrap();
        assert_eq!(config.exports, [ExportConfig::example()]);
        assert_eq!(config.shards, [0, 1, 4]);
        assert_eq!(config.limits.connections, Limits::default().connections);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn shards_take_the_cpus_in_turn() {
        let shards = |shards, cpus: Option<&str>| {
            let cpus = cpus.map(|cpus| cpus.parse().unwrap());
            resolve(Settings { shards, cpus, ..Settings::default() }).map(|config| config.shards)
        };
        assert_eq!(shards(None, Some("5,1")), Ok(vec![5, 1]));
        assert_eq!(shards(Some(3), Some("5,1")), Ok(vec![5, 1, 5]));
        assert_eq!(shards(Some(1), None), Ok(vec![0]));
        assert_eq!(shards(Some(0), None), Err(ConfigError::Shards(0)));
        assert_eq!(shards(Some(257), None), Err(ConfigError::Shards(257)));
        let warned = |shards| {
            resolve(Settings { shards: Some(shards), ..Settings::default() })
                .map(|config| config.warnings.len())
        };
        assert_eq!((warned(4), warned(5)), (Ok(0), Ok(1)));
        let error = shards(None, Some("0-2")).unwrap_err();
        assert_eq!(error, ConfigError::Cpu { cpu: 2, available: "0-1,4-5".to_owned() });
    }

    #[test]
    fn names_are_unique() {
        let exports = |texts: &[&str]| {
            let exports = texts.iter().map(|text| text.parse().unwrap()).collect();
            resolve(Settings { exports, ..Settings::default() }).map(|config| config.exports.len())
        };
        assert_eq!(exports(&["mem:1", "a=mem:1", "b=mem:1"]), Ok(3));
        assert_eq!(exports(&["mem:1", "mem:2"]), Err(ConfigError::TwoDefaults));
        assert_eq!(exports(&["a=mem:1", "mem:1", "a=mem:2"]), Err(ConfigError::NameTwice("a".to_owned())));
    }

    #[test]
    fn memory_is_no_more_than_there_is() {
        let resolved =
            |memory| resolve(Settings { memory: Some(memory), shards: Some(2), ..Settings::default() });
        assert!(resolved(8 << 30).is_ok());
        let Err(ConfigError::TooMuchMemory { available, .. }) = resolved(1 << 40) else {
            panic!("a terabyte")
        };
        assert_eq!(available, Size(8 << 30));
    }

    #[test]
    fn connections_fit_into_the_open_files() {
        let connections = |wanted, open_files| {
            let settings = Settings { max_connections: wanted, shards: Some(1), ..Settings::default() };
            Config::resolve(settings, &Machine { open_files, ..machine() })
        };
        let config = connections(None, 1024).unwrap();
        assert_eq!(config.limits.connections, 1024 - 64 - 16);
        assert_eq!(config.limits.handshakes, (1024 - 64 - 16) / 2);
        assert_eq!((config.warnings.len(), config.notes.len()), (0, 1), "more was not asked for");
        let config = connections(Some(5000), 1024).unwrap();
        assert_eq!((config.warnings.len(), config.notes.len()), (1, 0));
        let config = connections(Some(5), 1024).unwrap();
        assert_eq!((config.limits.connections, config.warnings.len()), (5, 0));
        assert_eq!(connections(None, 64).unwrap_err(), ConfigError::OpenFiles(64));
        assert_eq!(connections(Some(0), 1024).unwrap_err(), ConfigError::NoConnections);
    }

    #[test]
    fn shards_share_the_depth_of_a_device() {
        let depth = |device_depth, shards| {
            let settings = Settings { device_depth, shards: Some(shards), ..Settings::default() };
            resolve(settings).map(|config| config.limits.device_depth)
        };
        assert_eq!([1, 2].map(|shards| depth(None, shards).unwrap()), [64, 32]);
        assert_eq!([1, 2].map(|shards| depth(Some(1000), shards).unwrap()), [1000, 500]);
        assert_eq!((depth(Some(1), 2).unwrap(), depth(None, 8).unwrap()), (1, 16), "each has some");
        assert_eq!(depth(Some(0), 1).unwrap_err(), ConfigError::NoDepth);
    }

    #[test]
    fn what_needs_histograms_excludes_their_absence() {
        let none = || Settings { no_histograms: Some(true), ..Settings::default() };
        assert!(!resolve(none()).unwrap().histograms);
        let slow = Settings { slow: Some(Duration::ZERO), ..none() };
        assert_eq!(resolve(slow).unwrap_err(), ConfigError::NoHistograms("--slow"));
        let log = Settings { latency_log: Some("x".into()), ..none() };
        assert_eq!(resolve(log).unwrap_err(), ConfigError::NoHistograms("--latency-log"));
    }

    #[test]
    fn modes_are_for_files() {
        let warnings = |sockets: &[&str]| {
            let listen = sockets.iter().map(|text| ListenAddress::Unix(text.parse().unwrap())).collect();
            let unix_access = UnixAccess { mode: None, group: Some("kvm".to_owned()) };
            resolve(Settings { listen, unix_access, ..Settings::default() })
                .map(|config| config.warnings.len())
        };
        assert_eq!(warnings(&["/s"]), Ok(0));
        assert_eq!(warnings(&["/s", "@s"]), Ok(1));
        assert_eq!(warnings(&["@s"]), Err(ConfigError::NoSocketFile));
        assert_eq!(warnings(&[]), Err(ConfigError::NoSocketFile));
    }

    #[test]
    fn read_only_is_for_all() {
        let settings = Settings { read_only: Some(true), ..Settings::default() };
        assert!(resolve(settings).unwrap().exports[0].read_only);
        let settings = Settings { handshake_timeout: Some(Duration::ZERO), ..Settings::default() };
        assert_eq!(resolve(settings).unwrap_err(), ConfigError::NoTime);
    }
}
