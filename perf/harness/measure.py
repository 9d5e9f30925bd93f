"""One run of one server on one cell."""

import contextlib
import json
import os
import subprocess

from .beside import Idle, Scraper, most_idle
from .cage import Cage
from .flood import Deep, Flood
from .machine import cpu_seconds, cpus, resident_mib
from .secure import bench_can_encrypt, run_nbdcopy
from .servers import Server, is_here, peer
from .snapshots import Snapshots

# A file that a neighbour has beside the cell's, and a sparse one to flood.
NEIGHBOUR_BYTES, SPARSE_BYTES = 256 << 20, 4 << 30


def make_image(directory, size, name="perf.img"):
    """A file of random bytes; one of another size is replaced."""
    image = directory / name
    if not image.exists() or image.stat().st_size != size:
        directory.mkdir(parents=True, exist_ok=True)
        with open(image, "wb") as file:
            for _ in range(0, size, 1 << 20):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    return image


def images(cell, image, size):
    """The file of a cell and that of its neighbour; `image` is what cells have in common, made with so many bytes."""
    directory = image.parent
    neighbour = make_image(directory, NEIGHBOUR_BYTES, "perf-neighbour.img") if cell.neighbour == "file" else None
    if cell.flood and cell.flood != "deep":
        image = directory / f"perf-{cell.flood}.img"
        with open(image, "wb") as file:
            file.truncate(cell.size_gib << 30 or SPARSE_BYTES)
    elif cell.size_gib and cell.size_gib << 30 != size:
        image = make_image(directory, cell.size_gib << 30, f"perf-{cell.size_gib}g.img")
    return image, neighbour


def read_all(file):
    memory = bytearray(4 << 20)
    while file.readinto(memory):
        pass


def prepare(cell, image, neighbour):
    """Warms or drops the page cache: a direct access before may have emptied it."""
    if neighbour and cell.store == "warm":
        with open(neighbour, "rb", buffering=0) as file:
            read_all(file)
    with open(image, "rb", buffering=0) as file:
        if cell.store == "warm":
            read_all(file)
        elif cell.store in ("direct", "cold"):
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
    """`ringnbd bench`, on the client's CPU; several clients of several shards take what the shards leave. Beside a flood it is the
    neighbour's."""
    connections, depth = variant.load if variant and variant.load else (cell.connections, cell.depth)
    pinned = [] if variant and variant.clients > 1 else ["--cpu", str(cpus()[1])]
    # Beside another client on its CPU it would be measured how that is shared.
    first = ["chrt", "--fifo", "1"] if cell.flood == "deep" else []
    uri = server.neighbour if cell.flood else server.uri
    # So many operations take as long as they take.
    length = ["--ops", str(cell.operations), "--seed", "1"] if cell.operations else ["--duration", f"{round(seconds * 1000)}ms"]
    fsync = ["--fsync", str(cell.fsync)] if cell.fsync else []
    command = [*first, binary, "bench", uri, *pinned, "--rw", cell.rw, "--bs", cell.block, "--connections", str(connections),
               "--depth", str(depth), *length, *fsync, "--warmup", f"{round(cell.warmup * 1000)}ms", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def start_flood(cell, server, image, client, seconds):
    return Deep(server.uri, client, seconds + cell.warmup) if cell.flood == "deep" else Flood(cell.flood, server.path, image)


def start_probe(cell, server, binary, seconds):
    """A client of the neighbour's with one request in flight."""
    times = ["--duration", f"{round(seconds * 1000)}ms", "--warmup", f"{round(cell.warmup * 1000)}ms"]
    command = [binary, "bench", server.neighbour, "--cpu", str(cpus()[2]), "--bs", "512", *times, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def probed(process):
    latency = combine([finish_client(process)])
    return {f"probe_{key}": latency[key] for key in ("p50_us", "p99_us", "max_us")}


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
    worst = {key: max(total["latency"][key] for total in totals) / 1e3 for key in ("p50", "p99", "p99_9", "max")}
    shares = [result["per_connection"]["min"] / max(1, result["per_connection"]["mean"]) for result in results]
    return {"iops": sum(total["iops"] for total in totals), "mb_per_second": sum(total["bytes_per_second"] for total in totals) / 1e6,
            "p50_us": worst["p50"], "p99_us": worst["p99"], "p999_us": worst["p99_9"], "max_us": worst["max"],
            "client_cores": sum(result["client_cpu"]["cores"] for result in results),
            "slowest_to_mean": min(shares)}


def measure(name, cell, files, binaries, seconds):
    """One run of one server, or None where it is not here. `files` are those of [`images`]. The client is the first build for all."""
    if not is_here(name):
        return None
    image, neighbour = files
    prepare(cell, image, neighbour)
    if name == "fio":
        return run_fio(cell, image, seconds)
    with contextlib.ExitStack() as stack:
        confine = stack.enter_context(Cage(cell.memory_mib)).command if cell.memory_mib else list
        first = stack.enter_context(Server(name, cell, image, binaries, neighbour=neighbour, confine=confine))
        variant = first.variant
        servers = [first]
        if variant and variant.processes > 1:
            servers += [stack.enter_context(Server(name, cell, image, binaries, cpu))
                        for cpu in cpus()[1:variant.processes]]
        idle = most_idle(variant.idle) if variant else 0
        if idle:
            stack.enter_context(Idle(first.path, idle))
        scraper = stack.enter_context(Scraper(first.admin, variant.scrapes)) if variant and variant.scrapes else None
        snapshots = stack.enter_context(Snapshots(first)) if variant and variant.snapshots else None
        flood = stack.enter_context(start_flood(cell, first, image, binaries["ringnbd"], seconds)) \
            if cell.flood and not (variant and variant.calm) else None
        run = load(cell, servers, variant, binaries["ringnbd"], seconds)
        if idle:
            run["idle_connections"] = idle
        if scraper:
            run["scrapes"] = scraper.scrapes
        if snapshots:
            run |= snapshots.pauses()
        if flood:
            run["flood_per_second"] = flood.per_second()
            # The server's time is that of the flood.
            del run["cpu_us_per_request"]
        return run


def load(cell, servers, variant, client, seconds):
    """Runs the clients of a cell, and says what they saw and what it took."""
    pids = [server.pid for server in servers]
    before = cpu_seconds(pids)
    if cell.tls and not bench_can_encrypt(client):
        # For the one without TLS too: all have the same client.
        run, operations = run_nbdcopy(cell, servers[0], peer("nbdcopy"), servers[0].image.stat().st_size, seconds)
        spent, (memory, mapped) = cpu_seconds(pids) - before, resident_mib(pids)
        return run | {"cpu_us_per_request": spent * 1e6 / max(1, operations), "resident_mib": memory, "mapped_file_mib": mapped}
    clients = [start_client(cell, servers[index % len(servers)], variant, client, seconds)
               for index in range(variant.clients if variant else 1)]
    probe = start_probe(cell, servers[0], client, seconds) if cell.probe else None
    results = [finish_client(process) for process in clients]
    run = combine(results) | (probed(probe) if probe else {})
    spent, (memory, mapped) = cpu_seconds(pids) - before, resident_mib(pids)
    operations = sum(result["total"]["operations"] for result in results)
    # What is done while it warms up is not counted, so the time that it takes is not either.
    share = seconds / (seconds + cell.warmup)
    return run | {"cpu_us_per_request": spent * share * 1e6 / max(1, operations), "resident_mib": memory,
                  "mapped_file_mib": mapped}
