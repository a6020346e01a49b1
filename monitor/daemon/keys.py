"""Which keys the daemon and the command line work with: those of the configuration, or the generated one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitor.auth import AuthPolicy, VerifyingKey
from monitor.daemon.signing_key import generated_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from monitor.daemon.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRing:
    """``generated`` is the file of the key that we made ourselves, None when the configuration names keys."""

    keys: tuple[VerifyingKey, ...]
    generated: Path | None

    def signing(self) -> VerifyingKey | None:
        """The key that new tokens are made with: the first HS256 key; public keys cannot sign."""
        return next((key for key in self.keys if key.algorithm == "HS256"), None)


def key_ring(config: Config, own: Callable[[Path], tuple[str, bytes, Path]] = generated_key) -> KeyRing:
    """The keys of this configuration; with the embedded store and none configured, our ``own``, made on first use.

    Raises:
        SigningKeyError: the generated key can't be used.
    """
    if config.auth.keys:
        keys = tuple(VerifyingKey(kid=key.kid, algorithm=key.algorithm, key=key.key) for key in config.auth.keys)
        return KeyRing(keys=keys, generated=None)
    kid, secret, path = own(config.store.data_dir)
    return KeyRing(keys=(VerifyingKey(kid=kid, algorithm="HS256", key=secret),), generated=path)


def auth_policy(config: Config, ring: KeyRing) -> AuthPolicy:
    """What makes a token good under this configuration."""
    return AuthPolicy(
        keys=ring.keys,
        audience=config.auth.audience or None,
        issuer=config.auth.issuer or None,
        leeway_s=config.auth.leeway_ms / 1_000,
        tenant_claim=config.auth.tenant_claim,
        max_lifetime_ms=config.auth.max_lifetime_ms,
        not_before_ms=config.auth.not_before_ms,
    )
