"""What is measured: cells, the servers in each, and the bars that ringnbd has to reach."""

from dataclasses import dataclass, field

# Servers with a file, over a unix socket (nbd-server over TCP).
FILES = ("ringnbd", "nbdkit", "qsd", "qemu-nbd", "nbd-server")
# Those that open it with O_DIRECT, and no server at all: what the disk gives.
DIRECT = ("ringnbd", "qsd", "fio")
NULL = ("ringnbd", "nbdkit")
# What is no server to compete with: the disk alone, and the least that a server does which copies (perf/floor).
REFERENCES = ("fio", "floor")
# Disks of which each run has a new one over the cell's file: our overlay, and what others have for it.
OVERLAYS = ("ringnbd-overlay", "qsd-qcow2", "qsd-subclusters", "nbdkit-cow")
COPIED = ("ringnbd", "ringnbd-copied", *FILES[1:], "floor")
# With TLS: the peers with the same cipher. Beside them stands our own server without it.
TLS = ("ringnbd", "ringnbd-plain", "nbdkit", "qemu-nbd")
# Those that serve a second export to a neighbour, in the same thread.
NEIGHBOURS = ("ringnbd", "qsd")

# Columns: key, heading, decimals.
METRICS = {
    "iops": ("IOPS", 0),
    "mb_per_second": ("MB/s", 0),
    "p50_us": ("p50 us", 0),
    "p99_us": ("p99 us", 0),
    "p999_us": ("p99.9 us", 0),
    "max_us": ("max us", 0),
    "cpu_us_per_request": ("CPU us/req", 3),
    "resident_mib": ("own MiB", 0),
    "mapped_file_mib": ("mapped MiB", 0),
    "slowest_to_mean": ("slowest/mean", 2),
    "client_cores": ("client", 2),
    # Of a client of another export, which has one request of 512 bytes in flight.
    "probe_p50_us": ("probe p50", 0),
    "probe_p99_us": ("probe p99", 0),
    "probe_max_us": ("probe max", 0),
    # How long the image's changes waited for each snapshot of it.
    "pause_p50_ms": ("pause p50 ms", 1),
    "pause_p99_ms": ("pause p99 ms", 1),
    "pause_max_ms": ("pause max ms", 1),
    "snapshots": ("snapshots", 0),
    # Of an image that is read and copied into packs beside the load: that, and what a collection copies.
    "ingest_mib_per_second": ("ingest MiB/s", 0),
    "collections": ("collections", 0),
    # Commands of a flood that were answered.
    "flood_per_second": ("flood/s", 1),
}
# How a bar names them.
NAMES = {
    "iops": "IOPS",
    "mb_per_second": "MB/s",
    "p50_us": "p50",
    "p99_us": "p99",
    "ingest_mib_per_second": "MiB/s into packs",
    "max_us": "the longest",
    "probe_p99_us": "the probe's p99",
    "pause_p99_ms": "the pause of a snapshot, p99",
    "cpu_us_per_request": "CPU per request",
    "resident_mib": "resident MiB",
    "slowest_to_mean": "slowest connection to mean",
}


@dataclass(frozen=True)
class Bar:
    """`own` has to be at least (or at most) `factor` times `against` in `metric`; `against` None: `factor` itself.

    `against` "peers" is the best of all other programs.
    """

    metric: str
    factor: float
    against: str | None = None
    own: str = "ringnbd"
    at_least: bool = True


def least(metric, factor, against=None, own="ringnbd"):
    return Bar(metric, factor, against, own, True)


def most(metric, factor, against=None, own="ringnbd"):
    return Bar(metric, factor, against, own, False)


@dataclass(frozen=True)
class Cell:
    """One load: what is served, what the client does, who is compared, and what has to hold."""

    title: str
    rw: str
    block: str
    connections: int
    depth: int
    store: str = "warm"  # warm (page cache), cold (dropped from it), direct (O_DIRECT), null (no storage)
    servers: tuple = FILES
    bars: tuple = ()
    tcp: bool = False
    size_gib: int = 0  # of a file of its own; 0: that of all cells
    memory_mib: int = 0  # of the cgroup in which the server runs
    neighbour: str = ""  # a second export of that name: null, or file
    probe: bool = False  # somebody reads from the neighbour meanwhile, 1 x 1
    flood: str = ""  # of the first export: cache, trim, or deep; the load is then the neighbour's
    warmup: float = 0  # seconds
    fsync: int = 0  # a FLUSH after so many writes
    tls: bool = False  # with certificates and AES-128-GCM, over TCP
    operations: int = 0  # so many instead of so many seconds: what is done first is done as often by all

    @property
    def is_plain(self):
        """Whether a client alone makes this load, of a file that is there."""
        has_disks = any(VARIANTS[name].disk for name in self.servers if name in VARIANTS)
        return not (self.memory_mib or self.neighbour or self.tls or has_disks)


@dataclass(frozen=True)
class Variant:
    """ringnbd in another way than plain, or with something beside it."""

    flags: tuple = ()
    shards: int = 1
    processes: int = 1
    clients: int = 1
    idle: int = 0  # connections that do nothing
    scrapes: int = 0  # of /metrics a second
    admin: bool = False
    load: tuple = field(default=None)  # (connections, depth) instead of the cell's
    query: str = ""  # parameters of a file's URI
    weight: int = 0  # of each export; 0: none is said
    calm: bool = False  # without the flood of its cell
    disk: str = ""  # what lies over the cell's file; see disks.py
    snapshots: str = ""  # of the image, one after the other: snapshot, or checkpoint, and then the packs are collected
    plain: bool = False  # without the TLS of its cell


VARIANTS = {
    "ringnbd": Variant(),
    "ringnbd-copied": Variant(query="mapped=false"),
    "ringnbd-plain": Variant(plain=True),
    "ringnbd-spin": Variant(flags=("--busy-poll", "100us")),
    "ringnbd-4x32": Variant(load=(4, 32)),
    "ringnbd-idle": Variant(idle=10_000),
    "ringnbd-weighed": Variant(weight=1),
    "ringnbd-calm": Variant(weight=1, calm=True),
    "ringnbd-weighed-8": Variant(weight=1, flags=("--device-depth", "8")),
    "ringnbd-weighed-16": Variant(weight=1, flags=("--device-depth", "16")),
    "ringnbd-weighed-4": Variant(weight=1, flags=("--device-depth", "4")),
    "ringnbd-off": Variant(flags=("--no-histograms",)),
    "ringnbd-admin": Variant(admin=True),
    "ringnbd-scraped": Variant(admin=True, scrapes=10),
    # Clients of one connection: each belongs to one shard, in one process or in two.
    "ringnbd-1": Variant(clients=2, load=(1, 64)),
    "ringnbd-2": Variant(shards=2, clients=4, load=(1, 64)),
    "ringnbd-twins": Variant(processes=2, clients=4, load=(1, 64)),
    "ringnbd-overlay": Variant(disk="overlay"),
    "ringnbd-image": Variant(disk="image"),
    "ringnbd-snapshots": Variant(disk="image", admin=True, snapshots="snapshot"),
    "ringnbd-checkpoints": Variant(disk="image", admin=True, snapshots="checkpoint"),
    "ringnbd-packed": Variant(disk="packed"),
    "ringnbd-packed-always": Variant(disk="packed", query="verify=always"),
    "ringnbd-sparse": Variant(disk="sparse"),
    "ringnbd-copy": Variant(disk="copy"),
}

_SEQUENTIAL = (least("mb_per_second", 1.2, "peers"),)
_SEQUENTIAL_DIRECT = (least("mb_per_second", 1.3, "qsd"),)
_HISTOGRAMS = ("ringnbd-admin", "ringnbd-off")
_HISTOGRAM_BARS = (
    most("cpu_us_per_request", 1.03, "ringnbd-off", "ringnbd-admin"),
    least("iops", 0.97, "ringnbd-off", "ringnbd-admin"),
)

_FLOOR = (
    most("cpu_us_per_request", 1.05, "floor"),
    most("cpu_us_per_request", 1.05, "floor", "ringnbd-copied"),
)


def _tls(share):
    """In CPU time for each request: so much of what it costs in plain text, and three times as good as a peer."""
    return (most("cpu_us_per_request", 1 / share, "ringnbd-plain"),
            *(most("cpu_us_per_request", 1 / 3, peer) for peer in ("nbdkit", "qemu-nbd")))


CELLS = {
    "read-warm": Cell(
        "4 KiB random read, warm, 4 x 32", "randread", "4K", 4, 32, servers=COPIED,
        bars=(least("iops", 3.5, "nbdkit"), least("iops", 4.2, "qsd"), *_FLOOR)),
    "read-warm-4g": Cell(
        "4 KiB random read, warm, 4 GiB, 4 x 32", "randread", "4K", 4, 32, servers=COPIED, bars=_FLOOR, size_gib=4),
    "read-warm-1": Cell(
        "4 KiB random read, warm, 1 x 32", "randread", "4K", 1, 32,
        bars=(least("iops", 1.8, "nbdkit"), most("cpu_us_per_request", 0.4, "nbdkit"))),
    "read-warm-16": Cell(
        "4 KiB random read, warm, 16 x 16", "randread", "4K", 16, 16,
        bars=(least("iops", 3, "nbdkit"), most("p99_us", 1, "peers"))),
    "read-warm-depth1": Cell(
        "4 KiB random read, warm, depth 1", "randread", "4K", 1, 1, servers=("ringnbd", "ringnbd-spin", *FILES[1:]),
        bars=(most("p50_us", 1.05, "peers"), most("p50_us", 0.45, "peers", "ringnbd-spin"))),
    "read-warm-tcp": Cell("4 KiB random read, warm, 4 x 32, TCP", "randread", "4K", 4, 32, tcp=True),
    "read-direct": Cell(
        "4 KiB random read, O_DIRECT, 4 x 32", "randread", "4K", 4, 32, "direct", DIRECT,
        bars=(least("iops", 0.95, "fio"), most("cpu_us_per_request", 0.33, "qsd"))),
    "write-direct": Cell(
        "4 KiB random write, O_DIRECT, 4 x 32", "randwrite", "4K", 4, 32, "direct", DIRECT,
        bars=(least("iops", 1.3, "qsd"), most("cpu_us_per_request", 0.4, "qsd"))),
    "seq-read-128k": Cell("128 KiB sequential read, warm", "read", "128K", 1, 16, bars=_SEQUENTIAL),
    "seq-read-1m": Cell("1 MiB sequential read, warm", "read", "1M", 1, 8, bars=_SEQUENTIAL),
    "seq-read-direct-128k": Cell(
        "128 KiB sequential read, O_DIRECT", "read", "128K", 1, 16, "direct", DIRECT, _SEQUENTIAL_DIRECT),
    "seq-read-direct-1m": Cell(
        "1 MiB sequential read, O_DIRECT", "read", "1M", 1, 8, "direct", DIRECT, _SEQUENTIAL_DIRECT),
    "seq-write-direct-128k": Cell(
        "128 KiB sequential write, O_DIRECT", "write", "128K", 1, 16, "direct", DIRECT, _SEQUENTIAL_DIRECT),
    "seq-write-direct-1m": Cell(
        "1 MiB sequential write, O_DIRECT", "write", "1M", 1, 8, "direct", DIRECT, _SEQUENTIAL_DIRECT),
    "null-read": Cell(
        "null, 4 KiB read, 4 x 32", "randread", "4K", 4, 32, "null", NULL, (least("iops", 5, "nbdkit"),)),
    "null-write": Cell(
        "null, 4 KiB write, 4 x 32", "randwrite", "4K", 4, 32, "null", NULL, (least("iops", 5, "nbdkit"),)),
    "many": Cell(
        "4 KiB random read, warm, 1,000 x 1", "randread", "4K", 1000, 1, servers=("ringnbd", "ringnbd-4x32"),
        bars=(least("iops", 0.6, "ringnbd-4x32"), least("slowest_to_mean", 0.5))),
    "idle": Cell(
        "the same as read-warm beside 10,000 idle connections", "randread", "4K", 4, 32,
        servers=("ringnbd", "ringnbd-idle"),
        bars=(most("resident_mib", 256, None, "ringnbd-idle"), least("iops", 0.9, "ringnbd", "ringnbd-idle"))),
    "histograms": Cell(
        "histograms on against off, read-warm", "randread", "4K", 4, 32, servers=_HISTOGRAMS, bars=_HISTOGRAM_BARS),
    "histograms-null": Cell(
        "histograms on against off, null-read: the hardest case", "randread", "4K", 4, 32, "null", _HISTOGRAMS),
    "weights": Cell(
        "one export with a weight against one without, read-warm", "randread", "4K", 4, 32,
        servers=("ringnbd", "ringnbd-weighed"),
        bars=(most("cpu_us_per_request", 1.03, "ringnbd", "ringnbd-weighed"), least("iops", 0.97, "ringnbd", "ringnbd-weighed"))),
    "weights-direct": Cell(
        "the same with O_DIRECT: the device's depth is bounded", "randread", "4K", 4, 32, "direct",
        ("ringnbd", "ringnbd-weighed"), (least("iops", 0.97, "ringnbd", "ringnbd-weighed"),)),
    "weights-beside": Cell(
        "4 KiB random read, warm, 1 x 4, alone and beside 4 x 256 of another export of the same weight", "randread", "4K", 1, 4,
        servers=("ringnbd", "ringnbd-calm", "ringnbd-weighed"), neighbour="file", flood="deep", warmup=1,
        bars=(most("p99_us", 2, "ringnbd-calm", "ringnbd-weighed"),)),
    "weights-beside-direct": Cell(
        "the same with O_DIRECT: what the device has begun is out of anybody's hands", "randread", "4K", 1, 4, "direct",
        ("ringnbd", "ringnbd-calm", "ringnbd-weighed", "ringnbd-weighed-16", "ringnbd-weighed-8", "ringnbd-weighed-4"),
        neighbour="file", flood="deep", warmup=1, bars=(most("p99_us", 2, "ringnbd-calm", "ringnbd-weighed-4"),)),
    "weights-null": Cell(
        "the same with null-read: the hardest case", "randread", "4K", 4, 32, "null", ("ringnbd", "ringnbd-weighed")),
    "scraped": Cell(
        "/metrics read 10 times a second against never", "randread", "4K", 4, 32,
        servers=("ringnbd-admin", "ringnbd-scraped"), bars=(most("p99_us", 1.05, "ringnbd-admin", "ringnbd-scraped"),)),
    "shards": Cell(
        "null, 4 KiB read, 2 x 64 a shard, 2 shards against 1 (twins: two servers)", "randread", "4K", 2, 64, "null",
        ("ringnbd-1", "ringnbd-2", "ringnbd-twins"),
        (most("cpu_us_per_request", 1.05, "ringnbd-1", "ringnbd-2"),
         most("cpu_us_per_request", 1.05, "ringnbd-twins", "ringnbd-2"))),
    "beyond-memory": Cell(
        "4 KiB random read, 1 x 32, of a file of which 400 MiB fit into memory; a neighbour's probe of null", "randread", "4K", 1, 32,
        "cold", ("ringnbd", "ringnbd-copied", "qsd"), memory_mib=400, neighbour="null", probe=True, warmup=2,
        bars=(least("iops", 0.9, "ringnbd-copied"), most("probe_p99_us", 1000))),
    "cache-flood": Cell(
        "a neighbour's 4 KiB write, 1 x 1, beside 1,000 CACHE at once", "randwrite", "4K", 1, 1, "cold", NEIGHBOURS,
        neighbour="file", flood="cache", bars=(most("p99_us", 10_000),)),
    "trim-flood": Cell(
        "a neighbour's read of null, 1 x 1, beside TRIM of 2,000 MiB and reads inside it", "randread", "512", 1, 1, "cold", NEIGHBOURS,
        size_gib=2, neighbour="null", flood="trim", bars=(most("max_us", 50_000),)),
    "tls-read": Cell(
        "4 KiB random read, warm, 4 x 32, TLS 1.3 with AES-128-GCM", "randread", "4K", 4, 32, servers=TLS, tcp=True, tls=True,
        bars=_tls(0.5)),
    "tls-read-1m": Cell(
        "1 MiB sequential read, warm, 1 x 8, TLS 1.3 with AES-128-GCM", "read", "1M", 1, 8, servers=TLS, tcp=True, tls=True,
        bars=_tls(0.35)),
    "image-read": Cell(
        "4 KiB random read, warm, 4 x 32, of a new overlay (its base has all), of an image (its head has all)", "randread", "4K", 4, 32,
        servers=("ringnbd", "ringnbd-overlay", "ringnbd-image", "qsd-qcow2", "nbdkit-cow"),
        bars=(least("iops", 0.9, "ringnbd", "ringnbd-overlay"), least("iops", 0.9, "ringnbd", "ringnbd-image"),
              least("iops", 2.5, "qsd-qcow2", "ringnbd-overlay"), least("iops", 3, "nbdkit-cow", "ringnbd-overlay"))),
    "image-first-write": Cell(
        "100,000 random writes of 4 KiB to a new overlay, 1 x 32, no FLUSH", "randwrite", "4K", 1, 32, size_gib=4, operations=100_000,
        servers=("ringnbd-sparse", *OVERLAYS),
        bars=(least("iops", 0.85, "ringnbd-sparse", "ringnbd-overlay"), least("iops", 3, "qsd-subclusters", "ringnbd-overlay"),
              least("iops", 8, "qsd-qcow2", "ringnbd-overlay"), least("iops", 3, "nbdkit-cow", "ringnbd-overlay"))),
    "image-first-write-flush": Cell(
        "1,000 random writes of 4 KiB to a new overlay, 1 x 1, a FLUSH after each", "randwrite", "4K", 1, 1, size_gib=4, fsync=1,
        operations=1000, servers=("ringnbd-sparse", *OVERLAYS),
        bars=(least("iops", 1 / 1.7, "ringnbd-sparse", "ringnbd-overlay"),)),
    "image-first-write-flush-32": Cell(
        "20,000 random writes of 4 KiB to a new overlay, 1 x 32, a FLUSH after 32", "randwrite", "4K", 1, 32, size_gib=4, fsync=32,
        operations=20_000, servers=("ringnbd-sparse", *OVERLAYS)),
    "image-overwrite-flush": Cell(
        "1,000 random overwrites of 4 KiB of an image, 1 x 1, a FLUSH after each", "randwrite", "4K", 1, 1, fsync=1, operations=1000,
        servers=("ringnbd-copy", "ringnbd-image"), bars=(least("iops", 1 / 1.05, "ringnbd-copy", "ringnbd-image"),)),
    "image-snapshot-pause": Cell(
        "4 KiB random writes to an image, 4 x 32, alone and while it is snapshotted again and again", "randwrite", "4K", 4, 32,
        servers=("ringnbd-image", "ringnbd-snapshots"), bars=(most("pause_p99_ms", 10, None, "ringnbd-snapshots"),)),
    "packed-read": Cell(
        "4 KiB random read, warm, 4 x 32, of a file, and of a clone whose contents are in packs, uncompressed", "randread", "4K", 4, 32,
        servers=("ringnbd", "ringnbd-packed", "ringnbd-packed-always"), warmup=2,
        bars=(least("iops", 0.8, "ringnbd", "ringnbd-packed"), least("iops", 0.6, "ringnbd", "ringnbd-packed-always"))),
    "packed-seq-read": Cell(
        "1 MiB sequential read, warm, 1 x 8, of a file, and of a clone whose contents are in packs, uncompressed", "read", "1M", 1, 8,
        servers=("ringnbd", "ringnbd-packed", "ringnbd-packed-always"), warmup=2,
        bars=(least("mb_per_second", 0.8, "ringnbd", "ringnbd-packed"), least("mb_per_second", 0.6, "ringnbd", "ringnbd-packed-always"))),
    "packed-ingest-p99": Cell(
        "4 KiB random writes to an image, 1 x 4, alone and beside checkpoints of it and collections of its store", "randwrite", "4K", 1, 4,
        servers=("ringnbd-image", "ringnbd-checkpoints"), warmup=2,
        bars=(most("p99_us", 2, "ringnbd-image", "ringnbd-checkpoints"),
              least("ingest_mib_per_second", 50, None, "ringnbd-checkpoints"))),
}
