"""Checks bearer tokens against the configured keys and store time."""

import base64
import json
import os
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NoReturn

import jwt

from monitor.auth.keys import AuthPolicy, KeyAlgorithm
from monitor.auth.principals import (
    LATELY_MS,
    MAX_TOKEN_BYTES,
    ExpiredError,
    Principal,
    Refusal,
    UnauthenticatedError,
    is_text,
)
from monitor.auth.revocations import Revocations

REMEMBERED_TOKENS: Final = 65_536
"""Maximum tokens cached, at about 600 bytes each. Tokens above this number are verified for each request."""
MAX_NUMERIC_DATE_S: Final = 253_402_300_799
"""The end of year 9999. A larger value is milliseconds instead of seconds, and the token would never expire."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_SCHEMES: Final = frozenset({"bearer", "userkey"})


@dataclass(frozen=True, slots=True)
class _Remembered:
    """Credentials that were valid, with the times between which they are, leeway included."""

    principal: Principal
    from_ms: float
    until_ms: float
    lifetime_ms: float
    """From the token's issue, or from its first use, to its expiry."""


class Authenticator:
    """Checks tokens by one policy. A change of keys needs a new instance, which has cached no token.

    Beside the prepared keys it caches the last valid credentials, at most ``remembered``, by their digests, each
    until its token expires. Belongs to one event loop.
    """

    def __init__(self, policy: AuthPolicy, *, remembered: int = REMEMBERED_TOKENS) -> None:
        self._policy = policy
        self._most = remembered
        self._remembered: dict[bytes, _Remembered] = {}
        self._revoked = Revocations()
        # Keyed, so that a client can't search for two tokens with the same digest.
        self._hash: Final = blake2b(digest_size=16, key=os.urandom(16))
        self._leeway_ms = round(policy.leeway_s * 1_000)
        self._keys: dict[str, tuple[KeyAlgorithm, jwt.algorithms.Algorithm, Any]] = {}
        for key in policy.keys:
            algorithm = jwt.get_algorithm_by_name(key.algorithm)
            self._keys[key.kid] = (key.algorithm, algorithm, algorithm.prepare_key(key.key))

    def authenticate(self, *, authorization: str | None, user_key: str | None, now_ms: int) -> Principal:
        """Return the caller, from the ``Authorization`` and ``UserKey`` headers (None: not sent).

        Order of checks: form, key, algorithm, signature, audience, issuer, the claims' types, issue, times.

        Raises:
            UnauthenticatedError: with the first reason found; no other exception, whatever was sent. Expiry is checked
                last but one, before the start of validity, and raises an ``ExpiredError``.
        """
        # Only ASCII can be valid. Credentials in both headers are rare and not cached.
        alone = authorization is not None and user_key is None and authorization.isascii()
        credentials = authorization.encode() if authorization is not None and alone else None
        digest = None if credentials is None else self.digest(credentials)
        if digest is not None and (known := self.known(digest, now_ms=now_ms)) is not None:
            return known
        claims = self._verified_claims(_token_of(authorization, user_key))
        self._check_parties(claims)
        principal = self._principal(claims)
        exp_ms = _numeric_date_ms(claims, "exp") + self._leeway_ms
        nbf_ms = (_numeric_date_ms(claims, "nbf") if "nbf" in claims else 0) - self._leeway_ms
        self._check_issue(claims, principal, now_ms=now_ms)
        if now_ms >= exp_ms:
            is_late = nbf_ms <= now_ms < exp_ms - self._leeway_ms + LATELY_MS
            raise ExpiredError(principal if is_late else None)
        if nbf_ms > now_ms:
            _refuse(Refusal.NOT_YET_VALID)
        if digest is not None:
            issued_ms = _issued_ms(claims)
            lifetime_ms = exp_ms - self._leeway_ms - (now_ms if issued_ms is None else issued_ms)
            self._remember(digest, _Remembered(principal, nbf_ms, exp_ms, lifetime_ms))
        return principal

    def revoke(self, revoked: Revocations) -> None:
        """Replace the revocations. The cache is cleared, so that every token is checked again."""
        self._revoked = revoked
        self._remembered.clear()

    def expiring(self, *, now_ms: int, within_ms: int) -> dict[str, list[tuple[str, float]]]:
        """Return subject and expiry, in ms, of each tenant's seen tokens that expire within this time.

        Left out are tokens with a lifetime no longer than that, and tokens whose subject and worker have a longer one.
        """
        ends: dict[tuple[str, str, str | None], float] = {}
        for one in self._remembered.values():
            who, end_ms = one.principal, one.until_ms - self._leeway_ms
            if end_ms > now_ms and one.lifetime_ms > within_ms:
                key = who.tenant, who.subject, who.worker_id
                ends[key] = max(ends.get(key, 0), end_ms)
        found: dict[str, list[tuple[str, float]]] = {}
        for (tenant, subject, _), end_ms in ends.items():
            if end_ms <= now_ms + within_ms:
                found.setdefault(tenant, []).append((subject, end_ms))
        return found

    def known(self, digest: bytes, *, now_ms: int) -> Principal | None:
        """Return the cached caller of an ``Authorization`` header with this digest, if its token is still valid.

        None means not cached: call ``authenticate``.
        """
        remembered = self._remembered.get(digest)
        if remembered is None or not remembered.from_ms <= now_ms < remembered.until_ms:
            return None
        return remembered.principal

    def digest(self, authorization: bytes) -> bytes:
        """Return the cache key of a header. No token stays in memory for longer than its request."""
        digest = self._hash.copy()
        digest.update(authorization)
        return digest.digest()

    def _remember(self, digest: bytes, good: _Remembered) -> None:
        if len(self._remembered) >= self._most:
            del self._remembered[next(iter(self._remembered))]  # the one with the oldest verification
        self._remembered[digest] = good

    def _verified_claims(self, token: str) -> dict[str, Any]:
        signed, _, signature_segment = token.rpartition(".")
        header_segment, _, claims_segment = signed.partition(".")
        header = _json_object(_base64url(header_segment))
        signature = _base64url(signature_segment)
        if "crit" in header or "b64" in header:
            _refuse(Refusal.MALFORMED)  # RFC 7515 4.1.11: an extension we don't understand; RFC 7797 needs crit
        name, algorithm, key = self._key_for(header)
        if header.get("alg") != name:
            _refuse(Refusal.BAD_ALGORITHM)
        if not algorithm.verify(signed.encode("ascii"), key, signature):
            _refuse(Refusal.BAD_SIGNATURE)
        return _json_object(_base64url(claims_segment))

    def _key_for(self, header: dict[str, Any]) -> tuple[KeyAlgorithm, jwt.algorithms.Algorithm, Any]:
        if "kid" not in header:
            if len(self._keys) != 1:
                _refuse(Refusal.UNKNOWN_KEY)
            return next(iter(self._keys.values()))
        kid = header["kid"]
        if not isinstance(kid, str):
            _refuse(Refusal.MALFORMED)
        if kid not in self._keys:
            _refuse(Refusal.UNKNOWN_KEY)
        return self._keys[kid]

    def _check_parties(self, claims: dict[str, Any]) -> None:
        if self._policy.audience is not None:
            aud = _required(claims, "aud")
            audiences = [aud] if isinstance(aud, str) else aud
            if not (isinstance(audiences, list) and all(isinstance(one, str) for one in audiences)):
                _refuse(Refusal.BAD_CLAIM, "aud")
            if self._policy.audience not in audiences:
                _refuse(Refusal.WRONG_AUDIENCE)
        if self._policy.issuer is not None:
            iss = _required(claims, "iss")
            if not isinstance(iss, str):
                _refuse(Refusal.BAD_CLAIM, "iss")
            if iss != self._policy.issuer:
                _refuse(Refusal.WRONG_ISSUER)

    def _check_issue(self, claims: dict[str, Any], principal: Principal, *, now_ms: int) -> None:
        policy = self._policy
        issued_ms = _issued_ms(claims)
        if self._revoked and self._revoked.cover(
            principal.tenant, token_id=claims.get("jti"), subject=principal.subject, issued_ms=issued_ms
        ):
            _refuse(Refusal.REVOKED)
        if policy.not_before_ms and issued_ms is None:
            _refuse(Refusal.MISSING_CLAIM, "iat")
        issued_ms = now_ms if issued_ms is None else issued_ms
        if issued_ms < policy.not_before_ms:
            _refuse(Refusal.ISSUED_TOO_EARLY)
        # An issue time in the future does not extend the lifetime. Before the store's first answer no time is known.
        begin_ms = min(issued_ms, now_ms + self._leeway_ms)
        if now_ms and _numeric_date_ms(claims, "exp") - begin_ms > policy.max_lifetime_ms:
            _refuse(Refusal.LIFETIME)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        subject = _required(claims, "sub")
        tenant = _required(claims, self._policy.tenant_claim)
        scope = _required(claims, "scope")
        if not is_text(subject, most=MAX_TOKEN_BYTES):
            _refuse(Refusal.BAD_CLAIM, "sub")
        if not is_text(tenant):
            _refuse(Refusal.BAD_CLAIM, self._policy.tenant_claim)
        if not isinstance(scope, str):
            _refuse(Refusal.BAD_CLAIM, "scope")
        worker_id = claims.get("worker_id")
        if "worker_id" in claims and not is_text(worker_id):
            _refuse(Refusal.BAD_CLAIM, "worker_id")  # null too: an unreadable restriction must not count as none
        environments = claims.get("environments")
        if "environments" in claims and not (
            isinstance(environments, list) and environments and all(is_text(name) for name in environments)
        ):
            _refuse(Refusal.BAD_CLAIM, "environments")
        return Principal(
            subject=subject,
            tenant=tenant,
            scopes=frozenset(scope.split(" ")) - {""},
            worker_id=worker_id,
            environments=None if environments is None else tuple(dict.fromkeys(environments)),
        )


def _refuse(reason: Refusal, claim: str | None = None) -> NoReturn:
    raise UnauthenticatedError(reason, claim)


def _token_of(authorization: str | None, user_key: str | None) -> str:
    """Return the token in the headers, in compact form. The size is checked first: long input is not parsed."""
    tokens: set[str] = set()
    if authorization is not None:
        if len(authorization) > MAX_TOKEN_BYTES + 64:  # the scheme and spaces around it
            _refuse(Refusal.TOO_LONG)
        scheme, _, token = authorization.strip(" \t").partition(" ")
        if scheme.lower() not in _SCHEMES:
            _refuse(Refusal.MALFORMED)
        tokens.add(token.strip(" \t"))
    if user_key is not None:
        if len(user_key) > MAX_TOKEN_BYTES + 64:
            _refuse(Refusal.TOO_LONG)
        tokens.add(user_key.strip(" \t"))
    if not tokens:
        _refuse(Refusal.MISSING)
    token = tokens.pop()
    if len(token) > MAX_TOKEN_BYTES:
        _refuse(Refusal.TOO_LONG)
    if tokens or not _COMPACT.fullmatch(token):
        _refuse(Refusal.MALFORMED)
    return token


def _base64url(segment: str) -> bytes:
    """Decode one segment; only the canonical encoding is accepted (RFC 4648 section 3.5)."""
    raw = segment.encode("ascii")
    try:
        decoded = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except ValueError:
        _refuse(Refusal.MALFORMED)
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != raw:
        _refuse(Refusal.MALFORMED)
    return decoded


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        _refuse(Refusal.MALFORMED)
    if not isinstance(value, dict):
        _refuse(Refusal.MALFORMED)
    return value


def _required(claims: dict[str, Any], name: str) -> Any:
    if name not in claims:
        _refuse(Refusal.MISSING_CLAIM, name)
    return claims[name]


def _issued_ms(claims: dict[str, Any]) -> float | None:
    """Return the token's time of issue; None if it has none, or none that is readable."""
    iat = claims.get("iat")
    if isinstance(iat, int | float) and not isinstance(iat, bool) and abs(iat) <= MAX_NUMERIC_DATE_S:
        return iat * 1_000
    return None


def _numeric_date_ms(claims: dict[str, Any], name: str) -> float:
    value = _required(claims, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMERIC_DATE_S:
        _refuse(Refusal.BAD_CLAIM, name)  # the comparison is false for NaN
    return value * 1_000
