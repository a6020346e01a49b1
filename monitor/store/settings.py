"""The store's settings."""

from dataclasses import dataclass
from typing import Final

from monitor.durability import MEMORY, Durability

LONGEST_MS: Final = 365 * 86_400_000
"""Upper bound of any interval and grace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentRule:
    """Interval and grace of the workers of matching environments that declare none."""

    match: str
    interval_ms: int
    grace_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """The store's part of the configuration. Times in milliseconds."""

    url: str
    partitions: int
    daemon: str
    namespace: str = ""
    """Part of every key, in its hash tag."""
    installation: tuple[str, ...] = ()
    """IDs of this installation. The store must know at least one of them. Empty: not checked."""
    timeout_s: float
    interval_ms: int
    grace_ms: int
    rules: tuple[EnvironmentRule, ...]
    workers_per_tenant: int
    environments_per_tenant: int
    status_events: bool
    timings_per_tenant: int = 10_000
    """Maximum combinations of environment, interval and grace."""
    bytes_per_tenant: int = 1 << 40
    """Maximum size of all workers, with metadata, system information and logs, approximately."""
    min_interval_ms: int = 0
    max_interval_ms: int = LONGEST_MS
    min_grace_ms: int = 0
    max_grace_ms: int = LONGEST_MS
    """Bounds for declared values, including those declared under earlier bounds."""
    durability: Durability = MEMORY
    """What ``confirm`` waits for."""

    @property
    def graces_ms(self) -> list[int]:
        """The graces of workers that declare none."""
        return [self.grace_ms, *(rule.grace_ms for rule in self.rules)]
