"""The keys that verify tokens, and the policy for valid tokens."""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

import jwt

from monitor.settings.key_material import KeyMaterialError, public_key

KeyAlgorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: an HS256 key is at least as long as the hash."""


def hs256_key(raw: bytes) -> bytes:
    """Return the bytes of an HS256 key, unchanged.

    Raises:
        KeyMaterialError: they are too few, or a key of another kind.
    """
    if len(raw) < MIN_SECRET_BYTES:
        raise KeyMaterialError(f"the secret has {len(raw)} bytes, HS256 needs at least {MIN_SECRET_BYTES}")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(raw)
    except jwt.InvalidKeyError:
        raise KeyMaterialError("the secret is a public key, a certificate or a JWK") from None
    return raw


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyingKey:
    """One key that verifies tokens: an HS256 secret, or a public key in PEM.

    Raises:
        ValueError: the material does not fit the algorithm, or is too weak. The message names the
            ``kid`` and never the material.
    """

    kid: str
    algorithm: KeyAlgorithm
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        try:
            hs256_key(self.key) if self.algorithm == "HS256" else public_key(self.key, self.algorithm)
        except KeyMaterialError as error:
            raise ValueError(f"key {self.kid!r}: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthPolicy:
    """The conditions for a valid token. ``audience`` and ``issuer`` None: that claim is not checked.

    ``max_lifetime_ms`` bounds the time from a token's issue, or without ``iat`` from now, to its expiry. With
    ``not_before_ms``, in ms since the epoch, tokens issued earlier are refused, and so are tokens without ``iat``.
    """

    keys: tuple[VerifyingKey, ...]
    audience: str | None
    issuer: str | None
    leeway_s: float
    tenant_claim: str
    max_lifetime_ms: float = math.inf
    not_before_ms: int = 0
