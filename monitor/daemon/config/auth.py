"""The ``[auth]`` section: rules for tokens, and the keys that verify them."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, model_validator

from monitor.auth import read_revocations
from monitor.auth.keys import KeyAlgorithm, hs256_key
from monitor.settings.key_material import (
    KeyMaterialError,
    from_environment,
    from_file,
    public_file,
    public_key,
    unwrapped,
)
from monitor.settings.section import Problem, Section, refusal, surroundings, unique
from monitor.settings.units import Duration, lasting

NonEmpty = Annotated[str, Field(min_length=1)]
_READ: Final = {"secret_file": from_file, "secret_env": from_environment, "public_key_file": public_file}


class AuthKey(Section):
    """One ``[[auth.keys]]``. The secret or public key is read when the configuration is loaded."""

    kid: NonEmpty
    algorithm: KeyAlgorithm
    secret_file: NonEmpty | None = None
    secret_env: NonEmpty | None = None
    public_key_file: NonEmpty | None = None
    _key: bytes = PrivateAttr(b"")

    @property
    def key(self) -> bytes:
        """The secret's bytes for HS256, the public key's PEM for the others."""
        return self._key

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        wanted = ("secret_file", "secret_env") if self.algorithm == "HS256" else ("public_key_file",)
        given = [name for name in _READ if getattr(self, name) is not None]
        misfits = [name for name in given if name not in wanted]
        if misfits:
            message = f"does not go with algorithm {self.algorithm}, which takes {' or '.join(wanted)}"
            raise refusal(*(Problem(message=message, at=(name,)) for name in misfits))
        if len(given) != 1:
            message = f"algorithm {self.algorithm} takes exactly one of {', '.join(wanted)}"
            raise refusal(Problem(message=message, at=tuple(given[-1:])))
        try:
            raw = _READ[given[0]](getattr(self, given[0]), surroundings(info))
            is_secret = self.algorithm == "HS256"
            self._key = hs256_key(unwrapped(raw, "secret")) if is_secret else public_key(raw, self.algorithm)
        except KeyMaterialError as error:
            raise refusal(Problem(message=str(error), at=(given[0],))) from None
        return self


def _moment_ms(value: object) -> int:
    """Parse an RFC 3339 time to milliseconds; 0 for an empty text."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) and value else None
    except ValueError:
        moment = None
    if value == "":
        return 0
    if moment is None or moment.tzinfo is None:
        raise ValueError('must be an RFC 3339 time with its offset, such as "2026-11-24T16:00:00Z", or empty')
    return round(moment.timestamp() * 1_000)


class Auth(Section):
    """``[auth]``. An empty ``audience`` or ``issuer`` means that the claim is not checked."""

    audience: str = "lastseen"
    issuer: str = "lastseen"
    leeway_ms: Annotated[Duration, lasting("0s", "5m")] = Field("30s", validate_default=True)
    tenant_claim: NonEmpty = "org_id"
    max_lifetime_ms: Annotated[Duration, lasting("1m", "3650d")] = Field("3650d", validate_default=True)
    not_before_ms: Annotated[int, BeforeValidator(_moment_ms)] = Field("", validate_default=True)
    anonymous: tuple[Literal["/metrics", "/schema"], ...] = ("/schema",)
    revoked_file: str = ""
    keys: Annotated[tuple[AuthKey, ...], unique("kid", "an earlier key has this kid")] = ()
    _revoked_path: Path | None = PrivateAttr(None)

    @property
    def revoked_path(self) -> Path | None:
        """Absolute path of ``revoked_file``; None: not configured."""
        return self._revoked_path

    @model_validator(mode="after")
    def _read_revoked(self, info: ValidationInfo) -> Self:
        if self.revoked_file:
            self._revoked_path = (surroundings(info).folder / self.revoked_file).absolute()
            try:
                read_revocations(self._revoked_path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise refusal(Problem(message=f"cannot be used: {error}", at=("revoked_file",))) from None
        return self
