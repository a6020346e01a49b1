"""The operators on call during a run: they silence workers, end silences early and acknowledge incidents."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from tests.chaos.cast import READ_TIMEOUT_S, ask
from tests.chaos.life import Care, Hush
from tests.chaos.record import DOWN, Ack, Arrival, Record, Silence
from tests.chaos.timeline import Timeline

AGAIN_S: Final = 0.2
"""Pause before they retry with the next daemon."""
LOOK_S: Final = 0.1


class OnCall:
    """Does what the plan says; ``receiver`` is the one that notifies the operators of their workers."""

    def __init__(self, record: Record, timeline: Timeline, ports: Sequence[int], token: str, *, receiver: str) -> None:
        self._record = record
        self._timeline = timeline
        self._ports = ports
        self._token = token
        self._receiver = receiver

    async def hush(self, hush: Hush) -> None:
        """Begin a silence, and end it early if that is planned."""
        await self._timeline.reach(hush.at_s)
        begun, asked_s = None, self._timeline.now_s()
        body = {"matchers": {"worker_id": hush.worker}, "for_seconds": hush.for_s}
        for number in range(round(hush.for_s / AGAIN_S)):
            asked_s = self._timeline.now_s()
            status, answer = await self._post("/api/v1/silences", body, number)
            begun_s = self._timeline.now_s() if status == 201 else None
            if status == 201 or status is None or status >= 500:
                self._note(hush, asked_s, begun_s)
            if status == 201:
                begun = answer
                break
            await self._timeline.reach(self._timeline.now_s() + AGAIN_S)
        if begun is not None and hush.ended_s is not None:
            await self._end(hush, begun["id"], asked_s)

    def _note(self, hush: Hush, asked_s: float, begun_s: float | None) -> None:
        self._record.silences.append(
            Silence(
                worker=hush.worker,
                asked_s=asked_s,
                begun_s=begun_s,
                kept_s=asked_s + hush.for_s,
                over_s=self._timeline.now_s() + READ_TIMEOUT_S + hush.for_s,
            )
        )

    async def _end(self, hush: Hush, silence_id: str, asked_s: float) -> None:
        assert hush.ended_s is not None
        await self._timeline.reach(hush.ended_s)
        kept_s = self._timeline.now_s()
        if kept_s >= asked_s + hush.for_s:
            return
        place = next(place for place, one in enumerate(self._record.silences) if one.asked_s == asked_s)
        known = self._record.silences[place]
        self._record.silences[place] = replace(known, kept_s=kept_s)
        for number in range(round(hush.for_s / AGAIN_S)):
            port = self._ports[number % len(self._ports)]
            path = f"/api/v1/silences/{silence_id}"
            status, _ = await ask(port, self._token, "DELETE", path, timeout_s=READ_TIMEOUT_S)
            if status in {204, 404}:
                return
            await self._timeline.reach(self._timeline.now_s() + AGAIN_S)

    async def care(self, care: Care) -> None:
        """Acknowledge each incident of the worker some time after its first notification came."""
        handled: set[str] = set()
        while True:
            page = self._first_page(care.worker, handled)
            if page is None:
                await self._timeline.reach(self._timeline.now_s() + LOOK_S)
                continue
            incident_id = str(page.data["incident_id"])
            handled.add(incident_id)
            await self._timeline.reach(page.at_s + care.after_s)
            await self._acknowledge(care.worker, incident_id)

    def _first_page(self, worker: str, handled: set[str]) -> Arrival | None:
        for arrival in self._record.arrivals:
            if arrival.receiver == self._receiver and arrival.type in DOWN:
                data = arrival.data
                if data["worker_id"] == worker and data["incident_id"] not in {None, *handled}:
                    return arrival
        return None

    async def _acknowledge(self, worker: str, incident_id: str) -> None:
        for number in range(20):
            asked_s = self._timeline.now_s()
            status, answer = await self._post(f"/api/v1/incidents/{incident_id}/ack", None, number)
            if status == 200:
                self._record.acks.append(
                    Ack(worker=worker, incident_id=incident_id, asked_s=asked_s, done_s=self._timeline.now_s())
                )
                return
            if status in {404, 409} and answer is not None:
                return  # it is over, or a loss took it
            await self._timeline.reach(self._timeline.now_s() + AGAIN_S)

    async def _post(self, path: str, body: object, number: int) -> tuple[int | None, Any]:
        port = self._ports[number % len(self._ports)]
        status, answer = await ask(port, self._token, "POST", path, body, timeout_s=READ_TIMEOUT_S)
        try:
            return status, json.loads(answer) if answer else None
        except ValueError:
            return status, None
