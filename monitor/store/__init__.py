"""The worker store: one Lua function library and the one module that speaks Redis for this package."""

from monitor.store.errors import SchemaError, StoreFullError, StoreRefusedError, StoreUnavailableError
from monitor.store.store import Page, Store, StoreSettings, SweepResult

__all__ = [
    "Page",
    "SchemaError",
    "Store",
    "StoreFullError",
    "StoreRefusedError",
    "StoreSettings",
    "StoreUnavailableError",
    "SweepResult",
]
