"""What the store needs to know of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LONGEST_MS: Final = 365 * 86_400_000
"""No grace is longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentRule:
    """What is expected of the workers of environments that match, unless they declare otherwise."""

    match: str
    interval_ms: int
    grace_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """What the store needs to know of the configuration. Times in milliseconds."""

    url: str
    partitions: int
    daemon: str
    namespace: str = ""
    """Part of every key, in its hash tag."""
    installation: tuple[str, ...] = ()
    """Words that name us, of which one has to be among those that the store knows. Empty: that is not checked."""
    timeout_s: float
    interval_ms: int
    grace_ms: int
    rules: tuple[EnvironmentRule, ...]
    workers_per_tenant: int
    environments_per_tenant: int
    status_events: bool
    timings_per_tenant: int = 10_000
    """Of environment, interval and grace, as its workers have them."""
    bytes_per_tenant: int = 1 << 40
    """Of its workers, with their metadata, system information and logs, roughly."""
    min_interval_ms: int = 0
    max_interval_ms: int = LONGEST_MS
    min_grace_ms: int = 0
    max_grace_ms: int = LONGEST_MS
    """Within these counts what workers have declared, whenever that was."""
    replicas: int = 0
    """How many have to have what ``confirm`` waits for."""
    fsync: bool = False
    """What ``confirm`` waits for has to be on the primary's disk."""

    @property
    def graces_ms(self) -> list[int]:
        """Those of workers that declare none."""
        return [self.grace_ms, *(rule.grace_ms for rule in self.rules)]
