"""A store behind Sentinel that loses its primary in each way that we know: beats go on, and only to the new one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from alerts.store.receivers import ReceiverStore
from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError
from monitor.store import Store, StoreDeniedError, StoreRefusedError
from monitor.store.connection import WRITERS
from monitor.store.results import STORED
from tests.support import sentinels, servers
from tests.support.daemons import until
from tests.support.fleets import tasks_of
from tests.support.sentinels import Node, Watched
from tests.support.stores import INTERVAL_MS, alert_store, beat, opened

TIMEOUT_S: Final = 1.0
BEYOND_S: Final = 2.0
"""Maximum overrun of a call's time limit on a loaded machine."""
ONE: Final = (STORED, INTERVAL_MS)


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    found = servers.valkey_binary() if request.param == "valkey" else servers.redis_binary()
    if found is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    return found


@pytest.fixture
def group(binary: Path) -> Iterator[Watched]:
    """A primary, two replicas and a Sentinel, once of Valkey and once of Redis."""
    with sentinels.watched(binary, replicas=2) as found:
        yield found


@pytest.fixture
def valkeys() -> Iterator[Watched]:
    """The same of Valkey only, for what is our own doing."""
    with sentinels.watched(replicas=2) as found:
        yield found


async def blocking(call: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    return await asyncio.to_thread(call, *args, **settings)


def leads_to(store: Store, node: Node) -> bool:
    """Whether the store uses this server as the primary."""
    primary = store.connection.address._primary
    return primary is not None and primary.address == node.address


async def known(store: Store, node: Node) -> None:
    await blocking(until, lambda: leads_to(store, node), "the store knows the new primary")


async def there(node: Node) -> set[str]:
    """The workers that this server has."""
    async with opened(node.url) as direct:
        return set(await tasks_of(direct))


async def busy(store: Store, prefix: str) -> set[str]:
    """Beats over every connection at once, so that each has been used; their workers."""
    names = [f"{prefix}-{number}" for number in range(4 * WRITERS)]
    results = await asyncio.gather(*(store.beat(0, [beat(name)]) for name in names))
    assert {outcome for result in results for outcome in result.outcomes} == {ONE}
    return set(names)


class Beating:
    """New workers, one beat after another, and the results."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.acknowledged: list[tuple[float, str]] = []
        self.refused: list[str] = []
        self.slowest_s = 0.0
        self._store, self._prefix = store, prefix
        self._ending = asyncio.Event()

    async def run(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            name = f"{self._prefix}-{number}"
            began_s = monotonic_s()
            try:
                result = await self._store.beat(0, [beat(name)])
            except StoreUnavailableError as error:
                self.refused.append(str(error))
            else:
                assert result.outcomes == [ONE]
                self.acknowledged.append((monotonic_s(), name))
            self.slowest_s = max(self.slowest_s, monotonic_s() - began_s)
            await asyncio.sleep(0.005)

    def end(self) -> None:
        self._ending.set()

    def since(self, when_s: float) -> set[str]:
        return {name for at_s, name in self.acknowledged if at_s >= when_s}

    async def more(self, count: int = 20) -> None:
        """Wait for ``count`` more acknowledged beats."""
        enough = len(self.acknowledged) + count
        await blocking(until, lambda: len(self.acknowledged) >= enough, f"{count} more beats; {self.refused[-1:]}")


@asynccontextmanager
async def beating(store: Store, prefix: str = "b") -> AsyncIterator[Beating]:
    made = Beating(store, prefix)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        made.end()
        await task


async def test_p10_beats_go_on_after_the_primary_is_killed_and_after_an_ordered_failover(group: Watched) -> None:
    async with opened(group.url, timeout_s=TIMEOUT_S, workers_per_tenant=10**6) as store, beating(store) as beats:
        await beats.more()
        old = group.primary()
        old.kill()
        new = await blocking(group.another, than=old)
        await known(store, new)
        since_s = monotonic_s()
        await beats.more()
        assert beats.since(since_s) <= await there(new)

        await blocking(old.start)
        await blocking(group.settled)
        newer = await blocking(group.failover)
        await known(store, newer)
        since_s = monotonic_s()
        await beats.more()
        assert beats.since(since_s) <= await there(newer)
        assert beats.slowest_s < TIMEOUT_S + BEYOND_S


async def test_a_former_primary_that_was_only_paused_gets_no_beat_when_it_is_back(group: Watched) -> None:
    """It takes writes still, and the connections to it are alive: a beat to it would be acknowledged and lost."""
    async with opened(group.url, timeout_s=TIMEOUT_S) as store:
        await busy(store, "before")
        old = group.primary()
        old.pause()
        new = await blocking(group.another, than=old)
        await known(store, new)
        old.resume()
        late = await busy(store, "late")
        assert late <= await there(new)


async def test_a_coordinated_failover_loses_no_acknowledged_beat(valkeys: Watched) -> None:
    async with opened(valkeys.url, timeout_s=20.0, workers_per_tenant=10**6) as store, beating(store) as beats:
        await beats.more()
        new = await blocking(valkeys.failover, "COORDINATED")
        await known(store, new)
        await beats.more()
        assert {name for _, name in beats.acknowledged} <= await there(new)


async def test_a_call_that_a_paused_primary_holds_is_made_again_on_the_new_one(valkeys: Watched) -> None:
    async with opened(valkeys.url, timeout_s=20.0) as store:
        await store.beat(0, [beat("before")])
        old = valkeys.primary()
        old.pause()
        held = asyncio.create_task(store.beat(0, [beat("held")]))
        new = await blocking(valkeys.another, than=old)
        async with asyncio.timeout(10):
            assert (await held).outcomes == [ONE]
        assert "held" in await there(new)


@pytest.mark.parametrize("needed", [0, 1])
def test_a_former_primary_takes_beats_that_are_lost_unless_it_needs_a_replica_to_write(needed: int) -> None:
    """A daemon reaches only the old primary, and no Sentinel. Only that server itself can inform the daemon."""

    async def beat_to(node: Node, name: str) -> list[tuple[int, int]]:
        async with opened(node.url, timeout_s=TIMEOUT_S) as cut_off:
            return (await cut_off.beat(0, [beat(name)])).outcomes

    with sentinels.watched(options=("--min-replicas-to-write", str(needed))) as valkeys:
        assert asyncio.run(beat_to(valkeys.primary(), "before")) == [ONE]
        old = valkeys.primary()
        valkeys.sentinels[0].ask("DEBUG", "publish-period", "60000")  # it is not demoted before we have looked
        old.pause()
        new = valkeys.another(than=old)
        old.resume()
        if needed:
            with pytest.raises(StoreUnavailableError, match="NOREPLICAS"):
                asyncio.run(beat_to(old, "late"))
        else:
            assert asyncio.run(beat_to(old, "late")) == [ONE]
        valkeys.sentinels[0].ask("DEBUG", "publish-period", "100")
        valkeys.settled()
        assert asyncio.run(there(new)) == {"before"}


async def test_p10_a_demoted_primary_acknowledges_nothing(group: Watched) -> None:
    """Sentinel is away and cannot report the change. The demoted server itself reports that it is a replica now."""
    async with opened(group.url, timeout_s=TIMEOUT_S) as store:
        await busy(store, "before")
        old, new = group.primary(), group.replicas()[0]
        group.sentinels[0].kill()
        new.ask("REPLICAOF", "NO", "ONE")
        old.ask("REPLICAOF", *new.address)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await store.beat(0, [beat("nowhere")])
        await blocking(group.sentinels[0].watch, new)
        async with beating(store) as beats:
            await beats.more()
        assert {name for _, name in beats.acknowledged} <= await there(new)


async def test_a_sentinel_that_names_a_replica_is_not_believed(valkeys: Watched) -> None:
    new = valkeys.replicas()[0]
    valkeys.sentinels[0].kill()
    await blocking(valkeys.sentinels[0].watch, new)
    with pytest.raises(StoreUnavailableError, match="as the primary, which says that it is none"):
        async with opened(valkeys.url, timeout_s=TIMEOUT_S):
            raise AssertionError("it opened")


async def test_sentinels_are_asked_in_their_order_and_one_that_is_away_is_passed_over() -> None:
    with sentinels.watched(sentinels=3) as group:
        first, second, third = group.sentinels
        first.kill()
        second.pause()
        began_s = monotonic_s()
        async with opened(group.url, timeout_s=3.0) as store:
            assert (await store.beat(0, [beat()])).outcomes == [ONE]
            assert monotonic_s() - began_s < 3.0 + BEYOND_S
            # All away: what there is goes on, and what has to be found is not.
            third.kill()
            assert (await store.beat(0, [beat()])).outcomes == [ONE]
            async with asyncio.timeout(TIMEOUT_S + BEYOND_S):
                with pytest.raises(StoreUnavailableError, match="no Sentinel says where the primary is"):
                    async with opened(group.url, timeout_s=TIMEOUT_S):
                        raise AssertionError("it opened")
            old = group.nodes[0]
            old.kill()
            for _ in range(3):
                async with asyncio.timeout(3.0 + BEYOND_S):
                    with pytest.raises(StoreUnavailableError):
                        await store.beat(0, [beat()])
            await blocking(old.start)
            second.resume()
            async with beating(store) as beats:
                await beats.more()


async def test_a_service_that_sentinel_does_not_know_is_named(valkeys: Watched) -> None:
    url = valkeys.url.replace("/lastseen", "/other")
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:\d+: there is no service 'other'"):
        async with opened(url):
            raise AssertionError("it opened")


async def test_p26_a_new_primary_that_evicts_is_found_out(valkeys: Watched) -> None:
    """Sentinel does not report the eviction policy. The daemon asks the current primary for it."""
    async with opened(valkeys.url, timeout_s=TIMEOUT_S) as store:
        assert await store.connection.evicting_policy() is None
        for node in valkeys.replicas():
            node.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        new = await blocking(valkeys.failover)
        await known(store, new)
        assert await store.connection.evicting_policy() == "allkeys-lru"
        with pytest.raises(StoreRefusedError, match="maxmemory-policy is 'allkeys-lru'"):
            async with opened(valkeys.url):
                raise AssertionError("it opened")


async def test_a_new_primary_without_the_functions_gets_them(valkeys: Watched) -> None:
    async with opened(valkeys.url, timeout_s=TIMEOUT_S) as store:
        await store.beat(0, [beat()])
        new = await blocking(valkeys.failover)
        assert new.ask("FUNCTION", "LIST") != []  # they are replicated as data is
        await known(store, new)
        new.ask("FUNCTION", "FLUSH")
        assert (await store.beat(0, [beat()])).outcomes == [ONE]


async def test_the_delivery_queue_follows_the_primary_too(valkeys: Watched) -> None:
    async with opened(valkeys.url, timeout_s=TIMEOUT_S) as store:
        queue = alert_store(store.connection.address)
        assert (await ReceiverStore(queue).register(["a"]))[0] == []
        old = valkeys.primary()
        old.pause()
        new = await blocking(valkeys.another, than=old)
        await known(store, new)
        old.resume()
        assert (await ReceiverStore(queue).register(["b"]))[0] == ["a"]
        assert {name.decode() for name in new.ask("SMEMBERS", "{ls.shared:0}:receivers")} == {"a", "b"}
        for sentinel in valkeys.sentinels:
            sentinel.kill()
        new.kill()
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailableError):
                await ReceiverStore(queue).register(["c"])
        await queue.close()


async def test_users_of_the_servers_and_the_sentinels_are_distinguished_and_no_password_is_shown(binary: Path) -> None:
    options = ("--user", "lastseen", "on", ">hunter2", "~*", "&*", "+@all")
    with sentinels.watched(binary, options=options, sentinel_lines=("user watcher on >swordfish +@all",)) as group:
        url = group.url.replace("redis+sentinel://", "redis+sentinel://lastseen:hunter2@")
        theirs = "?sentinel_username=watcher&sentinel_password="
        async with opened(f"{url}/0{theirs}swordfish") as store:
            assert (await store.beat(0, [beat()])).outcomes == [ONE]
        for wrong, expected in (
            (f"{url}/0{theirs}hunter2", "no Sentinel says"),
            (f"{url.replace('hunter2', 'swordfish')}/0{theirs}swordfish", "invalid username-password pair"),
        ):
            with pytest.raises(StoreDeniedError, match=f"credentials.*{expected}") as refusal:
                async with opened(wrong):
                    raise AssertionError("it opened")
            shown = f"{refusal.value} {refusal.value.__cause__!r}"
            assert not any(secret in shown for secret in ("hunter2", "swordfish"))


def certificate(directory: Path) -> Path:
    """One for 127.0.0.1 that is its own authority, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lastseen-test")])
    made = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "tls.pem"
    path.write_bytes(
        made.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


async def test_servers_and_sentinels_over_tls(tmp_path: Path) -> None:
    program = servers.redis_binary()
    if program is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    file = certificate(tmp_path)
    with sentinels.watched(program, certificate=file) as group:
        async with opened(f"{group.url}?tls=all&ssl_ca_certs={file}", timeout_s=TIMEOUT_S) as store:
            await store.beat(0, [beat()])
            old = group.primary()
            old.kill()
            await known(store, await blocking(group.another, than=old))
            assert (await store.beat(0, [beat()])).outcomes == [ONE]
        with pytest.raises(
            StoreUnavailableError, match="certificate verify failed"
        ):  # of an authority that is not known
            async with opened(f"{group.url}?tls=all", timeout_s=TIMEOUT_S):
                raise AssertionError("it opened")


async def test_another_database_of_the_servers_is_used(valkeys: Watched) -> None:
    async with opened(f"{valkeys.url}/3") as store:
        await store.beat(0, [beat()])
    assert "db3" in valkeys.primary().ask("INFO", "keyspace")
