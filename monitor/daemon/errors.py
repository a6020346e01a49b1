"""Why a daemon can't run."""

from __future__ import annotations


class StartError(Exception):
    """The daemon can't run; the message is for the operator."""
