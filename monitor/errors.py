"""Errors of the store and of the intake: why a call, a beat or another order about a worker was not accepted. Pure."""

from typing import Final

from monitor.workers import WorkerKey


class StoreUnavailableError(Exception):
    """The store did not answer or confirm, or could not write. The call may have been executed. Retry later."""


class UnknownWorkerError(Exception):
    """No such worker under this tenant."""

    def __init__(self, key: WorkerKey) -> None:
        super().__init__(f"there is no worker {key.worker_id!r}")


class NotAllowedError(Exception):
    """The sender's token does not cover the worker's present or requested environment."""

    def __init__(self, key: WorkerKey) -> None:
        super().__init__(f"the token does not cover the environment of worker {key.worker_id!r}")


class QuotaExceededError(Exception):
    """A quota of the tenant is reached by a new worker, environment, timing or more bytes. Known workers continue."""


class SlowDownError(Exception):
    """Nothing was accepted. The request may be retried after ``retry_after_s`` whole seconds."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s: Final = retry_after_s


class IntakeFullError(SlowDownError):
    """The intake's capacity is used up; nothing was accepted."""


class OverShareError(SlowDownError):
    """The tenant's share of a shared resource is used up (429). Other tenants are not affected."""


class NoRoomError(SlowDownError):
    """A resource that all tenants share is used up (503)."""
