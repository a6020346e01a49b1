"""What a supervisor and its processes say to each other, over a pair of sockets.

The supervisor writes one ``Assignment``, pickled: it holds secrets, so it travels neither in arguments nor in the
environment. The process writes ``READY`` once it accepts beats, and why when it can't run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from monitor.daemon.config.model import Config
    from monitor.daemon.signing_key import KeyRing
    from monitor.metrics.registry import Share

READY: Final = b"ready\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a process is to run. ``listeners`` are descriptors of sockets, its own first."""

    config: Config
    ring: KeyRing
    store_url: str
    listeners: tuple[int, ...]
    share: Share
