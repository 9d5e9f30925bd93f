//! Why settings and machine do not fit.

use super::limits::MAXIMUM_SHARDS;
use super::size::Size;

/// Why the settings cannot be had; each a sentence with cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("two exports are named \"{0}\": give each a name of its own")]
    NameTwice(String),
    #[error("two exports have no name: only one can be the default, name the others with NAME=URI")]
    TwoDefaults,
    #[error("two tenants are named \"{0}\": give each a name of its own")]
    TenantTwice(String),
    #[error("an export names the tenant \"{0}\", and there is none: add [[tenant]] with this name")]
    NoTenant(String),
    #[error("{0} shards are not possible: choose 1 to {MAXIMUM_SHARDS}, best one per CPU")]
    Shards(usize),
    #[error("CPU {cpu} is not available to this process: choose from {available}")]
    Cpu {
        cpu: usize,
        /// Those that are.
        available: String,
    },
    #[error(
        "{memory} of memory is too little for {shards} shards: give at least --memory {minimum} ({each} each), \
         or fewer --shards"
    )]
    Memory {
        memory: Size,
        shards: usize,
        /// What they need together.
        minimum: Size,
        /// What one needs.
        each: Size,
    },
    #[error(
        "{wanted} of buffer memory is more than the {available} that this machine or control group has: give less --memory, or \
         fewer --shards"
    )]
    TooMuchMemory {
        /// Of all shards.
        wanted: Size,
        /// What there is, in whole MiB.
        available: Size,
    },
    #[error("requests of up to {0} are not possible: give --max-request from 1M to 256M, a multiple of 64K")]
    LongestRequest(Size),
    #[error(
        "requests of up to {longest} need more memory: give at least --memory {minimum}, or a shorter --max-request"
    )]
    MemoryForRequest {
        longest: Size,
        /// What all shards need together.
        minimum: Size,
    },
    #[error("a device that is given nothing answers nobody: give --device-depth at least 1")]
    NoDepth,
    #[error("a server without connections serves nobody: give --max-connections at least 1")]
    NoConnections,
    #[error("no client can finish a handshake in no time: give --handshake-timeout at least 1ms")]
    NoTime,
    #[error(
        "--unix-mode and --unix-group are for the files of unix sockets, and there is none: give --unix PATH (a socket of \
         systemd has SocketMode= and SocketGroup=)"
    )]
    NoSocketFile,
    #[error("--no-histograms leaves nothing for {0}: give only one of the two")]
    NoHistograms(&'static str),
    #[error(
        "--tls-mode and --tls-min-version say how to encrypt, but nothing can be encrypted with: give --tls DIR, or the \
         files in [tls]"
    )]
    NoTlsFiles,
    #[error(
        "TLS 1.2 needs a certificate, because shared keys are for TLS 1.3: give cert and key in [tls], or --tls DIR"
    )]
    OldTlsNeedsCertificate,
    #[error("a certificate and its key go together: give both, cert and key, in [tls]")]
    HalfOfAnIdentity,
    #[error(
        "the export \"{0}\" is for clients that encrypt, and this server does not: give --tls DIR, or files in [tls]"
    )]
    ExportNeedsTls(String),
    #[error(
        "tls = \"required\" cannot be said of a whole store: say it of single images, or of all exports with mode = \"required\""
    )]
    StoreNeedsTls,
    #[error("a key cannot be renewed after {0} records: give renew-after from 1 to 16777216")]
    RenewAfter(u64),
    #[error("a session of {0:?} is too short for its handshake: give max-session from 1s on")]
    MaxSession(std::time::Duration),
    #[error("this program was built without TLS: use one that has it, or leave --tls out")]
    BuiltWithoutTls,
    /// Of an export that is to be attached.
    #[error("{0}")]
    Attach(#[from] super::attach::AttachConfigError),
    #[error(
        "the limit of {0} open files is too low for a server: raise it (ulimit -n, or LimitNOFILE= of systemd)"
    )]
    OpenFiles(u64),
}
