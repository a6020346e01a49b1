"""From event to delivered notification.

Knows of ``monitor`` its pure event types only; the two meet in the event stream. ``router`` reads
that stream and fills one durable queue per receiver, ``delivery`` empties each queue on its own.
"""
