"""Who is calling and what they may do: bearer tokens judged against configured keys and the store's time.

Two rules hold in this module. The token never chooses how it is verified: its ``kid`` names a
configured key, and the algorithm is that key's. And no clock is read: ``now_ms`` is a parameter, in
milliseconds of the store's time (P12). Formats: RFC 7515 (JWS), RFC 7519 (JWT); practice: RFC 8725.
"""

from __future__ import annotations

import base64
import json
import math
import re
import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

if TYPE_CHECKING:
    from collections.abc import Iterable

KeyAlgorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]

MIN_SECRET_BYTES: Final = 32
"""RFC 7518 section 3.2: an HS256 secret is at least as long as the hash."""
MIN_RSA_BITS: Final = 2_048
MAX_TOKEN_BYTES: Final = 8_192
MAX_NAME_CHARS: Final = 256
MAX_NUMERIC_DATE_S: Final = 253_402_300_799
"""The end of year 9999; a larger one is milliseconds given for seconds, which would never expire."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_SCHEMES: Final = frozenset({"bearer", "userkey"})


class Scope(StrEnum):
    """What a token may be used for. No scope implies another."""

    HEARTBEAT_WRITE = "heartbeat:write"
    WORKERS_READ = "workers:read"
    ALERTS_WRITE = "alerts:write"
    ADMIN = "admin"
    METRICS_READ = "metrics:read"


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
    """The caller is not known (401). Carries the reason, and nothing of the token."""

    def __init__(self, reason: Refusal) -> None:
        self.reason: Final = reason
        super().__init__(f"token refused: {reason.value}")


class ForbiddenError(Exception):
    """The caller is known and may not do this (403)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyingKey:
    """One key that tokens may be signed with: an HS256 secret, or a public key in PEM.

    Raises:
        ValueError: the material does not fit the algorithm, or is too weak. The message names the
            ``kid`` and never the material.
    """

    kid: str
    algorithm: KeyAlgorithm
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.kid:
            raise ValueError("a key needs a kid")
        if self.algorithm == "HS256":
            self._check_secret()
        else:
            self._check_public_key()

    def _check_secret(self) -> None:
        if len(self.key) < MIN_SECRET_BYTES:
            raise ValueError(f"key {self.kid!r}: an HS256 secret has at least {MIN_SECRET_BYTES} bytes")
        try:
            jwt.get_algorithm_by_name("HS256").prepare_key(self.key)
        except jwt.InvalidKeyError:
            raise ValueError(f"key {self.kid!r}: the HS256 secret is a public key, a certificate or a JWK") from None

    def _check_public_key(self) -> None:
        try:
            public = load_pem_public_key(self.key)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError(f"key {self.kid!r}: {self.algorithm} needs a public key in PEM") from None
        match self.algorithm, public:
            case "RS256", RSAPublicKey() if public.key_size >= MIN_RSA_BITS:
                return
            case "ES256", EllipticCurvePublicKey() if isinstance(public.curve, SECP256R1):
                return
            case "EdDSA", Ed25519PublicKey() | Ed448PublicKey():
                return
            case _:
                raise ValueError(f"key {self.kid!r}: the public key does not fit {self.algorithm}, or is too short")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthPolicy:
    """What makes a token good. ``audience`` and ``issuer`` None: that claim is not checked."""

    keys: tuple[VerifyingKey, ...]
    audience: str | None
    issuer: str | None
    leeway_s: float
    tenant_claim: str

    def __post_init__(self) -> None:
        kids = [key.kid for key in self.keys]
        if len(set(kids)) != len(kids):
            raise ValueError(f"every key needs its own kid, got {kids}")
        if not (math.isfinite(self.leeway_s) and self.leeway_s >= 0):
            raise ValueError(f"leeway must be finite and not negative, got {self.leeway_s}")
        if not self.tenant_claim:
            raise ValueError("the tenant claim needs a name")


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A caller whose token was good. ``worker_id`` and ``environments`` None: not restricted."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    worker_id: str | None
    environments: tuple[str, ...] | None

    def require(self, scope: Scope) -> None:
        """Go on only with this scope.

        Raises:
            ForbiddenError: the token lacks it; the message names it.
        """
        if scope.value not in self.scopes:
            raise ForbiddenError(f"the token lacks the scope {scope.value!r}")

    def require_worker(self, worker_id: str) -> None:
        """Go on only if the token may act for this worker.

        Raises:
            ForbiddenError: the token is restricted to another worker.
        """
        if self.worker_id is not None and self.worker_id != worker_id:
            raise ForbiddenError("the token is restricted to another worker")


class Authenticator:
    """Judges tokens by one policy. Holds no state but the prepared keys; safe to share."""

    def __init__(self, policy: AuthPolicy) -> None:
        self._policy = policy
        self._leeway_ms = round(policy.leeway_s * 1_000)
        self._keys: dict[str, tuple[KeyAlgorithm, jwt.algorithms.Algorithm, Any]] = {}
        for key in policy.keys:
            algorithm = jwt.get_algorithm_by_name(key.algorithm)
            self._keys[key.kid] = (key.algorithm, algorithm, algorithm.prepare_key(key.key))

    def authenticate(self, *, authorization: str | None, user_key: str | None, now_ms: int) -> Principal:
        """Say who the caller is, from the ``Authorization`` and ``UserKey`` headers (None: not sent).

        Checked in this order: form, key, algorithm, signature, audience, issuer, the claims' types, times.

        Raises:
            UnauthenticatedError: with the first reason found; no other exception, whatever was sent.
        """
        claims = self._verified_claims(_token_of(authorization, user_key))
        self._check_parties(claims)
        principal = self._principal(claims)
        exp_ms = _numeric_date_ms(claims, "exp")
        nbf_ms = _numeric_date_ms(claims, "nbf") if "nbf" in claims else None
        if now_ms >= exp_ms + self._leeway_ms:
            _refuse(Refusal.EXPIRED)
        if nbf_ms is not None and nbf_ms > now_ms + self._leeway_ms:
            _refuse(Refusal.NOT_YET_VALID)
        return principal

    def _verified_claims(self, token: str) -> dict[str, Any]:
        signed, _, signature_segment = token.rpartition(".")
        header_segment, _, claims_segment = signed.partition(".")
        header = _json_object(_base64url(header_segment))
        signature = _base64url(signature_segment)
        if "crit" in header or "b64" in header:
            _refuse(Refusal.MALFORMED)  # RFC 7515 4.1.11: what must be understood is not; RFC 7797 needs crit
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
                _refuse(Refusal.BAD_CLAIM)
            if self._policy.audience not in audiences:
                _refuse(Refusal.WRONG_AUDIENCE)
        if self._policy.issuer is not None:
            iss = _required(claims, "iss")
            if not isinstance(iss, str):
                _refuse(Refusal.BAD_CLAIM)
            if iss != self._policy.issuer:
                _refuse(Refusal.WRONG_ISSUER)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        subject = _required(claims, "sub")
        tenant = _required(claims, self._policy.tenant_claim)
        scope = _required(claims, "scope")
        if not (_is_text(subject, most=MAX_TOKEN_BYTES) and _is_text(tenant) and isinstance(scope, str)):
            _refuse(Refusal.BAD_CLAIM)
        worker_id = claims.get("worker_id")
        if "worker_id" in claims and not _is_text(worker_id):
            _refuse(Refusal.BAD_CLAIM)  # null too: a restriction that cannot be read must not lift itself
        environments = claims.get("environments")
        if "environments" in claims and not (
            isinstance(environments, list) and environments and all(_is_text(name) for name in environments)
        ):
            _refuse(Refusal.BAD_CLAIM)
        return Principal(
            subject=subject,
            tenant=tenant,
            scopes=frozenset(scope.split(" ")) - {""},
            worker_id=worker_id,
            environments=None if environments is None else tuple(dict.fromkeys(environments)),
        )


def mint(
    *,
    key: VerifyingKey,
    tenant: str,
    tenant_claim: str,
    subject: str,
    scopes: Iterable[Scope],
    now_ms: int,
    expires_in_ms: int,
    audience: str | None,
    issuer: str | None,
    worker_id: str | None = None,
    environments: tuple[str, ...] | None = None,
    token_id: str,
) -> str:
    """Make a token that an ``Authenticator`` with this key, tenant claim, audience and issuer accepts.

    Raises:
        ValueError: the key is not an HS256 secret (a public key cannot sign), or a value could not be accepted.
    """
    if key.algorithm != "HS256":
        raise ValueError(f"key {key.kid!r}: only an HS256 key can sign, this one is {key.algorithm}")
    if expires_in_ms <= 0:
        raise ValueError(f"a token must expire after it was made, got {expires_in_ms} ms")
    names = [tenant, *([] if worker_id is None else [worker_id]), *(environments or ())]
    if not _is_text(subject, most=MAX_TOKEN_BYTES) or environments == () or not all(map(_is_text, names)):
        raise ValueError(
            "subject, tenant, worker id and environments are not empty, hold no control characters "
            f"and but for the subject at most {MAX_NAME_CHARS} characters"
        )
    claims: dict[str, object] = {
        "sub": subject,
        "scope": " ".join(sorted({Scope(scope).value for scope in scopes})),
        "iat": _seconds(now_ms),
        "exp": _seconds(now_ms + expires_in_ms),
        "jti": token_id,
    }
    optional = {
        "aud": audience,
        "iss": issuer,
        "worker_id": worker_id,
        "environments": None if environments is None else list(environments),
    }
    if not tenant_claim or tenant_claim in claims or tenant_claim in optional:
        raise ValueError(f"the tenant claim cannot be {tenant_claim!r}")
    claims[tenant_claim] = tenant
    claims |= {name: value for name, value in optional.items() if value is not None}
    token = jwt.encode(claims, key.key, algorithm="HS256", headers={"kid": key.kid})
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"the token would have {len(token)} bytes, {MAX_TOKEN_BYTES} are accepted")
    return token


def _refuse(reason: Refusal) -> NoReturn:
    raise UnauthenticatedError(reason)


def _token_of(authorization: str | None, user_key: str | None) -> str:
    """The token in the headers, of compact form. Size comes first: nothing long is looked into."""
    tokens: set[str] = set()
    if authorization is not None:
        if len(authorization) > MAX_TOKEN_BYTES + 64:  # the scheme and spaces around it
            _refuse(Refusal.MALFORMED)
        scheme, _, token = authorization.strip(" \t").partition(" ")
        if scheme.lower() not in _SCHEMES:
            _refuse(Refusal.MALFORMED)
        tokens.add(token.strip(" \t"))
    if user_key is not None:
        if len(user_key) > MAX_TOKEN_BYTES + 64:
            _refuse(Refusal.MALFORMED)
        tokens.add(user_key.strip(" \t"))
    if not tokens:
        _refuse(Refusal.MISSING)
    token = tokens.pop()
    if tokens or len(token) > MAX_TOKEN_BYTES or not _COMPACT.fullmatch(token):
        _refuse(Refusal.MALFORMED)
    return token


def _base64url(segment: str) -> bytes:
    """Decode one segment; only the canonical spelling of the bytes is taken (RFC 4648 section 3.5)."""
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
        _refuse(Refusal.MISSING_CLAIM)
    return claims[name]


def _is_text(value: object, *, most: int = MAX_NAME_CHARS) -> bool:
    """Whether it is a string of 1 to ``most`` characters without controls and lone surrogates."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= most
        and not any(unicodedata.category(character) in {"Cc", "Cs"} for character in value)
    )


def _numeric_date_ms(claims: dict[str, Any], name: str) -> float:
    value = _required(claims, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMERIC_DATE_S:
        _refuse(Refusal.BAD_CLAIM)  # the comparison is false for NaN
    return value * 1_000


def _seconds(ms: int) -> int | float:
    return ms // 1_000 if ms % 1_000 == 0 else ms / 1_000
