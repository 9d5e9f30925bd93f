"""Disks over a cell's file that each run has anew: ringnbd's images, qcow2, and the plain files that they are compared with."""

import os
import shutil
import subprocess

from .machine import ROOT

# What a server's disk is made of, for servers that have one.
QCOW2 = {"qsd-qcow2": ["-o", "cluster_size=64k"], "qsd-subclusters": ["-o", "extended_l2=on,cluster_size=128k"]}


def read_again(path):
    """Reads a file into the page cache anew. Pages that a large write made are large, and a write of 4 KiB and its sync cost more in
    those; so what was written in different ways is compared with the same pages.
    """
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        memory = bytearray(4 << 20)
        while file.readinto(memory):
            pass


class Disk:
    """A directory beside the cell's file, emptied at the end. `Disk(...).what` is the file to serve, or the URI."""

    def __init__(self, server, kind, image, binary):
        self.directory = image.parent / "perf-disk"
        self.remove()
        self.directory.mkdir()
        path = self.directory / "disk"
        self.what = path
        if server in QCOW2:
            create = [ROOT / "tests/peers", "run", "qemu-img", "create", "-q", "-f", "qcow2", *QCOW2[server], "-b", image, "-F", "raw", path]
            subprocess.run(create, check=True)
        elif kind == "overlay":
            self.what = f"overlay:{path}?base={image}"
        elif kind == "image":
            subprocess.run([binary, "store", "init", path], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([binary, "image", "create", path / "disk", "--from", image], check=True, stdout=subprocess.DEVNULL)
            self.what = f"store:{path}/disk"
        elif kind == "packed":
            self.pack(path, image, binary)
            self.what = f"store:{path}/disk"
        elif kind == "sparse":
            with open(path, "wb") as file:
                file.truncate(image.stat().st_size)
        elif kind == "copy":
            shutil.copyfile(image, path)
        # Nothing of it is to be written back while it is measured.
        os.sync()
        for file in self.directory.rglob("*") if self.directory.is_dir() else ():
            if file.is_file():
                read_again(file)

    def pack(self, path, image, binary):
        """A clone of a snapshot whose contents are in packs, uncompressed."""
        for command in (["store", "init", path, "--compress", "none"], ["image", "create", path / "golden", "--from", image],
                        ["image", "checkpoint", path / "golden@1"], ["image", "clone", path / "golden@1", path / "disk"]):
            subprocess.run([binary, *command], check=True, stdout=subprocess.DEVNULL)

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)
