"""The protocol between the supervisor and its child processes, over a pair of sockets.

The supervisor writes one pickled ``Assignment``. It contains secrets, so it is passed neither in arguments nor in the
environment. The process writes ``READY`` once it accepts beats, or the reason if it cannot run.
"""

from dataclasses import dataclass
from typing import Final

from monitor.daemon.config.model import Config
from monitor.daemon.signing_key import KeyRing
from monitor.metrics.registry import Share

READY: Final = b"ready\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """Everything that a process needs to run. ``listeners``: descriptors of sockets, its own first."""

    config: Config
    ring: KeyRing
    store_url: str
    listeners: tuple[int, ...]
    share: Share
