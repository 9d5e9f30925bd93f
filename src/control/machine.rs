//! What the machine lets this process have.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::config::Machine;

/// Looks at the machine, and raises the soft limit of open files to the hard one on the way.
///
/// # Errors
/// The affinity mask cannot be read.
pub fn survey() -> io::Result<Machine> {
    let mask = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect();
    let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Machine { cpus, parallelism, open_files: raise_open_files() })
}

fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_keep_what_there_is) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_cpu_and_room_for_files() {
        let machine = survey().unwrap();
        assert!(!machine.cpus.is_empty());
        assert!(machine.parallelism >= 1);
        assert!(machine.open_files >= 64);
    }
}
