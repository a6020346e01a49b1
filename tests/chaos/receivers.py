"""Webhook receivers that check signatures, record arrivals and fail on request."""

import asyncio
import base64
import hashlib
import hmac
from typing import Final

from aiohttp import web

from monitor.clock import wall_ms
from tests.chaos.record import HOSTILE, Arrival
from tests.chaos.timeline import Timeline
from tests.support.daemons import WEBHOOK_SECRET

HANG_S: Final = 5.0
"""Longer than the daemons wait."""


class Receiver:
    """One receiver; its port stays its own. ``answer`` None: it takes requests and does not answer."""

    def __init__(self, name: str, port: int, timeline: Timeline, arrivals: list[Arrival]) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}/hook"
        self.answer: int | None = 204
        self.delay_s = 0.0
        """How long it takes over each answer."""
        self.hostile = 0
        """The number of requests about the hostile tenant, which are not recorded as arrivals."""
        self._port = port
        self._timeline = timeline
        self._arrivals = arrivals
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    async def open(self) -> None:
        """Begin to listen, or begin again."""
        if self._runner is None:
            app = web.Application()
            app.router.add_post("/hook", self._take)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
        if self._site is None:
            self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
            await self._site.start()

    async def close(self) -> None:
        """Refuse connections, and end those that there are."""
        runner, self._runner, self._site = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        answered = self.answer
        headers = request.headers
        webhook_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "0")
        arrival = Arrival(
            receiver=self.name,
            at_s=self._timeline.now_s(),
            webhook_id=webhook_id,
            body=body,
            answered=answered,
            is_signed=_signature(webhook_id, stamp, body) in headers.get("webhook-signature", "").split(),
            age_s=wall_ms() / 1000 - float(stamp),
        )
        if arrival.tenant == HOSTILE:
            self.hostile += 1
        else:
            self._arrivals.append(arrival)
        await asyncio.sleep(self.delay_s)
        if answered is None:
            await asyncio.sleep(HANG_S)
            return web.Response(status=500)
        return web.Response(status=answered)


def _signature(webhook_id: str, stamp: str, body: bytes) -> str:
    """As Standard Webhooks says. Its library would refuse a store whose clock we stepped ourselves."""
    key = base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{webhook_id}.{stamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"
