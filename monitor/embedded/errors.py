"""Errors of the embedded store."""


class StartAbandonedError(Exception):
    """The daemon had to stop while its store was still starting. The store is stopped again."""


class EmbeddedStoreError(Exception):
    """The embedded store can't be used. The message names the directory or file, and the reason."""
