"""Webhooks, signed according to Standard Webhooks (standardwebhooks.com)."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, Self

from pydantic import PrivateAttr, ValidationInfo, model_validator

from alerts.receivers.receiver import Notification, PostingSettings
from monitor.settings.key_material import KeyMaterialError, Surroundings, from_environment, from_file, webhook_secret
from monitor.settings.section import Key, Problem, refusal, surroundings


class WebhookReceiver:
    """POSTs the body of each notification. See ``Poster`` for the meaning of the responses.

    ``secrets``: Standard Webhooks secrets, as text (``whsec_`` and base64) or as decoded bytes. With several secrets,
    as during a rotation, each of them signs.
    """

    resend_ms = None
    takes_groups = True

    def __init__(
        self,
        *,
        name: str,
        url: str,
        secrets: Sequence[str | bytes],
        allow_private: bool = False,
        timeout_s: float = 10.0,
    ) -> None:
        from standardwebhooks import Webhook  # noqa: PLC0415 - see alerts.receivers.receiver

        from alerts.receivers.http import Poster  # noqa: PLC0415 - as above

        self.name = name
        self.timeout_s = timeout_s
        self._signers = tuple(Webhook(secret) for secret in secrets)
        self._poster = Poster(name=name, url=url, allow_private=allow_private, timeout_s=timeout_s)

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:  # noqa: ARG002
        """Make one attempt. Id and body are the same each time; timestamp and signatures are current."""
        headers = self._headers(notification, now_ms=now_ms)
        await self._poster.post(notification.body.encode(), headers, now_ms=now_ms)

    async def reach(self) -> None:
        """Connect without sending anything."""
        await self._poster.reach()

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    def _headers(self, notification: Notification, *, now_ms: int) -> dict[str, str]:
        timestamp_s = now_ms // 1000
        # The library treats the time as UTC whatever its zone, and accepts the body only as text.
        moment = datetime.fromtimestamp(timestamp_s, UTC)
        signatures = (signer.sign(notification.nid, moment, notification.body) for signer in self._signers)
        return {
            "webhook-id": notification.nid,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(signatures),
        }


class WebhookSettings(PostingSettings):
    """Type ``webhook``: a server that accepts Standard Webhooks."""

    type: Literal["webhook"]
    secret_file: str | None = None
    secret_files: tuple[str, ...] = ()
    secret_env: str | None = None
    secret_envs: tuple[str, ...] = ()
    _secrets: tuple[bytes, ...] = PrivateAttr(())
    """The decoded signing secrets, the newest first. Each request is signed with all of them."""

    def open(self) -> WebhookReceiver:
        """See ``ReceiverSettings``."""
        return WebhookReceiver(
            name=self.name,
            url=self.url,
            secrets=self._secrets,
            allow_private=self.allow_private,
            timeout_s=self.timeout_ms / 1_000,
        )

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        problems: list[Problem] = []
        secrets: list[bytes] = []
        sources = list(self._sources())
        for at, read, name in sources:
            try:
                secrets.append(webhook_secret(read(name, surroundings(info))))
            except KeyMaterialError as error:
                problems.append(Problem(message=str(error), at=at))
        if not sources:
            choice = "secret_file, secret_files, secret_env, secret_envs"
            message = f"a webhook needs a signing secret: give one of {choice}; `lastseen alerts secret` makes one"
            problems.append(Problem(message=message))
        if problems:
            raise refusal(*problems)
        self._secrets = tuple(secrets)
        return self

    def _sources(self) -> Iterator[tuple[Key, Callable[[str, Surroundings], bytes], str]]:
        if self.secret_file is not None:
            yield ("secret_file",), from_file, self.secret_file
        for index, name in enumerate(self.secret_files):
            yield ("secret_files", index), from_file, name
        if self.secret_env is not None:
            yield ("secret_env",), from_environment, self.secret_env
        for index, name in enumerate(self.secret_envs):
            yield ("secret_envs", index), from_environment, name


SETTINGS: Final = WebhookSettings
