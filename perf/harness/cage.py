"""A memory cgroup for one server: more than it fits into is dropped from the page cache, as on a machine with less memory."""

import os
import time
from pathlib import Path

ROOTS = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
PATIENCE_SECONDS = 10


class Cage:
    """`with Cage(mib) as cage:`; `cage.command(command)` is the command inside."""

    def __init__(self, mib):
        self.mib = mib

    def __enter__(self):
        failures = []
        for root, limit in ROOTS:
            self.path = root / f"ringnbd-perf-{os.getpid()}"
            if not (root / "cgroup.procs").exists():
                continue
            try:
                self.path.mkdir()
                (self.path / limit).write_text(str(self.mib << 20), encoding="ascii")
                return self
            except OSError as error:
                failures.append(f"{self.path}: {error}")
                if self.path.exists():
                    self.path.rmdir()
        raise PermissionError(f"no memory cgroup can be made here ({'; '.join(failures) or 'none is mounted'}); try as root")

    def command(self, command):
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *command]

    def __exit__(self, *_):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.path.rmdir()
            except OSError:
                # The last of its processes is on its way out.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
