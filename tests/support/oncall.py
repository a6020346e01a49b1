"""The on-call side over a real store, for tests: its stores and receivers without the parts that work on them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alerts.rendering.payload import Wording
from alerts.store.group_store import GroupStore
from alerts.store.incidents import IncidentStore
from alerts.store.silences import SilenceStore
from monitor.daemon.oncall.service import OnCall
from tests.support.alerts_fakes import Inbox
from tests.support.stores import alert_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from alerts.receivers import Receiver
    from alerts.store.port import StorePort
    from monitor.store import Store


@dataclass(frozen=True, kw_only=True)
class Alerts:
    """What the port needs of the alert service. ``woken`` is who was to be looked at."""

    groups: Mapping[str, GroupStore]
    incidents: IncidentStore
    silences: SilenceStore
    receivers: Mapping[str, Receiver]
    wording: Wording
    owners: Mapping[str, frozenset[str]] = field(default_factory=dict)
    woken: list[str] = field(default_factory=list)

    def wake(self, receiver: str) -> None:
        self.woken.append(receiver)


def made(url: str, names: Mapping[str, Sequence[str]] | None) -> tuple[Alerts, StorePort]:
    """Receivers with the tenants that they belong to, or a shared `ops`; the connections are made when first needed."""
    names = names or {"ops": ()}
    store = alert_store(url)
    alerts = Alerts(
        groups={name: GroupStore(store, name) for name in names},
        incidents=IncidentStore(store),
        silences=SilenceStore(store),
        owners={name: frozenset(tenants) for name, tenants in names.items() if tenants},
        receivers={name: Inbox(name=name) for name in names},
        wording=Wording(public_url="", redact=()),
    )
    return alerts, store


@asynccontextmanager
async def opened(url: str, names: Mapping[str, Sequence[str]] | None) -> AsyncIterator[Alerts]:
    """As `made`; the connections are closed in the end."""
    alerts, store = made(url, names)
    try:
        yield alerts
    finally:
        await store.close()


def port(alerts: Alerts, store: Store) -> OnCall:
    """The on-call operations over them."""
    return OnCall(alerts, store=store, now_ms=store.clock.now_ms)
