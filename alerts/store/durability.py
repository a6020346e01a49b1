"""Durability: what the store must confirm about its writes before a notification is sent (P23). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class DurabilityMode(StrEnum):
    """What delivery waits for before it sends a notification."""

    FSYNC = "fsync"
    """The primary's append-only file is on disk (WAITAOF)."""
    REPLICAS = "replicas"
    """A number of replicas have it in memory (WAIT)."""
    MEMORY = "memory"
    """Nothing. If the store loses its newest writes, a notification may be repeated or unfounded."""


class Confirmation(StrEnum):
    """Result of waiting for the durability of the writes before an attempt."""

    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    """Not confirmed within the timeout; nothing may be sent."""
    UNAVAILABLE = "unavailable"
    """The server cannot confirm (no WAITAOF, or no append-only file); treated as ``memory``."""


DURABILITY_EVENTS: Final = {
    Confirmation.CONFIRMED: "durability.confirmed",
    Confirmation.UNCONFIRMED: "durability.unconfirmed",
    Confirmation.UNAVAILABLE: "durability.unavailable",
}
"""The log event of each change."""
UNAVAILABLE_HINT: Final = (
    "the store cannot confirm this, so notifications leave without: give it an append-only file (appendonly yes;"
    ' Valkey, or Redis 7.2 or newer), or set store.durability to "memory"'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Durability:
    """A mode and, for ``replicas``, the number of replicas."""

    mode: DurabilityMode
    replicas: int = 0

    def __post_init__(self) -> None:
        if (self.mode is DurabilityMode.REPLICAS) != (self.replicas > 0):
            raise ValueError(f"durability {self.mode.value!r} with {self.replicas} replicas")

    @classmethod
    def parse(cls, text: str) -> Durability:
        """Parse ``fsync``, ``replicas:N`` or ``memory``.

        Raises:
            ValueError: the text is none of these.
        """
        name, _, count = text.partition(":")
        if name == DurabilityMode.REPLICAS and count.isascii() and count.isdigit() and int(count) > 0:
            return cls(mode=DurabilityMode.REPLICAS, replicas=int(count))
        if count or ":" in text or name not in {DurabilityMode.FSYNC, DurabilityMode.MEMORY}:
            raise ValueError(f"durability {text!r} is none of fsync, replicas:N, memory")
        return cls(mode=DurabilityMode(name))
