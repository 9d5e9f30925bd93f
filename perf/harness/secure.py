"""TLS for one run: certificates, one cipher for all servers, and a client."""

import functools
import os
import subprocess
import time

from .machine import cpus

# What GnuTLS has beside the cipher that all are measured with. It would choose AES-256 otherwise, and ringnbd AES-128.
OTHER_CIPHERS = ("AES-256-GCM", "CHACHA20-POLY1305", "AES-128-CCM", "AES-256-CCM")


class Secure:
    """Certificates in a directory, and what makes GnuTLS take AES-128-GCM."""

    def __init__(self, directory, binary):
        self.directory, self.priority = directory / "tls", directory / "priority"
        subprocess.run([binary, "tls", "init", str(self.directory)], check=True, stdout=subprocess.DEVNULL)
        lines = "".join(f"tls-disabled-cipher = {cipher.lower()}\n" for cipher in OTHER_CIPHERS)
        self.priority.write_text(f"[overrides]\n{lines}", encoding="utf-8")

    @property
    def environment(self):
        """For servers and clients of GnuTLS."""
        return os.environ | {"GNUTLS_SYSTEM_PRIORITY_FILE": str(self.priority)}

    def uri(self, port):
        return f"nbds://localhost:{port}/?tls-certificates={self.directory}"

    def flags(self, name):
        """What a server is told."""
        directory = str(self.directory)
        return {"nbdkit": ["--tls=require", f"--tls-certificates={directory}"],
                "qemu-nbd": ["--object", f"tls-creds-x509,id=tls0,endpoint=server,dir={directory},verify-peer=off", "--tls-creds", "tls0"],
                }.get(name, ["--tls", directory])


@functools.cache
def bench_can_encrypt(binary):
    """Whether `ringnbd bench` of this build is a client of TLS. Otherwise nbdcopy is one."""
    command = [binary, "bench", "nbds://localhost:1/?tls-certificates=/nonexistent", "--duration", "1ms"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    return "TLS is not supported" not in told


def run_nbdcopy(cell, server, nbdcopy, size, seconds):
    """Reads the whole disk with libnbd, again and again, in requests of the cell's size, one after the other instead of at random. The
    figures, and how many requests it made. There are no latencies."""
    block = int(cell.block[:-1]) << {"K": 10, "M": 20}[cell.block[-1]]
    command = ["taskset", "-c", str(cpus()[1]), *nbdcopy, f"--connections={cell.connections}", f"--requests={cell.depth}",
               f"--request-size={block}", server.uri, "null:"]
    environment = server.secure.environment if server.secure else os.environ
    begin, operations = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"nbdcopy ended with {done.returncode}: {done.stderr[-500:]}")
        operations += size // block
    rate = operations / (time.monotonic() - begin)
    return {"iops": rate, "mb_per_second": rate * block / 1e6}, operations
