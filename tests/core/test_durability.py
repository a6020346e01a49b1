"""What may be asked of the store's durability, and what the server's answers confirm."""

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from monitor.durability import Confirmation, Durability, DurabilityMode
from monitor.store.connection import confirmation_of


@pytest.mark.parametrize(
    ("text", "mode", "replicas"),
    [
        ("fsync", DurabilityMode.FSYNC, 0),
        ("memory", DurabilityMode.MEMORY, 0),
        ("replicas:2", DurabilityMode.REPLICAS, 2),
    ],
)
def test_durability_is_read(text: str, mode: DurabilityMode, replicas: int) -> None:
    assert Durability.parse(text) == Durability(mode=mode, replicas=replicas)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "disk",
        "replicas",
        "replicas:",
        "replicas:0",
        "replicas:17",
        "replicas:00000000199",
        "replicas:-1",
        "fsync:1",
        "memory:",
    ],
)
def test_any_other_durability_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='must be "fsync", "memory" or "replicas:N" with N from 1 to 16'):
        Durability.parse(text)


@pytest.mark.parametrize(
    ("durability", "waited", "expected"),
    [
        ("memory", None, Confirmation.CONFIRMED),
        ("fsync", [1, 0], Confirmation.CONFIRMED),
        ("fsync", [0, 0], Confirmation.UNCONFIRMED),
        ("fsync", [0, 1], Confirmation.UNCONFIRMED),
        ("fsync", ResponseError("unknown command 'WAITAOF', with args beginning with: "), Confirmation.UNAVAILABLE),
        (
            "fsync",
            ResponseError("WAITAOF cannot be used when numlocal is set but appendonly is disabled."),
            Confirmation.UNAVAILABLE,
        ),
        ("fsync", NoPermissionError("this user has no permissions to run 'waitaof'"), Confirmation.UNAVAILABLE),
        (
            "fsync",
            ResponseError(
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"
            ),
            Confirmation.UNCONFIRMED,
        ),
        ("fsync", ResponseError("WAITAOF cannot be used with replica instances."), Confirmation.UNCONFIRMED),
        ("fsync", TimeoutError(), Confirmation.UNCONFIRMED),
        ("replicas:1", 1, Confirmation.CONFIRMED),
        ("replicas:1", 0, Confirmation.UNCONFIRMED),
        ("replicas:2", 1, Confirmation.UNCONFIRMED),
        ("replicas:2", 2, Confirmation.CONFIRMED),
        ("replicas:2", 3, Confirmation.CONFIRMED),
        ("replicas:1", ResponseError("no"), Confirmation.UNCONFIRMED),
    ],
)
def test_p23_only_an_answer_of_the_store_is_a_confirmation(
    durability: str, waited: object, expected: Confirmation
) -> None:
    assert confirmation_of(Durability.parse(durability), waited) is expected
