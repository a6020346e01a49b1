"""What can go wrong with the embedded store."""

from __future__ import annotations


class StartAbandonedError(Exception):
    """The daemon was told to stop while its store was still starting; the store is gone again."""


class EmbeddedStoreError(Exception):
    """The embedded store can't be had; the message says of what directory or file, and why."""
