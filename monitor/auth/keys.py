"""The keys that verify tokens, and the policy for valid tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

KeyAlgorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]

MIN_SECRET_BYTES: Final = 32
"""RFC 7518 section 3.2: an HS256 secret is at least as long as the hash."""
MIN_RSA_BITS: Final = 2_048


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

    def __post_init__(self) -> None:
        kids = [key.kid for key in self.keys]
        if len(set(kids)) != len(kids):
            raise ValueError(f"every key needs its own kid, got {kids}")
        if not (math.isfinite(self.leeway_s) and self.leeway_s >= 0):
            raise ValueError(f"leeway must be finite and not negative, got {self.leeway_s}")
        if not self.tenant_claim:
            raise ValueError("the tenant claim needs a name")
