"""Snapshots or checkpoints of the image that is served, one after the other beside a load."""

import re
import subprocess
import threading
import time

from .beside import metrics
from .machine import cpus

MOVED = re.compile(r"^ringnbd_store_ingested_bytes_total\{.*\} (\d+)", re.MULTILINE)
PAUSE = re.compile(r'ringnbd_image_snapshot_pause_seconds_bucket\{.*le="([^"]+)"\} (\d+)')

# Older ones are removed, as by somebody who makes backups; an image may have only so many.
KEPT = 3


class Snapshots:
    """Takes them from its beginning to its end; how long each stopped the image's changes is the server's own histogram."""

    def __init__(self, server):
        self.server, self.done, self.failure, self.taken = server, threading.Event(), None, 0
        self.verb, self.collections, self.begun = server.variant.snapshots, 0, time.monotonic()
        self.image = str(server.disk.what).removeprefix("store:")
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self.done.is_set():
                self._image(self.verb, self.taken)
                if self.taken >= KEPT:
                    self._image("rm", self.taken - KEPT)
                self.taken += 1
                if self.verb == "checkpoint":
                    self._run_command("store", "gc", self.image.rsplit("/", 1)[0])
                    self.collections += 1
        except RuntimeError as error:
            self.failure = error

    def _image(self, verb, number):
        self._run_command("image", verb, f"{self.image}@{number}")

    def _run_command(self, *words):
        command = ["taskset", "-c", str(cpus()[2]), self.server.binary, *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(words)}: {ended.stderr}")

    def pauses(self):
        """Ends, and says how long changes waited."""
        self.done.set()
        self.thread.join()
        if self.failure:
            raise self.failure
        said = metrics(self.server.admin)
        moved = sum(int(count) for count in MOVED.findall(said)) / (1 << 20) / (time.monotonic() - self.begun)
        beside = {"ingest_mib_per_second": moved, "collections": self.collections} if self.verb == "checkpoint" else {}
        buckets = [(float(edge), int(count)) for edge, count in PAUSE.findall(said)]
        at = {"pause_p50_ms": 0.5, "pause_p99_ms": 0.99, "pause_max_ms": 1}
        return {"snapshots": self.taken} | beside | {name: 1e3 * quantile(buckets, share) for name, share in at.items()}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def quantile(buckets, share):
    """A quantile of cumulative buckets, within its bucket by proportion, as Prometheus does."""
    wanted, below, before = share * buckets[-1][1], 0.0, 0
    for edge, count in buckets:
        if count >= wanted and count > before:
            return below if edge == float("inf") else below + (edge - below) * (wanted - before) / (count - before)
        below, before = edge, count
    return 0.0
