//! What the machine lets this process have.

use std::io;
use std::path::Path;

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
    Ok(Machine { cpus, parallelism, memory: memory(), open_files: raise_open_files() })
}

/// Bytes that this process can have: those of the machine, or the least of its control groups.
fn memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // A group may be limited by any of those above it.
    let limits = Path::new("/sys/fs/cgroup").join(group);
    let limits = limits.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup"));
    let limits = limits.filter_map(|group| std::fs::read_to_string(group.join("memory.max")).ok());
    limits.filter_map(|limit| limit.trim().parse().ok()).fold(machine, u64::min)
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
        assert!(machine.memory >= 64 << 20);
    }
}
