"""Heartbeat intake, liveness, sweep and worker status.

A number in brackets, as (P1), is a promise: docs/architecture.md, "Promises".
"""
