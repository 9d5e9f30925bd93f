//! The command line: one file per sub-command, each with its `Args` and a `run` that gives an [`Outcome`].
#![forbid(unsafe_code)]

mod announce;
pub(crate) mod attach;
mod attacher;
pub(crate) mod bench;
mod captive;
pub(crate) mod check;
pub(crate) mod completions;
mod control_place;
pub(crate) mod copy;
pub(crate) mod ctl;
pub(crate) mod detach;
pub(crate) mod devices;
mod help;
mod http;
pub(crate) mod image;
pub(crate) mod import_config;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod map;
mod natural;
mod outcome;
mod owner;
pub(crate) mod qemu_nbd;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod store;
mod text;
mod tiered;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod top;
pub(crate) mod upgrade;
mod watched;

pub(crate) use outcome::Outcome;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// An io_uring, thread-per-core NBD storage server, and the tools to look at one.
#[derive(Debug, Parser)]
#[command(name = "ringnbd", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: SubCommand,
}

impl Cli {
    /// The command line as people see it.
    pub(crate) fn for_people() -> clap::Command {
        help::with_paragraphs(Self::command())
    }

    /// What the process was started with. Ends the process if that is wrong, or asks for help.
    pub(crate) fn of_process() -> Self {
        let matches = Self::for_people().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub(crate) enum SubCommand {
    /// Serve files, block devices or memory as NBD exports
    Serve(Box<serve::Args>),
    /// Show what a server says about one export
    Info(info::Args),
    /// List the exports of a server
    List(list::Args),
    /// Operate a running server: list its exports, reload its configuration
    Ctl(ctl::Args),
    /// See what a new binary could take over from a running server
    Upgrade(upgrade::Args),
    /// Show which parts of an export are allocated, holes or zeroes
    Map(map::Args),
    /// Copy a disk from a file, a store or a server to another one
    Copy(copy::Args),
    /// Generate load on an export and measure its latency
    Bench(Box<bench::Args>),
    /// Check whether a server does what the protocol asks for
    Check(check::Args),
    /// Make an export a block device of this machine: /dev/nbdN
    Attach(attach::Args),
    /// Detach a block device that was attached
    Detach(detach::Args),
    /// List the block devices that are attached
    Devices(devices::Args),
    /// Make and look at a store of images
    Store(store::Args),
    /// Create, snapshot, clone and remove the images of a store
    Image(image::Args),
    /// Make certificates and keys for a first try
    #[cfg(feature = "tls")]
    Tls(tls::Args),
    /// Say the configuration of nbd-server in ringnbd's
    ImportConfig(import_config::Args),
    /// Attaches the exports of a server; started by it
    #[command(name = crate::daemon::attacher::ATTACHER, hide = true)]
    Attacher,
    /// Opens files for a server; started by it
    #[command(name = crate::daemon::broker::SUBCOMMAND, hide = true)]
    Broker,
    /// Show what a running server does, live: exports, clients, latency
    Top(top::Args),
    /// Show or compare latency logs: a table, a page, a picture, JSON
    Report(report::Args),
    /// Print the completions of a shell: bash, zsh, fish
    Completions(completions::Args),
    /// Write the manual pages; for packages
    #[command(hide = true)]
    Man(completions::ManArgs),
}

/// Runs the command that was asked for, to its end.
pub(crate) fn run(cli: Cli) -> Outcome {
    match cli.command {
        SubCommand::Serve(args) if args.run.is_some() && !args.check => captive::run(&args),
        SubCommand::Serve(args) => serve::run(*args),
        SubCommand::ImportConfig(args) => import_config::run(&args),
        SubCommand::Info(args) => info::run(args),
        SubCommand::List(args) => list::run(args),
        SubCommand::Broker => match crate::daemon::broker::run() {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::refused(error),
        },
        SubCommand::Attacher => attacher::run(),
        SubCommand::Ctl(args) => ctl::run(args),
        SubCommand::Upgrade(args) => upgrade::run(&args),
        SubCommand::Map(args) => map::run(args),
        SubCommand::Check(args) => check::run(args),
        SubCommand::Copy(args) => copy::run(args),
        SubCommand::Attach(args) => attach::run(args),
        SubCommand::Detach(args) => detach::run(&args),
        SubCommand::Devices(args) => devices::run(args),
        SubCommand::Store(args) => store::run(args),
        SubCommand::Image(args) => image::run(args),
        #[cfg(feature = "tls")]
        SubCommand::Tls(args) => tls::run(args),
        SubCommand::Bench(args) => bench::run(*args),
        SubCommand::Top(args) => top::run(args),
        SubCommand::Report(args) => report::run(&args),
        SubCommand::Completions(args) => completions::run(&args, Cli::for_people()),
        SubCommand::Man(args) => completions::man(&args, Cli::for_people()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
