"""Events noted in incidents and counted as deaths, as the router does, without receivers."""

from collections.abc import Callable, Mapping, Sequence

from alerts.groups.incidents import Noted
from alerts.loops import Tries
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import FailureVerdict, MassFailures
from alerts.store.port import StorePort
from alerts.store.routing import RoutingStore, Written
from monitor.events import Event

PER_BATCH = 100


def nowhere(_: Event) -> None:
    return None


async def record(
    incidents: IncidentStore,
    partition: int,
    events: Sequence[Event],
    targets_of: Callable[[Event], Mapping[str, str]],
    *,
    part_of: Callable[[Event], str | None] = nowhere,
    now_ms: int,
) -> list[Noted]:
    """Apply events of one partition to the incidents: for each event its incident and its recorded targets."""
    batches = RoutingStore(incidents._store, incidents._retention)
    noted: list[Noted] = []
    for start in range(0, len(events), PER_BATCH):
        some, tries, written = events[start : start + PER_BATCH], Tries("an incident"), Written.CHANGED
        while written is Written.CHANGED:
            await tries.begin()
            reading = await batches.read(partition, some, receivers={})
            reading.incidents.fold_all(some, targets_of, part_of)
            written = await batches.write(partition, reading, {}, token=0, position="", now_ms=now_ms)
        assert written is Written.DONE
        for membership in reading.incidents.environments.values():
            await incidents.join(membership, now_ms=now_ms)
        noted += reading.incidents.noted
    return noted


async def judged(
    store: StorePort,
    mass_failures: MassFailures,
    partition: int,
    deaths: Sequence[Event],
    returns: Sequence[Event] = (),
    *,
    now_ms: int,
) -> FailureVerdict:
    """Count deaths and returns of one environment in a partition."""
    first = (*deaths, *returns)[0]
    where = first.tenant, first.environment_name
    batches = RoutingStore(store)
    reading = await batches.read(partition, [], receivers={}, environments=[where])
    window = reading.windows[where]
    verdict = await mass_failures.judge(
        window, *where, partition=partition, deaths=deaths, returns=returns, now_ms=now_ms
    )
    assert await batches.write(partition, reading, {}, token=0, position="", now_ms=now_ms) is Written.DONE
    return verdict
