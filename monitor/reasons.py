"""The reasons for being degraded, each spelled once. ``docs/operations.md`` says what to do about each.

While a reason holds, ``/healthz`` fails, every list answer names it, ``lastseen_degraded`` shows it and the
outgoing heartbeat is withheld (P27).
"""

from enum import StrEnum


class Reason(StrEnum):
    """A reason for being degraded."""

    SWEEP_LAG = "sweep_lag"
    """The last full sweep is too old, or there was none yet."""
    ROUTING_LAG = "routing_lag"
    """Events wait too long for the router, or the router has not polled for events."""
    DELIVERY_LAG = "delivery_lag"
    """A notification is overdue for too long, or the queues could not be read."""
    RECEIVER_DISABLED = "receiver_disabled"
    """A receiver answered that it is gone. It stays disabled until an operator enables it."""
    DEAD_LETTERS = "dead_letters"
    """Dead letters that are neither delivered, over, replayed nor dropped (P31)."""
    ALERTS_FAILING = "alerts_failing"
    """A part of the alert side has failed and is being restarted (P30)."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The store did not take the last probe's write."""
    STORE_NOT_DURABLE = "store_not_durable"
    """The store takes writes but does not confirm them as ``store.durability`` asks: no notification is sent."""
    STORE_NEARLY_FULL = "store_nearly_full"
    """The store's memory is close to its ``maxmemory``, above which it takes no writes."""
    STORE_EVICTS = "store_evicts"
    """The store's ``maxmemory-policy`` has become one that evicts: workers and alerts may be lost silently."""
    PROCESS_DOWN = "process_down"
    """One of the daemon's processes has ended and is being restarted."""
    PROCESS_STALLED = "process_stalled"
    """One of the daemon's processes runs, but its event loop does not turn."""
    EVENT_LOOP_LAG = "event_loop_lag"
    """The event loop was blocked: beats, sweeps and deliveries waited meanwhile."""
    BLIND = "blind"
    """The store has not taken a pulse of this daemon for a while, so it may not take beats either."""
    CLOCK_SKEW = "clock_skew"
    """The store's clock was stepped back, and store time is ahead of it."""
    CONNECTIONS_FULL = "connections_full"
    """Every allowed connection holds a complete request, and new connections are refused."""
