"""Authentication and authorization of callers: bearer tokens, checked against configured keys and store time.

Two rules hold in this package. A token never chooses how it is verified: its ``kid`` names a
configured key, and that key determines the algorithm. And no clock is read: ``now_ms`` is a parameter, in
milliseconds of the store's time (P12). Formats: RFC 7515 (JWS), RFC 7519 (JWT); practice: RFC 8725.
"""

from monitor.auth.authenticator import Authenticator
from monitor.auth.keys import MIN_SECRET_BYTES, AuthPolicy, VerifyingKey
from monitor.auth.minting import mint
from monitor.auth.principals import (
    MAX_NAME_CHARS,
    ExpiredError,
    ForbiddenError,
    Principal,
    Refusal,
    Scope,
    ScopeMissingError,
    UnauthenticatedError,
)
from monitor.auth.revocations import Revocation, Revocations, read_revocations

__all__ = [
    "MAX_NAME_CHARS",
    "MIN_SECRET_BYTES",
    "AuthPolicy",
    "Authenticator",
    "ExpiredError",
    "ForbiddenError",
    "Principal",
    "Refusal",
    "Revocation",
    "Revocations",
    "Scope",
    "ScopeMissingError",
    "UnauthenticatedError",
    "VerifyingKey",
    "mint",
    "read_revocations",
]
