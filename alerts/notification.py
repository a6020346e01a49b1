"""Notifications: one message to one receiver. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """One message to one receiver. It does not change after it is created.

    ``nid`` is its stable id, the ``webhook-id`` of every attempt. ``key`` is its group: the notifications of one
    (receiver, group) are delivered in order, at most one of them in flight. ``created_ms`` is when it was created,
    by the store's clock.
    """

    nid: str
    receiver: str
    key: str
    event_type: str
    body: str
    created_ms: int
