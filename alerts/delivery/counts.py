"""Counts and logs the planner's decisions, and counts attempts."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import structlog

from alerts.delivery.planner import Rest
from alerts.groups.decisions import HOLDS_BACK
from monitor.events import rfc3339

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from alerts.delivery.planner import Plan

_log: FilteringBoundLogger = structlog.get_logger()


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


def decided(plan: Plan, *, receiver: str, counts: Counts) -> None:
    """Count a decision that is written. One that holds a notification back is logged when it begins."""
    counts.decision(receiver, plan.decision.value)
    if isinstance(plan, Rest) and plan.is_new and plan.decision in HOLDS_BACK:
        group = plan.change.draft.group
        next_ms = group.waits_until_ms
        _log.info(
            "delivery.held_back",
            receiver=receiver,
            group=group.key,
            incident_id=group.incident_id,
            reason=plan.decision.value,
            next_decision_at=rfc3339(next_ms) if next_ms else None,
        )
