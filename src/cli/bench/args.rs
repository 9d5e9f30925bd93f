//! The options of `ringnbd bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::client::uri::NbdUri;
use crate::config::size::{parse_duration, parse_size};

const LONG_HELP: &str = "\
Examples:
  ringnbd bench nbd://localhost/disk                             4 KiB random reads, 10 s
  ringnbd bench 'nbd+unix:///?socket=/run/nbd.sock' --connections 4 --depth 32 --json
  ringnbd bench nbd://h/disk --rw randrw --mix 70 --rate 50000 --duration 60s --hlog run.hlog
  ringnbd bench nbd://h/scratch --rw randwrite --verify --size 1G --ops 1M
  ringnbd bench nbd://h/disk --fio job.fio --connections 8
  ringnbd bench nbd://h/scratch --rw randwrite --fsync 32        a flush after every 32 writes

Closed loop (no --rate): --depth requests are always in flight on each connection, and latency
counts from the moment of sending. A server that stalls then stalls the load too, which hides the
stall from the percentiles.
Open loop (--rate): each operation has an intended start time and its latency counts from that,
whether or not it could be sent then, so that a stall shows in full. The loop does not sleep
shortly before a start; expect one busy core.

read, write and trim go through the area as one stream that all connections share.

Exit codes: 0 done (errors of single requests are counted and reported), 1 a connection was lost,
no request succeeded or content was wrong, 2 usage, or the load could not start.

JSON keys:
  uri export_size replies rw read_percent fsync block_size depth connections rate offset size seed
  verify          what was run; rate is null in a closed loop
  elapsed         seconds, warm-up excluded
  interrupted     true after Ctrl-C
  failure         why it ended early, or null
  total read write trim flush
                  {operations, errors, bytes, iops, bytes_per_second, latency}, latency in
                  nanoseconds: {min, mean, stddev, p50, p90, p99, p99_9, p99_99, max}, or null
                  without operations; total leaves flushes out
  errors          answers with an error, by name: {\"EIO\": 3}
  unstarted       operations of an open loop that were due and could not start before the end
  per_connection  operations of the connections: {min, mean, max}
  client_cpu      {seconds, cores, us_per_operation}
  verification    null, or {checked, read_back, wrong, mismatches}; each of the first ten
                  mismatches is {kind, offset, expected, found}, kind one of stale, torn,
                  swapped, foreign, lost, corrupt";

/// What the operations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadWrite {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Random reads
    Randread,
    /// Random writes
    Randwrite,
    /// Random reads and writes, by --mix
    Randrw,
    /// Sequential trims
    Trim,
    /// Random trims
    Randtrim,
}

/// A form of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReplyForm {
    /// Simple replies
    Simple,
    /// Structured replies
    Structured,
    /// Extended headers
    Extended,
}

/// Options of `ringnbd bench`.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = LONG_HELP,
    after_help = "`--help` shows examples, what open and closed loop measure, and the JSON keys."
)]
pub(crate) struct Args {
    /// The export; may also stand in the job file.
    #[arg(help = "The export: nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH")]
    pub uri: Option<NbdUri>,
    /// What to do [default: randread]
    #[arg(long, value_name = "WHAT", help_heading = "Load")]
    pub rw: Option<ReadWrite>,
    /// Share of reads of --rw randrw, in percent [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), help_heading = "Load")]
    pub mix: Option<u8>,
    /// Flush after every N writes of all connections; flushes are counted apart
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Load")]
    pub fsync: Option<u32>,
    /// Bytes of one operation [default: 4K]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Load")]
    pub bs: Option<u64>,
    /// Requests in flight on each connection [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536), help_heading = "Load")]
    pub depth: Option<u32>,
    /// Connections [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=30000), help_heading = "Load")]
    pub connections: Option<u32>,
    /// Open loop: start so many operations a second over all connections, whatever the server does
    #[arg(long, value_name = "OPS/S", value_parser = parse_count, help_heading = "Load")]
    pub rate: Option<u64>,
    /// How long operations start [default: 10s, or no limit with --ops]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Load")]
    pub duration: Option<Duration>,
    /// Run so long before anything counts [default: 0]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Load")]
    pub warmup: Option<Duration>,
    /// Stop after so many operations (1000, 50K, 2M)
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = "Load")]
    pub ops: Option<u64>,
    /// Bytes of the working area [default: to the end of the export]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Load")]
    pub size: Option<u64>,
    /// Where the working area begins [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Load")]
    pub offset: Option<u64>,
    /// Of the places, the mix and the content [default: another one each time]
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub seed: Option<u64>,
    /// Write content that tells where and when it was written, check every read, read all back at the end
    #[arg(long, help_heading = "Load")]
    pub verify: bool,
    /// The form of replies to insist on [default: structured, else simple]
    #[arg(long, value_name = "FORM", help_heading = "Load")]
    pub replies: Option<ReplyForm>,
    /// Read common keys of a fio job file; flags win: uri, rw, rwmixread, fsync, bs, iodepth, numjobs,
    /// rate_iops, runtime, time_based, ramp_time, number_ios, size, offset, randseed, verify; ${NAME} is from
    /// the environment
    #[arg(long, value_name = "FILE", help_heading = "Load")]
    pub fio: Option<PathBuf>,
    /// With TLS: renew the key after so many records, for tests
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub tls_key_update_records: Option<u64>,
    /// Pin this process to a CPU
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Print the results as JSON, or write them to FILE beside the table
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<String>,
    /// Write latencies second by second to a HdrHistogram interval log, tagged read, write, trim, flush; an
    /// old FILE is replaced
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
}

/// A number of operations, in powers of 1000.
fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    count.filter(|count| *count > 0).ok_or_else(|| "write a number above 0, such as 1000, 50K or 2M".into())
}
