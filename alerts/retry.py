"""When a failed delivery is retried, and when it is given up. Pure.

Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture
Blog, 2015): the delay after failure ``n`` (from 0) is uniform in ``[0, min(max, initial * 2**n))``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from alerts.errors import DeliveryError, PermanentDeliveryError

FLOOR_MS: Final = 50
"""Minimum delay. Full jitter may draw 0, which would be a busy loop against a receiver in trouble."""

_MAX_DOUBLINGS: Final = 62


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often and how long a delivery is retried. Milliseconds.

    A notification is given up once ``retry_for_ms`` have passed since its first attempt *and* it has had
    ``min_attempts`` attempts. So neither an outage of the daemon nor a long ``Retry-After`` alone exhausts the retries.
    A larger ``max_ms`` spares a dead receiver but notifies a recovered one later.
    """

    initial_ms: int = 1_000
    max_ms: int = 300_000
    retry_for_ms: int = 86_400_000
    min_attempts: int = 12


class RetryReason(StrEnum):
    """Reason for the decision after a failed attempt."""

    BACKOFF = "backoff"
    RECEIVER_ASKED = "receiver_asked"
    """The receiver's Retry-After was longer than the computed delay."""
    GAVE_UP = "gave_up"
    PERMANENT = "permanent"


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Try again at ``due_ms``."""

    reason: RetryReason
    due_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GiveUp:
    """Make no further attempt."""

    reason: RetryReason


def decide(
    error: DeliveryError,
    *,
    attempts: int,
    first_attempt_ms: int,
    now_ms: int,
    policy: RetryPolicy,
    uniform: Callable[[float, float], float],
) -> Retry | GiveUp:
    """Decide what follows a failed attempt.

    ``attempts`` includes the attempt that has just failed. ``uniform(a, b)`` draws from ``[a, b]``.
    """
    if isinstance(error, PermanentDeliveryError):
        return GiveUp(reason=RetryReason.PERMANENT)
    if attempts >= policy.min_attempts and now_ms - first_attempt_ms >= policy.retry_for_ms:
        return GiveUp(reason=RetryReason.GAVE_UP)
    doublings = min(attempts - 1, _MAX_DOUBLINGS)
    ceiling_ms = min(policy.max_ms, policy.initial_ms * 2**doublings)
    own_ms = max(FLOOR_MS, round(uniform(0, ceiling_ms)))
    asked_ms = error.retry_after_ms
    if asked_ms is not None and min(asked_ms, policy.max_ms) > own_ms:
        return Retry(reason=RetryReason.RECEIVER_ASKED, due_ms=now_ms + min(asked_ms, policy.max_ms))
    return Retry(reason=RetryReason.BACKOFF, due_ms=now_ms + own_ms)


def retry_after_ms(header: str, *, now_ms: int) -> int | None:
    """A ``Retry-After`` header (RFC 9110, 10.2.3) as milliseconds from now; None: it has neither valid form.

    A date is compared with the store's clock; a past date gives 0.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        return int(text[:12]) * 1000
    try:
        at_ms = int(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None
    return max(0, at_ms - now_ms)
