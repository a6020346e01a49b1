"""Errors of the daemon."""

from __future__ import annotations


class StartError(Exception):
    """The daemon cannot run; the message is for the operator."""
