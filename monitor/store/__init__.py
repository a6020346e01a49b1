"""The only client of the store: connections, function libraries, and the worker store."""

from monitor.store.errors import InstallationError, SchemaError, StoreDeniedError, StoreFullError, StoreRefusedError
from monitor.store.results import SweepResult
from monitor.store.settings import StoreSettings
from monitor.store.store import Store

__all__ = [
    "InstallationError",
    "SchemaError",
    "Store",
    "StoreDeniedError",
    "StoreFullError",
    "StoreRefusedError",
    "StoreSettings",
    "SweepResult",
]
