"""Tokens for a bench, minted with the key of a daemon's configuration."""

import secrets
from collections.abc import Collection
from typing import Final

from monitor.auth import Scope, VerifyingKey, mint
from monitor.clock import wall_ms
from monitor.daemon.config.model import Config
from monitor.daemon.signing_key import key_ring

TENANT: Final = "bench"
_EXPIRES_IN_MS: Final = 24 * 3_600_000


class NoSigningKeyError(Exception):
    """The configuration has no key that can sign."""


def minted(
    config: Config, count: int, *, tenant: str = TENANT, scopes: Collection[Scope] = (Scope.HEARTBEAT_WRITE,)
) -> list[str]:
    """``count`` different tokens of one tenant, valid for a day.

    Makes the generated key if the configuration stands for one that is not there yet.

    Raises:
        NoSigningKeyError: only public keys are configured.
        SigningKeyError: the generated key can't be used.
    """
    key = key_ring(config).signing()
    if key is None:
        raise NoSigningKeyError("no HS256 key is configured: only the holder of a private key can make tokens")
    return [_token(config, key, tenant, scopes) for _ in range(count)]


def master_token(config: Config) -> str:
    """A token of tenant ``bench`` with every scope."""
    return minted(config, 1, scopes=tuple(Scope))[0]


def _token(config: Config, key: VerifyingKey, tenant: str, scopes: Collection[Scope]) -> str:
    return mint(
        key=key,
        tenant=tenant,
        tenant_claim=config.auth.tenant_claim,
        subject="bench",
        scopes=scopes,
        now_ms=wall_ms(),
        expires_in_ms=_EXPIRES_IN_MS,
        audience=config.auth.audience or None,
        issuer=config.auth.issuer or None,
        token_id=secrets.token_hex(8),
    )
