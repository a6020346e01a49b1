"""Errors of the store, by cause."""

from monitor.errors import StoreUnavailableError


class StoreFullError(StoreUnavailableError):
    """The store takes no writes because its memory or its disk is full. Reads still work."""


class StoreDeniedError(StoreUnavailableError):
    """The store refuses our user, password, permissions or database. Retries fail until the operator changes that."""


class StoreRefusedError(Exception):
    """The server can't be used as a store: it evicts, or lacks functions. The operator must act."""


class InstallationError(StoreRefusedError):
    """The data belongs to another installation. The two would sweep, page and forget each other's workers."""


class SchemaError(StoreRefusedError):
    """The data was written by a newer release, or with another number of partitions."""
