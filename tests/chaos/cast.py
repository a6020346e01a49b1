"""The clients of the daemons during a run: the workers, the probes, and the readers of the status API."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tests.chaos.life import Ending, Life
from tests.chaos.record import CROWD, ENVIRONMENT, NIGHT, Entry, Probe, Reading, Record, Said, Try
from tests.chaos.timeline import Timeline
from tests.support.fleets import Connection, Reply

PROBE_EVERY_S: Final = 0.1
PROBE_TIMEOUT_S: Final = 0.5
MOST_PROBES: Final = 6
"""In flight to one daemon."""
WARM_UP_S: Final = 10.0
READ_EVERY_S: Final = 0.25
READ_TIMEOUT_S: Final = 2.0
NO_ANSWER: Final = (
    OSError,
    asyncio.IncompleteReadError,
    TimeoutError,
    asyncio.LimitOverrunError,
    ValueError,
    IndexError,
)
"""What a connection ends with that is cut, refused, reset or silent, or whose answer was cut short."""
TOO_MANY: Final = 429
BEAT_PATH: Final = "/api/v1/workers/heartbeat"
PROBES: Final = 8
"""The number of workers that probe one daemon, so that none sends more than one worker may."""
FLOODING: Final = 20
FLOOD_EVERY_S: Final = 0.04
PATIENT_S: Final = 86_400.0
"""The interval of a probe's worker, so long that the worker never misses a beat."""
ENVIRONMENTS: Final = "".join(f"&environment={name}" for name in (ENVIRONMENT, NIGHT, CROWD))
BEATS: Final = frozenset({Said.BEAT, Said.EXPIRED})
GOODBYES: Final[dict[Said, dict[str, object]]] = {
    Said.CLEAN: {"reason": "shutdown", "exit_code": 0},
    Said.FAILURE: {"reason": "crash", "exit_code": 1},
}


async def ask(
    port: int, token: str, method: str, path: str, body: object = None, *, timeout_s: float
) -> tuple[int | None, bytes]:
    """The status and body of the answer, over a connection of its own; None when there was none in time."""
    reply = await reply_of(port, token, method, path, body, timeout_s=timeout_s)
    return (None, b"") if reply is None else (reply.status, reply.body)


async def reply_of(
    port: int, token: str, method: str, path: str, body: object = None, *, timeout_s: float
) -> Reply | None:
    """The answer, over a connection of its own; None when there was none in time."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await Connection.to(port, token)
            return await connection.ask(method, path, body, limit_s=timeout_s)
    except NO_ANSWER:
        return None
    finally:
        if connection is not None:
            connection.writer.transport.abort()


def _probing(daemon: int, number: int) -> dict[str, object]:
    return {"worker_id": f"probe-{daemon}-{number}", "environment_name": "probes", "interval_seconds": PATIENT_S}


class Cast:
    """All clients of the daemons at ``ports``."""

    def __init__(
        self, record: Record, timeline: Timeline, ports: Sequence[int], token: str, *, expired_token: str
    ) -> None:
        self._record = record
        self._timeline = timeline
        self._ports = ports
        self._token = token
        self._expired_token = expired_token
        self._cursor = ""
        self._known: set[str] = set()

    # Workers ------------------------------------------------------------------------------------------------------

    async def live(self, life: Life) -> None:
        """A worker's life, to the end of the run if it does not end before."""
        self._record.workers[life.worker.name] = life.worker
        counts = itertools.count(1)
        daemon = life.fixed if life.fixed is not None else len(life.worker.name) % len(self._ports)
        (begins_s, until_s), *again = life.spells
        await self._timeline.reach(begins_s)
        daemon = await self._beat(life, daemon, counts, until_s)
        said = {Ending.CLEAN: Said.CLEAN, Ending.FAILS: Said.FAILURE}.get(life.ending)
        if said is not None:
            await self._say(life, said, daemon, next(counts))
        if life.expired_until_s is not None:
            daemon = await self._beat(life, daemon, counts, life.expired_until_s, said=Said.EXPIRED)
        for back_s, until_s in again:
            await self._timeline.reach(back_s)
            daemon = await self._beat(life, daemon, counts, until_s)

    async def _beat(
        self, life: Life, daemon: int, counts: "itertools.count[int]", until_s: float | None, *, said: Said = Said.BEAT
    ) -> int:
        """Beat at the interval, to the daemon that served last, or to the next one after a failure. Clients in the
        field do not try again before their next beat is due, and neither does this one."""
        while until_s is None or self._timeline.now_s() < until_s:
            sent_s = self._timeline.now_s()
            was_heard = await self._say(life, said, daemon, next(counts))
            if not was_heard and life.fixed is None:
                daemon = (daemon + 1) % len(self._ports)
            next_s = sent_s + (life.every_s or life.worker.interval_s)
            await self._timeline.reach(next_s if until_s is None else min(next_s, until_s))
        return daemon

    async def _say(self, life: Life, said: Said, daemon: int, count: int) -> bool:
        worker, sent_s = life.worker, self._timeline.now_s()
        if said in BEATS:
            path: str = BEAT_PATH
            body: dict[str, object] = {
                "worker_id": worker.name,
                "environment_name": worker.environment,
                "tasks_processed": count,
                "interval_seconds": worker.interval_s,
                "grace_seconds": worker.grace_s,
            }
        else:
            path, body = f"/api/v1/workers/{worker.name}/disconnect", GOODBYES[said]
        # A goodbye that is a failure is answered when it is on disk.
        timeout_s = worker.interval_s if said in BEATS else worker.interval_s + READ_TIMEOUT_S
        bearer = self._expired_token if said is Said.EXPIRED else self._token
        reply = await reply_of(self._ports[daemon], bearer, "POST", path, body, timeout_s=timeout_s)
        asked_back_s = reply.headers.get("retry-after") if reply else None
        one = Try(
            worker=worker.name,
            said=said,
            count=count,
            daemon=daemon,
            sent_s=sent_s,
            ended_s=self._timeline.now_s(),
            status=reply.status if reply else None,
            retry_after_s=float(asked_back_s) if asked_back_s else None,
        )
        (self._record.expired if said is Said.EXPIRED else self._record.tries).append(one)
        return one.is_stored or (said is Said.EXPIRED and one.is_refused) or one.status == TOO_MANY

    # Probes -------------------------------------------------------------------------------------------------------

    async def probe(self, daemon: int) -> None:
        """Ask one daemon again and again whether it takes beats."""
        async with asyncio.TaskGroup() as group:
            flying: set[asyncio.Task[None]] = set()
            for number in itertools.count():
                if len(flying) < MOST_PROBES:
                    task = group.create_task(self._probe(daemon, number % PROBES))
                    flying.add(task)
                    task.add_done_callback(flying.discard)
                await self._timeline.reach((number + 1) * PROBE_EVERY_S)

    async def _probe(self, daemon: int, number: int) -> None:
        sent_s = self._timeline.now_s()
        body = _probing(daemon, number)
        status, _ = await ask(self._ports[daemon], self._token, "POST", BEAT_PATH, body, timeout_s=PROBE_TIMEOUT_S)
        ended_s = self._timeline.now_s()
        self._record.probes.append(Probe(daemon=daemon, sent_s=sent_s, ended_s=ended_s, is_stored=status == 204))

    async def flood(self, daemon: int, number: int) -> None:
        """Beat for one worker of many after the other, over one connection, faster than a daemon that is slow can take
        it, and never mind what it answers."""
        while True:
            with contextlib.suppress(*NO_ANSWER):
                connection = await Connection.to(self._ports[daemon], self._token)
                try:
                    for turn in itertools.count():
                        name = f"flood-{number}-{turn % FLOODING}"
                        await connection.beat(
                            name, limit_s=READ_TIMEOUT_S, environment_name="probes", interval_seconds=PATIENT_S
                        )
                        await asyncio.sleep(FLOOD_EVERY_S)
                finally:
                    connection.writer.transport.abort()
            await asyncio.sleep(FLOOD_EVERY_S)

    async def warm_up(self) -> None:
        """Send the first requests, which take a daemon longer. On return receivers have been notified of all probes."""
        for port in self._ports:
            for path in ("/api/v1/workers?limit=1000", "/api/v1/events?limit=1000"):
                await ask(port, self._token, "GET", path, timeout_s=WARM_UP_S)
        for daemon, number in itertools.product(range(len(self._ports)), range(PROBES)):
            await ask(
                self._ports[daemon], self._token, "POST", BEAT_PATH, _probing(daemon, number), timeout_s=WARM_UP_S
            )
        await self._timeline.hold(self._probes_are_notified, within_s=WARM_UP_S)

    async def _probes_are_notified(self) -> bool:
        accepted = {one.webhook_id for one in self._record.arrivals if one.answered is not None}
        return len(accepted) >= PROBES * len(self._ports)

    # Readers ------------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Read the status and the history, from one daemon after the other."""
        for number in itertools.count():
            began_s = self._timeline.now_s()
            await self._read_workers(number % len(self._ports))
            await self.read_history(number % len(self._ports))
            await self._timeline.reach(began_s + READ_EVERY_S)

    async def _read_workers(self, daemon: int) -> None:
        asked_s = self._timeline.now_s()
        answer = await self.get(daemon, f"/api/v1/workers?limit=1000{ENVIRONMENTS}")
        if answer is None:
            return
        answered_s = self._timeline.now_s()
        self._record.readings += [
            Reading(
                worker=worker["worker_id"],
                daemon=daemon,
                asked_s=asked_s,
                answered_s=answered_s,
                liveness=worker["liveness"],
                count=worker["tasks_processed"],
            )
            for worker in answer["workers"]
        ]

    def forget_place(self) -> None:
        """Read the history from its beginning next: the store has another one."""
        self._cursor = ""

    async def read_history(self, daemon: int) -> None:
        """Read on in the history."""
        answer = await self.get(daemon, f"/api/v1/events?limit=1000{self._cursor}")
        if answer is not None:
            self._cursor = f"&cursor={answer['next_cursor']}"
            self._note(answer["events"])

    async def whole_history(self, daemon: int) -> list[str] | None:
        """The ids of the whole history now; None when it can't be read."""
        ids: list[str] = []
        cursor = ""
        while True:
            answer = await self.get(daemon, f"/api/v1/events?limit=1000{cursor}")
            if answer is None:
                return None
            if not answer["events"]:
                return ids
            self._note(answer["events"])
            ids += [event["data"]["event_id"] for event in answer["events"]]
            cursor = f"&cursor={answer['next_cursor']}"

    def _note(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            data = event["data"]
            if data["event_id"] in self._known:
                continue
            self._known.add(data["event_id"])
            self._record.entries.append(
                Entry(
                    at_s=self._timeline.now_s(),
                    event_id=data["event_id"],
                    kind=event["type"],
                    worker=data["worker_id"],
                    generation=data["generation"],
                    seq=data["seq"],
                    old=data["old"],
                    new=data["new"],
                    due_s=self._moment_s(data["due_at"]),
                    detected_s=self._moment_s(data["detected_at"]),
                    count=data["tasks_processed"],
                    outage_s=(data["monitor_outage"] or {}).get("seconds"),
                )
            )

    def _moment_s(self, text: str) -> float:
        return self._timeline.at_s(datetime.fromisoformat(text).timestamp() * 1000)

    async def get(self, daemon: int, path: str) -> Any:
        """The JSON of an answer 200; None without one."""
        status, body = await ask(self._ports[daemon], self._token, "GET", path, timeout_s=READ_TIMEOUT_S)
        with contextlib.suppress(ValueError):
            return json.loads(body) if status == 200 else None
        return None
