# Put before each script: how it connects, and the picture it compares with.
import errno
import os
import random
import nbd

URI = os.environ["URI"]
MODE = os.environ["MODE"]
random.seed(os.environ.get("SEED", "0"))


def connect(strict=True, contexts=("base:allocation",)):
    """A handle in the wanted reply mode, and proof that it is in that mode."""
    h = nbd.NBD()
    h.set_request_structured_replies(MODE != "simple")
    h.set_request_extended_headers(MODE == "extended")
    if MODE != "simple":
        for context in contexts:
            h.add_meta_context(context)
    if not strict:
        h.set_strict_mode(0)
    h.connect_uri(URI)
    assert h.get_structured_replies_negotiated() == (MODE != "simple")
    assert h.get_extended_headers_negotiated() == (MODE == "extended")
    return h


def wait_for(h, cookies):
    """Until all these commands are retired."""
    for cookie in cookies:
        while not h.aio_command_completed(cookie):
            h.poll(-1)


class Picture:
    """The file that says what the disk holds; changed alongside it."""

    def __init__(self):
        self.path = os.environ["PICTURE"]
        with open(self.path, "rb") as f:
            self.bytes = bytearray(f.read())

    def __len__(self):
        return len(self.bytes)

    def write(self, offset, data):
        self.bytes[offset : offset + len(data)] = data

    def assert_reads(self, h, offset, length, flags=0):
        found = h.pread(length, offset, flags)
        assert found == self.bytes[offset : offset + length], f"wrong bytes in {offset}+{length}"

    def save(self):
        with open(self.path, "wb") as f:
            f.write(self.bytes)
