"""The configuration model: keys, defaults, validation, and ``load``.

Values only: this module creates no client, socket or clock, and every part of the daemon gets its own
section. Attribute names include the unit (``interval_ms``), the keys in the file do not (``interval``).
In tests, ``Config.model_validate({"liveness": {"interval": "1s"}})`` or ``load(None, {})``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic import field_validator as check

from alerts.groups.classify import fits
from monitor.daemon.config.alerts import Alerts, Pattern
from monitor.daemon.config.auth import Auth, NonEmpty
from monitor.daemon.config.errors import lines
from monitor.daemon.config.keys import entries
from monitor.daemon.config.sources import ConfigError, Source, note_control_characters, overlay, read_file
from monitor.daemon.config.watchdog import Watchdog
from monitor.durability import Durability
from monitor.liveness import EventKind
from monitor.settings.key_material import KeyMaterialError, Surroundings, from_environment, from_file, password
from monitor.settings.section import Problem, Section, refusal, surroundings
from monitor.settings.store_urls import (
    checked_server_url,
    has_password,
    is_sentinel_url,
    sentinel_url,
    tls_files,
    with_password,
)
from monitor.settings.units import Duration, Size, SizeMark, duration_text, lasting, size_bytes, size_text, sized
from monitor.settings.urls import Url, is_loopback

EMBEDDED: Final = "embedded:"
AUTO: Final = "auto"
MOST_PROCESSES: Final = 64
_KIB: Final = 1024
_LEAST_MAXMEMORY_BYTES: Final = 16 << 20
_SECOND_MS: Final = 1_000


def _durability(value: object) -> Durability:
    return Durability.parse(str(value))


def _maxmemory(value: object) -> int:
    if value == "auto":
        return 0
    count = size_bytes(value)
    if count < _LEAST_MAXMEMORY_BYTES:
        raise ValueError(f'must be "auto" or at least {size_text(_LEAST_MAXMEMORY_BYTES)}')
    return count


def _store_url(text: str) -> Url:
    if text == EMBEDDED:
        return Url(text)
    if is_sentinel_url(text):
        sentinel_url(text)
    else:
        checked_server_url(text)
    if absent := [path for path in tls_files(text) if not Path(path).is_file()]:
        raise ValueError(f"names a file that does not exist: {absent[0]}")
    return Url(text)


def _directory(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("must be the path of a directory")
    return Path(value)


def process_count(value: object) -> int | Literal["auto"]:
    """Parse the number of processes: a number, its text, or ``auto`` for one per usable core.

    Raises:
        ValueError: none of these, or too large.
    """
    if value == AUTO:
        return AUTO
    text = str(value)
    if not isinstance(value, bool) and text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_PROCESSES:
        return int(text)
    raise ValueError(f'must be a whole number from 1 to {MOST_PROCESSES}, or "{AUTO}"')


class Server(Section):
    """``[server]``: the HTTP listener and the processes behind it. Port 0 takes any free port."""

    host: NonEmpty = "127.0.0.1"
    port: Annotated[StrictInt, Field(ge=0, le=65_535)] = 8642
    processes: Annotated[int | Literal["auto"], BeforeValidator(process_count)] = 1
    shutdown_timeout_ms: Annotated[Duration, lasting("0s", "9s")] = Field("8s", validate_default=True)


class Store(Section):
    """``[store]``. ``data_dir`` is relative to the working directory."""

    url: Annotated[str, AfterValidator(_store_url)] = Field(EMBEDDED, validate_default=True)
    password_file: str = ""
    password_env: str = ""
    data_dir: Annotated[Path, BeforeValidator(_directory)] = Field("data", validate_default=True)
    partitions: Annotated[StrictInt, Field(ge=1, le=256)] = 1
    timeout_ms: Annotated[Duration, lasting("100ms", "30s")] = Field("2s", validate_default=True)
    durability: Annotated[Durability, BeforeValidator(_durability)] = Field("fsync", validate_default=True)
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,32}$")] = ""
    installation: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,64}$")] = ""
    maxmemory_bytes: Annotated[int, BeforeValidator(_maxmemory), SizeMark()] = Field(
        "auto", alias="maxmemory", validate_default=True
    )
    """0: derived from the available memory."""
    valkey_binary: str = ""
    _password: str = PrivateAttr("")

    @property
    def address(self) -> Url:
        """``url`` with the password, from any of its sources."""
        return Url(with_password(self.url, self._password)) if self._password else Url(self.url)

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        given = [name for name in ("password_file", "password_env") if getattr(self, name)]
        if not given:
            return self
        if len(given) > 1 or self.embedded or has_password(self.url):
            message = "needs a url of an external server, without a password in it and without a second source"
            raise refusal(Problem(message=message, at=(given[-1],)))
        read = from_file if self.password_file else from_environment
        try:
            self._password = password(read(self.password_file or self.password_env, surroundings(info)))
        except KeyMaterialError as error:
            raise refusal(Problem(message=str(error), at=(given[0],))) from None
        return self

    @property
    def embedded(self) -> bool:
        """Whether the daemon runs the embedded store."""
        return self.url == EMBEDDED


def _outside(name: str, value_ms: int, bounds: Mapping[str, object]) -> Problem | None:
    """The problem of an interval or grace outside its bounds. ``bounds``: the valid values of ``[liveness]``."""
    for bound, is_outside in (("min", int.__lt__), ("max", int.__gt__)):
        limit_ms = bounds.get(f"{bound}_{name}_ms")
        if isinstance(limit_ms, int) and is_outside(value_ms, limit_ms):
            side = "below" if bound == "min" else "above"
            message = f"{duration_text(value_ms)} is {side} liveness.{bound}_{name}, {duration_text(limit_ms)}"
            return Problem(message=message, related=(("liveness", f"{bound}_{name}"),))
    return None


class Liveness(Section):
    """``[liveness]``. Bounds are declared before the values they limit, because validation uses them in this order."""

    min_interval_ms: Annotated[Duration, lasting("100ms", "365d")] = Field("1s", validate_default=True)
    max_interval_ms: Annotated[Duration, lasting("100ms", "365d")] = Field("30d", validate_default=True)
    interval_ms: Duration = Field("30s", validate_default=True)
    min_grace_ms: Annotated[Duration, lasting("1s", "365d")] = Field("1s", validate_default=True)
    max_grace_ms: Annotated[Duration, lasting("1s", "365d")] = Field("30d", validate_default=True)
    grace_ms: Duration = Field("65s", validate_default=True)
    sweep_interval_ms: Annotated[Duration, lasting("100ms", "60s")] = Field("1s", validate_default=True)
    sweep_chunk: Annotated[StrictInt, Field(ge=1, le=200)] = 50
    retention_ms: Annotated[Duration, lasting("1s", "3650d")] = Field("7d", validate_default=True)
    event_retention_ms: Annotated[Duration, lasting("1s", "3650d")] = Field("7d", validate_default=True)
    status_changed_events: StrictBool = False

    @check("max_interval_ms", "max_grace_ms", "interval_ms", "grace_ms")
    @classmethod
    def _within_bounds(cls, value_ms: int, info: ValidationInfo) -> int:
        name = str(info.field_name).removesuffix("_ms").removeprefix("max_")
        if problem := _outside(name, value_ms, info.data):
            raise refusal(problem)
        return value_ms


class Limits(Section):
    """``[limits]``: limits per request, per tenant and per daemon."""

    body_bytes: Annotated[Size, sized(_KIB, 64 * _KIB**2)] = Field("256KiB", validate_default=True)
    batch_bytes: Annotated[Size, sized(_KIB, 64 * _KIB**2)] = Field("16MiB", validate_default=True)
    batch_beats: Annotated[StrictInt, Field(ge=1, le=100_000)] = 10_000
    metadata_bytes: Annotated[Size, sized(256, _KIB**2)] = Field("16KiB", validate_default=True)
    logs_bytes: Annotated[Size, sized(256, _KIB**2)] = Field("4KiB", validate_default=True)
    system_info_bytes: Annotated[Size, sized(256, _KIB**2)] = Field("4KiB", validate_default=True)
    workers_per_tenant: Annotated[StrictInt, Field(ge=1)] = 1_000_000
    environments_per_tenant: Annotated[StrictInt, Field(ge=1)] = 1_000
    timings_per_tenant: Annotated[StrictInt, Field(ge=1)] = 10_000
    bytes_per_tenant: Annotated[Size, sized(_KIB**2, 1_024 * _KIB**3)] = Field("1GiB", validate_default=True)
    events: Annotated[StrictInt, Field(ge=1_000)] = 1_000_000
    worker_beats_per_second: Annotated[StrictInt, Field(ge=0)] = 20
    worker_beats_burst: Annotated[StrictInt, Field(ge=1)] = 100
    tenant_beats_per_second: Annotated[StrictInt, Field(ge=0)] = 0
    tenant_beats_burst: Annotated[StrictInt, Field(ge=1)] = 10_000
    pending_beats: Annotated[StrictInt, Field(ge=1)] = 20_000
    pending_bytes: Annotated[Size, sized(_KIB**2, 64 * _KIB**3)] = Field("64MiB", validate_default=True)
    connections: Annotated[StrictInt, Field(ge=1)] = 20_000
    head_bytes: Annotated[Size, sized(8 * _KIB, _KIB**2)] = Field("64KiB", validate_default=True)
    head_fields: Annotated[StrictInt, Field(ge=20, le=1_000)] = 100


class Environment(Section):
    """One ``[[environments]]``: interval and grace of matching environments. None: as in ``[liveness]``."""

    match: Pattern
    interval_ms: Duration | None = None
    grace_ms: Duration | None = None


class Log(Section):
    """``[log]``. Format ``auto`` is ``console`` on a terminal and ``json`` elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(Section):
    """The whole configuration."""

    server: Server = Server()
    store: Store = Store()
    liveness: Liveness = Liveness()
    limits: Limits = Limits()
    environments: tuple[Environment, ...] = ()
    auth: Auth = Field(Auth(), validate_default=True)
    log: Log = Log()
    alerts: Alerts = Alerts()
    watchdog: Watchdog = Watchdog()
    _exposed: tuple[str, ...] = PrivateAttr(())
    """Secret files that every user of the machine can read."""

    @check("environments")
    @classmethod
    def _within_bounds(cls, environments: tuple[Environment, ...], info: ValidationInfo) -> tuple[Environment, ...]:
        liveness = info.data.get("liveness")
        bounds = liveness.__dict__ if isinstance(liveness, Liveness) else {}
        problems = []
        for index, environment in enumerate(environments):
            for name, value_ms in (("interval", environment.interval_ms), ("grace", environment.grace_ms)):
                problem = None if value_ms is None else _outside(name, value_ms, bounds)
                if problem is not None:
                    problems.append(Problem(message=problem.message, at=(index, name), related=problem.related))
        if problems:
            raise refusal(*problems)
        return environments

    @check("auth")
    @classmethod
    def _shared_keys(cls, auth: Auth, info: ValidationInfo) -> Auth:
        store = info.data.get("store")
        if isinstance(store, Store) and not store.embedded and not auth.keys:
            message = "at least one [[auth.keys]] is needed with this store.url: each replica would make its own key"
            raise refusal(Problem(message=message, at=("keys",), related=(("store", "url"),)))
        return auth

    @property
    def warnings(self) -> tuple[str, ...]:
        """Settings that are valid but probably not intended, one sentence each; logged at the start."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        if not is_loopback(self.server.host):
            yield f"server.host: {self.server.host} is not loopback, and there is no TLS: put a TLS proxy in front"
        yield from self._timing_warnings()
        yield from self._unmatched_warnings()
        usual = self.liveness
        per_s = self.limits.worker_beats_per_second
        if per_s and per_s * usual.min_interval_ms < _SECOND_MS:
            shortest = duration_text(usual.min_interval_ms)
            yield f"limits.worker_beats_per_second: {per_s} is less than liveness.min_interval allows, {shortest}"
        for claim in ("audience", "issuer"):
            if not getattr(self.auth, claim):
                yield f"auth.{claim}: is empty, so tokens made for another {claim} are accepted"
        for path in self._exposed:
            yield f"{path}: every user of this machine can read this secret: chmod o-r {path}"
        yield from self.alerts.warnings
        yield from self.watchdog.warnings

    def _timing_warnings(self) -> Iterator[str]:
        usual = self.liveness
        timings = [("liveness", usual.interval_ms, usual.grace_ms)]
        for rule in self.environments:
            interval_ms = usual.interval_ms if rule.interval_ms is None else rule.interval_ms
            grace_ms = usual.grace_ms if rule.grace_ms is None else rule.grace_ms
            timings.append((f'environments "{rule.match}"', interval_ms, grace_ms))
        for where, interval_ms, grace_ms in timings:
            grace, interval = duration_text(grace_ms), f"interval {duration_text(interval_ms)}"
            lost, spare_ms = divmod(grace_ms, interval_ms)
            if not lost:
                yield f"{where}: grace {grace} is below {interval}: one lost beat will page"
            elif spare_ms < min(interval_ms // 10, _SECOND_MS):
                hardly, beats = "hardly more than " if spare_ms else "", "beat" if lost == 1 else "beats"
                yield (
                    f"{where}: grace {grace} is {hardly}a whole multiple of {interval}: after {lost} lost {beats} the"
                    " next is due exactly at the deadline, and pages if it is slightly late: add a few seconds to grace"
                )

    def _unmatched_warnings(self) -> Iterator[str]:
        globs = [rule.match for rule in self.environments]
        for index, glob in enumerate(globs):
            earlier = next((first for first in globs[:index] if fits(first, glob)), None)
            if earlier is not None:
                yield f'environments[{index}] "{glob}": never applies: the earlier "{earlier}" matches all of its names'
        if not self.liveness.status_changed_events:
            for index, route in enumerate(self.alerts.routes):
                if route.kinds == {EventKind.STATUS_CHANGED}:
                    yield f"alerts.routes[{index}]: never matches: liveness.status_changed_events is false"


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Load the configuration from a file and the ``LASTSEEN_...`` variables. Variables override the file.

    Reads the configured secrets and keys, once. Paths in the file are relative to the file's folder.

    Raises:
        ConfigError: with every problem, one line each.
    """
    source = Source() if path is None else read_file(path)
    overlay(source, environ, entries(Config))
    note_control_characters(source)
    around = Surroundings(folder=Path() if path is None else path.parent, environ=environ)
    try:
        config = Config.model_validate(source.values, context=around)
    except ValidationError as error:
        # Not chained: the cause contains the refused values, which may be secrets.
        raise ConfigError(lines(error, source, Config)) from None
    if source.problems:
        raise ConfigError(lines(None, source, Config))
    config._exposed = tuple(around.exposed)  # noqa: SLF001 - our own
    return config
