"""Counters of attempts and decisions."""

from enum import StrEnum
from typing import Protocol


class Counted(StrEnum):
    """Result of an attempt, as counted in metrics."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """To be retried."""
    DEAD_LETTERED = "dead_lettered"
    UNRENDERABLE = "unrenderable"
    """No body could be made: dead-lettered at once."""


class Counts(Protocol):
    """Counts for metrics, by receiver."""

    def delivery(self, receiver: str, outcome: str, cause: str) -> None:
        """Count an attempt. ``outcome``: a ``Counted``; ``cause``: why it failed, or empty."""

    def decision(self, receiver: str, decision: str) -> None:
        """Count a ``Decision``."""
