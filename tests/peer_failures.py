#!/usr/bin/env python3
"""Repeats by hand, byte by byte, what `ringnbd check` says that other servers fail; src/doc/peers.md has the table.

    tests/peer_failures.py            starts each peer of `tests/peers`, and prints a line for each statement
    tests/peer_failures.py nbdkit     one of them

It shares nothing with `ringnbd check`: sockets, struct, and the numbers of doc/proto.md. Exit code 1: something is not
as the page says.
"""
import os, signal, socket, struct, subprocess, sys, tempfile, time

PEERS = os.environ.get("RINGNBD_PEERS") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ringnbd/trixie")
OPTION, REPLY = b"IHAVEOPT", 0x0003E889045565A9
REQUEST, SIMPLE, CHUNK, EXTENDED = 0x25609513, 0x67446698, 0x668E33EF, 0x6E8A278C
ABORT, LIST, INFO, GO, STRUCTURED, SET_META, LIST_META, EXT = 2, 3, 6, 7, 8, 10, 9, 11
READ, WRITE, DISC, FLUSH, TRIM, ZEROES, STATUS = 0, 1, 2, 3, 4, 6, 7
ACK, ERR = 1, 0x80000000
SIZE = 128 << 20


class Wire:
    """A connection that keeps what went over it."""

    def __init__(self, path, flags=3):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(2)
        self.socket.connect(path)
        self.sent, self.got = b"", b""
        assert self.take(16) == b"NBDMAGICIHAVEOPT"
        self.take(2)
        self.send(struct.pack(">I", flags))

    def mark(self):
        """What is told of begins here."""
        self.sent, self.got = b"", b""

    def send(self, data):
        self.sent += data
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def take(self, length):
        data = b""
        while len(data) < length:
            try:
                part = self.socket.recv(length - len(data))
            except socket.timeout:
                raise Silence()
            except OSError:
                part = b""
            if not part:
                raise Closed()
            data += part
            self.got += part
        return data

    def option(self, number, data=b""):
        self.send(OPTION + struct.pack(">II", number, len(data)) + data)

    def answer(self):
        magic, option, kind, length = struct.unpack(">QIII", self.take(20))
        assert magic == REPLY, hex(magic)
        return option, kind, self.take(length)

    def last(self):
        while True:
            option, kind, data = self.answer()
            if kind not in (2, 3, 4):
                return option, kind, data

    def go(self, name):
        self.option(GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        assert self.last()[1] == ACK

    def request(self, command, offset, length, flags=0, cookie=0x11, payload=b"", magic=REQUEST):
        self.send(struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + payload)

    def reply(self, length=0):
        """The error of a simple reply, or of the chunks of a structured one; data is thrown away."""
        magic = struct.unpack(">I", self.take(4))[0]
        if magic == SIMPLE:
            error, cookie = struct.unpack(">IQ", self.take(12))
            self.take(length if error == 0 else 0)
            return "simple", error
        assert magic == CHUNK, hex(magic)
        error = 0
        while True:
            flags, kind, cookie, size = struct.unpack(">HHQI", self.take(16))
            data = self.take(size)
            if kind & 0x8000:
                error = struct.unpack(">I", data[:4])[0]
            if flags & 1:
                return "structured", error
            self.take(4)


class Silence(Exception):
    """Nothing came within two seconds."""


class Closed(Exception):
    """The server closed."""


def end_of(wire, what):
    """How it went on: `closed`, `silence`, or what `what` gives."""
    try:
        return what()
    except Closed:
        return "closed"
    except Silence:
        return "silence"


def info(name, tail=b"\0\0"):
    return struct.pack(">I", len(name)) + name + tail


def meta(name, query=b"base:allocation", tail=b""):
    return struct.pack(">I", len(name)) + name + struct.pack(">II", 1, len(query)) + query + tail


def attach(path, name, mode=None, context=False):
    wire = Wire(path)
    if mode:
        wire.option(mode)
        assert wire.last()[1] == ACK
    if context:
        wire.option(SET_META, meta(name))
        assert wire.last()[1] == ACK
    wire.go(name)
    wire.mark()
    return wire


# Each gives the wire and what was found. The expected text is what shows that the statement is not met.

def h1(path, name):
    wire = Wire(path, flags=7)
    wire.option(LIST)
    return wire, end_of(wire, lambda: f"answers with {wire.last()[1]:#x}")


def h3(path, name):
    wire = Wire(path)
    wire.mark()
    wire.option(ABORT)
    return wire, end_of(wire, lambda: f"answers with {wire.last()[1]:#x}")


def h6(path, name):
    wire = Wire(path)
    wire.mark()
    wire.option(LIST, b"x")
    first = wire.last()[1]
    wire.option(0x7654321, b"sync")
    return wire, end_of(wire, lambda: f"{first:#x}, then the next option gets a reply to option {wire.answer()[0]}")


def h8(path, name):
    wire = Wire(path)
    wire.mark()
    wire.option(INFO, struct.pack(">I", len(name) + 1) + name + b"\0\0")
    first = wire.last()[1]
    wire.option(0x7654321, b"sync")
    return wire, end_of(wire, lambda: f"{first:#x}, then {wire.last()[1]:#x}") if first else "?"


def h8_after(path, name):
    wire, found = h8(path, name)
    return wire, f"an error, then {found}" if found in ("silence", "closed") else found


def h9(path, name):
    wire = Wire(path)
    wire.mark()
    wire.option(INFO, info(b"\xff\xfe"))
    kind, data = wire.last()[1:]
    try:
        data.decode()
        return wire, f"answers with {kind:#x}"
    except UnicodeDecodeError:
        return wire, f"{kind:#x} with a text that is not UTF-8"


def h9a(path, name):
    wire = Wire(path)
    wire.mark()
    wire.option(INFO, info(b"n" * 4097))
    first = wire.last()[1]
    wire.option(0x7654321, b"sync")
    return wire, f"{first:#x}, then " + end_of(wire, lambda: f"{wire.last()[1]:#x}")


def h12(path, name, mode=None):
    wire = Wire(path)
    if mode:
        wire.option(mode)
        wire.last()
    wire.mark()

    def export(number):
        wire.option(number, info(name))
        while True:
            _, kind, data = wire.answer()
            if kind == 3 and data[:2] == b"\0\0":
                found = data[2:]
            if kind == ACK:
                return found.hex()
    one, two = export(INFO), export(GO)
    return wire, "the same" if one == two else f"INFO {one}, GO {two}"


def h12_extended(path, name):
    return h12(path, name, EXT)


def h19(path, name):
    wire = Wire(path)
    wire.option(STRUCTURED)
    wire.last()
    wire.option(SET_META, meta(name))
    assert wire.last()[1] == ACK
    wire.mark()
    wire.option(SET_META, b"")
    failed = wire.last()[1]
    wire.go(name)
    wire.request(STATUS, 0, 512)
    return wire, f"{failed:#x}, then BLOCK_STATUS gives error {wire.reply()[1]}"


def h22(path, name):
    wire = Wire(path)
    wire.option(STRUCTURED)
    wire.last()
    wire.mark()
    query = struct.pack(">I", 15) + b"base:allocation"
    wire.option(SET_META, struct.pack(">I", len(name)) + name + struct.pack(">I", 2) + query * 2)
    ids = []
    while True:
        _, kind, data = wire.answer()
        if kind != 4:
            return wire, f"contexts with the ids {ids}"
        ids.append(struct.unpack(">I", data[:4])[0])


def h23(path, name):
    wire = Wire(path)
    wire.option(STRUCTURED)
    wire.last()
    wire.mark()
    wire.option(LIST_META, meta(name, tail=b"x"))
    first = wire.last()[1]
    wire.option(0x7654321, b"sync")
    return wire, f"{first:#x}, then " + end_of(wire, lambda: f"{wire.last()[1]:#x}")


def h34(path, name):
    wire = Wire(path, flags=0)
    wire.mark()
    wire.option(0x7654321, b"sixteen bytes of")
    first = wire.last()[1]
    wire.option(0x7654322, b"sixteen bytes of")
    return wire, f"{first:#x}, then " + end_of(wire, lambda: f"{wire.last()[1]:#x}")


def t1(path, name):
    wire = attach(path, name)
    wire.request(READ, 0, 512, magic=0)
    return wire, end_of(wire, lambda: f"error {wire.reply()[1]}")


def past(command):
    def ask(path, name):
        wire = attach(path, name)
        payload = b"\xbb" * 512 if command == WRITE else b""
        wire.request(command, SIZE, 512, payload=payload)
        return wire, f"error {wire.reply()[1]}"
    return ask


def flag(command, bit, mode=None):
    def ask(path, name):
        wire = attach(path, name, mode)
        payload = b"\xdd" * 512 if command == WRITE else b""
        wire.request(command, 0, 512, flags=1 << bit, payload=payload)
        return wire, end_of(wire, lambda: "{} reply, error {}".format(*wire.reply(512 if command == READ else 0)))
    return ask


def t13(path, name):
    wire = attach(path, name)
    at = 65536 + (64 << 20)
    wire.request(WRITE, at, 512, payload=b"\x77" * 512)
    wire.reply()
    wire.mark()
    wire.request(ZEROES, 65536, 65 << 20)
    error = wire.reply()[1]
    wire.request(READ, at, 512)
    wire.take(16)
    data = wire.take(512)
    return wire, f"error {error}, then a READ inside of it gives {data[:4].hex()}..."


def t18(path, name):
    wire = attach(path, name, STRUCTURED)
    wire.request(READ, SIZE, 512)
    return wire, "{} reply, error {}".format(*wire.reply())


def t33(path, name):
    wire = attach(path, name)
    # Once a request was answered, several threads of nbdkit wait for the next. Without that it often closes.
    wire.request(READ, 0, 512)
    wire.reply(512)
    time.sleep(0.1)
    wire.mark()
    wire.request(DISC, 0, 0)
    return wire, end_of(wire, lambda: f"sends {wire.take(1).hex()}")


def t33b(path, name):
    wire = attach(path, name)
    requests = b"".join(struct.pack(">IHHQQI", REQUEST, 0, READ, cookie, 0, 1 << 20) for cookie in range(8))
    wire.send(requests + struct.pack(">IHHQQI", REQUEST, 0, DISC, 99, 0, 0))
    # No socket holds 8 MiB: replies wait for room while the server comes to DISC.
    time.sleep(0.1)
    answered = 0
    try:
        while answered < 8:
            assert wire.reply(1 << 20) == ("simple", 0)
            answered += 1
    except Closed:
        return wire, "closed before all 8 READs were answered"
    return wire, "all 8 READs were answered"


def t39a(path, name):
    wire = attach(path, name, EXT)
    wire.request(READ, 0, 512)
    wire.send(b"\0\0\0\0")
    return wire, end_of(wire, lambda: f"answers with magic {wire.take(32)[:4].hex()}")


# Statement, function, what is found.
CASES = {
    "qemu-nbd": [
        ("H9", h9, "0x80000006 with a text that is not UTF-8"),
        ("H12", h12_extended, "INFO 00000000080000001ded, GO 00000000080000000ded"),
        ("H23a and H23b", h23, "0x1, then closed"),
        ("T1", t1, "error 22"),
        ("T3", past(WRITE), "error 22"),
        ("T4a", past(ZEROES), "error 22"),
        ("T33b", t33b, "closed before all 8 READs were answered"),
        ("T39a", t39a, "answers with magic 6e8a278c"),
    ],
    "nbdkit": [
        ("H9", h9, "answers with 0x1"),
        ("H19", h19, "0x80000003, then BLOCK_STATUS gives error 0"),
        ("H22", h22, "contexts with the ids [1, 1]"),
        ("H23a", h23, "0x1, then 0x80000001"),
        ("H34", h34, "0x80000003, then closed"),
        ("T33", t33, "silence"),
        ("T9a", flag(ZEROES, 4), "closed"),
    ],
    "nbd-server": [
        ("H1", h1, "answers with 0x1"),
        ("H3", h3, "closed"),
        ("H6", h6, "0x80000003, then the next option gets a reply to option 3"),
        ("H8", h8_after, "an error, then silence"),
        ("H9a", h9a, "0x80000003, then silence"),
        ("H12", h12, "INFO 0000000000000000016d, GO 0000000008000000016d"),
        ("T9", flag(READ, 1), "simple reply, error 0"),
        ("T9a", flag(WRITE, 1), "simple reply, error 0"),
        ("T13", t13, "error 0, then a READ inside of it gives 77777777..."),
        ("T18", t18, "simple reply, error 22"),
        ("T20", flag(READ, 2, STRUCTURED), "simple reply, error 22"),
    ],
}


def command(peer, directory):
    """The command that serves `disk.img` at `DIR/s`, and the name of its export."""
    tool, path, image = os.path.join(PEERS, "bin", peer), f"{directory}/s", f"{directory}/disk.img"
    with open(image, "wb") as file:
        file.truncate(SIZE)
    if peer == "qemu-nbd":
        return [tool, "--persistent", "--shared=0", "--format=raw", f"--socket={path}", image], b""
    if peer == "nbdkit":
        return [tool, "--foreground", "--unix", path, "file", image], b""
    with open(f"{directory}/config", "w") as file:
        file.write(f"[generic]\nunixsock = {path}\nlistenaddr = 127.0.0.1\nport = {free_port()}\nallowlist = true\n"
                   f"[disk]\nexportname = {image}\nflush = true\nfua = true\ntrim = true\n")
    return [tool, "-C", f"{directory}/config", "-n"], b"disk"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def shown(data):
    return data[:48].hex() + (f"... ({len(data)} bytes)" if len(data) > 48 else "")


def main():
    failed = False
    for peer in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as directory:
            words, name = command(peer, directory)
            for statement, ask, expected in CASES[peer]:
                with open(os.devnull, "w") as nowhere:
                    server = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--"] + words, stdin=subprocess.DEVNULL,
                                              stdout=nowhere, stderr=nowhere, start_new_session=True)
                try:
                    wait_for(f"{directory}/s")
                    wire, found = ask(f"{directory}/s", name)
                finally:
                    os.killpg(server.pid, signal.SIGKILL)
                    server.wait()
                    if os.path.exists(f"{directory}/s"):
                        os.unlink(f"{directory}/s")
                is_right = found == expected
                failed |= not is_right
                verdict = found if is_right else f"NOT AS THE PAGE SAYS: {found}"
                print(f"| {peer} | {statement} | {shown(wire.sent)} | {shown(wire.got) or '(nothing)'} | {verdict} |", flush=True)
    return 1 if failed else 0


def wait_for(path):
    for _ in range(500):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
                probe.settimeout(0.5)
                if probe.recv(1):
                    return
            except OSError:
                time.sleep(0.02)
    sys.exit(f"the peer does not listen at {path}")


sys.exit(main())
