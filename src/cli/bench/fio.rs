//! The common keys of a fio job file: a `[global]` section and one job, as `--ioengine=nbd` takes them.
//!
//! What would change the meaning of the load and is not known here is an error; what has no effect is a
//! warning.

use std::time::Duration;

use super::args::ReadWrite;
use crate::client::uri::NbdUri;

/// What a job file sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FioJob {
    pub(super) uri: Option<NbdUri>,
    pub(super) rw: Option<ReadWrite>,
    pub(super) mix: Option<u8>,
    pub(super) fsync: Option<u32>,
    pub(super) bs: Option<u64>,
    pub(super) depth: Option<u32>,
    pub(super) connections: Option<u32>,
    /// Of all jobs together.
    pub(super) rate: Option<u64>,
    pub(super) duration: Option<Duration>,
    pub(super) warm_up: Option<Duration>,
    pub(super) operations: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) offset: Option<u64>,
    pub(super) seed: Option<u64>,
    pub(super) verify: bool,
    /// The run lasts for its duration, however often it goes through the area.
    time_based: bool,
}

/// Keys that say what is so here anyway, or that only change fio's output.
const WITHOUT_EFFECT: [&str; 8] = [
    "group_reporting",
    "thread",
    "name",
    "direct",
    "norandommap",
    "disable_clat",
    "disable_slat",
    "invalidate",
];

impl FioJob {
    /// Reads a job file. `ends`: something else than the file says when the run ends. Keys that it does not
    /// know are named in `warnings`.
    ///
    /// # Errors
    /// A clause with the cause and the remedy, and the line where there is one.
    pub(super) fn parse(text: &str, ends: bool, warnings: &mut Vec<String>) -> Result<Self, String> {
        let mut job = Self::default();
        let mut name: Option<&str> = None;
        let mut unknown = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            let at = |error: String| format!("line {}: {error}", index + 1);
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(section) = line.strip_prefix('[') {
                let section = section.strip_suffix(']').ok_or_else(|| at(format!("{line:?} lacks its ]")))?;
                match (section, name) {
                    ("global", None) => {}
                    ("global", Some(_)) => return Err(at("[global] must stand before the job".into())),
                    (_, None) => name = Some(section),
                    (_, Some(first)) => {
                        return Err(at(format!(
                            "a second job, [{section}] after [{first}]: only one job runs at a time; give it numjobs"
                        )));
                    }
                }
                continue;
            }
            let (key, value) = line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value)));
            let key = key.trim();
            let value = value.map(|value| with_variables(value.trim())).transpose().map_err(at)?;
            if !job.set(key, value.as_deref()).map_err(at)? {
                unknown.push(key.to_owned());
            }
        }
        unknown.dedup();
        if !unknown.is_empty() {
            warnings.push(format!(
                "these keys of the job file are not known and have no effect: {}",
                unknown.join(", ")
            ));
        }
        job.settle(ends, warnings)?;
        Ok(job)
    }

    /// Sets one key; whether it is known.
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<bool, String> {
        let text = || value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{key} needs a value"));
        match key {
            "ioengine" => match text()? {
                "nbd" => {}
                other => return Err(format!("ioengine={other} is not NBD; write ioengine=nbd")),
            },
            "uri" => self.uri = Some(text()?.parse().map_err(|error| format!("uri: {error}"))?),
            "rw" | "readwrite" => self.rw = Some(read_write(text()?)?),
            "rwmixread" => self.mix = Some(percent(key, text()?)?),
            // To an NBD server both are a FLUSH; 0 is none.
            "fsync" | "fdatasync" => {
                self.fsync = if text()? == "0" { None } else { Some(number(key, text()?)?) }
            }
            "rwmixwrite" => self.mix = Some(100 - percent(key, text()?)?),
            "bs" | "blocksize" => self.bs = Some(size(key, text()?)?),
            "iodepth" => self.depth = Some(number(key, text()?)?),
            "numjobs" => self.connections = Some(number(key, text()?)?),
            "rate_iops" => self.rate = Some(number(key, text()?)?),
            "runtime" => self.duration = Some(seconds(key, text()?)?),
            "ramp_time" => self.warm_up = Some(seconds(key, text()?)?),
            "number_ios" => self.operations = Some(number(key, text()?)?),
            "size" => self.size = Some(size(key, text()?)?),
            "offset" => self.offset = Some(size(key, text()?)?),
            "randseed" => self.seed = Some(number(key, text()?)?),
            "time_based" => self.time_based = is_set(key, value)?,
            "verify" => match text()? {
                "0" | "none" => self.verify = false,
                "null" | "pattern" | "pattern_hdr" => {
                    return Err("this kind of verify has no content of its own; write verify=crc32c".into());
                }
                _ => self.verify = true,
            },
            "do_verify" if !is_set(key, value)? => {
                return Err("do_verify=0 is not supported: written blocks are always read back".into());
            }
            "stonewall" | "do_verify" => {}
            "offset_increment"
            | "bsrange"
            | "bssplit"
            | "rate"
            | "io_size"
            | "rwmixcycle"
            | "zonemode"
            | "random_distribution"
            | "thinktime"
            | "loops" => {
                return Err(format!("{key} is not supported: remove it, or run this job with fio"));
            }
            _ if WITHOUT_EFFECT.contains(&key) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the keys mean together.
    fn settle(&mut self, ends: bool, warnings: &mut Vec<String>) -> Result<(), String> {
        let jobs = u64::from(self.connections.unwrap_or(1));
        // "Cap the bandwidth to this number of IOPS": each job's.
        self.rate = match self.rate.map(|rate| rate.checked_mul(jobs)) {
            Some(None) => return Err("rate_iops times numjobs is beyond 64 bits".into()),
            rate => rate.flatten(),
        };
        // Reads have their rate and writes have theirs, so that there are as many of one as of the other
        // whatever the mix says.
        if self.rw == Some(ReadWrite::Randrw)
            && let Some(rate) = self.rate
        {
            self.rate = Some(rate.checked_mul(2).ok_or("rate_iops is beyond 64 bits")?);
            if self.mix.is_some_and(|mix| mix != 50) {
                warnings.push("rate_iops holds for reads and for writes, as in fio: half of them are reads, and rwmixread has no effect".into());
            }
            self.mix = Some(50);
        }
        if self.time_based && self.duration.is_none() && !ends {
            return Err("time_based needs a runtime".into());
        }
        if self.operations.is_some() {
            self.operations = self.operations.and_then(|each| each.checked_mul(jobs));
        } else if !self.time_based {
            // Without time_based a job ends when it has moved `size` bytes, or earlier by its runtime.
            match self.size {
                Some(size) => self.operations = Some((size / self.bs.unwrap_or(4096) * jobs).max(1)),
                None if self.duration.is_some() => warnings.push(
                    "without time_based fio ends after it has gone through the export once; this run lasts for its whole runtime"
                        .into(),
                ),
                None if ends => {}
                None => return Err("give size, or runtime and time_based: else there is no end".into()),
            }
        }
        Ok(())
    }
}

/// A value with `${NAME}` replaced by what the environment says.
fn with_variables(text: &str) -> Result<String, String> {
    let mut parts = text.split("${");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').ok_or_else(|| format!("${{{part} lacks its }}"))?;
        let value = std::env::var(name)
            .map_err(|_| format!("the environment has no {name}: set it, or write its value"))?;
        whole += &value;
        whole += rest;
    }
    Ok(whole)
}

fn read_write(text: &str) -> Result<ReadWrite, String> {
    Ok(match text {
        "read" => ReadWrite::Read,
        "write" => ReadWrite::Write,
        "randread" => ReadWrite::Randread,
        "randwrite" => ReadWrite::Randwrite,
        "randrw" => ReadWrite::Randrw,
        "trim" => ReadWrite::Trim,
        "randtrim" => ReadWrite::Randtrim,
        _ => {
            return Err(format!(
                "rw={text} is not supported; there are read, write, randread, randwrite, randrw, trim, randtrim"
            ));
        }
    })
}

fn percent(key: &str, text: &str) -> Result<u8, String> {
    let percent = text.parse().ok().filter(|percent| *percent <= 100);
    percent.ok_or_else(|| format!("{key}={text} is not a whole number from 0 to 100"))
}

fn number<T: std::str::FromStr + PartialOrd + From<u8>>(key: &str, text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number >= T::from(1));
    number.ok_or_else(|| format!("{key}={text} is not supported: write one whole number above 0"))
}

/// A boolean key; without a value it is set.
fn is_set(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1") => Ok(true),
        Some("0") => Ok(false),
        Some(other) => Err(format!("{key}={other} is neither 0 nor 1")),
    }
}

/// A size as fio writes it with its default `kb_base`: k, kb and kib are 1,024.
fn size(key: &str, text: &str) -> Result<u64, String> {
    let wrong = || format!("{key}={text} is not supported: write one size in bytes, or with k, m, g or t");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(wrong)
}

/// A time as fio writes it: seconds, unless a unit says otherwise.
fn seconds(key: &str, text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: Option<u64> = number.parse().ok();
    let duration = number.and_then(|number| match unit {
        "" | "s" => Some(Duration::from_secs(number)),
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    });
    duration.ok_or_else(|| {
        format!("{key}={text} is not a time: write seconds, or us, ms, m, h or d behind the number")
    })
}

#[cfg(test)]
mod tests;
