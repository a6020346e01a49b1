"""Why a beat, or another order about a worker, was not taken in. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from monitor.workers import WorkerKey


class UnknownWorkerError(Exception):
    """There is no such worker under this tenant."""

    def __init__(self, key: WorkerKey) -> None:
        super().__init__(f"there is no worker {key.worker_id!r}")


class NotAllowedError(Exception):
    """The sender's token does not cover the environment that the worker is in, or is to be in."""

    def __init__(self, key: WorkerKey) -> None:
        super().__init__(f"the token does not cover the environment of worker {key.worker_id!r}")


class QuotaExceededError(Exception):
    """A new worker or environment, or what a worker brings, would be too much; known ones go on."""


class SlowDownError(Exception):
    """Nothing was taken in; the same may come again after ``retry_after_s`` whole seconds."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s: Final = retry_after_s


class IntakeFullError(SlowDownError):
    """More waits than the intake holds; nothing was taken in."""


class OverShareError(SlowDownError):
    """The tenant holds its share of something that all tenants share (429). Other tenants are not concerned."""


class NoRoomError(SlowDownError):
    """Something that all tenants share is used up (503)."""
