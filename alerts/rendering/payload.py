"""Bodies of notifications. Pure.

A body is compact JSON in ASCII, ``{"type", "timestamp", "data"}``. It is rendered once, when its notification is
created, and stored, so that every attempt sends the same bytes. ASCII because a lone surrogate in a worker's
metadata has no UTF-8 form.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from alerts.errors import UnrenderableEventError
from alerts.groups.flapping import RecentOutages
from alerts.rendering.group_text import GroupCounts, group_sentence
from alerts.rendering.phrases import SHOWN_CHARS, shown
from alerts.rendering.redaction import REDACTED, TEXTS, Redaction, without_userinfo
from alerts.rendering.worker_text import single_sentence
from monitor.events import Event, rfc3339
from monitor.liveness import EnvironmentHealth, Liveness

__all__ = ["GroupCounts", "Wording"]

BODY_BYTES: Final = 16_384
"""Maximum length of the body of a single event, whatever its worker sent. Names have at most 256 characters."""
EVENT_BYTES: Final = 12_288
"""Maximum length of the data of one event in a body. Longer data is cut."""
SILENCE_FOR: Final = "2h"

_MESSAGE_CHARS: Final = 256
_WORD_CHARS: Final = 32
_METADATA_LABEL: Final = "metadata."
_PATTERN_CHARS: Final = 256
"""Maximum length of a pattern of a silence."""
_DOTS: Final = re.compile(r"\.{1,2}")


class Wording:
    """Renders the bodies of notifications.

    Args:
        public_url: URL at which people reach the daemon, for links; empty: no links.
        redact: globs on the names of metadata keys whose values must not be sent (``alerts.rendering.redaction``).
    """

    def __init__(self, *, public_url: str, redact: Sequence[str]) -> None:
        self._public_url = public_url.rstrip("/")
        self._redaction = Redaction(redact)

    def single(
        self,
        event: Event,
        *,
        incident_id: str | None,
        reminder: int,
        health: EnvironmentHealth | None,
        previous: Event | None = None,
        recent: RecentOutages | None = None,
    ) -> str:
        """The body for one event.

        ``reminder``: 0 for the first notification, n for its n-th reminder. ``health``: current health of the event's
        environment, if it was requested. ``previous``: the DOWN that was notified before for the same outage, if any.
        ``recent``: number of the outage among the worker's recent ones, for the first notification of a DOWN.

        Raises:
            UnrenderableEventError: the event holds a value that has no JSON form.
        """
        with _refused(_place(event)):
            event = self._redaction.event(event)
            sentence = partial(
                single_sentence, event, reminder=reminder, health=health, previous=previous, recent=recent
            )
            data = self._event(event)
            data |= {
                "summary": sentence(),
                "incident_id": incident_id,
                "reminder": reminder,
                "previous_type": None if previous is None else previous.kind.value,
                "link": self._worker_link(event.worker_id),
                "silence": _silence(event.tenant, [("--worker-id", event.worker_id)]),
                "others_silent": None if health is None else health.silent,
                "expected": None if health is None else health.expected,
                "recent_outages": None if recent is None else recent.number,
            }
            body = _body(event.kind.value, event.detected_ms, data)
            if len(body) > BODY_BYTES:
                data |= {"link": None, "silence": None, "summary": sentence(shown_chars=SHOWN_CHARS[-1:])}
                body = _body(event.kind.value, event.detected_ms, data)
            return body

    def group(
        self,
        *,
        firing: bool,
        group: Mapping[str, str],
        counts: GroupCounts,
        events: Sequence[Event],
        truncated: int,
        since_ms: int,
        now_ms: int,
        incident_id: str | None,
        reminder: int,
        environment_incident: bool,
    ) -> str:
        """The body for a group.

        ``group``: its labels ``tenant``, ``environment``, ``metadata.<name>``. All ``events`` are listed, in this
        order; ``truncated``: number of further workers. For a group that is over, the events are those that ended the
        outage of each worker, where known.

        Raises:
            UnrenderableEventError: an event, which the message names, holds a value that has no JSON form.
        """
        try:
            labels = {label: self._label(label, value) for label, value in group.items()}
        except RecursionError as error:
            raise UnrenderableEventError("a group's label cannot be rendered: RecursionError") from error
        listed: list[dict[str, object]] = []
        events = [self._redaction.event(event) for event in events]
        for event in events:
            with _refused(_place(event)):
                listed.append({"type": event.kind.value} | self._event(event))
        with _refused(f"a notification of the group {shown(str(labels), _MESSAGE_CHARS)}"):
            summary = group_sentence(
                firing=firing,
                group=labels,
                counts=counts,
                events=events,
                since_ms=since_ms,
                now_ms=now_ms,
                reminder=reminder,
                environment_incident=environment_incident,
            )
            data: dict[str, object] = {
                "group": labels,
                "summary": summary,
                "counts": {
                    "firing": counts.firing,
                    "rejected": counts.rejected,
                    "new": counts.new,
                    "recovered": counts.recovered,
                    "expected": counts.expected,
                },
                "events": listed,
                "truncated": truncated,
                "since": rfc3339(since_ms),
                "incident_id": incident_id,
                "reminder": reminder,
                "link": self._group_link(labels, firing=firing),
                "silence": _group_silence(labels, events) if labels == dict(group) else None,
            }
            return _body("group.firing" if firing else "group.resolved", now_ms, data)

    def _event(self, event: Event) -> dict[str, object]:
        """The event's data, redacted, and cut where it is too long."""
        data: dict[str, object] = msgspec.to_builtins(event.data())
        data["worker_metadata"] = self._redaction.cleaned(data["worker_metadata"])
        if len(_encoded(data)) > EVENT_BYTES:
            data["error_message"] = _cut(event.error_message, _MESSAGE_CHARS)
        if len(_encoded(data)) > EVENT_BYTES:
            data |= {"worker_metadata": {}, "worker_metadata_cut": True}
        if len(_encoded(data)) > EVENT_BYTES:
            data |= {word: _cut(getattr(event, word), _WORD_CHARS) for word in TEXTS}
        return data

    def _label(self, label: str, value: str) -> str:
        name = label.removeprefix(_METADATA_LABEL)
        if name == label:
            return value
        if self._redaction.hides(name):
            return REDACTED
        try:
            whole = json.loads(value)  # a metadata value that is not a string is JSON in a label
        except ValueError:
            return without_userinfo(value)
        cleaned = self._redaction.cleaned(whole)
        return value if cleaned == whole else json.dumps(cleaned)

    def _worker_link(self, worker_id: str) -> str | None:
        if not self._public_url:
            return None
        segment = quote(worker_id, safe="")
        if _DOTS.fullmatch(segment):
            segment = segment.replace(".", "%2E")  # clients remove dot segments from a path
        return f"{self._public_url}/api/v1/workers/{segment}"

    def _group_link(self, labels: Mapping[str, str], *, firing: bool) -> str | None:
        """Link to the list of the group's workers, as far as the filters of that list allow."""
        if not self._public_url:
            return None
        query = [("environment", labels["environment"])] if "environment" in labels else []
        if firing:
            query += [("liveness", Liveness.STALE.value), ("liveness", Liveness.FAILED.value)]
        return f"{self._public_url}/api/v1/workers" + (f"?{urlencode(query, quote_via=quote)}" if query else "")


def _place(event: Event) -> str:
    # The event is named by its position because its other fields may be malformed.
    return f"event at {event.partition}/{event.position}"


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OverflowError, OSError, RecursionError) as error:
        raise UnrenderableEventError(f"{what} cannot be rendered: {type(error).__name__}") from error


def _body(kind: str, moment_ms: int, data: Mapping[str, object]) -> str:
    return _encoded({"type": kind, "timestamp": rfc3339(moment_ms), "data": data})


def _encoded(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _cut(text: str | None, most: int) -> str | None:
    return text if text is None or len(text) <= most else text[: most - 1] + "…"


def _group_silence(labels: Mapping[str, str], events: Sequence[Event]) -> str | None:
    """The command that silences the workers of a group; None: its labels do not determine them."""
    tenants = {labels["tenant"]} if "tenant" in labels else {event.tenant for event in events}
    if len(tenants) != 1 or "" in labels.values():
        return None
    metadata = {
        label.removeprefix(_METADATA_LABEL): value
        for label, value in labels.items()
        if label.startswith(_METADATA_LABEL)
    }
    if any("=" in name or len(value) > _PATTERN_CHARS for name, value in metadata.items()):
        return None
    options = [("--environment", labels["environment"])] if "environment" in labels else []
    options += [("--metadata", f"{name}={value}") for name, value in metadata.items()]
    # Every worker, if the group has no further label: a silence needs a matcher.
    return _silence(tenants.pop(), options or [("--worker-id", "*")], exact=bool(options))


def _silence(tenant: str, options: Sequence[tuple[str, str]], *, exact: bool = True) -> str | None:
    """A shell command that adds a silence, with each value quoted; None: a value is not printable."""
    options = [("--tenant", tenant), *options]
    if not all(value.isprintable() for _, value in options):
        return None
    words = ["lastseen", "silence", "add"]
    for option, value in options:
        words += [f"{option}={value}"] if value.startswith("-") else [option, value]
    return shlex.join([*words, *(["--exact"] if exact else []), "--for", SILENCE_FOR])
