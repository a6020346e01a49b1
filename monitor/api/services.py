"""The collaborators of the HTTP handlers, created by the composition root."""

from dataclasses import dataclass, field

from monitor.api.admission import Admission
from monitor.api.contract.limits import BeatLimits
from monitor.api.rejected_beats import RejectedBeats
from monitor.api.shared import Shared
from monitor.auth import Authenticator
from monitor.health import Health
from monitor.intake.batches import BatchIntake
from monitor.intake.queue import Intake
from monitor.limit_log import UnknownFieldLog
from monitor.metrics.registry import Metrics
from monitor.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The collaborators of every handler.

    ``body_bytes`` is the maximum size of a request body. The limits of a batch are ``batch_bytes``, both as sent and
    inflated, and ``batch_beats``. ``anonymous`` holds those of ``/metrics`` and ``/schema`` that need no token.
    """

    store: Store
    intake: Intake
    batches: BatchIntake
    admission: Admission
    rejected_beats: RejectedBeats
    authenticator: Authenticator
    body_bytes: int
    shared: Shared
    batch_bytes: int
    batch_beats: int
    beat_limits: BeatLimits
    health: Health
    metrics: Metrics
    anonymous: frozenset[str]
    unknown_fields: UnknownFieldLog = field(default_factory=UnknownFieldLog)
