"""The installed release."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """As the package's metadata has it."""
    return metadata.version("lastseen")
