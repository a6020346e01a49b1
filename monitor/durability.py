"""Durability: what the store must confirm about a write (P23). Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MOST_REPLICAS: Final = 16
_REPLICAS: Final = re.compile("replicas:([1-9][0-9]?)")


class DurabilityMode(StrEnum):
    """What a confirmation waits for."""

    FSYNC = "fsync"
    """The primary's append-only file is on disk (WAITAOF)."""
    REPLICAS = "replicas"
    """A number of replicas have it in memory (WAIT)."""
    MEMORY = "memory"
    """Nothing. If the store loses its newest writes, a notification may be repeated or unfounded."""


class Confirmation(StrEnum):
    """Result of waiting for the durability of writes."""

    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    """Not confirmed within the timeout; nothing may be sent."""
    UNAVAILABLE = "unavailable"
    """The server never confirms (no WAITAOF, no append-only file, no permission); treated as ``memory``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Durability:
    """A mode and, for ``replicas`` only, the number of replicas."""

    mode: DurabilityMode
    replicas: int = 0

    @classmethod
    def parse(cls, text: str) -> "Durability":
        """Parse ``fsync``, ``replicas:N`` or ``memory``.

        Raises:
            ValueError: the text is none of these.
        """
        if text in {DurabilityMode.FSYNC, DurabilityMode.MEMORY}:
            return cls(mode=DurabilityMode(text))
        if (found := _REPLICAS.fullmatch(text)) is not None and int(found[1]) <= MOST_REPLICAS:
            return cls(mode=DurabilityMode.REPLICAS, replicas=int(found[1]))
        raise ValueError(f'must be "fsync", "memory" or "replicas:N" with N from 1 to {MOST_REPLICAS}')


MEMORY: Final = Durability(mode=DurabilityMode.MEMORY)
