"""Prometheus Alertmanager, by its API v2: each outage of a worker is an alert.

Alertmanager does its own grouping, silencing and reminders. It considers an alert resolved once ``endsAt`` has passed.
So a firing alert is resent again and again, each time with an ``endsAt`` several resend intervals ahead. If the resends
stop, the alert resolves by itself.

Alertmanager compares ``endsAt`` with its own clock. An ``endsAt`` that is still in the future there, if only by a few
milliseconds, does not end the alert: Alertmanager then keeps the later ``endsAt`` of the last resend, and the alert
stays firing for minutes. Hence ``CLOCKS_APART_MS``.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, model_validator

from alerts.errors import PermanentDeliveryError
from alerts.groups.classify import DOWN, ENDS
from alerts.receivers.receiver import Notification, PostingSettings
from monitor.events import rfc3339, severity
from monitor.liveness import EventKind
from monitor.settings.key_material import (
    KeyMaterialError,
    Surroundings,
    bearer_token,
    from_environment,
    from_file,
    password,
)
from monitor.settings.section import Problem, refusal, surroundings
from monitor.settings.units import Duration, lasting
from monitor.settings.urls import BaseUrl

ALERT_NAME: Final = "LastseenWorkerDown"
ENDS_AFTER: Final = 4
"""Number of missed resends after which an alert ends by itself."""
CLOCKS_APART_MS: Final = 10_000
"""Maximum lag of Alertmanager's clock behind the store's. The ``endsAt`` of an ended alert is earlier by this."""

_PATH: Final = "/api/v2/alerts"
_BAD_REQUEST: Final = 400
_OWN_LABELS: Final = frozenset({"alertname", "tenant", "environment", "worker_id"})
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class AlertmanagerReceiver:
    """Sends outages and their ends to Alertmanager. Other notifications are accepted without sending anything.

    ``labels``: added to each alert; a label ``severity`` overrides the severity of the event. ``authorization``: value
    of the header of that name.

    Alertmanager identifies an alert by its labels, so a warning and a critical alert are two alerts. When the severity
    changes, the first alert is ended in the same request. The end of the outage ends the alert that was sent last.
    """

    takes_groups = False

    def __init__(
        self,
        *,
        name: str,
        url: str,
        resend_ms: int = 60_000,
        labels: Mapping[str, str] | None = None,
        authorization: str | None = None,
        allow_private: bool = False,
        timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.resend_ms = resend_ms
        self._labels = dict(labels or {})
        self._headers = {} if authorization is None else {"authorization": authorization}
        from alerts.receivers.http import Poster  # noqa: PLC0415 - see alerts.receivers.receiver

        self._poster = Poster(
            name=name,
            url=url.rstrip("/") + _PATH,
            allow_private=allow_private,
            timeout_s=timeout_s,
            blames_body=_refuses_alert,
        )

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:  # noqa: ARG002
        """Make one attempt. The alert depends only on the notification, so it is the same each time."""
        alerts = self._alerts(notification)
        if alerts:
            await self._poster.post(json.dumps(alerts).encode(), self._headers, now_ms=now_ms)

    async def reach(self) -> None:
        """Connect without sending anything."""
        await self._poster.reach()

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    def _alerts(self, notification: Notification) -> list[dict[str, object]]:
        try:
            body = json.loads(notification.body)
            return list(self._alerts_of(body["type"], body["data"], created_ms=notification.created_ms))
        except (ValueError, TypeError, KeyError) as error:
            message = f"receiver {self.name!r}: body of {notification.nid} is not a notification"
            raise PermanentDeliveryError(message) from error

    def _alerts_of(self, kind: str, data: Mapping[str, str], *, created_ms: int) -> Iterator[dict[str, object]]:
        before = data.get("previous_type")
        # Without a startsAt, Alertmanager keeps that of the alert that is ended.
        end = {"endsAt": rfc3339(_ms(data["detected_at"]) - CLOCKS_APART_MS)}
        if kind in ENDS:
            yield self._alert(data, before or EventKind.STALE, end)
        elif kind in DOWN:
            if before is not None and self._severity(before) != self._severity(kind):
                yield self._alert(data, before, end)
            ends_ms = created_ms + ENDS_AFTER * self.resend_ms
            yield self._alert(data, kind, {"startsAt": data["due_at"], "endsAt": rfc3339(ends_ms)})

    def _alert(self, data: Mapping[str, str], kind: str, span: Mapping[str, str]) -> dict[str, object]:
        labels = {
            **self._labels,
            "severity": self._severity(kind),
            "alertname": ALERT_NAME,
            "tenant": data["tenant"],
            "environment": data["environment_name"],
            "worker_id": data["worker_id"],
        }
        link = {"generatorURL": data["link"]} if data.get("link") else {}
        return {"labels": labels, "annotations": _annotations(data), **span, **link}

    def _severity(self, kind: str) -> str:
        return self._labels.get("severity") or severity(EventKind(kind))


def _refuses_alert(status: int, headers: Mapping[str, str]) -> bool:
    """Whether Alertmanager itself rejects the alert, and so the whole body, as invalid.

    Alertmanager does so with JSON. A 400 from a proxy in front of it is text or HTML and says nothing about the alert.
    """
    return status == _BAD_REQUEST and headers.get("content-type", "").startswith("application/json")


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1_000)


def _annotations(data: Mapping[str, str | None]) -> dict[str, str]:
    """Annotations for people: summary, description, and the command that silences the worker."""
    accepted = "accepted " if data.get("rejected") else ""
    described = (
        f"{data['worker_id']} in {data['environment_name']} of tenant {data['tenant']}: {data['reason']}, "
        f"last {accepted}heartbeat at {data['last_seen']}"
    )
    read = {"summary": data.get("summary"), "description": described, "silence": data.get("silence")}
    return {name: text for name, text in read.items() if text}


def _checked_labels(labels: dict[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of a label: letters, digits and `_`, no digit first")
        if name in _OWN_LABELS:
            raise ValueError(f"{name} is set by the alert itself")
        if not value:
            raise ValueError(f"{name} is empty: for Alertmanager that is no label")
    return labels


class AlertmanagerSettings(PostingSettings):
    """Type ``alertmanager``: one Alertmanager, or one member of a cluster."""

    takes_groups: ClassVar[bool] = False

    type: Literal["alertmanager"]
    url: BaseUrl
    resend_ms: Annotated[Duration, lasting("10s", "1h")] = Field("60s", validate_default=True)
    labels: Annotated[dict[str, str], AfterValidator(_checked_labels)] = Field({})
    bearer_token_file: str | None = None
    bearer_token_env: str | None = None
    username: Annotated[str, Field(min_length=1)] | None = None
    password_file: str | None = None
    password_env: str | None = None
    _authorization: str | None = PrivateAttr(None)

    def open(self) -> AlertmanagerReceiver:
        """See ``ReceiverSettings``."""
        return AlertmanagerReceiver(
            name=self.name,
            url=self.url,
            resend_ms=self.resend_ms,
            labels=self.labels,
            authorization=self._authorization,
            allow_private=self.allow_private,
            timeout_s=self.timeout_ms / 1_000,
        )

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        sources = ("bearer_token_file", "bearer_token_env", "password_file", "password_env")
        given = [key for key in sources if getattr(self, key) is not None]
        if len(given) > 1:
            message = f"at most one of {', '.join(sources)} can be given"
            raise refusal(Problem(message=message, at=(given[-1],)))
        is_basic = bool(given) and given[0].startswith("password")
        if self.username is not None and not is_basic:
            raise refusal(Problem(message="needs password_file or password_env beside it", at=("username",)))
        if is_basic and self.username is None:
            raise refusal(Problem(message="needs username beside it", at=(given[0],)))
        if self.username is not None and ":" in self.username:
            raise refusal(Problem(message="must not hold a colon", at=("username",)))
        if given:
            key = given[0]
            read = from_file if key.endswith("_file") else from_environment
            try:
                self._authorization = self._header(read, getattr(self, key), surroundings(info))
            except KeyMaterialError as error:
                raise refusal(Problem(message=str(error), at=(key,))) from None
        return self

    def _header(self, read: Callable[[str, Surroundings], bytes], name: str, around: Surroundings) -> str:
        raw = read(name, around)
        if self.username is None:
            return f"Bearer {bearer_token(raw)}"
        return "Basic " + base64.b64encode(f"{self.username}:{password(raw)}".encode()).decode()


SETTINGS: Final = AlertmanagerSettings
