//! The options of `fault:`: which requests are late, which fail and how.
//!
//! `k=v` pairs with commas between them, see [`FaultOptions`].

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use super::size::{QuantityError, parse_duration, parse_size};
use crate::block::{ByteRange, CommandKind, errno};

/// One value for each [`CommandKind`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerCommand<T>([Option<T>; CommandKind::ALL.len()]);

impl<T> Default for PerCommand<T> {
    fn default() -> Self {
        Self([const { None }; CommandKind::ALL.len()])
    }
}

impl<T: Copy> PerCommand<T> {
    /// The value for a command.
    pub fn get(&self, command: CommandKind) -> Option<T> {
        self.0[command as usize]
    }

    /// Sets the value for a command.
    pub fn set(&mut self, command: CommandKind, value: T) {
        self.0[command as usize] = Some(value);
    }

    fn fill(&mut self, value: T) {
        self.0 = [Some(value); CommandKind::ALL.len()];
    }
}

/// An error that requests get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultError {
    /// Positive, as in `errno.h`.
    pub errno: i32,
    /// Of a request to get it, 0 to 1.
    pub probability: f64,
}

/// A time during which nothing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// From the request that begins it.
    pub duration: Duration,
    /// The number of that request among those that the fault applies to, from 1; each shard counts its own.
    pub at: u64,
}

/// What `fault:` does to the requests of the export behind it.
///
/// | option | meaning |
/// |---|---|
/// | `delay=5ms`, `delay.read=5ms` | wait before the request, of every command or of one |
/// | `stall=1s@1000` | once, from the 1,000th request on: that one and all that come meanwhile wait for the end of it |
/// | `panic=1000` | at the 1,000th request the shard panics, as a bug of ours would make it |
/// | `error=EIO@1%`, `error.read=ENOSPC@100%` | fail that share of the requests; without `@`, all |
/// | `range=OFFSET+LENGTH` | only requests that overlap this range |
/// | `after=BYTES` | a READ or WRITE fails once that many of its bytes were moved, not at its start |
/// | `seed=7` | of the dice; the same seed gives the same faults |
#[derive(Debug, Clone, PartialEq)]
pub struct FaultOptions {
    /// Seeds the random choices.
    pub seed: u64,
    /// Only requests that overlap it; `None` means all, and those without a range (FLUSH) too.
    pub range: Option<ByteRange>,
    /// READ and WRITE fail once that many bytes of the request were moved. Then the error is EIO unless the
    /// options name another.
    pub after: Option<u64>,
    pub stall: Option<Stall>,
    /// The number of the request at which the shard panics, counted as that of a stall.
    pub panic: Option<u64>,
    /// The wait before a request.
    pub delays: PerCommand<Duration>,
    /// The error of a request.
    pub errors: PerCommand<FaultError>,
}

impl Default for FaultOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            range: None,
            after: None,
            stall: None,
            panic: None,
            delays: PerCommand::default(),
            errors: PerCommand::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultOptionsError {
    #[error(
        "\"{0}\" is not an option of fault: write delay=, stall=, panic=, error=, range=, after= or seed=, or one for a single command \
         such as delay.read= or error.write_zeroes="
    )]
    Unknown(String),
    #[error("fault option {option}: {source}")]
    Quantity { option: String, source: QuantityError },
    #[error(
        "fault option {option}: \"{value}\" is not an error: write a name and a share, such as EIO@1% or ENOSPC@100%"
    )]
    NotAnError { option: String, value: String },
    #[error("fault option range: \"{0}\" is not a range: write OFFSET+LENGTH, such as 1M+64K")]
    NotARange(String),
    #[error(
        "fault option stall: \"{0}\" is not a stall: write its length and the request that begins it, such as 1s@1000"
    )]
    NotAStall(String),
    #[error("fault option panic: \"{0}\" is not the number of a request: write 1 for the first")]
    NotAPanic(String),
    #[error("fault option seed: \"{0}\" is not a whole number")]
    NotASeed(String),
}

impl FromStr for FaultOptions {
    type Err = FaultOptionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut options = Self::default();
        let mut for_one_command = Vec::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let unknown = || FaultOptionsError::Unknown(pair.to_owned());
            let (key, value) = pair.split_once('=').ok_or_else(unknown)?;
            match key {
                "delay" => options.delays.fill(duration(key, value)?),
                "error" => options.errors.fill(error(key, value)?),
                "range" => options.range = Some(range(value)?),
                "stall" => options.stall = Some(stall(value)?),
                "panic" => {
                    let at = value.parse().ok().filter(|at| *at > 0);
                    options.panic = Some(at.ok_or_else(|| FaultOptionsError::NotAPanic(value.to_owned()))?);
                }
                "after" => options.after = Some(size(key, value)?),
                "seed" => {
                    options.seed =
                        value.parse().map_err(|_| FaultOptionsError::NotASeed(value.to_owned()))?;
                }
                _ => {
                    let (what, command) = key.split_once('.').ok_or_else(unknown)?;
                    for_one_command.push((
                        what,
                        command_named(command).ok_or_else(unknown)?,
                        key,
                        value,
                        pair,
                    ));
                }
            }
        }
        // An option for one command overrides the one for all commands, in any order.
        for (what, command, key, value, pair) in for_one_command {
            match what {
                "delay" => options.delays.set(command, duration(key, value)?),
                "error" => options.errors.set(command, error(key, value)?),
                _ => return Err(FaultOptionsError::Unknown(pair.to_owned())),
            }
        }
        options.give_after_an_error();
        Ok(options)
    }
}

impl FaultOptions {
    /// `after=` alone says when to fail, not how: EIO then.
    fn give_after_an_error(&mut self) {
        let moving = [CommandKind::Read, CommandKind::Write];
        if self.after.is_some() && moving.iter().all(|&command| self.errors.get(command).is_none()) {
            for command in moving {
                self.errors.set(command, FaultError { errno: libc::EIO, probability: 1.0 });
            }
        }
    }
}

fn command_named(name: &str) -> Option<CommandKind> {
    let name = name.replace('-', "_");
    CommandKind::ALL.into_iter().find(|command| command.name() == name)
}

fn size(option: &str, value: &str) -> Result<u64, FaultOptionsError> {
    parse_size(value).map_err(|source| FaultOptionsError::Quantity { option: option.to_owned(), source })
}

fn duration(option: &str, value: &str) -> Result<Duration, FaultOptionsError> {
    parse_duration(value).map_err(|source| FaultOptionsError::Quantity { option: option.to_owned(), source })
}

fn range(value: &str) -> Result<ByteRange, FaultOptionsError> {
    let not_a_range = || FaultOptionsError::NotARange(value.to_owned());
    let (offset, length) = value.split_once('+').ok_or_else(not_a_range)?;
    ByteRange::new(size("range", offset)?, size("range", length)?).ok_or_else(not_a_range)
}

fn stall(value: &str) -> Result<Stall, FaultOptionsError> {
    let not_a_stall = || FaultOptionsError::NotAStall(value.to_owned());
    let (length, at) = value.split_once('@').ok_or_else(not_a_stall)?;
    let at = at.parse().ok().filter(|at| *at > 0).ok_or_else(not_a_stall)?;
    Ok(Stall { duration: duration("stall", length)?, at })
}

fn error(option: &str, value: &str) -> Result<FaultError, FaultOptionsError> {
    let not_an_error =
        || FaultOptionsError::NotAnError { option: option.to_owned(), value: value.to_owned() };
    let (name, share) = value.split_once('@').unwrap_or((value, "100%"));
    let errno = errno_named(name).ok_or_else(not_an_error)?;
    let percent: f64 =
        share.strip_suffix('%').and_then(|share| share.parse().ok()).ok_or_else(not_an_error)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(not_an_error());
    }
    Ok(FaultError { errno, probability: percent / 100.0 })
}

/// The number of a name (`EIO`, any case) or of a number written out.
fn errno_named(name: &str) -> Option<i32> {
    match name.parse() {
        Ok(number) => (1..=4095).contains(&number).then_some(number),
        Err(_) => errno::number_of(name),
    }
}

/// As the options that give it, so that [`FromStr`] reads the same.
impl Display for FaultOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        if let Some(range) = self.range {
            write!(f, ",range={}+{}", range.offset(), range.length())?;
        }
        if let Some(after) = self.after {
            write!(f, ",after={after}")?;
        }
        if let Some(Stall { duration, at }) = self.stall {
            let duration = humantime::format_duration(duration).to_string().replace(' ', "");
            write!(f, ",stall={duration}@{at}")?;
        }
        if let Some(at) = self.panic {
            write!(f, ",panic={at}")?;
        }
        for command in CommandKind::ALL {
            if let Some(delay) = self.delays.get(command) {
                let delay = humantime::format_duration(delay).to_string().replace(' ', "");
                write!(f, ",delay.{}={delay}", command.name())?;
            }
            if let Some(error) = self.errors.get(command) {
                let name = errno::name_of(error.errno).map_or_else(|| error.errno.to_string(), str::to_owned);
                write!(f, ",error.{}={name}@{}%", command.name(), error.probability * 100.0)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> FaultOptions {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn one_command_wins_over_all_in_any_order() {
        for text in ["delay=5ms,delay.read=1s", "delay.read=1s,delay=5ms"] {
            let options = read(text);
            assert_eq!(options.delays.get(CommandKind::Read), Some(Duration::from_secs(1)));
            assert_eq!(options.delays.get(CommandKind::WriteZeroes), Some(Duration::from_millis(5)));
        }
    }

    #[test]
    fn errors_have_a_name_and_a_share() {
        let options = read("error=EIO@1%,error.read=ENOSPC,error.write-zeroes=28@12.5%");
        let get = |command| options.errors.get(command).unwrap();
        assert_eq!(get(CommandKind::Flush), FaultError { errno: 5, probability: 0.01 });
        assert_eq!(get(CommandKind::Read), FaultError { errno: 28, probability: 1.0 });
        assert_eq!(get(CommandKind::WriteZeroes), FaultError { errno: 28, probability: 0.125 });
    }

    /// The table is the protocol crate's, which knows no libc.
    #[test]
    fn names_of_errors_are_those_of_the_system() {
        let of_libc = [
            ("EPERM", libc::EPERM),
            ("EINTR", libc::EINTR),
            ("EIO", libc::EIO),
            ("ENXIO", libc::ENXIO),
            ("EAGAIN", libc::EAGAIN),
            ("ENOMEM", libc::ENOMEM),
            ("EACCES", libc::EACCES),
            ("EFAULT", libc::EFAULT),
            ("EBUSY", libc::EBUSY),
            ("ENODEV", libc::ENODEV),
            ("EINVAL", libc::EINVAL),
            ("EFBIG", libc::EFBIG),
            ("ENOSPC", libc::ENOSPC),
            ("EROFS", libc::EROFS),
            ("EOVERFLOW", libc::EOVERFLOW),
            ("EILSEQ", libc::EILSEQ),
            ("ENOTSUP", libc::ENOTSUP),
            ("EOPNOTSUPP", libc::EOPNOTSUPP),
            ("ESHUTDOWN", libc::ESHUTDOWN),
            ("ETIMEDOUT", libc::ETIMEDOUT),
            ("EDQUOT", libc::EDQUOT),
            ("ECANCELED", libc::ECANCELED),
        ];
        assert_eq!(errno::all().collect::<Vec<_>>(), of_libc);
    }

    #[test]
    fn after_alone_is_eio_for_what_moves_bytes() {
        let options = read("after=64K,range=1M+2M,seed=7");
        assert_eq!((options.after, options.seed), (Some(65_536), 7));
        assert_eq!(options.range, ByteRange::new(1 << 20, 2 << 20));
        assert_eq!(options.errors.get(CommandKind::Write).unwrap().errno, 5);
        assert_eq!(options.errors.get(CommandKind::Flush), None);
        assert_eq!(read("after=1,error.write=ENOSPC").errors.get(CommandKind::Read), None);
    }

    #[test]
    fn shown_options_read_as_themselves() {
        for text in [
            "",
            "delay=1m30s,error=EIO@0.1%,after=9,range=0+0",
            "stall=1s@1000,delay.read=2ms",
            "stall=1m1s500ms@1,panic=7",
            "error.cache=EPERM@33%,seed=18446744073709551615",
        ] {
            let options = read(text);
            assert_eq!(read(&options.to_string()), options, "{options}");
        }
    }

    #[test]
    fn wrong_options_are_refused() {
        for text in [
            "delay",
            "delay=",
            "delay=5",
            "delay.reed=5ms",
            "slow=1",
            "slow.read=1",
            "error=EFOO",
            "error=EIO@",
            "error=EIO@101%",
            "error=EIO@-1%",
            "error=EIO@1",
            "error=EIO@NaN%",
            "range=5",
            "range=18446744073709551615+1",
            "after=x",
            "stall=1s",
            "stall=1s@0",
            "stall=@5",
            "stall=5@5",
            "stall.read=1s@5",
            "panic=0",
            "seed=-1",
        ] {
            assert!(text.parse::<FaultOptions>().is_err(), "{text}");
        }
    }
}
