"""From event to delivered notification.

Imports from ``monitor`` only its event types and, for the settings of receivers, ``monitor.settings``. The two packages
meet in the event stream. ``routing`` reads that stream and adds events to the durable alert groups of each receiver.
``delivery`` delivers for each receiver independently.

A number in brackets, as (P5), is a promise: docs/architecture.md, "Promises".
"""
