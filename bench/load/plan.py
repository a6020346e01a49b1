"""What is sent, and when: pure. Times are seconds from the start of the load."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

BEAT_PATH: Final = "/api/v1/workers/heartbeat"
BATCH_PATH: Final = "/api/v1/workers/heartbeats"
ENVIRONMENT: Final = "load"
FIRST_COUNT: Final = 1_000_000_000
"""``tasks_processed`` counts from here, so that it differs from beat to beat and its length does not."""
WORKER_ID: Final = "6c6f6164-0000-4000-8000-%012x"
"""Ids have the form of a UUID, and are the same in every run."""
_CHUNK: Final = 4_096
_ID_BYTES: Final = WORKER_ID.encode()


class Ids(StrEnum):
    """Which worker the next beat is of."""

    TURN = "turn"
    """Each in turn, as a fleet with one interval beats."""
    UNIFORM = "uniform"
    ZIPF = "zipf"
    """The k-th worker in proportion to 1/k."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One load. ``rate`` is in beats per second; None: closed loop, each connection sends when it was answered."""

    url: str
    tokens: Sequence[str]
    rate: float | None
    duration_s: float
    ramp_s: float = 0.0
    connections: int = 64
    workers: int = 10_000
    keep_alive: bool = True
    ids: Ids = Ids.UNIFORM
    metadata_bytes: int = 0
    batch: int = 1
    """Beats in one request; 1: the endpoint for single beats."""
    timeout_s: float = 5.0

    @property
    def requests_per_s(self) -> float | None:
        """The rate of requests."""
        return None if self.rate is None else self.rate / self.batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The part of one of several processes: every ``of``-th request, from number ``index`` on."""

    index: int = 0
    of: int = 1

    def connections(self, plan: Plan) -> int:
        """How many connections this process has; the shares add up to the plan's."""
        return plan.connections // self.of + (self.index < plan.connections % self.of)


class Schedule:
    """When request 0, 1, 2... of one process are to be sent: the rate grows for ``ramp_s``, then stays.

    Request n of the whole load is the one with which the area under the rate reaches n.
    """

    def __init__(self, *, per_s: float, duration_s: float, ramp_s: float, share: Share) -> None:
        self._per_s = per_s
        self._ramp_s = ramp_s
        self._in_ramp = per_s * ramp_s / 2
        self._share = share
        self.total = self._of_share(self._in_ramp + per_s * duration_s)

    def time_s(self, number: int) -> float:
        """When this process is to send its request of this number."""
        whole = number * self._share.of + self._share.index
        if whole < self._in_ramp:
            return math.sqrt(2 * self._ramp_s * whole / self._per_s)
        return self._ramp_s + (whole - self._in_ramp) / self._per_s

    def due(self, now_s: float) -> int:
        """How many requests of this process are to be sent before ``now_s``."""
        if now_s < self._ramp_s:
            area = self._per_s * now_s * now_s / (2 * self._ramp_s)
        else:
            area = self._in_ramp + self._per_s * (now_s - self._ramp_s)
        return min(self._of_share(area), self.total)

    def _of_share(self, whole: float) -> int:
        return max(math.ceil((round(whole, 6) - self._share.index) / self._share.of), 0)


def beat_template(metadata_bytes: int) -> bytes:
    """A beat with the fields of the contract; ``%b`` stands for the worker's id, ``%d`` for its count of tasks."""
    beat = {
        "worker_id": "@",
        "environment_name": ENVIRONMENT,
        "status": "busy",
        "tasks_processed": 0,
        "current_task_id": "0b1f7c52-5d0e-4a57-9a43-6e1f0c3c7d11",
        "worker_metadata": {"host": "worker-17.eu-west.example.org", "version": "2.4.1"},
    }
    if metadata_bytes:
        beat["worker_metadata"] = {"filler": "x" * max(metadata_bytes - len('{"filler":""}'), 0)}
    text = json.dumps(beat, separators=(",", ":"))
    return text.replace('"@"', '"%b"').replace('"tasks_processed":0', '"tasks_processed":%d').encode()


def _beat(template: bytes, worker: int, count: int) -> bytes:
    return template % (_ID_BYTES % worker, count)


def request_heads(plan: Plan) -> list[bytes]:
    """What precedes the body, for each token; all bodies of a plan have one length."""
    beat_bytes = len(_beat(beat_template(plan.metadata_bytes), 0, FIRST_COUNT))
    single = plan.batch == 1
    body_bytes = beat_bytes if single else plan.batch * (beat_bytes + 1) + 1
    lines = [
        f"POST {BEAT_PATH if single else BATCH_PATH} HTTP/1.1",
        f"Host: {urlsplit(plan.url).netloc}",
        "Content-Type: application/json",
        f"Content-Length: {body_bytes}",
        *([] if plan.keep_alive else ["Connection: close"]),
    ]
    return ["\r\n".join([*lines, f"Authorization: Bearer {token}", "", ""]).encode() for token in plan.tokens]


class Requests:
    """The bytes of one request after the other. A worker always uses the same token, a batch that of its first."""

    def __init__(self, plan: Plan, *, share: Share) -> None:
        self._batch = plan.batch
        self._template = beat_template(plan.metadata_bytes)
        self._workers = _numbers(plan, share)
        self._count = FIRST_COUNT
        self._heads = request_heads(plan)

    def next(self) -> bytes:
        """The next request."""
        first = next(self._workers)
        head = self._heads[first % len(self._heads)]
        if self._batch == 1:
            return head + self._filled(first)
        others = itertools.islice(self._workers, self._batch - 1)
        return b"%b[%b]" % (head, b",".join([self._filled(first), *map(self._filled, others)]))

    def _filled(self, worker: int) -> bytes:
        self._count += 1
        return _beat(self._template, worker, self._count)


def _numbers(plan: Plan, share: Share) -> Iterator[int]:
    """The workers of this process's beats; nothing here is secret."""
    if plan.ids is Ids.TURN:
        for start in itertools.count(share.index * plan.batch, share.of * plan.batch):
            yield from (number % plan.workers for number in range(start, start + plan.batch))
    source = random.Random(share.index)  # noqa: S311 - a spread, not a secret
    everyone = range(plan.workers)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in everyone)) if plan.ids is Ids.ZIPF else None
    while True:
        yield from source.choices(everyone, cum_weights=weights, k=_CHUNK)
