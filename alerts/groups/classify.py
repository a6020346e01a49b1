"""Classification of an event: the group that it belongs to, by its key, its role for that group, its labels. Pure."""

import hashlib
import json
from enum import StrEnum
from typing import Final

from monitor.events import Event
from monitor.liveness import EventKind, Liveness

DOWN: Final = frozenset({EventKind.STALE, EventKind.FAILED, EventKind.REJECTED})
"""Events that begin an outage or change its kind. A worker whose beats are rejected counts as down, too."""
ENDS: Final = frozenset({EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN})
"""Events that end an outage, if there is one."""
OUT: Final = frozenset({Liveness.STALE, Liveness.FAILED})


class Shape(StrEnum):
    """Kind of a group: events of one worker, of a route's group, or of an environment."""

    WORKER = "worker"
    GROUP = "group"
    ENVIRONMENT = "environment"
    """A mass failure: many workers of an environment fall silent at once (P16)."""


class Role(StrEnum):
    """Role of an event, or of its notification, for the receiver."""

    DOWN = "down"
    END = "end"
    """Ends a DOWN. Sent only to the receivers of that DOWN (P18)."""
    FACT = "fact"
    """Any other event. Notified separately and paired with no other event."""


WORKER_PREFIX: Final = "w"
"""The first letter of the key of a worker's group."""
_SHAPES: Final = {WORKER_PREFIX: Shape.WORKER, "g": Shape.GROUP, "e": Shape.ENVIRONMENT}


def role_of(event: Event) -> Role:
    """Role of an event."""
    if event.kind in DOWN:
        return Role.DOWN
    if event.kind is EventKind.RECOVERED or (event.kind in ENDS and event.old in OUT):
        return Role.END
    return Role.FACT


def shape_of(key: str) -> Shape:
    """Shape of the group with this key."""
    return _SHAPES[key[0]]


def labels_of(key: str) -> dict[str, str]:
    """Labels that the events of a group share, parsed from its key. Empty for the group of a worker."""
    match shape_of(key):
        case Shape.WORKER:
            return {}
        case Shape.GROUP:
            return {str(name): str(value) for name, value in json.loads(key[1:]).items()}
        case Shape.ENVIRONMENT:
            length, _, rest = key[1:].encode().partition(b":")
            return {"tenant": rest[: int(length)].decode(), "environment": rest[int(length) :].decode()}


def worker_key(event: Event) -> str:
    """Key of the group of the event's worker."""
    return f"{WORKER_PREFIX}{mid_of(event)}"


def mid_of(event: Event) -> str:
    """Id of the event's worker, unique across tenants."""
    return qualified(event.tenant, event.worker_id)


def qualified(tenant: str, name: str) -> str:
    """A tenant's name of a worker or an environment, unique across tenants: after the bytes of the tenant's name."""
    return f"{len(tenant.encode())}:{tenant}{name}"


def metadata_of(event: Event) -> dict[str, object]:
    """Metadata of the event's worker; empty if it is malformed: such an event must not block the events behind it."""
    try:
        metadata = json.loads(event.worker_metadata_json)
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def text_of(value: object) -> str:
    """A metadata value as it is compared and used as a label: JSON, unless it is a string."""
    return value if isinstance(value, str) else json.dumps(value)


def fits(pattern: str, text: str) -> bool:
    """Whether the whole text matches the pattern. ``*`` matches any run of characters, all else matches itself.

    For a text that is a pattern too: whether this one matches all that the other does. Only stars match its stars.

    Each part between two stars is matched at its first place, without backtracking, so that no text and no number of
    stars makes matching slow.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    *middle, last = rest
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def environment_key(tenant: str, environment: str) -> str:
    """Key of the group of a mass failure."""
    return f"e{qualified(tenant, environment)}"


def digest(*parts: str) -> str:
    """First 16 bytes of SHA-256 over the length-prefixed parts, as 32 hex digits."""
    made = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        made.update(len(raw).to_bytes(4, "big"))
        made.update(raw)
    return made.digest()[:16].hex()
