"""A client that floods an export, beside a neighbour that is measured."""

import json
import os
import socket
import struct
import subprocess
import threading
import time

from .beside import connect
from .machine import cpus

REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
READ, TRIM, CACHE = 0, 4, 5
REPLY = struct.Struct(">IIQ")
# How much of the kernel's work one request asks for.
CACHE_BYTES, TRIM_BYTES, READ_BYTES = 8 << 20, 2000 << 20, 4096
AT_ONCE, READS_INSIDE = 1000, 32


class Flood:
    """1,000 CACHE at once of a sparse file, all the time; or TRIM of what is in the page cache, and reads inside it, again and again.

    It runs at the client's CPU and yields to the client.
    """

    def __init__(self, kind, path, image):
        self.kind, self.image, self.size = kind, image, os.stat(image).st_size
        self.connection = connect(path)
        self.connection.settimeout(None)
        self.done, self.failure, self.answered, self.begin = threading.Event(), None, 0, time.monotonic()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        os.sched_setaffinity(threading.get_native_id(), {cpus()[2]})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            (self._cache if self.kind == "cache" else self._trim)()
        except (OSError, ConnectionError, struct.error) as error:
            if not self.done.is_set():
                self.failure = error

    def _send(self, requests):
        """Requests of (command, offset, length)."""
        self.connection.sendall(b"".join(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, command, offset, length)
                                         for command, offset, length in requests))

    def _replies(self, count):
        """Waits for so many replies. A cookie is the request's command; only a READ has data behind its reply."""
        with self.connection.makefile("rb", buffering=1 << 20) as stream:
            for _ in range(count):
                magic, error, command = REPLY.unpack(stream.read(REPLY.size))
                if magic != REPLY_MAGIC:
                    raise ConnectionError(f"this is no reply: {magic:#x}")
                if command == READ and not error:
                    stream.read(READ_BYTES)
                yield command

    def _cache(self):
        places, next_place = self.size // CACHE_BYTES, 0

        def more(count):
            nonlocal next_place
            requests = [(CACHE, (next_place + index) % places * CACHE_BYTES, CACHE_BYTES) for index in range(count)]
            next_place += count
            return requests

        self._send(more(AT_ONCE))
        rest = b""
        while not self.done.is_set():
            piece = self.connection.recv(1 << 16)
            if not piece:
                raise ConnectionError("the server hung up")
            rest += piece
            count = len(rest) // REPLY.size
            rest = rest[count * REPLY.size:]
            self.answered += count
            self._send(more(count))

    def _trim(self):
        length = min(TRIM_BYTES, self.size)
        inside = [(READ, length // READS_INSIDE * index // READ_BYTES * READ_BYTES, READ_BYTES) for index in range(READS_INSIDE)]
        memory = bytearray(4 << 20)
        while not self.done.is_set():
            with open(self.image, "rb", buffering=0) as file:
                while not self.done.is_set() and file.readinto(memory):
                    pass
            self._send([(TRIM, 0, length), *inside])
            self.answered += sum(command == TRIM for command in self._replies(1 + READS_INSIDE))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.thread.join()
        self.connection.close()
        # What a flood has read is of no use to anybody.
        with open(self.image, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if self.failure:
            raise self.failure

    def per_second(self):
        return self.answered / (time.monotonic() - self.begin)


class Deep:
    """4 x 256 reads of 4 KiB of an export in flight, from before a client begins until after it has ended.

    They come from the client's CPU, and yield to the client.
    """

    def __init__(self, uri, program, seconds):
        # The client connects, warms up, and is measured within that.
        self.command = ["nice", "-n", "19", program, "bench", uri, "--cpu", str(cpus()[1]), "--connections", "4", "--depth", "256",
                        "--duration", f"{round(seconds + 2)}s", "--json"]
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def per_second(self):
        """Its requests; it is waited for."""
        out, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"the flood ended with {self.process.returncode}")
        return json.loads(out)["total"]["iops"]
