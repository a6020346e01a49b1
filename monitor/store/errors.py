"""What can go wrong with the store, by whose fault."""

from __future__ import annotations


class StoreUnavailableError(Exception):
    """The store did not answer, or could not write; the same call may succeed later. Nothing is known to be lost."""


class StoreFullError(StoreUnavailableError):
    """The store takes no writes, since its memory or its disk is full; it still answers reads."""


class StoreDeniedError(StoreUnavailableError):
    """The store refuses our user, our password, our permissions or our database: it will again until that changes."""


class StoreRefusedError(Exception):
    """The server can't be used as a store: it evicts, or lacks functions. The operator must act."""


class InstallationError(StoreRefusedError):
    """The data is another installation's. Two of them would sweep, page and forget each other's workers."""


class SchemaError(StoreRefusedError):
    """The data was laid out by a newer release, or with another number of partitions."""
