"""What holds for every type of receiver, against another side that answers, misbehaves or is not there."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from alerts.errors import DeliveryError, PermanentDeliveryError, TransientDeliveryError
from alerts.receivers import TYPES, Notification, Receiver, ReceiverSettings
from monitor.settings.key_material import Surroundings
from tests.support.alerts_fakes import START_MS, event, notification
from tests.support.receiver_cases import Case, Does, Serving, case_of

ROOT: Final = Path(__file__).parents[3]
TIMEOUT_MS: Final = 700
WITH_A_PEER: Final = [kind for kind in TYPES if case_of(kind).serve is not None]


def settings_of(kind: str, address: str = "127.0.0.1:1", *, tls: bool = False, **changes: Any) -> ReceiverSettings:
    case = case_of(kind)
    table = case.tls_table if tls else case.table
    assert table is not None
    values = {"name": "ops", "type": kind, **table(address), **changes}
    settings = TYPES[kind].model_validate(values, context=Surroundings(environ=case.environ))
    # Shorter than the configuration allows, so that the tests are.
    return settings.model_copy(update={"timeout_ms": TIMEOUT_MS} if "timeout_ms" in type(settings).model_fields else {})


def down(body: str | None = None) -> Notification:
    """A notification that every type sends on."""
    payload = {
        "type": "worker.stale",
        "timestamp": "2026-11-23T10:00:00.000Z",
        "data": msgspec.to_builtins(event().data()),
    }
    return replace(notification(), body=json.dumps(payload) if body is None else body)


def serving(kind: str, does: Does) -> Serving:
    serve = case_of(kind).serve
    assert serve is not None
    return serve(does)


PIGEON: Final = """
from typing import Literal

from alerts.receivers.receiver import ReceiverSettings


class PigeonReceiver:
    timeout_s, resend_ms, takes_groups = 60.0, None, True

    def __init__(self, name: str, loft: str) -> None:
        self.name, self.loft = name, loft

    async def send(self, notification, *, attempt, now_ms): ...

    async def close(self): ...


class PigeonSettings(ReceiverSettings):
    type: Literal["pigeon"]
    loft: str

    def open(self) -> PigeonReceiver:
        return PigeonReceiver(self.name, self.loft)


SETTINGS = PigeonSettings
"""
LOADING: Final = """
import sys
from pathlib import Path
from monitor.daemon.config.sources import ConfigError
from monitor.daemon.config.model import load

try:
    (settings,) = load(Path(sys.argv[1]), {}).alerts.effective_receivers
    print(type(settings.open()).__name__, settings.open().loft)
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('loft = "Rye"', "PigeonReceiver Rye"),
        (
            'loft = "Rye"\nlofty = 1',
            "6: alerts.receivers[0].lofty: unknown key; did you mean alerts.receivers[0].loft?",
        ),
        (
            'loft = "Rye"\nurl = "x"',
            '6: alerts.receivers[0].url: belongs to type alertmanager or webhook, not pigeon, got "x"',
        ),
    ],
)
def test_a_new_type_is_one_new_module(tmp_path: Path, keys: str, expected: str) -> None:
    shutil.copytree(ROOT / "alerts", tmp_path / "alerts")
    (tmp_path / "alerts" / "receivers" / "pigeon.py").write_text(PIGEON)
    config = tmp_path / "config.toml"
    config.write_text(f'\n[[alerts.receivers]]\nname = "p"\ntype = "pigeon"\n{keys}\n')
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, str(config)],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.strip().removeprefix(f"{config}:") == expected


def test_what_types_share_is_no_type() -> None:
    shared = {"http", "receiver", "ssrf"}
    assert all((ROOT / "alerts" / "receivers" / f"{name}.py").exists() for name in shared)
    assert shared.isdisjoint(TYPES)
    assert {"alertmanager", "log", "webhook"} <= set(TYPES)


async def attempt(receiver: Receiver, item: Notification | None = None) -> DeliveryError | None:
    """What one attempt ends with; the receiver is closed, and closed again."""
    try:
        await receiver.send(item or down(), attempt=1, now_ms=START_MS)
    except DeliveryError as error:
        return error
    finally:
        await receiver.close()
        await receiver.close()
    return None


def hides(case: Case, *texts: object) -> bool:
    secrets = {*case.hidden, *case.environ.values()} | {value.removeprefix("whsec_") for value in case.environ.values()}
    return not any(secret in str(text) for text in texts for secret in secrets)


@pytest.mark.parametrize("kind", TYPES)
async def test_a_receiver_is_as_its_settings_say(kind: str) -> None:
    settings = settings_of(kind)
    receiver = settings.open()
    assert receiver.name == settings.name == "ops"
    assert receiver.takes_groups is type(settings).takes_groups
    assert receiver.timeout_s > 0
    assert receiver.resend_ms is None or receiver.resend_ms >= 1_000
    assert hides(case_of(kind), repr(settings), str(settings), repr(receiver))
    await receiver.close()
    await receiver.close()


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"type":[],"data":{}}', '{"type":"worker.stale","data":{}}'])
@pytest.mark.parametrize("kind", TYPES)
async def test_whatever_the_body_is_nothing_but_errors_of_delivery_are_raised(kind: str, body: str) -> None:
    error = await attempt(settings_of(kind).open(), down(body))
    assert error is None or hides(case_of(kind), error)


@pytest.mark.parametrize("does", [Does.ACCEPT, Does.ACCEPT_SLOWLY])
@pytest.mark.parametrize("kind", WITH_A_PEER)
async def test_what_is_accepted_is_delivered(kind: str, does: Does) -> None:
    async with serving(kind, does) as peer:
        assert await attempt(settings_of(kind, peer.address).open()) is None
    assert len(peer.received) == 1


@pytest.mark.parametrize("kind", WITH_A_PEER)
async def test_p6_every_attempt_carries_the_same(kind: str) -> None:
    async with serving(kind, Does.ACCEPT) as peer:
        receiver = settings_of(kind, peer.address).open()
        for number, now_ms in ((1, START_MS), (2, START_MS + 3_600_000)):
            await receiver.send(down(), attempt=number, now_ms=now_ms)
        await receiver.close()
    first, second = (message.partition(b"\r\n\r\n")[2] for message in peer.received)
    assert first == second


@pytest.mark.parametrize(("does", "disable"), [(Does.REFUSE, False), (Does.BE_GONE, True)])
@pytest.mark.parametrize("kind", WITH_A_PEER)
async def test_a_refusal_for_good_is_permanent(kind: str, does: Does, disable: bool) -> None:  # noqa: FBT001
    async with serving(kind, does) as peer:
        error = await attempt(settings_of(kind, peer.address).open())
    assert isinstance(error, PermanentDeliveryError)
    assert error.disable is disable
    assert "'ops'" in str(error)
    assert hides(case_of(kind), error, repr(error))


@pytest.mark.parametrize(
    ("does", "unknown", "retry_after_ms"),
    [
        (Does.BE_BUSY, False, 7_000),
        (Does.BREAK, False, None),
        (Does.REDIRECT, False, None),
        (Does.HANG, True, None),
        (Does.CUT, True, None),
        (Does.BABBLE, True, None),
    ],
)
@pytest.mark.parametrize("kind", WITH_A_PEER)
async def test_what_may_pass_is_transient_and_unknown_only_without_an_answer(
    kind: str,
    does: Does,
    unknown: bool,  # noqa: FBT001
    retry_after_ms: int | None,
) -> None:
    async with serving(kind, does) as peer:
        error = await attempt(settings_of(kind, peer.address).open())
    assert isinstance(error, TransientDeliveryError)
    assert error.unknown is unknown
    assert error.retry_after_ms == retry_after_ms
    assert len(peer.received) == 1
    assert "'ops'" in str(error)
    assert hides(case_of(kind), error, repr(error))


async def never_sent(kind: str, settings: ReceiverSettings) -> None:
    error = await attempt(settings.open())
    assert isinstance(error, TransientDeliveryError)
    assert not error.unknown
    assert hides(case_of(kind), error, repr(error))


@pytest.mark.parametrize("kind", WITH_A_PEER)
async def test_an_unreachable_peer_has_certainly_not_received_it(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    await never_sent(kind, settings_of(kind, f"127.0.0.1:{port}"))
    await never_sent(kind, settings_of(kind, "no-such-host.invalid:80"))


@pytest.mark.parametrize("does", [Does.ACCEPT, Does.HANG])
@pytest.mark.parametrize("kind", [kind for kind in WITH_A_PEER if case_of(kind).tls_table is not None])
async def test_a_peer_without_tls_has_certainly_not_received_it(kind: str, does: Does) -> None:
    async with serving(kind, does) as peer:
        await never_sent(kind, settings_of(kind, peer.address, tls=True))
    assert peer.received == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", WITH_A_PEER)
async def test_a_private_address_gets_nothing_unless_it_is_allowed(kind: str, host: str) -> None:
    async with serving(kind, Does.ACCEPT) as peer:
        address = peer.address.replace("127.0.0.1", host)
        settings = settings_of(kind, address, allow_private=False)
        assert [warning for warning in settings.warnings() if host in warning]
        await never_sent(kind, settings)
        assert peer.received == []
        assert not list(settings_of(kind, address).warnings())
