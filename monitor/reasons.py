"""Why the monitor is degraded: the words, spelled once. ``docs/operations.md`` says of each what to do about it.

While any of them stands ``/healthz`` fails, every list answer names it, ``lastseen_degraded`` counts it and the
outgoing heartbeat is withheld (P27).
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One reason."""

    SWEEP_LAG = "sweep_lag"
    """The last full sweep is too old, or there was none yet."""
    ROUTING_LAG = "routing_lag"
    """Events wait too long for their router, or it has not looked for any."""
    DELIVERY_LAG = "delivery_lag"
    """A notification has been due for too long, or the queues could not be asked."""
    RECEIVER_DISABLED = "receiver_disabled"
    """A receiver said that it is gone, and waits for a person."""
    DEAD_LETTERS = "dead_letters"
    """Notifications were given up, and are neither delivered, over, replayed nor dropped (P31)."""
    ALERTS_FAILING = "alerts_failing"
    """A part of the alert side has failed, and is being started again (P30)."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The store did not take the last probe's write."""
    STORE_NOT_DURABLE = "store_not_durable"
    """The store takes writes, and does not confirm them as ``store.durability`` asks: no notification leaves."""
    STORE_NEARLY_FULL = "store_nearly_full"
    """The store's memory is close to its ``maxmemory``, above which it takes no writes."""
    STORE_EVICTS = "store_evicts"
    """The store's ``maxmemory-policy`` has become one that evicts: workers and alerts may vanish without a word."""
    PROCESS_DOWN = "process_down"
    """One of the daemon's processes has ended, and is being started again."""
    PROCESS_STALLED = "process_stalled"
    """One of the daemon's processes is there, and its event loop does not turn."""
    EVENT_LOOP_LAG = "event_loop_lag"
    """The event loop was held up: beats, sweeps and deliveries waited meanwhile."""
    BLIND = "blind"
    """The store has not taken a pulse of this daemon for a while, so it may not take beats either."""
    CLOCK_SKEW = "clock_skew"
    """The store's clock was stepped back, and store time is ahead of it."""
    CONNECTIONS_FULL = "connections_full"
    """Each connection that the daemon may have holds a whole request, and new ones are refused."""
