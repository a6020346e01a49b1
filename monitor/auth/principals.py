"""Callers: their permissions, and the reasons to refuse them."""

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_TOKEN_BYTES: Final = 16_384
MAX_NAME_CHARS: Final = 256
LATELY_MS: Final = 86_400_000


class Scope(StrEnum):
    """A permission of a token. No scope implies another."""

    HEARTBEAT_WRITE = "heartbeat:write"
    WORKERS_READ = "workers:read"
    ALERTS_WRITE = "alerts:write"
    ADMIN = "admin"
    METRICS_READ = "metrics:read"
    OPERATOR = "operator"
    """Access to what all tenants share: receivers without a tenant, and the notifications of every tenant."""


class Refusal(StrEnum):
    """Why a caller is not authenticated. Stable words: they appear in logs, metrics and answers."""

    MISSING = "missing"
    MALFORMED = "malformed"
    TOO_LONG = "too_long"
    UNKNOWN_KEY = "unknown_key"
    BAD_ALGORITHM = "bad_algorithm"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIFETIME = "lifetime"
    ISSUED_TOO_EARLY = "issued_too_early"
    REVOKED = "revoked"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ISSUER = "wrong_issuer"
    MISSING_CLAIM = "missing_claim"
    BAD_CLAIM = "bad_claim"


_WORDS: Final[dict[Refusal, str]] = {
    Refusal.MISSING: "no token: send the header 'Authorization: Bearer <token>'",
    Refusal.MALFORMED: "the credentials can't be read: send 'Authorization: Bearer <token>', with one JSON Web Token",
    Refusal.TOO_LONG: f"the token is too long: {MAX_TOKEN_BYTES:,} bytes are accepted",
    Refusal.UNKNOWN_KEY: "the token's 'kid' names no key of this daemon: was it made with another configuration or data"
    " directory?",
    Refusal.BAD_ALGORITHM: "the token's 'alg' is not the algorithm that its key is configured with",
    Refusal.BAD_SIGNATURE: "the token's signature does not fit its key: it was changed, cut or signed by another one",
    Refusal.EXPIRED: "the token has expired ('exp'): send a new one",
    Refusal.NOT_YET_VALID: "the token is not valid yet ('nbf')",
    Refusal.LIFETIME: "the token is good for longer than auth.max_lifetime allows",
    Refusal.ISSUED_TOO_EARLY: "the token was issued ('iat') before auth.not_before: get a new one",
    Refusal.REVOKED: "the token was revoked",
    Refusal.WRONG_AUDIENCE: "the token's 'aud' does not have the value of auth.audience",
    Refusal.WRONG_ISSUER: "the token's 'iss' is not the value of auth.issuer",
    Refusal.MISSING_CLAIM: "the token lacks a claim",
    Refusal.BAD_CLAIM: "the token has a claim of the wrong form",
}


class UnauthenticatedError(Exception):
    """The caller is not authenticated (401). Contains the reason and the ``claim`` concerned, nothing of the token."""

    def __init__(self, reason: Refusal, claim: str | None = None) -> None:
        self.reason: Final = reason
        super().__init__(_WORDS[reason] + ("" if claim is None else f": {claim!r}"))


class ForbiddenError(Exception):
    """The caller is authenticated but not permitted to do this (403)."""


class ScopeMissingError(ForbiddenError):
    """The caller's token lacks the scope for this kind of request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A caller with a valid token. ``worker_id`` and ``environments`` None: not restricted."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    worker_id: str | None
    environments: tuple[str, ...] | None

    @property
    def is_restricted(self) -> bool:
        """Whether the caller may act for a part of its tenant only."""
        return self.worker_id is not None or self.environments is not None

    @property
    def is_operator(self) -> bool:
        """Whether the caller may act for all tenants."""
        return Scope.OPERATOR.value in self.scopes and not self.is_restricted

    def may_see(self, *, worker_id: str | None, environment_name: str | None) -> bool:
        """Whether its restrictions allow data of this worker. None: of no single worker or environment."""
        return (self.environments is None or environment_name in self.environments) and (
            self.worker_id is None or worker_id == self.worker_id
        )

    def require(self, scope: Scope) -> None:
        """Check that the token has this scope.

        Raises:
                ScopeMissingError: the token lacks the scope; the message names it.
        """
        if scope.value not in self.scopes:
            raise ScopeMissingError(f"the token lacks the scope {scope.value!r}")

    def speaks_for(self, worker_id: str) -> bool:
        """Whether a refused beat with this token is evidence of the worker: the token may beat for it, or names it."""
        if self.worker_id is None:
            return Scope.HEARTBEAT_WRITE in self.scopes
        return self.worker_id == worker_id

    def require_worker(self, worker_id: str) -> None:
        """Check that the token may act for this worker.

        Raises:
            ForbiddenError: the token is restricted to another worker.
        """
        if self.worker_id is not None and self.worker_id != worker_id:
            raise ForbiddenError("the token is restricted to another worker")


class ExpiredError(UnauthenticatedError):
    """The token was valid except for its expiry.

    ``lately`` is the caller, if the token expired less than ``LATELY_MS`` ago. It gives no permission; it is only
    evidence that the sender is alive (P11).
    """

    def __init__(self, lately: Principal | None) -> None:
        super().__init__(Refusal.EXPIRED)
        self.lately: Final = lately


def is_text(value: object, *, most: int = MAX_NAME_CHARS) -> bool:
    """Whether the value is a string of 1 to ``most`` characters without control characters and lone surrogates."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= most
        and not any(unicodedata.category(character) in {"Cc", "Cs"} for character in value)
    )
