"""Callers: what they may do, and why one is refused."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_NAME_CHARS: Final = 256
LATELY_MS: Final = 86_400_000


class Scope(StrEnum):
    """What a token may be used for. No scope implies another."""

    HEARTBEAT_WRITE = "heartbeat:write"
    WORKERS_READ = "workers:read"
    ALERTS_WRITE = "alerts:write"
    ADMIN = "admin"
    METRICS_READ = "metrics:read"
    OPERATOR = "operator"
    """What all tenants share: receivers that belong to none, and notifications of every tenant."""


class Refusal(StrEnum):
    """Why a caller is not known. Stable words: they stand in logs, metrics and answers."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    BAD_ALGORITHM = "bad_algorithm"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ISSUER = "wrong_issuer"
    MISSING_CLAIM = "missing_claim"
    BAD_CLAIM = "bad_claim"


class UnauthenticatedError(Exception):
    """The caller is not known (401). Says the reason, and nothing of the token."""

    def __init__(self, reason: Refusal) -> None:
        self.reason: Final = reason
        super().__init__(f"token refused: {reason.value}")


class ForbiddenError(Exception):
    """The caller is known and may not do this (403)."""


class ScopeMissingError(ForbiddenError):
    """The caller's token is not for this kind of request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A caller whose token was good. ``worker_id`` and ``environments`` None: not restricted."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    worker_id: str | None
    environments: tuple[str, ...] | None

    @property
    def is_restricted(self) -> bool:
        """Whether it may act for a part of its tenant only."""
        return self.worker_id is not None or self.environments is not None

    @property
    def is_operator(self) -> bool:
        """Whether it may act for all tenants."""
        return Scope.OPERATOR.value in self.scopes and not self.is_restricted

    def require(self, scope: Scope) -> None:
        """Go on only with this scope.

        Raises:
            ScopeMissingError: the token lacks it; the message names it.
        """
        if scope.value not in self.scopes:
            raise ScopeMissingError(f"the token lacks the scope {scope.value!r}")

    def speaks_for(self, worker_id: str) -> bool:
        """Whether a refused beat with this token is evidence of the worker: the token may beat for it, or names it."""
        if self.worker_id is None:
            return Scope.HEARTBEAT_WRITE in self.scopes
        return self.worker_id == worker_id

    def require_worker(self, worker_id: str) -> None:
        """Go on only if the token may act for this worker.

        Raises:
            ForbiddenError: the token is restricted to another worker.
        """
        if self.worker_id is not None and self.worker_id != worker_id:
            raise ForbiddenError("the token is restricted to another worker")


class ExpiredError(UnauthenticatedError):
    """The token was good in everything but its end.

    ``lately`` is whose it was, if it expired less than ``LATELY_MS`` ago: it lets nobody do anything, but that its
    sender is alive may be believed (P11).
    """

    def __init__(self, lately: Principal | None) -> None:
        super().__init__(Refusal.EXPIRED)
        self.lately: Final = lately


def is_text(value: object, *, most: int = MAX_NAME_CHARS) -> bool:
    """Whether it is a string of 1 to ``most`` characters without controls and lone surrogates."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= most
        and not any(unicodedata.category(character) in {"Cc", "Cs"} for character in value)
    )
