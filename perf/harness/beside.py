"""What is beside a load: idle connections, and a scraper."""

import os
import resource
import socket
import struct
import threading

from .machine import cpus

OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
OPT_GO, REP_ACK = 7, 1
# Handshakes under way at once: fewer than a listener's backlog.
AT_ONCE = 64
PATIENCE_SECONDS = 30
# Enough for 10,000 connections; where the hard limit is lower, and may not be raised, there are fewer.
WANTED_FILES = 32_768


def allow_many_files():
    """Raises the limit of open files as far as it goes; servers that are started later inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (max(hard, WANTED_FILES), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return
        except (ValueError, OSError):
            continue


def most_idle(wanted):
    """So many idle connections as the limit allows: each is an open file here, and has a place in a table of that size there."""
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 300)


def _exactly(connection, length):
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise ConnectionError("the server hung up in the handshake")
        data += piece
    return data


def _finish(connection):
    """Reads the greeting and all replies to GO: the connection is in the transmission phase."""
    _exactly(connection, 18)
    kind = None
    while kind != REP_ACK:
        magic, _, kind, length = struct.unpack(">QIII", _exactly(connection, 20))
        if magic != REPLY_MAGIC or kind >= 1 << 31:
            raise ConnectionError(f"the server refused: reply type {kind:#x}")
        _exactly(connection, length)


HELLO = struct.pack(">I", 3) + OPTION_MAGIC + struct.pack(">II", OPT_GO, 6) + bytes(6)


def _begin(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect(str(path))
    connection.sendall(HELLO)
    return connection


def connect(path):
    """A connection to the default export, in the transmission phase, with simple replies."""
    connection = _begin(path)
    _finish(connection)
    return connection


class Idle:
    """Connections to the default export that have negotiated and then do nothing."""

    def __init__(self, path, count):
        self.connections = []
        while len(self.connections) < count:
            batch = [_begin(path) for _ in range(min(AT_ONCE, count - len(self.connections)))]
            for connection in batch:
                _finish(connection)
            self.connections += batch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Checks that they were connected all the time."""
        for connection in self.connections:
            connection.setblocking(False)
            try:
                if connection.recv(1) == b"":
                    raise ConnectionError("an idle connection was closed")
            except BlockingIOError:
                pass
            connection.close()


def metrics(path):
    """What /metrics of a server says."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    if not answer.startswith(b"HTTP/1.1 200") or b"ringnbd_" not in answer:
        raise ConnectionError(f"no metrics: {answer[:80]!r}")
    return answer.decode()


class Scraper:
    """Reads /metrics so often a second, politely: where it shares the client's CPU it yields to it."""

    def __init__(self, path, each_second):
        self.path, self.pause, self.done, self.failure = str(path), 1 / each_second, threading.Event(), None
        self.scrapes = 0
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        os.sched_setaffinity(threading.get_native_id(), {cpus()[2]})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            while not self.done.wait(self.pause):
                metrics(self.path)
                self.scrapes += 1
        except (OSError, ConnectionError) as error:
            self.failure = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        if self.failure:
            raise self.failure
