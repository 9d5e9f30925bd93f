"""Starting a server for one run, pinned, and stopping it."""

import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .cells import VARIANTS
from .disks import QCOW2, Disk
from .machine import ROOT, cpus
from .report import own_name
from .secure import Secure

TOOLS = {"qsd-qcow2": "qemu-storage-daemon", "qsd-subclusters": "qemu-storage-daemon", "nbdkit-cow": "nbdkit", "qsd": "qemu-storage-daemon", "nbdkit": "nbdkit", "qemu-nbd": "qemu-nbd", "nbd-server": "nbd-server", "fio": "fio"}
PATIENCE_SECONDS = 20


@functools.cache
def peer(tool):
    """The command line that runs a peer, or None."""
    probe = subprocess.run([ROOT / "tests/peers", "run", tool, "--version"], capture_output=True, check=False)
    return [str(ROOT / "tests/peers"), "run", tool] if probe.returncode == 0 else None


@functools.cache
def floor():
    """The prototype of perf/floor, built here; None where it cannot be."""
    target = ROOT / "target/floor"
    build = ["cargo", "build", "--quiet", "--locked", "--release", "--manifest-path", ROOT / "perf/floor/Cargo.toml",
             "--target-dir", target]
    try:
        subprocess.run(build, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"perf/floor cannot be built: {error}", file=sys.stderr)
        return None
    return str(target / "release/floor")


def relay():
    """The one beside it that carries bytes between a client and a server; None where it cannot be built."""
    return floor() and floor().removesuffix("floor") + "relay"


def is_here(name):
    """Whether a server can be started on this machine."""
    return floor() is not None if name == "floor" else name not in TOOLS or peer(TOOLS[name]) is not None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One running server. `with Server(...) as server:`; `server.uri` is what a client connects to, `server.neighbour` the second export.

    `confine` changes its command line.
    """

    def __init__(self, name, cell, image, binaries, cpu=None, neighbour=None, confine=list):
        self.name, self.cell, self.image, self.binaries = name, cell, image, binaries
        self.neighbour_image, self.confine = neighbour, confine
        self.variant = VARIANTS.get(own_name(name))
        self.secure = None
        self.tcp = cell.tcp or name == "nbd-server"
        self.cpus = str(cpus()[0] if cpu is None else cpu)
        if self.variant and self.variant.shards > 1:
            self.cpus = ",".join(str(cpu) for cpu in cpus()[:2])

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="ringnbd-perf-")
        self.directory = Path(self._directory.name)
        self.port = free_port() if self.tcp else None
        self.path = self.directory / "nbd.sock"
        self.admin = self.directory / "admin.sock"
        self.control = self.directory / "control.sock"
        kind = self.variant.disk if self.variant else ""
        self.disk = Disk(self.name, kind, self.image, self.binary) if kind or self.name in QCOW2 else None
        export = "disk" if self.name == "nbd-server" else ""
        is_secure = self.cell.tls and not (self.variant and self.variant.plain)
        self.secure = Secure(self.directory, self.binaries["ringnbd"]) if is_secure else None
        self.uri = self.secure.uri(self.port) if self.secure else f"nbd://127.0.0.1:{self.port}/{export}" if self.tcp else f"nbd+unix:///?socket={self.path}"
        self.neighbour = f"nbd+unix:///neighbour?socket={self.path}"
        with open(self.directory / "log", "w", encoding="utf-8") as log:
            command = self.confine(["taskset", "-c", self.cpus, *self.command()])
            self.process = subprocess.Popen(command, stdout=log, stderr=log,
                                            start_new_session=True, env=self.secure.environment if self.secure else None)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.disk:
            self.disk.remove()
        self._directory.cleanup()

    @property
    def pid(self):
        return self.process.pid

    def command(self):
        """The command line. The peers are set up the way their documentation recommends for speed."""
        command = self._ringnbd() if self.variant else self._peer()
        return [*command, *self.secure.flags(self.name)] if self.secure and self.variant else command

    def _peer(self):
        if self.name == "floor":
            return [floor(), str(self.image), str(self.path)]
        command, direct = peer(TOOLS[self.name]), self.cell.store == "direct"
        if self.name == "nbdkit-cow":
            # What is written goes beside the file, not to memory.
            return ["env", f"TMPDIR={self.image.parent}", *command, "-f", "-U", str(self.path), "--filter=cow", "file", str(self.image)]
        if self.name == "nbdkit":
            listen = ["-i", "127.0.0.1", "-p", str(self.port)] if self.tcp else ["-U", str(self.path)]
            secure = self.secure.flags(self.name) if self.secure else []
            return [*command, "-f", *secure, *listen, *(["null", "10G"] if self.cell.store == "null" else ["file", str(self.image)])]
        if self.name == "qsd" or self.disk:
            address = f"addr.type=inet,addr.host=127.0.0.1,addr.port={self.port}" if self.tcp \
                else f"addr.type=unix,addr.path={self.path}"
            cache = "cache.direct=on," if direct else ""
            what = self.disk.what if self.disk else self.image
            image = ["--blockdev", "driver=qcow2,node-name=q,file=f"] if self.disk else []
            return [*command, "--object", "iothread,id=t0",
                    "--blockdev", f"driver=file,node-name=f,filename={what},aio=io_uring,{cache}discard=unmap", *image,
                    "--nbd-server", f"{address},max-connections=0",
                    "--export", f"type=nbd,id=e,node-name={'q' if self.disk else 'f'},name=,writable=on,iothread=t0", *self._qsd_neighbour()]
        if self.name == "qemu-nbd":
            listen = ["-b", "127.0.0.1", "-p", str(self.port)] if self.tcp else ["-k", str(self.path)]
            cache = "none" if direct else "writeback"
            secure = self.secure.flags(self.name) if self.secure else []
            return [*command, *secure, *listen, "-f", "raw", "-t", "-e", "0", "--aio=io_uring", f"--cache={cache}", str(self.image)]
        config = self.directory / "nbd-server.conf"
        # Its unix socket refuses every client (it asks the peer for an address), so it is always measured over TCP.
        config.write_text(f"[generic]\nlistenaddr = 127.0.0.1\nport = {self.port}\n[disk]\nexportname = {self.image}\n")
        return [*command, "-n", "-C", str(config)]

    def _qsd_neighbour(self):
        if not self.cell.neighbour:
            return []
        node = "driver=null-co,size=1073741824,read-zeroes=on" if self.cell.neighbour == "null" \
            else f"driver=file,filename={self.neighbour_image},aio=io_uring"
        return ["--blockdev", f"{node},node-name=n",
                "--export", "type=nbd,id=n,node-name=n,name=neighbour,writable=on,iothread=t0"]

    def _ringnbd(self):
        query = "&".join(filter(None, ("direct=true" if self.cell.store == "direct" else "", self.variant.query)))
        export = "null:10G" if self.cell.store == "null" else self._uri_of_disk() + ("?" if query else "") + query
        direct = "?direct=true" if self.cell.store == "direct" else ""
        neighbour = {"": [], "null": ["neighbour=null:1G"], "file": [f"neighbour=file:{self.neighbour_image}{direct}"]}[self.cell.neighbour]
        listen = ["--tcp", f"127.0.0.1:{self.port}"] if self.tcp else ["--unix", str(self.path)]
        admin = ["--admin", f"unix:{self.admin}"] if self.variant.admin else []
        control = ["--control", f"unix:{self.control}"] if self.variant.snapshots else []
        shards = self.variant.shards
        if self.variant.weight:
            export, neighbour = f"--config={self._configuration(export, *neighbour)}", []
        return [self.binary, "serve", export, *neighbour, *listen, "--shards",
                str(shards), "--cpus", self.cpus, "--memory", f"{128 * shards}M", *admin, *control, *self.variant.flags]

    def _configuration(self, *exports):
        """A file with the exports, since a weight is said nowhere else."""
        path = Path(self.directory) / "ringnbd.toml"
        named = (export.split("=", 1) if export.startswith("neighbour=") else ("", export) for export in exports)
        path.write_text("".join(f"[[export]]\nname = '{name}'\nuri = '{uri}'\nweight = {self.variant.weight}\n" for name, uri in named),
                        encoding="utf-8")
        return path

    @property
    def binary(self):
        return self.binaries["ringnbd-b" if self.name.endswith("-b") else "ringnbd"]

    def _uri_of_disk(self):
        what = str(self.disk.what if self.disk else self.image)
        return what if what.startswith(("overlay:", "store:")) else f"file:{what}"

    def _accepts(self):
        family, address = (socket.AF_INET, ("127.0.0.1", self.port)) if self.tcp else (socket.AF_UNIX, str(self.path))
        with socket.socket(family) as probe:
            return probe.connect_ex(address) == 0

    def _wait(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._accepts():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"{self.name} did not come up: {log}")
            time.sleep(0.02)
        # What it still does about the connection just closed is no part of the measurement.
        time.sleep(0.1)
