"""Secrets and public keys: reading and validation.

The only part of the configuration that reads files other than the configuration itself. Messages
never contain a secret, nor a value that would be one if it was pasted into the wrong key.
"""

import base64
import binascii
import codecs
import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

MIN_RSA_BITS: Final = 2_048
"""RFC 7518, section 3.3."""
WEBHOOK_PREFIX: Final = "whsec_"
WEBHOOK_SECRET_BYTES: Final = range(24, 65)
"""Standard Webhooks, "Signature scheme"."""
_LARGEST_FILE_BYTES: Final = 65_536
_ASSIGNMENT: Final = re.compile(r"(export\s+)?[A-Z][A-Z0-9_]{2,}=[^=]")


class KeyMaterialError(ValueError):
    """A secret or key cannot be read, or is unfit for its purpose. The message gives the reason, without the value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """The files and variables that a configuration refers to. ``folder`` is the base of its relative paths."""

    folder: Path = field(default_factory=Path)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    exposed: list[str] = field(default_factory=list)
    """The secret files that are readable by all users, as they were read."""


def from_file(name: str, around: Surroundings) -> bytes:
    """Return a secret file's content without the newlines at its end."""
    content = public_file(name, around)
    path = around.folder / name
    if path.stat().st_mode & stat.S_IROTH:
        around.exposed.append(str(path))
    return content


def public_file(name: str, around: Surroundings) -> bytes:
    """Return a public file's content without the newlines at its end."""
    path = around.folder / name
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise KeyMaterialError(f"cannot read the file (folder {around.folder.absolute()}): {reason}") from None
    if len(content) > _LARGEST_FILE_BYTES:
        raise KeyMaterialError(f"the file is larger than {_LARGEST_FILE_BYTES} bytes")
    return content.rstrip(b"\r\n")


def from_environment(name: str, around: Surroundings) -> bytes:
    """Return an environment variable's value without the newlines at its end."""
    value = around.environ.get(name)
    if value is None:
        raise KeyMaterialError("the environment variable that it names is not set")
    return value.encode(errors="surrogateescape").rstrip(b"\r\n")


def unwrapped(raw: bytes, what: str) -> bytes:
    """Return the secret unchanged, unless it is a text with surroundings that can't be intended."""
    if raw.startswith(codecs.BOM_UTF8):
        raise KeyMaterialError(f"the {what} begins with a byte order mark: save the file as UTF-8 without one")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw  # random bytes are valid too
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise KeyMaterialError(f"the {what} holds a control character, such as a second line")
    if text != text.strip():
        raise KeyMaterialError(f"the {what} begins or ends with white space")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise KeyMaterialError(f"the {what} is enclosed in quotes: leave them out")
    if _ASSIGNMENT.match(text):
        raise KeyMaterialError(f"the {what} has the form NAME=value: leave the name out")
    return raw


def public_key(pem: bytes, algorithm: str) -> bytes:
    """Return a PEM public key whose type fits ``algorithm``, unchanged."""
    if b"PRIVATE KEY-----" in pem:
        raise KeyMaterialError("the file holds a private key; give the public key, and keep this one off the daemon")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyMaterialError("the file is not a PEM public key") from None
    match algorithm, key:
        case "RS256", rsa.RSAPublicKey():
            if key.key_size < MIN_RSA_BITS:
                raise KeyMaterialError(f"the RSA key has {key.key_size} bits, at least {MIN_RSA_BITS} are needed")
        case "ES256", ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, ec.SECP256R1):
                raise KeyMaterialError(f"the key is on the curve {key.curve.name}, ES256 needs P-256")
        case "EdDSA", ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            pass
        case _:
            kind = type(key).__name__.lstrip("_").removesuffix("PublicKey")
            raise KeyMaterialError(f"the key is of type {kind}, which does not fit {algorithm}")
    return pem


def webhook_secret(raw: bytes) -> bytes:
    """Return the bytes of ``whsec_<base64>``."""
    raw = unwrapped(raw, "secret")
    head, encoded = raw[: len(WEBHOOK_PREFIX)], raw[len(WEBHOOK_PREFIX) :]
    if head != WEBHOOK_PREFIX.encode():
        raise KeyMaterialError(f"the secret does not begin with {WEBHOOK_PREFIX}; `lastseen alerts secret` makes one")
    try:
        secret = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise KeyMaterialError(f"the secret is not base64 after {WEBHOOK_PREFIX}") from None
    if len(secret) not in WEBHOOK_SECRET_BYTES:
        raise KeyMaterialError(f"the secret has {len(secret)} bytes, 24 to 64 are needed")
    return secret


def bearer_token(raw: bytes) -> str:
    """Return a valid token for the header ``Authorization: Bearer`` (RFC 6750, 2.1), unchanged."""
    raw = unwrapped(raw, "token")
    if not re.fullmatch(rb"[A-Za-z0-9\-._~+/]+=*", raw):
        raise KeyMaterialError("the token is empty, or holds characters that a bearer token can't have")
    return raw.decode()


def password(raw: bytes) -> str:
    """Return a valid password for HTTP basic authentication (RFC 7617), unchanged."""
    try:
        text = unwrapped(raw, "password").decode()
    except UnicodeDecodeError:
        raise KeyMaterialError("the password is not UTF-8") from None
    if not text or not text.isprintable():
        raise KeyMaterialError("the password is empty, or holds control characters")
    return text
