//! What `qemu-nbd` takes, under its names.

use std::ffi::OsString;
use std::path::PathBuf;

/// QEMU's way to call an NBD server, answered by ringnbd
#[derive(Debug, Default, clap::Parser)]
#[command(name = "qemu-nbd", version, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct QemuNbdArgs {
    /// The file, block device, or URI of ringnbd (store:, overlay:, mem:) to serve
    #[arg(value_name = "FILE")]
    pub file: Option<OsString>,

    /// The port to listen on
    #[arg(short, long, value_name = "PORT", default_value_t = 10809, help_heading = "Connections")]
    pub port: u16,
    /// The address to listen on
    #[arg(short, long, value_name = "IFACE", default_value = "0.0.0.0", help_heading = "Connections")]
    pub bind: String,
    /// A unix socket to listen on instead
    #[arg(short = 'k', long, value_name = "PATH", help_heading = "Connections")]
    pub socket: Option<OsString>,
    /// So many clients at a time; 0: any number
    #[arg(short = 'e', long, value_name = "NUM", default_value_t = 1, help_heading = "Connections")]
    pub shared: u32,
    /// Stay when the last client is gone
    #[arg(short = 't', long, help_heading = "Connections")]
    pub persistent: bool,
    /// The name of the export
    #[arg(short = 'x', long, value_name = "NAME", help_heading = "Connections")]
    pub export_name: Option<String>,
    /// A text about the export
    #[arg(short = 'D', long, value_name = "TEXT", help_heading = "Connections")]
    pub description: Option<String>,
    /// Seconds that a client may take to choose an export; 0: any time
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Connections")]
    pub handshake_limit: u32,
    /// Taken; only warnings and errors are logged either way, and RUST_LOG=info shows more
    #[arg(short, long)]
    pub verbose: bool,

    /// List the exports of a server instead
    #[arg(short = 'L', long, help_heading = "Other things to do")]
    pub list: bool,
    /// Connect FILE to this device of the kernel
    #[arg(short, long, value_name = "DEV", help_heading = "Other things to do")]
    pub connect: Option<OsString>,
    /// Disconnect this device of the kernel
    #[arg(short, long, value_name = "DEV", help_heading = "Other things to do")]
    pub disconnect: Option<OsString>,

    /// Credentials: tls-creds-x509,id=ID,dir=DIR,endpoint=server,verify-peer=off, or
    /// tls-creds-psk,id=ID,dir=DIR,endpoint=server; to list, with endpoint=client
    #[arg(long, value_name = "TYPE,id=ID,...", help_heading = "Encryption")]
    pub object: Vec<String>,
    /// The id of the credentials to use
    #[arg(long, value_name = "ID", help_heading = "Encryption")]
    pub tls_creds: Option<String>,
    /// To list: the name that the server's certificate must have
    #[arg(long, value_name = "HOST", help_heading = "Encryption")]
    pub tls_hostname: Option<String>,
    /// Not here: rights by export are `allow` in ringnbd's configuration
    #[arg(long, value_name = "ID", help_heading = "Encryption")]
    pub tls_authz: Option<String>,

    /// Return when the server is up, and leave it running
    #[arg(long, help_heading = "Process")]
    pub fork: bool,
    /// Write the server's process id here
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    pub pid_file: Option<PathBuf>,

    /// The format of FILE: raw
    #[arg(short, long, value_name = "FORMAT", help_heading = "The disk")]
    pub format: Option<String>,
    /// Refuse writes
    #[arg(short, long, help_heading = "The disk")]
    pub read_only: bool,
    /// Keep what is written apart, and throw it away at the end
    #[arg(short, long, help_heading = "The disk")]
    pub snapshot: bool,
    /// Serve this snapshot of an image of a store
    #[arg(short = 'l', long, value_name = "SNAPSHOT", help_heading = "The disk")]
    pub load_snapshot: Option<String>,
    /// The same as --cache=none
    #[arg(short, long, conflicts_with = "cache", help_heading = "The disk")]
    pub nocache: bool,
    /// none (O_DIRECT) or writeback
    #[arg(long, value_name = "MODE", help_heading = "The disk")]
    pub cache: Option<String>,
    /// threads, native and io_uring are all taken for io_uring
    #[arg(long, value_name = "MODE", help_heading = "The disk")]
    pub aio: Option<String>,
    /// unmap; with ignore a trim is done too, which a client cannot tell from one that is not
    #[arg(long, value_name = "MODE", help_heading = "The disk")]
    pub discard: Option<String>,
    /// off
    #[arg(long, value_name = "MODE", help_heading = "The disk")]
    pub detect_zeroes: Option<String>,
    /// Offer qemu:allocation-depth, which images have anyway
    #[arg(short = 'A', long, help_heading = "The disk")]
    pub allocation_depth: bool,
    /// Offer qemu:dirty-bitmap:NAME: those of an image's snapshots are there anyway
    #[arg(short = 'B', long, value_name = "NAME", help_heading = "The disk")]
    pub bitmap: Vec<String>,
    /// Not here
    #[arg(short, long, value_name = "OFFSET", hide = true)]
    pub offset: Option<String>,
    /// Not here
    #[arg(long, hide = true)]
    pub image_opts: bool,
}
