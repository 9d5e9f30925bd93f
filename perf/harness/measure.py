"""One run of one server on one cell."""

import contextlib
import json
import os
import subprocess

from .beside import Idle, Scraper, most_idle
from .machine import cpu_seconds, cpus, resident_mib
from .servers import TOOLS, Server, peer


def make_image(directory, size):
    """A file of random bytes; one of another size is replaced."""
    image = directory / "perf.img"
    if not image.exists() or image.stat().st_size != size:
        directory.mkdir(parents=True, exist_ok=True)
        with open(image, "wb") as file:
            for _ in range(0, size, 1 << 20):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    return image


def prepare(cell, image):
    """Warms or drops the page cache: a direct access before may have emptied it."""
    with open(image, "rb", buffering=0) as file:
        if cell.store == "warm":
            memory = bytearray(4 << 20)
            while file.readinto(memory):
                pass
        elif cell.store == "direct":
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_fio(cell, image, seconds):
    """fio's own io_uring on the same file: what the disk gives."""
    job = [*peer("fio"), "--name=job", f"--filename={image}", "--ioengine=io_uring", "--direct=1", f"--rw={cell.rw}",
           f"--bs={cell.block}", f"--iodepth={cell.connections * cell.depth}", "--time_based",
           f"--runtime={round(seconds * 1000)}ms", "--norandommap", "--registerfiles=1", "--fixedbufs=1", "--output-format=json"]
    out = subprocess.run(["taskset", "-c", str(cpus()[0]), *job], capture_output=True, text=True, check=True).stdout
    side = json.loads(out[out.index("{"):])["jobs"][0]["read" if "read" in cell.rw else "write"]
    points = side["clat_ns"]["percentile"]
    return {"iops": side["iops"], "mb_per_second": side["bw_bytes"] / 1e6, "p50_us": points["50.000000"] / 1e3,
            "p99_us": points["99.000000"] / 1e3, "p999_us": points["99.900000"] / 1e3}


def start_client(cell, server, variant, binary, seconds):
    """`ringnbd bench`, on the client's CPU; several clients of several shards take what the shards leave."""
    connections, depth = variant.load if variant and variant.load else (cell.connections, cell.depth)
    pinned = [] if variant and variant.clients > 1 else ["--cpu", str(cpus()[1])]
    command = [binary, "bench", server.uri, *pinned, "--rw", cell.rw, "--bs", cell.block, "--connections", str(connections),
               "--depth", str(depth), "--duration", f"{round(seconds * 1000)}ms", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish_client(process):
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the client ended with {process.returncode}: {out[-500:]}")
    return json.loads(out)


def combine(results):
    """The figures of all clients; of percentiles the worst."""
    totals = [result["total"] for result in results]
    if any(total["errors"] for total in totals):
        raise RuntimeError(f"requests failed: {[result['errors'] for result in results]}")
    worst = {key: max(total["latency"][key] for total in totals) / 1e3 for key in ("p50", "p99", "p99_9")}
    shares = [result["per_connection"]["min"] / max(1, result["per_connection"]["mean"]) for result in results]
    return {"iops": sum(total["iops"] for total in totals), "mb_per_second": sum(total["bytes_per_second"] for total in totals) / 1e6,
            "p50_us": worst["p50"], "p99_us": worst["p99"], "p999_us": worst["p99_9"],
            "client_cores": sum(result["client_cpu"]["cores"] for result in results),
            "slowest_to_mean": min(shares)}


def measure(name, cell, image, binaries, seconds):
    """One run of one server, or None where it is not here. The client is the first build for all."""
    if name in TOOLS and peer(TOOLS[name]) is None:
        return None
    prepare(cell, image)
    if name == "fio":
        return run_fio(cell, image, seconds)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Server(name, cell, image, binaries))
        variant = first.variant
        servers = [first]
        if variant and variant.processes > 1:
            servers += [stack.enter_context(Server(name, cell, image, binaries, cpu))
                        for cpu in cpus()[1:variant.processes]]
        scraper = None
        idle = most_idle(variant.idle) if variant else 0
        if idle:
            stack.enter_context(Idle(first.path, idle))
        if variant and variant.scrapes:
            scraper = stack.enter_context(Scraper(first.admin, variant.scrapes))
        pids = [server.pid for server in servers]
        before = cpu_seconds(pids)
        clients = [start_client(cell, servers[index % len(servers)], variant, binaries["ringnbd"], seconds)
                   for index in range(variant.clients if variant else 1)]
        results = [finish_client(client) for client in clients]
        spent, (memory, mapped) = cpu_seconds(pids) - before, resident_mib(pids)
        operations = sum(result["total"]["operations"] for result in results)
        run = combine(results) | {"cpu_us_per_request": spent * 1e6 / max(1, operations), "resident_mib": memory,
                                  "mapped_file_mib": mapped}
        if idle:
            run["idle_connections"] = idle
        if scraper:
            run["scrapes"] = scraper.scrapes
        return run
