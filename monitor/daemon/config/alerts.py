"""The ``[alerts]`` section: receivers, routes, and grouping of events."""

import functools
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, StrictBool, StrictInt, ValidationInfo, field_validator
from pydantic import model_validator as model_check

from alerts.groups.classify import DOWN, fits
from alerts.receivers import TYPES, ReceiverSettings
from alerts.receivers.log import LogSettings
from alerts.rendering.redaction import Redaction
from monitor.auth import MAX_NAME_CHARS
from monitor.liveness import EventKind
from monitor.printable import Paged
from monitor.settings.globs import Glob
from monitor.settings.section import Key, Problem, Section, refusal, unique
from monitor.settings.units import Duration, duration_text, lasting
from monitor.settings.urls import checked_base_url

EVERY: Final = "*"
IMPLICIT_RECEIVER: Final = "log"
DEFAULT_EVENTS: Final = (EventKind.STALE, EventKind.FAILED, EventKind.REJECTED, EventKind.RECOVERED)
BY_WORKER: Final = "worker_id"
GROUP_LABELS: Final = ("tenant", "environment")
METADATA_LABEL: Final = "metadata."
REDACTED_KEYS: Final = (
    "*token*",
    "*secret*",
    "*passw*",
    "*passphrase*",
    "*passcode*",
    "*pass",
    "*_pass_*",
    "*pwd*",
    "*credential*",
    "*jwt*",
    "*auth",
    "*auth_*",
    "*auth-*",
    "*oauth*",
    "*authorization*",
    "*authentication*",
    "*cookie*",
    "*dsn",
    "*connection*string*",
    "*conn_str*",
    "*connstr*",
    "*_key",
    "*-key",
    "*api*key*",
    "*access*key*",
    "*private*key*",
    "*signing*key*",
    "*encrypt*key*",
    "*master*key*",
    "*shared*key*",
    "*account*key*",
)
"""Patterns of metadata keys that hold secrets. Not `*pass*` and `*auth*`: `passed` and `author` are no secrets."""

if TYPE_CHECKING:
    AnyReceiver: TypeAlias = ReceiverSettings
else:
    # A union of all receiver types; the key `type` selects one.
    AnyReceiver = Annotated[functools.reduce(operator.or_, TYPES.values()), Field(discriminator="type")]


def _not_empty(items: tuple[str, ...]) -> tuple[str, ...]:
    """Unlike ``min_length``, reports nothing for a list whose only item was itself refused."""
    if not items:
        raise ValueError("must not be empty")
    return items


def _checked_event(name: str) -> str:
    kinds = [kind.value for kind in EventKind]
    if name != EVERY and name not in kinds:
        raise ValueError(f'must be one of {", ".join(kinds)}, or "{EVERY}"')
    return name


def _fitting_a_name(pattern: str) -> str:
    if len(pattern.replace(EVERY, "")) > MAX_NAME_CHARS:
        raise ValueError(f"can never match: names have at most {MAX_NAME_CHARS} characters")
    return pattern


def _checked_label(label: str) -> str:
    if label not in {BY_WORKER, *GROUP_LABELS} and not label.startswith(METADATA_LABEL):
        raise ValueError(f"must be {BY_WORKER}, {', '.join(GROUP_LABELS)} or {METADATA_LABEL}<name>")
    if label == METADATA_LABEL:
        raise ValueError(f"must name a key of the metadata, such as {METADATA_LABEL}region")
    return label


def _checked_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    if BY_WORKER in labels and len(labels) > 1:
        raise ValueError(f"{BY_WORKER} cannot be combined with other labels: every worker is a group of its own")
    if len(set(labels)) < len(labels):
        raise ValueError("names a label twice")
    return labels


def _checked_public_url(text: str) -> str:
    return str(checked_base_url(text)) if text else text


def _reminding(ms: int) -> int:
    if 0 < ms < 1_000:  # noqa: PLR2004 - a second
        raise ValueError("must be 0s, for no reminders, or at least 1s")
    return ms


def _checked_share(share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError("must be more than 0 and at most 1")
    return share


Pattern: TypeAlias = Annotated[Glob, AfterValidator(_fitting_a_name)]
Label: TypeAlias = Annotated[str, AfterValidator(_checked_label)]
T = TypeVar("T")
OneOrMore: TypeAlias = Annotated[tuple[T, ...], AfterValidator(_not_empty)]


class Route(Section):
    """One ``[[alerts.routes]]``. Every matching route applies; a receiver gets each event only once."""

    receivers: OneOrMore[str]
    events: OneOrMore[Annotated[str, AfterValidator(_checked_event)]] = tuple(kind.value for kind in DEFAULT_EVENTS)
    environments: OneOrMore[Pattern] = (EVERY,)
    tenants: OneOrMore[Pattern] = (EVERY,)
    group_by: Annotated[OneOrMore[Label], AfterValidator(_checked_labels)] = (BY_WORKER,)
    group_wait_ms: Annotated[Duration, lasting("0s", "1h")] = Field(None, validate_default=True)
    group_interval_ms: Annotated[Duration, lasting("100ms", "1d")] = Field("60s", validate_default=True)
    repeat_interval_ms: Annotated[Duration, lasting("0s", "30d"), AfterValidator(_reminding)] = Field(
        "4h", validate_default=True
    )

    @property
    def kinds(self) -> frozenset[EventKind]:
        """``events`` with ``*`` expanded."""
        return frozenset(EventKind) if EVERY in self.events else frozenset(EventKind(name) for name in self.events)

    @property
    def grouped(self) -> bool:
        """Whether one notification may include events of several workers."""
        return self.group_by != (BY_WORKER,)

    def adds_nothing_to(self, earlier: "Route", receiver: str) -> bool:
        """Whether the earlier route already sends all events of this one to the receiver: the first route wins."""
        return (
            receiver in earlier.receivers
            and self.kinds <= earlier.kinds
            and all(any(fits(first, glob) for first in earlier.environments) for glob in self.environments)
            and all(any(fits(first, glob) for first in earlier.tenants) for glob in self.tenants)
        )

    @field_validator("group_wait_ms", mode="before")
    @classmethod
    def _usual_wait(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            return value
        return "0s" if info.data.get("group_by", (BY_WORKER,)) == (BY_WORKER,) else "2s"

    @model_check(mode="after")
    def _waits_no_longer_than_between(self) -> Self:
        if self.group_interval_ms < self.group_wait_ms:
            own = "group_interval_ms" in self.model_fields_set
            below, wait = duration_text(self.group_interval_ms), duration_text(self.group_wait_ms)
            message = f"group_interval, {below}, is below group_wait, {wait}"
            raise refusal(Problem(message=message, at=("group_interval" if own else "group_wait",)))
        return self


class MassFailure(Section):
    """``[alerts.mass_failure]``: thresholds for many workers of an environment falling silent at once."""

    enabled: StrictBool = True
    share: Annotated[float, Field(strict=True), AfterValidator(_checked_share)] = 0.2
    least: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 5
    hold_ms: Annotated[Duration, lasting("0s", "10m")] = Field("2m", validate_default=True)


class FlappingWorkers(Section):
    """``[alerts.flapping]``: thresholds for a worker that falls silent and recovers repeatedly."""

    enabled: StrictBool = True
    outages: Annotated[StrictInt, Field(ge=1, le=7)] = 3
    within_ms: Annotated[Duration, lasting("1s", "7d")] = Field("1h", validate_default=True)
    hold_ms: Annotated[Duration, lasting("0s", "1h")] = Field("5m", validate_default=True)


_LOG: Final = LogSettings(name=IMPLICIT_RECEIVER, type="log")
_EVERYTHING_TO_LOG: Final = Route(receivers=(IMPLICIT_RECEIVER,), events=(EVERY,))


class Alerts(Section):
    """``[alerts]``. ``receivers`` and ``routes`` are as configured; use the effective ones."""

    public_url: Annotated[str, AfterValidator(_checked_public_url)] = ""
    redact: tuple[Glob, ...] = REDACTED_KEYS
    retry_initial_ms: Annotated[Duration, lasting("100ms", "1h")] = Field("2s", validate_default=True)
    retry_max_ms: Annotated[Duration, lasting("100ms", "7d")] = Field("6h", validate_default=True)
    retry_for_ms: Annotated[Duration, lasting("0s", "30d")] = Field("72h", validate_default=True)
    history_ms: Annotated[Duration, lasting("1h", "365d")] = Field("7d", validate_default=True)
    history_most: Annotated[StrictInt, Field(ge=1_000, le=1_000_000)] = 20_000
    queue_concurrency: Annotated[StrictInt, Field(ge=1, le=64)] = 8
    mass_failure: MassFailure = MassFailure()
    flapping: FlappingWorkers = FlappingWorkers()
    receivers: Annotated[tuple[AnyReceiver, ...], unique("name", "an earlier receiver has this name")] = ()
    routes: tuple[Route, ...] = ()

    @property
    def effective_receivers(self) -> tuple[ReceiverSettings, ...]:
        """The configured receivers, or the one implicit ``log``."""
        return self.receivers or (_LOG,)

    @property
    def effective_routes(self) -> tuple[Route, ...]:
        """The configured routes. Default: the default events to every receiver, or all to the implicit ``log``."""
        if self.routes:
            return self.routes
        if not self.receivers:
            return (_EVERYTHING_TO_LOG,)
        return (Route(receivers=tuple(receiver.name for receiver in self.receivers)),)

    @property
    def paged(self) -> Paged:
        """The events and receivers for which a log line is itself the notification."""
        receivers = frozenset(receiver.name for receiver in self.effective_receivers if receiver.type == "log")
        shared = {receiver.name for receiver in self.effective_receivers if not receiver.tenants} & receivers
        routes = [one for one in self.effective_routes if EVERY in one.environments and EVERY in one.tenants]
        kinds = {kind.value for route in routes if shared & set(route.receivers) for kind in route.kinds}
        return Paged(kinds=frozenset(kinds), receivers=receivers)

    @property
    def warnings(self) -> Iterator[str]:
        """Settings that are valid but probably not intended, one sentence each."""
        yield from self._receiver_warnings()
        yield from self._owner_warnings()
        yield from self._unused_route_warnings()
        yield from self._route_warnings()

    def _receiver_warnings(self) -> Iterator[str]:
        routed = {name for route in self.effective_routes for name in route.receivers}
        for index, receiver in enumerate(self.receivers):
            for warning in receiver.warnings():
                yield f'alerts.receivers[{index}] "{receiver.name}": {warning}'
            if receiver.name not in routed:
                yield f'alerts.receivers[{index}] "{receiver.name}": no route leads to it, so it gets no notifications'

    def _owner_warnings(self) -> Iterator[str]:
        owned = {receiver.name: receiver.tenants for receiver in self.receivers if receiver.tenants}
        for index, route in enumerate(self.routes):
            for name in filter(owned.__contains__, route.receivers):
                others = [tenant for tenant in route.tenants if EVERY not in tenant and tenant not in owned[name]]
                if others:
                    owners, without = ", ".join(owned[name]), ", ".join(others)
                    yield f"alerts.routes[{index}]: {name} belongs to {owners}: it gets no events of {without}"

    def _unused_route_warnings(self) -> Iterator[str]:
        for index, route in enumerate(self.routes):
            for name in route.receivers:
                before = (first for first in range(index) if route.adds_nothing_to(self.routes[first], name))
                if (first := next(before, None)) is not None:
                    sends = f"alerts.routes[{first}] already covers it"
                    yield f"alerts.routes[{index}]: never applies to {name}: {sends}"

    def _route_warnings(self) -> Iterator[str]:
        get_downs = {name for route in self.routes if route.kinds & DOWN for name in route.receivers}
        get_rejected = {name for route in self.routes if EventKind.REJECTED in route.kinds for name in route.receivers}
        singles = {receiver.name for receiver in self.effective_receivers if not receiver.takes_groups}
        redaction = Redaction(self.redact)
        for index, route in enumerate(self.routes):
            where = f"alerts.routes[{index}]"
            without_downs = [name for name in route.receivers if name not in get_downs]
            if EventKind.RECOVERED in route.kinds and without_downs:
                what = "nothing" if route.kinds == {EventKind.RECOVERED} else EventKind.RECOVERED.value
                names = ", ".join(without_downs)
                yield (
                    f"{where}: {what}{' will be' if what == 'nothing' else ' will not be'} sent to {names}: no RESOLVED"
                    " without a DOWN, and no route sends worker.stale, worker.failed or worker.rejected there"
                )
            without_rejected = [name for name in route.receivers if name not in get_rejected]
            if EventKind.STALE in route.kinds and without_rejected:
                names = ", ".join(without_rejected)
                yield (
                    f"{where}: worker.stale is sent to {names}, and worker.rejected is not: no notification will say"
                    " that a worker is alive but its heartbeats are rejected, as for an expired token"
                )
            if not route.grouped:
                continue
            for name in route.receivers:
                if name in singles:
                    yield f"{where}: {name} does not support groups: it gets single notifications despite group_by"
            for label in route.group_by:
                if label.startswith(METADATA_LABEL) and redaction.hides(label.removeprefix(METADATA_LABEL)):
                    yield f"{where}: {label} is hidden by alerts.redact: notifications of its groups look the same"

    @field_validator("retry_max_ms")
    @classmethod
    def _not_below_the_first(cls, longest_ms: int, info: ValidationInfo) -> int:
        first_ms = info.data.get("retry_initial_ms", longest_ms)
        if longest_ms < first_ms:
            message = f"{duration_text(longest_ms)} is below alerts.retry_initial, {duration_text(first_ms)}"
            raise refusal(Problem(message=message, related=(("alerts", "retry_initial"),)))
        return longest_ms

    @field_validator("routes")
    @classmethod
    def _lead_somewhere(cls, routes: tuple[Route, ...], info: ValidationInfo) -> tuple[Route, ...]:
        if "receivers" not in info.data:  # the receivers were refused: routes are checked once they are valid
            return routes
        owners = {receiver.name: receiver.tenants for receiver in info.data["receivers"]}
        known = set(owners) or {IMPLICIT_RECEIVER}
        named: list[tuple[Key, str]] = [
            ((route_index, "receivers", name_index), name)
            for route_index, route in enumerate(routes)
            for name_index, name in enumerate(route.receivers)
        ]
        message = f"there is no receiver of this name (there is {', '.join(sorted(known))})"
        problems = [Problem(message=message, at=at) for at, name in named if name not in known]
        problems += [
            Problem(message=f"belongs to {', '.join(tenants)}, and no pattern of tenants in this route matches", at=at)
            for at, name in named
            if (tenants := owners.get(name))
            and not any(fits(pattern, tenant) for pattern in routes[int(at[0])].tenants for tenant in tenants)
        ]
        if problems:
            raise refusal(*problems)
        return routes
