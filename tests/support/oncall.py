"""The on-call side over a real store, for tests: its stores and receivers without the parts that work on them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from alerts.rendering.payload import Wording
from alerts.service import AlertService, AlertSettings
from alerts.store.port import StorePort
from monitor.store.endpoint import Address
from tests.support.alerts_fakes import CALM, Clock, Inbox, ListSource, Tally
from tests.support.stores import alert_store


class Alerts(AlertService):
    """The alert service, not started. ``woken``: how often due deliveries were looked for at once."""

    woken: int

    async def wake(self) -> None:
        self.woken += 1


def made(url: str, names: Mapping[str, Sequence[str]] | None) -> tuple[Alerts, StorePort]:
    """Receivers with the tenants that they belong to, or a shared `ops`; the store is founded before its first call."""
    names = names or {"ops": ()}
    store = alert_store(Address(url, timeout_s=2.0))
    alerts = Alerts(
        AlertSettings(
            receivers=[Inbox(name=name) for name in names],
            routes=(),
            owners={name: frozenset(tenants) for name, tenants in names.items() if tenants},
            wording=Wording(public_url="", redact=()),
        ),
        store=store,
        source=ListSource([]),
        partitions=0,
        fleet=CALM,
        now_ms=Clock(),
        counts=Tally(),
    )
    alerts.woken = 0
    return alerts, store


@asynccontextmanager
async def opened(url: str, names: Mapping[str, Sequence[str]] | None) -> AsyncIterator[Alerts]:
    """As `made`; the connections are closed in the end."""
    alerts, store = made(url, names)
    try:
        yield alerts
    finally:
        await store.close()
