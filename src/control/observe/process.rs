//! What the kernel knows of this process, for metrics.
//!
//! Its files are opened before the server enters its sandbox, which forbids opening, and read again and
//! again.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::stats::prometheus::ProcessFacts;

/// Longer than any line of `/proc/self/stat`.
const LONGEST_STAT: usize = 2048;

/// See the module.
pub(in crate::control) struct Process {
    /// `/proc/self/stat`; `None` where /proc is not mounted.
    stat: Option<File>,
    /// `/proc/self/fd`.
    descriptors: Option<File>,
    most_descriptors: Option<u64>,
    start_unix_seconds: Option<f64>,
}

impl Process {
    /// Opens what is read later.
    pub(in crate::control) fn open() -> Self {
        let stat = File::open("/proc/self/stat").ok();
        let start = stat.as_ref().and_then(read).map(|stat| start_unix_seconds(stat.start_ticks));
        Self {
            stat,
            descriptors: File::open("/proc/self/fd").ok(),
            most_descriptors: getrlimit(Resource::Nofile).current,
            start_unix_seconds: start,
        }
    }

    /// How things stand now; what cannot be known is left out.
    pub(in crate::control) fn look(&self) -> ProcessFacts {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let stat = self.stat.as_ref().and_then(read);
        // The size of the directory is the number of its entries since Linux 6.2, and 0 before.
        let descriptors = self.descriptors.as_ref().and_then(|directory| directory.metadata().ok());
        ProcessFacts {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            start_unix_seconds: self.start_unix_seconds,
            resident_bytes: stat.map(|stat| stat.resident_pages * page_size() as u64),
            virtual_bytes: stat.map(|stat| stat.virtual_bytes),
            threads: stat.map(|stat| stat.threads),
            open_descriptors: descriptors.map(|of| of.size()).filter(|count| *count > 0),
            most_descriptors: self.most_descriptors,
        }
    }
}

/// Fields of `/proc/self/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

fn read(file: &File) -> Option<Stat> {
    let mut bytes = [0; LONGEST_STAT];
    let length = file.read_at(&mut bytes, 0).ok()?;
    parse(&String::from_utf8_lossy(&bytes[..length]))
}

/// Fields 20, 22, 23 and 24 of proc_pid_stat(5). The second field is the program's name, which may have
/// spaces and parentheses.
fn parse(text: &str) -> Option<Stat> {
    const THIRD: usize = 3;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - THIRD)?.parse().ok();
    Some(Stat {
        threads: field(20)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// The moment so many ticks after the machine started, in seconds since 1970.
fn start_unix_seconds(ticks: u64) -> f64 {
    let up = clock_gettime(ClockId::Boottime);
    let up = up.tv_sec as f64 + up.tv_nsec as f64 / 1e9;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    now - up + ticks as f64 / clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_anything() {
        let stat = Stat { threads: 4, start_ticks: 1234, virtual_bytes: 8_192_000, resident_pages: 77 };
        for name in ["ringnbd", "a) S 1 (b", "x y"] {
            let text = format!(
                "9 ({name}) S 1 9 9 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 4 0 1234 8192000 77 18446744073709551615 1"
            );
            assert_eq!(parse(&text), Some(stat), "{name}");
        }
        assert_eq!(parse("9 (x) S 1 2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let process = Process::open();
        let now = process.look();
        assert!(now.resident_bytes.unwrap() > 1 << 20 && now.virtual_bytes > now.resident_bytes, "{now:?}");
        assert!(now.threads.unwrap() >= 1 && now.cpu_seconds > 0.0, "{now:?}");
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = since - now.start_unix_seconds.unwrap();
        assert!((-1.0..86_400.0).contains(&age), "a test runs for {age} s");
        // Older kernels do not count them.
        if let Some(open) = now.open_descriptors {
            assert!(open >= 5, "{open}");
        }
    }
}
