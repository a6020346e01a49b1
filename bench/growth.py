"""What growth costs: known workers, partitions, metadata, the store's kind and its syncing, each as a ratio to a base.

``python -m bench.growth --help``. The stores are the bench's own, with the embedded store's settings, so that a fleet
can be filled at the store's speed, and so that only the daemon that is being measured runs.
"""

import asyncio
import contextlib
import random
import secrets
import socket
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Final, Self

import msgspec
from cyclopts import App, Parameter
from redis import Redis

from alerts.store.routing import Reading, RoutingStore, Written
from bench import stores
from bench.closed_loop import closed_loop, generator
from bench.harness import BenchError, CpuMeter, Daemon, can_pin, directory, pin, stopping, until
from bench.intake import OTHER_CORES, SERVER_CORES, STORED
from bench.load.plan import ENVIRONMENT, FIRST_COUNT, WORKER_ID, Ids, Plan, beat_template
from bench.load.run import LoadError
from bench.results import Cell, Report, Rounds, alternating
from bench.tokens import TENANT, minted
from monitor.daemon.alerts import LIBRARY
from monitor.ownership import Bid
from monitor.store import Store, StoreSettings
from monitor.store.library_client import LibraryClient
from monitor.workers import Beat, WorkerKey

CONNECTIONS: Final = 64
PARTITIONS: Final = (1, 16, 64)
POLICIES: Final = ("no", "everysec", "always")
KIB: Final = 1024
SIZES: Final = (1 * KIB, 16 * KIB)
CHANGES: Final = 32
"""The number of sizes, each a byte smaller than the last, of metadata that must differ from the stored metadata."""
AGAIN: Final = 1_000
"""Workers that beat with the metadata that they have."""
PER_CALL: Final = 128
FEEDERS: Final = 4
REWRITE_LIMIT_S: Final = 60.0
LONG_S: Final = stores.INTERVAL_MS // 1_000
COLUMNS: Final = (
    *("", "beats/s", "of the first", "p99 ms (closed loop)", "of the first"),
    *("daemon, cores per 10,000/s", "store, cores per 10,000/s"),
)
_SECRET: Final = secrets.token_hex(32)
"""Of every daemon: the store knows an installation by its key, and refuses another one."""
_CONFIG: Final = '[[auth.keys]]\nkid = "bench"\nalgorithm = "HS256"\nsecret_file = "secret"\n'

app = App(name="python -m bench.growth")


class Kind(StrEnum):
    """What the daemon stores in."""

    EMBEDDED = "the embedded Valkey, on a socket"
    REDIS_TCP = "redis-server, over TCP"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One point to measure; what is not said is as in the base."""

    workers: int
    seconds: int
    partitions: int = 1
    kind: Kind = Kind.EMBEDDED
    appendfsync: str = "everysec"
    metadata_bytes: int = 0
    """Of each beat; 0: two short labels."""
    changed: bool = False
    """Whether each beat's metadata is another than the stored."""
    short: bool = False
    """Whether it is measured in runs of a second, as what changes must be, and what is compared with it."""

    @property
    def beaten(self) -> int:
        """How many of the workers beat: few where each must have its metadata beforehand."""
        return min(AGAIN, self.workers) if self.short and not self.changed else self.workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One variant in one round."""

    per_s: float
    p99_ms: float
    daemon_cores: float
    """For 10,000 beats per second."""
    store_cores: float


class StoredElsewhere(Daemon):
    """A ready daemon on a store that is not its own; its key is in a configuration file, as such a daemon needs it."""

    def __init__(self, *, place: Path, url: str, partitions: int) -> None:
        file = place / "lastseen.toml"
        file.write_text(_CONFIG, encoding="utf-8")
        secret = place / "secret"
        secret.write_text(_SECRET, encoding="ascii")
        secret.chmod(0o600)
        env = {
            "LASTSEEN_STORE__URL": url,
            "LASTSEEN_STORE__PARTITIONS": str(partitions),
            # As in the beats that fill the store: no worker is to be late. No quota is to be reached.
            "LASTSEEN_LIVENESS__INTERVAL": f"{LONG_S}s",
            "LASTSEEN_LIVENESS__GRACE": f"{LONG_S}s",
            "LASTSEEN_LIMITS__WORKERS_PER_TENANT": "100000000",
        }
        super().__init__(directory=place, env=env, file=file)


class Fleet:
    """A store with workers that are known, none of whom is late, and whose events have all been passed on."""

    def __init__(self, url: str, *, workers: int, partitions: int) -> None:
        self.url = url
        self.partitions = partitions
        self._workers = workers
        self._redis = Redis.from_url(url, decode_responses=True, socket_timeout=REWRITE_LIMIT_S)
        self.store_pid = int(self._info("server")["process_id"])
        pin(self.store_pid, OTHER_CORES)
        # A rewrite is measured by bench.sweep; here it would hit one round and not another.
        self._redis.config_set("auto-aof-rewrite-percentage", "0")
        self._known = False
        self._filled: tuple[int, int] | None = None
        """(number of the first workers, size of the metadata that each of them has); None: their sizes differ."""

    def prepare(self, variant: Variant) -> None:
        """Have every worker known, those who beat with the variant's metadata, and the file synced as it has it."""
        wanted = variant.beaten, variant.metadata_bytes
        if not self._known or not (variant.changed or wanted == self._filled):
            asyncio.run(self._fill(variant.beaten if self._known else self._workers, variant.metadata_bytes))
            self._redis.bgrewriteaof()
            until(self._rewritten, "the append-only file is written anew", limit_s=REWRITE_LIMIT_S)
            self._known = True
        self._filled = None if variant.changed else wanted
        self._redis.config_set("appendfsync", variant.appendfsync)

    def _rewritten(self) -> bool:
        state = self._info("persistence")
        return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]

    def _info(self, section: str) -> dict[str, Any]:
        found = self._redis.info(section)
        return dict(found) if isinstance(found, dict) else {}

    async def _fill(self, workers: int, metadata_bytes: int) -> None:
        store = await Store.open(
            StoreSettings(
                url=self.url,
                partitions=self.partitions,
                daemon="bench-fill",
                timeout_s=30.0,
                interval_ms=stores.INTERVAL_MS,
                grace_ms=stores.GRACE_MS,
                rules=(),
                workers_per_tenant=100_000_000,
                environments_per_tenant=1_000,
                status_events=False,
            )
        )
        try:
            calls = _calls(store, workers, metadata_bytes)

            async def feed() -> None:
                for partition, beats in calls:
                    await store.beat(partition, beats)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(FEEDERS):
                    tasks.create_task(feed())
            if not self._known:
                for partition in range(self.partitions):
                    await _pass_events(store, partition)
        finally:
            await store.close()


def _calls(store: Store, workers: int, metadata_bytes: int) -> Iterator[tuple[int, list[Beat]]]:
    """The beats that the generator sends of these workers, by partition.

    They are in no order, so that workers whose beats follow each other are far apart in the store.
    """
    sent = msgspec.json.decode(beat_template(metadata_bytes) % (b"", FIRST_COUNT))
    metadata = msgspec.json.encode(sent["worker_metadata"]).decode()
    numbers = list(range(workers))
    random.Random(0).shuffle(numbers)  # noqa: S311 - a spread, not a secret
    waiting: list[list[Beat]] = [[] for _ in range(store.partitions)]
    for number in numbers:
        beat = Beat(
            key=WorkerKey(TENANT, WORKER_ID % number),
            environment_name=ENVIRONMENT,
            first_environment="default",
            allowed=None,
            status=sent["status"],
            tasks_processed=sent["tasks_processed"],
            current_task_id=sent["current_task_id"],
            metadata_json=metadata,
        )
        partition = store.partition_of(beat.key)
        waiting[partition].append(beat)
        if len(waiting[partition]) == PER_CALL:
            yield partition, waiting[partition]
            waiting[partition] = []
    yield from ((partition, rest) for partition, rest in enumerate(waiting) if rest)


async def _pass_events(store: Store, partition: int) -> None:
    """Move the router behind all events: the registrations of a fleet are not what is measured."""
    lease = await store.lease(partition, bid=Bid.OWN)
    now_ms = (await store.history(partition, TENANT, after="", limit=1, newest_first=True)).now_ms
    alerts = LibraryClient(
        store.connection.address,
        LIBRARY,
        namespace=store.settings.namespace,
        partitions=store.partitions,
        durability=store.settings.durability,
        confirming=1,
        found=store.found_again,
    )
    position = f"{now_ms}-{10**9}"
    written = await RoutingStore(alerts).write(
        partition, Reading(), {}, token=lease.token, position=position, now_ms=now_ms
    )
    await alerts.close()
    if not lease.token or written is not Written.DONE:
        raise BenchError("the events of a fleet could not be passed")
    await store.lease(partition, bid=Bid.NONE)


@contextlib.contextmanager
def running(kind: Kind) -> Iterator[str]:
    """An empty store of a kind; its URL."""
    if kind is Kind.EMBEDDED:
        with stores.running() as url:
            yield url
        return
    with stores.running(stores.servers()["redis"]) as socket_url:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        with Redis.from_url(socket_url) as redis:
            redis.config_set("bind", "127.0.0.1")
            redis.config_set("port", port)
        yield f"redis://127.0.0.1:{port}/0"


class Growth:
    """The fleets, the one daemon that runs, and the faults found; ends what it started when it is left."""

    def __init__(self, *, tokens: int) -> None:
        self._tokens = tokens
        self._fleets: dict[tuple[int, int, Kind], Fleet] = {}
        self._stores = contextlib.ExitStack()
        self._serving = contextlib.ExitStack()
        self._server: tuple[Fleet, StoredElsewhere] | None = None
        self._changes = 0
        self.faults: list[str] = []
        self.not_changed = 0.0
        """The largest share of a run's beats whose metadata was to be changed and was not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stores, self._serving:
            pass

    def measure(self, variant: Variant) -> Measured:
        """Beats of the variant for some seconds; they must all be stored, and the fleet stay as large as it was."""
        fleet = self._fleet(variant)
        fleet.prepare(variant)
        server = self._daemon(fleet)
        plan = Plan(
            url=server.url,
            tokens=minted(server.config, self._tokens),
            rate=None,
            duration_s=variant.seconds,
            connections=CONNECTIONS,
            workers=variant.beaten,
            ids=Ids.TURN,
            metadata_bytes=variant.metadata_bytes,
        )
        plans = [replace(plan, duration_s=1)] * variant.seconds if variant.short else [plan]
        if variant.changed:
            # Every run begins at the first worker, so with a size of its own it changes each worker that it reaches.
            plans = [replace(one, metadata_bytes=self._other_size(variant.metadata_bytes)) for one in plans]
        before = _stored(server)
        meter = CpuMeter({"daemon": server.pid, "store": fleet.store_pid})
        results = [closed_loop(one, cores=OTHER_CORES if can_pin() else None) for one in plans]
        used_s = meter.used_s()
        answered = sum(one.answered for one in results)
        if variant.changed:
            self.not_changed = max(self.not_changed, *(1 - variant.workers / max(one.answered, 1) for one in results))
        failed = sum(one.failed for one in results)
        self._judge(variant, server, answered=answered, failed=failed, stored=_stored(server) - before)
        return Measured(
            per_s=answered / sum(one.seconds for one in results),
            p99_ms=statistics.median(one.p99_ms for one in results),
            daemon_cores=used_s["daemon"] / max(answered, 1) * 10_000,
            store_cores=used_s["store"] / max(answered, 1) * 10_000,
        )

    def _judge(self, variant: Variant, server: Daemon, *, answered: int, failed: int, stored: int) -> None:
        if failed or not answered:
            self.faults.append(f"{variant}: {failed} of {answered + failed} requests failed")
        if stored < answered:
            self.faults.append(f"{variant}: {answered} answers, but {stored} beats stored")
        status = server.get("/api/v1/status")
        if status["total"] != variant.workers or status["counts"]["alive"] != variant.workers:
            self.faults.append(f"{variant}: {variant.workers} workers are known and alive, the status says {status}")

    def _fleet(self, variant: Variant) -> Fleet:
        key = variant.workers, variant.partitions, variant.kind
        if key not in self._fleets:
            url = self._stores.enter_context(running(variant.kind))
            self._fleets[key] = Fleet(url, workers=variant.workers, partitions=variant.partitions)
        return self._fleets[key]

    def _daemon(self, fleet: Fleet) -> StoredElsewhere:
        """The daemon on this store; one on another is stopped, since it would sweep and route beside."""
        if self._server is None or self._server[0] is not fleet:
            self._server = None
            self._serving.close()
            place = self._serving.enter_context(directory())
            started = StoredElsewhere(place=place, url=fleet.url, partitions=fleet.partitions)
            self._serving.enter_context(stopping(started))
            pin(started.pid, SERVER_CORES)
            self._server = fleet, started
        return self._server[1]

    def _other_size(self, size: int) -> int:
        self._changes = self._changes % CHANGES + 1
        return size - self._changes


def _stored(server: Daemon) -> int:
    """How many beats the daemon says it has stored."""
    lines = [line for line in server.text("/metrics").splitlines() if line.startswith(STORED)]
    return round(float(lines[0].rpartition(" ")[2])) if lines else 0


def groups(workers: Sequence[int], plain: int, seconds: int) -> dict[str, dict[str, Variant]]:
    """What is compared, by caption; the first of each is the base of the others."""
    base = Variant(workers=plain, seconds=max(seconds // 2, 1))
    short = replace(base, short=True)
    metadata = {"two labels": short}
    for size in SIZES:
        same = replace(short, metadata_bytes=size)
        metadata[f"{size // KIB} KiB, the same"] = same
        metadata[f"{size // KIB} KiB, changed each time"] = replace(same, changed=True)
    found = {
        "Known workers": {f"{count:,}": Variant(workers=count, seconds=seconds) for count in workers},
        "appendfsync": {policy: replace(base, appendfsync=policy) for policy in POLICIES},
        "Metadata in every beat": metadata,
        "Partitions": {str(count): replace(base, partitions=count) for count in PARTITIONS},
    }
    if "redis" in stores.servers():
        found["The store"] = {str(kind): replace(base, kind=kind) for kind in Kind}
    return found


def compare(
    growth: Growth, variants: Mapping[str, Variant], *, rounds: int
) -> tuple[Rounds[Measured], list[list[Cell]]]:
    """Measure the variants in turn; and a table's rows, with the first as the base."""
    found = alternating(rounds, list(variants), lambda name: growth.measure(variants[name]))
    base = next(iter(variants))
    rows: list[list[Cell]] = []
    for name in variants:
        row: list[Cell] = [name]
        for figure in (attrgetter("per_s"), attrgetter("p99_ms")):
            row += [str(found.spread(name, figure)), str(found.ratio(name, base, figure))]
        row += [found.spread(name, attrgetter(figure)).median for figure in ("daemon_cores", "store_cores")]
        rows.append(row)
    return found, rows


def _counts(text: str) -> list[int]:
    """Numbers of workers, separated by commas.

    Raises:
        BenchError: it is something else.
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise BenchError(f"--workers: must be numbers above 0 separated by commas, got {text!r}")
    return counts


@app.default
def main(
    *,
    workers: Annotated[
        str, Parameter(help="Known workers to compare, the first being the base.")
    ] = "1000,100000,1000000",
    plain: Annotated[int, Parameter(help="Known workers where something else is compared.")] = 20_000,
    rounds: Annotated[int, Parameter(help="Rounds; each measures every variant once.")] = 3,
    seconds: Annotated[int, Parameter(help="Length of one measurement of known workers; half of it for the rest.")] = 5,
    smoke: Annotated[
        bool, Parameter(negative=(), help="One point of each table, one second each; only errors matter.")
    ] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Measure single beats through one daemon process as its fleet, partitions, metadata and store grow.

    The daemon is one process on core 0; the stores and the generator share core 1. Ratios are to the first line of a
    table, in the same round. A fleet is beaten from its first worker on, whose neighbours are far apart in the store.
    Exit status 1: an answer was not 2xx, a beat that was answered is not stored, or the fleet has another size.
    """
    if smoke:
        workers, plain, rounds, seconds = "100", 100, 1, 1
    compared = groups(_counts(workers), plain, seconds)
    report = Report("growth")
    with Growth(tokens=10 if smoke else 100) as growth:
        for caption, variants in compared.items():
            names = list(variants)[-1:] if smoke else list(variants)
            found, rows = compare(growth, {name: variants[name] for name in names}, rounds=rounds)
            some = variants[names[0]]
            fleet = "" if caption == "Known workers" else f", {plain:,} known workers"
            report.table(
                f"{caption}: {CONNECTIONS} connections{fleet}; {rounds} x {some.seconds} s by {generator()}; "
                "median (least-most)",
                COLUMNS,
                rows,
            )
            report.keep(caption, {name: [asdict(one) for one in runs] for name, runs in found.measured.items()})
    if "redis" not in stores.servers():
        report.note("Left out: there is no redis-server on PATH.")
    if growth.not_changed > 0 and not smoke:
        report.note(f"Of the beats that were to change the metadata, up to {growth.not_changed:.0%} did not.")
    for fault in growth.faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if growth.faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except (BenchError, LoadError) as error:
        sys.exit(f"bench.growth: {error}")
