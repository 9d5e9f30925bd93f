"""What the machine is, what it does meanwhile, and what processes use."""

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def processes(parent):
    """A process and all below it."""
    found, queue = [], [parent]
    while queue:
        pid = queue.pop()
        found.append(pid)
        try:
            for task in list(Path(f"/proc/{pid}/task").glob("*/children")):
                queue += [int(child) for child in task.read_text().split()]
        except OSError:
            continue  # It has ended: nbd-server has a process for each connection.
    return found


def cpu_seconds(parents):
    """User and system time of processes and all below them."""
    total = 0
    for pid in [pid for parent in parents for pid in processes(parent)]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(part) for part in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def resident_mib(parents):
    """Resident memory of its own, and pages of files that it has mapped: the page cache's, whoever else uses them."""
    own = mapped = 0
    for pid in [pid for parent in parents for pid in processes(parent)]:
        try:
            lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()]
        except OSError:
            continue
        kib = {line[0]: int(line[1]) for line in lines if line and line[0].startswith("Rss")}
        own += kib.get("RssAnon:", 0) + kib.get("RssShmem:", 0)
        mapped += kib.get("RssFile:", 0)
    return own / 1024, mapped / 1024


def stolen_seconds():
    """Time that the hypervisor gave to others, over all CPUs since boot."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def cpus():
    """The CPUs for server, client, and anything beside them."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[min(1, len(usable) - 1)], usable[min(2, len(usable) - 1)]


def first_line(command):
    """The first line that a program prints, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[0] if done.returncode == 0 and lines else None


def _field(path, name):
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return None


def _governor():
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def processor():
    """Its name, and what tells processors of one name apart."""
    name = _field("/proc/cpuinfo", "model name") or platform.machine()
    family, model = (_field("/proc/cpuinfo", field) for field in ("cpu family", "model\t"))
    return f"{name} (family {family} model {model})" if family and model else name


def describe(directory):
    """The machine as JSON states it."""
    virtual = "hypervisor" in (_field("/proc/cpuinfo", "flags") or "").split()
    filesystem = first_line(["findmnt", "-n", "-o", "FSTYPE", "-T", str(directory)])
    return {
        "cpu": processor(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "virtual": virtual,
        "governor": _governor(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "filesystem": filesystem,
        "load_average_before": os.getloadavg()[0],
    }


def versions(binaries, tools):
    """What was measured: our builds, the commit of this tree, the peers."""
    found = {name: first_line([path, "--version"]) for name, path in binaries.items() if path}
    commit = first_line(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    changed = first_line(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    found["tree"] = f"{commit}{', changed' if changed else ''}" if commit else None
    for tool in tools:
        found[tool] = (first_line([str(ROOT / "tests/peers"), "run", tool, "--version"]) or "").rpartition("/")[2] or None
    return found
