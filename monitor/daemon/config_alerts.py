"""The ``[alerts]`` section: where notifications go, which events go there, and how long delivery is tried."""

from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PrivateAttr, StrictBool, StrictInt, ValidationInfo, field_validator
from pydantic import model_validator as model_check

from monitor.daemon.globs import Glob
from monitor.daemon.key_material import KeyMaterialError, Surroundings, from_environment, from_file, webhook_secret
from monitor.daemon.refusals import Problem, Section, Url, refusal, surroundings
from monitor.daemon.units import Duration, duration_text, lasting
from monitor.liveness import EventKind

EVERY: Final = "*"
IMPLICIT_RECEIVER: Final = "log"
DEFAULT_EVENTS: Final = (EventKind.STALE, EventKind.FAILED, EventKind.RECOVERED)
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LONGEST_NAME: Final = 64


def _checked_name(name: str) -> str:
    if not name or len(name) > _LONGEST_NAME or set(name) - _NAME_CHARACTERS:
        raise ValueError(f"must be 1 to {_LONGEST_NAME} letters, digits, `_` or `-`")
    return name


def _not_empty(items: tuple[str, ...]) -> tuple[str, ...]:
    """Unlike ``min_length``, silent about a list whose only item was refused itself."""
    if not items:
        raise ValueError("must not be empty")
    return items


def _checked_event(name: str) -> str:
    kinds = [kind.value for kind in EventKind]
    if name != EVERY and name not in kinds:
        raise ValueError(f'must be one of {", ".join(kinds)}, or "{EVERY}"')
    return name


def _checked_target(text: str) -> Url:
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_fine:
        raise ValueError("must be an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("must not hold user and password")
    if not text.isprintable() or " " in text:
        raise ValueError("must not hold spaces or control characters")
    return Url(text)


class Receiver(Section):
    """One ``[[alerts.receivers]]``. Its secrets are read when the configuration is loaded."""

    name: Annotated[str, AfterValidator(_checked_name)]
    type: Literal["log", "webhook"]
    url: Annotated[str, AfterValidator(_checked_target)] | None = None
    secret_file: str | None = None
    secret_files: tuple[str, ...] = ()
    secret_env: str | None = None
    secret_envs: tuple[str, ...] = ()
    allow_private: StrictBool = False
    timeout_ms: Annotated[Duration, lasting("1s", "60s")] = Field("10s", alias="timeout", validate_default=True)
    _secrets: tuple[bytes, ...] = PrivateAttr(())

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The decoded signing secrets, the newest first: what is sent is signed with each. Empty for type log."""
        return self._secrets

    @model_check(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        problems: list[Problem] = []
        if self.type == "log":
            keys = ("url", "secret_file", "secret_files", "secret_env", "secret_envs")
            message = "belongs to a receiver of type webhook, not log"
            problems += [Problem(message=message, at=(key,)) for key in keys if key in self.model_fields_set]
        else:
            if self.url is None:
                problems.append(Problem(message="is required for a receiver of type webhook", at=("url",)))
            secrets: list[bytes] = []
            sources = list(self._secret_sources())
            for at, read, name in sources:
                try:
                    secrets.append(webhook_secret(read(name, surroundings(info))))
                except KeyMaterialError as error:
                    problems.append(Problem(message=str(error), at=at))
            if not sources:
                choice = "secret_file, secret_files, secret_env, secret_envs"
                problems.append(Problem(message=f"a webhook needs a signing secret: give one of {choice}"))
            self._secrets = tuple(secrets)
        if problems:
            raise refusal(*problems)
        return self

    def _secret_sources(self) -> Iterator[tuple[tuple[str | int, ...], Callable[[str, Surroundings], bytes], str]]:
        if self.secret_file is not None:
            yield ("secret_file",), from_file, self.secret_file
        for index, name in enumerate(self.secret_files):
            yield ("secret_files", index), from_file, name
        if self.secret_env is not None:
            yield ("secret_env",), from_environment, self.secret_env
        for index, name in enumerate(self.secret_envs):
            yield ("secret_envs", index), from_environment, name


class Route(Section):
    """One ``[[alerts.routes]]``. Every matching route applies; a receiver gets an event once."""

    receivers: Annotated[tuple[str, ...], AfterValidator(_not_empty)]
    events: Annotated[tuple[Annotated[str, AfterValidator(_checked_event)], ...], AfterValidator(_not_empty)] = tuple(
        kind.value for kind in DEFAULT_EVENTS
    )
    environments: Annotated[tuple[Glob, ...], AfterValidator(_not_empty)] = (EVERY,)
    tenants: Annotated[tuple[Glob, ...], AfterValidator(_not_empty)] = (EVERY,)

    @property
    def kinds(self) -> frozenset[EventKind]:
        """``events`` with ``*`` spelled out."""
        return frozenset(EventKind) if EVERY in self.events else frozenset(EventKind(name) for name in self.events)


_LOG: Final = Receiver.model_validate({"name": IMPLICIT_RECEIVER, "type": "log"})
_EVERYTHING_TO_LOG: Final = Route(receivers=(IMPLICIT_RECEIVER,), events=(EVERY,))


class Alerts(Section):
    """``[alerts]``. ``receivers`` and ``routes`` are as written; use the effective ones."""

    retry_initial_ms: Annotated[Duration, lasting("100ms", "1h")] = Field(
        "2s", alias="retry_initial", validate_default=True
    )
    retry_max_ms: Annotated[Duration, lasting("100ms", "7d")] = Field("6h", alias="retry_max", validate_default=True)
    retry_for_ms: Annotated[Duration, lasting("0s", "30d")] = Field("72h", alias="retry_for", validate_default=True)
    queue_concurrency: Annotated[StrictInt, Field(ge=1, le=64)] = 8
    receivers: tuple[Receiver, ...] = ()
    routes: tuple[Route, ...] = ()

    @property
    def effective_receivers(self) -> tuple[Receiver, ...]:
        """The configured receivers, or the one implicit ``log``."""
        return self.receivers or (_LOG,)

    @property
    def effective_routes(self) -> tuple[Route, ...]:
        """The configured routes; or every event to the implicit ``log``; or the default events to every receiver."""
        if self.routes:
            return self.routes
        if not self.receivers:
            return (_EVERYTHING_TO_LOG,)
        return (Route(receivers=tuple(receiver.name for receiver in self.receivers)),)

    @field_validator("retry_max_ms")
    @classmethod
    def _not_below_the_first(cls, longest_ms: int, info: ValidationInfo) -> int:
        first_ms = info.data.get("retry_initial_ms", longest_ms)
        if longest_ms < first_ms:
            message = f"{duration_text(longest_ms)} is below alerts.retry_initial, {duration_text(first_ms)}"
            raise refusal(Problem(message=message, related=(("alerts", "retry_initial"),)))
        return longest_ms

    @field_validator("receivers")
    @classmethod
    def _unique(cls, receivers: tuple[Receiver, ...]) -> tuple[Receiver, ...]:
        names = [receiver.name for receiver in receivers]
        repeated = [index for index, name in enumerate(names) if name in names[:index]]
        if repeated:
            message = "an earlier receiver has this name"
            raise refusal(*(Problem(message=message, at=(index, "name")) for index in repeated))
        return receivers

    @field_validator("routes")
    @classmethod
    def _lead_somewhere(cls, routes: tuple[Route, ...], info: ValidationInfo) -> tuple[Route, ...]:
        if "receivers" not in info.data:  # refused themselves; what a route names is judged when they are right
            return routes
        known = {receiver.name for receiver in info.data["receivers"]} or {IMPLICIT_RECEIVER}
        problems = [
            Problem(message=f"there is no receiver of this name (there is {', '.join(sorted(known))})", at=at)
            for route_index, route in enumerate(routes)
            for name_index, name in enumerate(route.receivers)
            if name not in known
            for at in [(route_index, "receivers", name_index)]
        ]
        if problems:
            raise refusal(*problems)
        return routes
