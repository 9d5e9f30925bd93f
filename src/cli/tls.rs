//! `ringnbd tls`: certificates and keys for a first try.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Outcome;
use super::text::print;
use crate::tls::{AuthorityError, AuthorityOrder, MadeFile, make_authority};

const LONG_HELP: &str = "\
Examples:
  ringnbd tls init tls
  ringnbd tls init tls --server storage1.example --server 10.0.0.5 --client vm1
  ringnbd serve disk.img --tls tls

It makes an authority (ca-cert.pem, ca-key.pem), a certificate with its key for the server (server-cert.pem,
server-key.pem) and for a client (client-cert.pem, client-key.pem), and a shared key (keys.psk). QEMU and
libnbd look for these names. A client needs ca-cert.pem with client-cert.pem and client-key.pem, or keys.psk;
nobody but you needs ca-key.pem. Files that are there are never replaced.

Exit codes: 0, done; 1, it failed; 2, it was refused: nothing was written.";

/// Options of `ringnbd tls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: TlsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TlsCommand {
    /// Make a private authority, certificates for a server and a client, and a shared key
    Init(InitArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples.")]
struct InitArgs {
    /// Where they go; it is made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// A name or an address under which clients know the server; may be repeated
    #[arg(long, value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"])]
    server: Vec<String>,
    /// The name of the client, in its certificate and of the shared key
    #[arg(long, value_name = "NAME", default_value = "client")]
    client: String,
    /// Days for which all of it is good
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u32,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{} is there already: choose another directory, or remove it", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let TlsCommand::Init(args) = args.command;
    match init(&args) {
        Ok(()) => {
            let directory = args.directory.display();
            print(&format!(
                "{directory} has certificates and keys for {}, for {} days. Try: ringnbd serve --tls {directory}\n",
                args.server.join(", "),
                args.days
            ))
        }
        Err(error @ InitError::Write { .. }) => Outcome::failed(error),
        Err(error) => Outcome::refused(error),
    }
}

fn init(args: &InitArgs) -> Result<(), InitError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let order = AuthorityOrder { server: &args.server, client: &args.client, now, days: args.days };
    let files = make_authority(&order)?;
    let path = |file: &MadeFile| args.directory.join(file.name);
    if let Some(there) = files.iter().map(path).find(|path| path.symlink_metadata().is_ok()) {
        return Err(InitError::Exists(there));
    }
    let made = DirBuilder::new().mode(0o700).recursive(true).create(&args.directory);
    made.map_err(|error| InitError::Write { path: args.directory.clone(), error })?;
    let written = files.iter().try_for_each(|file| {
        let path = path(file);
        write(&path, file).map_err(|error| InitError::Write { path, error })
    });
    if written.is_err() {
        // What is half there would be refused the next time.
        files.iter().map(path).for_each(|path| drop(std::fs::remove_file(path)));
    }
    written
}

/// Writes a new file, and makes it durable.
fn write(path: &Path, file: &MadeFile) -> io::Result<()> {
    let mode = if file.is_secret { 0o600 } else { 0o644 };
    let mut new = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    new.write_all(&file.contents)?;
    new.sync_all()
}
