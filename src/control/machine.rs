//! What the machine lets this process have.

use std::io;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::config::Machine;

/// Looks at the machine.
///
/// # Errors
/// The affinity mask cannot be read.
pub fn survey() -> io::Result<Machine> {
    let mask = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect();
    let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Machine { cpus, parallelism, memory: memory(), open_files })
}

/// Bytes that this process can have: those of the machine, or the least of its control groups.
fn memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    least_limit(Path::new("/sys/fs/cgroup"), &groups).map_or(machine, |limit| limit.min(machine))
}

/// The least limit of the control groups of a process, of both versions. Each group above its own may limit
/// it too. A group that cannot be read limits nothing: a container sees its own group as the topmost one,
/// whatever the path says.
fn least_limit(root: &Path, groups: &str) -> Option<u64> {
    // ID:CONTROLLERS:PATH. The second version has the number 0 and names no controllers. Systems that have
    // both mount the first by controller.
    let places = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_memory = controllers.split(',').any(|controller| controller == "memory");
        let (top, file) = match (id, is_memory) {
            ("0", _) => (root.to_owned(), "memory.max"),
            (_, true) => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        Some((top.join(path.trim_start_matches('/')), top, file))
    });
    let limits = places.flat_map(|(group, top, file)| {
        let groups = group.ancestors().take_while(|group| group.starts_with(&top));
        groups.filter_map(|group| std::fs::read_to_string(group.join(file)).ok()).collect::<Vec<_>>()
    });
    // No limit is the word "max", or a number beyond all memory.
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
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

    #[test]
    fn the_least_limit_of_both_versions_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let limit = |groups: &str| least_limit(root.path(), groups);
        assert_eq!(limit(""), None);
        assert_eq!(limit("0::/a/b\nnonsense\n1:\n"), None, "nothing there");
        write("a/b/memory.max", "max\n");
        assert_eq!(limit("0::/a/b\n"), None);
        write("a/memory.max", "2000\n");
        write("a/b/memory.max", "3000\n");
        assert_eq!(limit("0::/a/b\n"), Some(2000), "the one above has less");
        write("memory/x/memory.limit_in_bytes", "1000\n");
        write("memory/x/y/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("5:cpu,cpuacct:/q\n4:hugetlb,memory:/x/y\n0::/\n"), Some(1000));
        assert_eq!(limit("4:memory:/docker/of:the/host\n"), None);
        write("memory/memory.limit_in_bytes", "1500\n");
        assert_eq!(limit("4:memory:/docker/of:the/host\n"), Some(1500), "a container's own is the topmost");
        assert_eq!(limit("4:cpu:/x\n"), None);
    }
}
