"""The keys that the daemon and the command line work with: those of the configuration, or the generated one.

A daemon that is given no key makes one for itself, and keeps it beside its data.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from monitor.auth import MIN_SECRET_BYTES, AuthPolicy, VerifyingKey
from monitor.trust import KEY_FILE, DataDirError, own_dir, trusted_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.daemon.config.model import Config

_RANDOM_BYTES: Final = 48
_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO


class SigningKeyError(Exception):
    """The generated signing key can't be used; the message names the file, and nothing of the key."""


class NoSigningKeyError(SigningKeyError):
    """There is none yet."""


def generated_key(data_dir: Path) -> tuple[str, bytes, Path]:
    """The HS256 key under ``data_dir``, made on the first call and the same ever after.

    Two that call it at the same time on an empty directory agree on one key: it is written under another
    name and appears whole or not at all. A directory that is missing is made, for its owner only.

    Returns:
        The key's id, the key, and the file that holds it.

    Raises:
        SigningKeyError: the file is open to others or damaged, or can't be read or made.
    """
    try:
        path = trusted_dir(data_dir) / KEY_FILE
        if not path.exists():
            _make(path)
    except DataDirError as error:
        raise SigningKeyError(str(error)) from error
    except OSError as error:
        raise SigningKeyError(f"signing key {path}: {error}") from error
    return existing_key(data_dir)


def existing_key(data_dir: Path) -> tuple[str, bytes, Path]:
    """As ``generated_key``, of a key that was made before.

    Raises:
        NoSigningKeyError: there is none.
        SigningKeyError: as above.
    """
    path = own_dir(data_dir) / KEY_FILE
    try:
        key = _read(path)
    except FileNotFoundError:
        raise NoSigningKeyError(f"there is no signing key {path}") from None
    except OSError as error:
        raise SigningKeyError(f"signing key {path}: {error}") from error
    return f"generated-{hashlib.sha256(key).hexdigest()[:8]}", key, path


def _make(path: Path) -> None:
    """Write a new key, unless another was quicker."""
    fd, name = tempfile.mkstemp(prefix=f".{KEY_FILE}-", dir=path.parent)  # exclusive, mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_urlsafe(_RANDOM_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Have the directory's entries outlive a power cut: tokens signed with a key that is gone are worthless."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SigningKeyError(f"signing key {path} is a link: put the key there itself") from error
        raise
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        # Root may read the key of the user that the daemon runs as, whose the directory is.
        owners = {os.geteuid()} if os.geteuid() else {0, path.parent.stat().st_uid}
        if found.st_uid not in owners:
            raise SigningKeyError(f"signing key {path} belongs to user {found.st_uid}, not to us: restore its owner")
        mode = stat.S_IMODE(found.st_mode)
        if mode & _OTHERS_MAY:
            raise SigningKeyError(f"signing key {path} is open to others (mode {mode:04o}): chmod 600 {path}")
        key = file.read().strip()
    if len(key) < MIN_SECRET_BYTES:
        raise SigningKeyError(
            f"signing key {path} is damaged: {len(key)} bytes, {MIN_SECRET_BYTES} are the least; "
            "restore it, or remove it for a new one, which ends every token signed with the old one"
        )
    return key


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
