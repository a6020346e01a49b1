"""Notifications: one message to one receiver. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monitor.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """One message to one receiver, frozen when it was queued.

    ``nid`` is its stable id, the ``webhook-id`` of every attempt. ``key`` is the group key: the
    notifications of one (receiver, key) are delivered in the order in which they were queued, at most
    one of them in attempts. ``created_ms`` is when it was queued, by the store's clock.
    """

    nid: str
    receiver: str
    key: str
    event_type: str
    body: str
    created_ms: int


def notification_id(*, receiver: str, event_id: str) -> str:
    """``ntf_`` and the first 16 bytes, in hex, of SHA-256 over the length-prefixed parts.

    The same event gives the same id at the same receiver, whoever routes it and however often; that
    is what makes queueing idempotent.
    """
    digest = hashlib.sha256()
    for part in (receiver, event_id):
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return "ntf_" + digest.digest()[:16].hex()


def group_key(event: Event) -> str:
    """What an event's notifications are ordered by: its worker. The tenant is length-prefixed."""
    return f"{len(event.tenant)}:{event.tenant}{event.worker_id}"


def notification_of(event: Event, *, receiver: str, body: str, now_ms: int) -> Notification:
    """The notification that tells ``receiver`` of a single event."""
    return Notification(
        nid=notification_id(receiver=receiver, event_id=event.event_id),
        receiver=receiver,
        key=group_key(event),
        event_type=event.kind.value,
        body=body,
        created_ms=now_ms,
    )
