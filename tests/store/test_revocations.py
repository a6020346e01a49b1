"""Revoked tokens: by the file and by the command, on every replica, and on the fast path of heartbeats too."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest
from redis.asyncio import Redis

from monitor.auth import (
    Authenticator,
    AuthPolicy,
    Revocation,
    Revocations,
    Scope,
    UnauthenticatedError,
    mint,
    read_revocations,
)
from monitor.daemon.revoking import RevocationWatch
from monitor.store.revocations import RevocationList
from tests.support import api, daemons, servers
from tests.support.stores import ManualClock, opened

NOW_MS = 1_790_000_000_000
POLICY = AuthPolicy(keys=(api.KEY,), audience="lastseen", issuer="lastseen", leeway_s=0, tenant_claim="org_id")


def token(
    *,
    token_id: str = "t1",  # noqa: S107 - an id
    tenant: str = "acme",
    subject: str = "w1",
    now_ms: int = NOW_MS,
) -> str:
    return mint(
        key=api.KEY,
        tenant=tenant,
        tenant_claim="org_id",
        subject=subject,
        scopes=[Scope.HEARTBEAT_WRITE],
        now_ms=now_ms,
        expires_in_ms=60_000,
        audience="lastseen",
        issuer="lastseen",
        token_id=token_id,
    )


def refusal(auth: Authenticator, made: str, now_ms: int = NOW_MS + 1_000) -> str | None:
    try:
        auth.authenticate(authorization=f"Bearer {made}", user_key=None, now_ms=now_ms)
    except UnauthenticatedError as error:
        return error.reason.value
    return None


def test_p24_a_revoked_token_is_refused_also_when_it_was_found_good_before() -> None:
    auth = Authenticator(POLICY)
    first, second = token(), token(token_id="t2")
    for made in (first, second):
        assert refusal(auth, made) is None
        assert auth.known(auth.digest(f"Bearer {made}".encode()), now_ms=NOW_MS + 1_000) is not None
    auth.revoke(Revocations([Revocation("acme", "jti", "t1")]))
    assert auth.known(auth.digest(f"Bearer {first}".encode()), now_ms=NOW_MS + 1_000) is None
    assert (refusal(auth, first), refusal(auth, second)) == ("revoked", None)
    # An expired one is not evidence of life either.
    assert refusal(auth, first, NOW_MS + 120_000) == "revoked"
    auth.revoke(Revocations())
    assert refusal(auth, first) is None


@pytest.mark.parametrize(
    ("revoked", "covers"),
    [
        (Revocation("acme", "jti", "t1"), True),
        (Revocation(None, "jti", "t1"), True),
        (Revocation("other", "jti", "t1"), False),
        (Revocation("acme", "jti", "w1"), False),
        (Revocation("acme", "sub", "w1"), True),
        (Revocation(None, "sub", "w1"), True),
        (Revocation("other", "sub", "w1"), False),
        (Revocation("acme", "sub", "t1"), False),
        (Revocation("acme", "sub", "w1", until_ms=NOW_MS), True),
        (Revocation("acme", "sub", "w1", until_ms=NOW_MS - 1), False),
        (Revocation("acme", "jti", "t1", until_ms=NOW_MS - 1), True),
    ],
)
def test_a_revocation_covers_its_tenants_tokens_alone(revoked: Revocation, *, covers: bool) -> None:
    auth = Authenticator(POLICY)
    auth.revoke(Revocations([revoked]))
    assert (refusal(auth, token()) == "revoked") is covers


def test_a_token_that_does_not_say_when_it_was_issued_counts_as_older() -> None:
    claims = jwt.decode(token(), options={"verify_signature": False})
    del claims["iat"]
    made = jwt.encode(claims, api.KEY.key, "HS256", headers={"kid": api.KEY.kid})
    auth = Authenticator(POLICY)
    auth.revoke(Revocations([Revocation("acme", "sub", "w1", until_ms=1)]))
    assert refusal(auth, made) == "revoked"


def test_the_file_holds_a_line_for_each() -> None:
    text = '# stolen\n\n{"jti": "a"}\n  {"sub": "ü", "tenant": "acme"}\n'
    assert read_revocations(text) == [Revocation(None, "jti", "a"), Revocation("acme", "sub", "ü")]
    for bad in ("jti a", "{}", "[]", '{"jti": "a", "sub": "b"}', '{"jti": 5}', '{"jti": ""}', '{"tenant": "a"}', '"x"'):
        with pytest.raises(ValueError, match="line 2 is not"):
            read_revocations('{"jti": "a"}\n' + bad)


@pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
async def test_what_one_replica_revokes_every_replica_refuses_at_its_next_look(store_url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(store_url, daemon=name)) for name in ("d1", "d2")]
        auths = [Authenticator(POLICY) for _ in stores]
        watches = [RevocationWatch(auth, store, None) for auth, store in zip(auths, stores, strict=True)]
        now_ms = stores[0].clock.now_ms()
        made = [token(now_ms=now_ms - 2_000), token(token_id="t2", subject="w2", now_ms=now_ms - 2_000)]
        mine = RevocationList(stores[0])
        assert await mine.add("acme", "jti", "t1", most=3)
        assert await mine.add("acme", "sub", "w2", most=3)
        for auth, watch in zip(auths, watches, strict=True):
            await watch.look()
            assert [refusal(auth, one, now_ms) for one in made] == ["revoked", "revoked"]
            assert refusal(auth, token(token_id="t2", subject="w2", now_ms=now_ms + 60_000), now_ms + 60_000) is None
            assert refusal(auth, token(tenant="other", now_ms=now_ms - 2_000), now_ms) is None
        # Each tenant has its own limit; what is known is not one more.
        assert await mine.add("acme", "jti", "t3", most=3)
        assert not await mine.add("acme", "jti", "t4", most=3)
        assert await mine.add("acme", "jti", "t3", most=3)
        assert await mine.add("other", "jti", "t4", most=3)


async def test_p24_what_is_revoked_again_covers_the_tokens_issued_in_between(store_url: str) -> None:
    async with opened(store_url) as store:
        auth = Authenticator(POLICY)
        watch, revocations = RevocationWatch(auth, store, None), RevocationList(store)
        assert await revocations.add("acme", "sub", "w1", most=3)
        await watch.look()
        first_ms = store.clock.now_ms()
        second_ms = first_ms + 60_000
        made = token(now_ms=first_ms + 30_000)
        assert refusal(auth, made, second_ms) is None
        await ManualClock(store_url).set(second_ms)
        assert await revocations.add("acme", "sub", "w1", most=3)
        await watch.look()
        assert refusal(auth, made, second_ms) == "revoked"


async def test_p26_ten_thousand_revocations_fit_into_the_list(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        revocations = RevocationList(store)
        assert await revocations.add("acme", "jti", "t1", most=3)
        await redis.hset("{ls:0}:revocations", mapping={f"rjti{k}": "" for k in range(9_990)})
        assert await revocations.add("acme", "jti", "t2", most=3)
        await redis.hset("{ls:0}:revocations", mapping={f"rsub{k}": "" for k in range(10)})
        assert not await revocations.add("acme", "jti", "t3", most=3)
        assert await revocations.add("acme", "jti", "t1", most=3)  # it is known


async def test_p26_a_tenant_revokes_a_thousand_times_at_most(store_url: str) -> None:
    async with api.running(store_url) as lastseen, Redis.from_url(store_url) as redis:

        async def is_revoked(token_id: str) -> bool:
            headers = lastseen.auth(scopes=(Scope.ADMIN,))
            answer = await lastseen.client.post("/api/v1/revocations", json={"jti": token_id}, headers=headers)
            return answer.status_code == 204

        assert await is_revoked("t1")
        await redis.hset("{ls:0}:revocations", "nacme", 999)
        assert await is_revoked("t2")
        assert not await is_revoked("t3")
        assert await is_revoked("t1")  # it is known


@pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
async def test_the_file_is_read_again_when_it_changes_and_a_broken_one_keeps_what_it_was(
    store_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "revoked"
    file.write_text('{"jti": "t1"}\n')
    auth = Authenticator(POLICY)
    async with opened(store_url) as store:
        watch = RevocationWatch(auth, store, file)
        await watch.look()
        assert (refusal(auth, token()), refusal(auth, token(token_id="t2"))) == ("revoked", None)
        for broken in ("nonsense\n", None):
            file.unlink()
            if broken is not None:
                file.write_text(broken)
            await watch.look()
            assert refusal(auth, token()) == "revoked"
            # Also when what is revoked in the store changes meanwhile.
            assert await RevocationList(store).add("acme", "jti", f"of the store {broken}", most=3)
            await watch.look()
            assert refusal(auth, token()) == "revoked"
        file.write_text('{"jti": "t2", "tenant": "acme"}\n')
        await watch.look()
        assert (refusal(auth, token()), refusal(auth, token(token_id="t2"))) == (None, "revoked")


@pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
async def test_p24_a_subject_that_the_file_revokes_gets_no_new_token_by_the_command(
    store_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "revoked"
    file.write_text('{"sub": "w2", "tenant": "acme"}\n')
    auth = Authenticator(POLICY)
    async with opened(store_url) as store:
        for name in ("w1", "w2"):
            assert await RevocationList(store).add("acme", "sub", name, most=3)
        await RevocationWatch(auth, store, file).look()
        later_ms = store.clock.now_ms() + 60_000
        made = {name: token(subject=name, now_ms=later_ms) for name in ("w1", "w2")}
        # The command lets new tokens follow, the file none.
        assert {name: refusal(auth, one, later_ms) for name, one in made.items()} == {"w1": None, "w2": "revoked"}


async def test_p24_what_the_store_has_revoked_stays_so_while_it_is_away_and_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    file.write_text("")
    auth = Authenticator(POLICY)
    with servers.running(servers.valkey_binary()) as server:
        async with api.running(server.url) as lastseen:
            watch = RevocationWatch(auth, lastseen.store, file)
            assert await RevocationList(lastseen.store).add("acme", "jti", "t1", most=3)
            await watch.look()
            server.kill()
            file.write_text('{"jti": "t2"}\n')
            await watch.look()
            assert [refusal(auth, token(token_id=name)) for name in ("t1", "t2", "t3")] == ["revoked", "revoked", None]


def test_the_command_is_in_force_within_five_seconds_on_every_process_and_after_a_restart() -> None:
    with daemons.home() as home:
        home.write(daemons.ANY_PORT + "processes = 2\n")
        daemon = home.start()
        stolen, good = (home.token("heartbeat:write", worker_id=name) for name in ("stolen", "good"))

        def statuses(token: str) -> set[int]:
            """Of beats on enough connections to reach both processes."""
            path = "/api/v1/workers/%s/heartbeat"
            name = "stolen" if token == stolen else "good"
            return {daemons.call(daemon.url, "POST", path % name, token=token, body={}).status for _ in range(10)}

        assert statuses(stolen) == statuses(good) == {204}
        token_id = jwt.decode(stolen, options={"verify_signature": False})["jti"]
        url = {"LASTSEEN_URL": daemon.url}
        revoked = home.run("token", "revoke", "--jti", token_id, "--tenant", "acme", env=url)
        assert (revoked.returncode, revoked.stdout, revoked.stderr) == (0, "", "")
        daemons.until(lambda: statuses(stolen) == {401}, "the revocation", timeout_s=5)
        assert statuses(good) == {204}
        missing = home.run("token", "revoke", "--tenant", "acme", env=url)
        assert (missing.returncode, missing.stderr) == (2, "lastseen: one of --jti and --sub is needed\n")
        daemon.stop()
        daemon = home.start()
        assert statuses(stolen) == {401}
        assert statuses(good) == {204}


@pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
async def test_only_an_unrestricted_admin_revokes_and_only_of_its_own_tenant(store_url: str) -> None:
    path = "/api/v1/revocations"
    async with api.running(store_url) as lastseen:

        async def status(body: dict[str, Any], **changes: Any) -> int:
            headers = lastseen.auth(**{"scopes": (Scope.ADMIN,), **changes})
            return (await lastseen.client.post(path, json=body, headers=headers)).status_code

        assert await status({"jti": "t1"}, scopes=tuple(set(Scope) - {Scope.ADMIN})) == 403
        assert await status({"jti": "t1"}, worker_id="w") == 403
        assert await status({"jti": "t1"}, environments=("prod",)) == 403
        for bad in ({}, {"jti": "a", "sub": "b"}, {"jti": ""}, {"jti": "a\n"}, {"kid": "a"}, {"jti": 5}):
            assert await status(bad) == 422, bad
        assert await status({"sub": "x" * 257}) == 422
        assert await status({"sub": "x" * 256}) == 204
        assert await status({"jti": "t1"}) == 204
        assert await status({"sub": "w1"}, tenant="other") == 204
        _, packed = await RevocationList(lastseen.store).read("")
        assert len(packed) == 3
        auth = Authenticator(POLICY)
        await RevocationWatch(auth, lastseen.store, None).look()
        assert refusal(auth, token()) == "revoked"
        assert refusal(auth, token(token_id="t2")) is None
