//! `ringnbd check`: whether a server does what the protocol asks for.

mod output;
mod trial;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::Outcome;
use super::text::{json, print};
use crate::check::{self, Dialer, Examined, Judgement, Statement, Subject};
use crate::client::uri::NbdUri;
use crate::client::{self, ClientError, Timeouts};
use crate::config::size::parse_duration;
use trial::TrialArgs;

const LONG_HELP: &str = "\
Each statement is met, not met, or not applicable: the server does not have what it is about. One that is not met
comes with the bytes that show it and the heading of the protocol document (doc/proto.md of the NBD project). MUST
and SHOULD are its words; SHOULD is also what it leaves open and clients rely on.

Statements that write are asked with --danger only. Give them a scratch export: its contents are lost.

--load sends all commands at once, over several connections and with many requests under way on each, and compares
every byte that it reads with what must be there. With MULTI_CONN the connections also read what others wrote.

--durability starts COMMAND, writes, waits for the answer to a FLUSH or to WRITEs with FUA, kills it (SIGKILL, with
all that it started), starts it again and reads back. With a URI, COMMAND is a server that listens there, and a FLUSH
is also tried on another connection than the WRITEs; without one it talks on its standard input and output. The
operating system goes on, so this finds what a server keeps in its own memory, not a missing fsync.

Examples:
  ringnbd check nbd://localhost/disk
  ringnbd check --danger 'nbd+unix:///scratch?socket=/run/ringnbd.sock'
  ringnbd check --danger -- nbdkit -s memory 128M          a new process for each connection
  ringnbd check --only H3,T13 --danger nbd://localhost/scratch
  ringnbd check 'nbds://storage/disk?tls-certificates=tls'        encrypted; H28 and H34 cannot be asked so
  ringnbd check --load --danger --duration 1m nbd://localhost/scratch
  ringnbd check --durability --danger -- nbdkit -s file scratch.img
  ringnbd check --durability --danger 'nbd+unix:///?socket=/tmp/s' -- qemu-nbd -t -f raw -e 8 -k /tmp/s scratch.img
  ringnbd check --json nbd://localhost | jq '.statements[] | select(.standing == \"not_met\")'

JSON keys:
  server        the URI or the command
  met, not_met, not_applicable, not_asked    how many
  statements    one object for each:
    id, title, heading, level    as in --list; level is must or should
    standing                     met, not_met, not_applicable or not_asked
    reason                       why, or null
    seconds                      how long it took
    transfers                    what went over the wire last, if it is not met:
      connection, sender         its number in this statement; client or server
      length, bytes              of all; the first 96 in hexadecimal
of --load: server, seconds, connections, shared, commands[] (command, requests, bytes), p50_ns, p99_ns, max_ns,
  compared_bytes, seed, broken (null, or reason and transfers)
of --durability: server, kills, promises[] (promise, tried, skipped), seed, broken (null, or promise, sentence, round,
  reason and transfers)

Exit codes: 0, all that was asked is met or not applicable; 1, something is not met or broken; 2, the server could not
be reached.";

/// Options of `ringnbd check`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    /// The export.
    #[arg(
        help = "The export: nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH",
        required_unless_present_any = ["list", "command"]
    )]
    pub uri: Option<NbdUri>,
    /// A server that talks to the client on its standard input and output
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// The name of the export of COMMAND
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, conflicts_with = "uri")]
    pub export: String,
    /// Ask the statements that write, too: the contents of the export are lost
    #[arg(long)]
    pub danger: bool,
    /// Ask these statements only
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub only: Vec<String>,
    /// List the statements, and ask none
    #[arg(long)]
    pub list: bool,
    /// How long each statement may take: a server that hangs does not meet it
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Write the results for a CI system, as JUnit's XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    #[command(flatten)]
    pub trial: TrialArgs,
}

pub(crate) fn run(args: Args) -> Outcome {
    if args.trial.durability {
        let is_secure = args.uri.as_ref().is_some_and(|uri| uri.tls.is_some());
        if is_secure {
            return Outcome::refused("--durability asks in plain text: write nbd:// or nbd+unix://");
        }
        let (address, export) = match args.uri {
            Some(uri) => (Some(uri.address.clone()), uri.export),
            None => (None, args.export),
        };
        let dialer = Dialer::Command(args.command.clone());
        let subject = Subject { dialer, export, timeout: args.timeout, danger: args.danger };
        return trial::durability(args.command, address, &subject, &args.trial, args.json);
    }
    if args.uri.is_some() && !args.command.is_empty() {
        return Outcome::refused("a URI and a COMMAND together are for --durability: write one of them");
    }
    let statements = match chosen(&args.only) {
        Ok(statements) => statements,
        Err(unknown) => {
            return Outcome::refused(format_args!("there is no statement {unknown:?}; see --list"));
        }
    };
    if args.list {
        return print(&if args.json {
            json(&output::list_json(&statements))
        } else {
            output::list(&statements)
        });
    }
    let (server, dialer, export) = match args.uri {
        Some(uri) => {
            let dialer = match dialer(&uri) {
                Ok(dialer) => dialer,
                Err(error) => return Outcome::refused(error),
            };
            (uri.to_string(), dialer, uri.export)
        }
        None => {
            let words: Vec<_> = args.command.iter().map(|word| word.to_string_lossy()).collect();
            (words.join(" "), Dialer::Command(args.command.clone()), args.export)
        }
    };
    let subject = Subject { dialer, export, timeout: args.timeout, danger: args.danger };
    if args.trial.load {
        return trial::load(&server, &subject, &args.trial, args.json);
    }
    let is_text = !args.json;
    let told = |examined: &Examined| {
        if is_text {
            let _a_reader_that_left_gets_no_more = print(&output::line(examined));
        }
    };
    let examined = match check::examine(&subject, statements, told) {
        Ok(examined) => examined,
        Err(why) => return Outcome::refused(format_args!("cannot check {server}: {why}")),
    };
    if let Some(path) = &args.junit
        && let Err(error) = std::fs::write(path, output::junit(&server, &examined))
    {
        return Outcome::failed(format_args!("cannot write {}: {error}", path.display()));
    }
    let text =
        if args.json { json(&output::results_json(&server, &examined)) } else { output::summary(&examined) };
    match print(&text) {
        Outcome::Done if examined.iter().any(|one| one.standing == Judgement::NotMet) => Outcome::Failed,
        other => other,
    }
}

/// How to reach the server of a URI. One with TLS is asked once as by any client, which says why there is
/// none.
fn dialer(uri: &NbdUri) -> Result<Dialer, ClientError> {
    if uri.tls.is_none() {
        return Ok(Dialer::Address(uri.address.clone()));
    }
    client::info(uri, Timeouts::default())?;
    Ok(Dialer::Secure(uri.clone()))
}

/// The statements with these ids, or all; an id that is unknown.
fn chosen(only: &[String]) -> Result<Vec<Statement>, String> {
    let all = check::all();
    if let Some(unknown) = only.iter().find(|id| !all.iter().any(|one| one.id.eq_ignore_ascii_case(id))) {
        return Err(unknown.clone());
    }
    let is_wanted = |statement: &Statement| {
        only.is_empty() || only.iter().any(|id| statement.id.eq_ignore_ascii_case(id))
    };
    Ok(all.into_iter().filter(is_wanted).collect())
}
