"""Receivers: where notifications go. Each type of receiver is one module of this package.

Such a module exports ``SETTINGS``: the model of its table in the configuration, which opens the receiver
(``alerts.receivers.receiver``). Modules without ``SETTINGS`` are shared by the types. No list of the types has to be
maintained: the configuration and the tests use ``TYPES``.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Final, get_args

from alerts.receivers.receiver import Notification, PostingSettings, Receiver, ReceiverSettings

__all__ = ["TYPES", "Notification", "PostingSettings", "Receiver", "ReceiverSettings"]


_SENDER: Final = "http"
"""The module that sends. It is imported when a receiver is opened."""


def _discovered() -> Iterator[tuple[str, type[ReceiverSettings]]]:
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if found.name == _SENDER:
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        settings: type[ReceiverSettings] | None = getattr(module, "SETTINGS", None)
        if settings is not None:
            (name,) = get_args(settings.model_fields["type"].annotation)
            yield name, settings


TYPES: Final[Mapping[str, type[ReceiverSettings]]] = dict(_discovered())
"""The settings of every type of receiver, by the name of the type, in alphabetical order of their modules."""
