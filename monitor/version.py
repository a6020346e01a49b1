"""The installed release."""

from importlib import metadata


def version() -> str:
    """Return the version from the package's metadata."""
    return metadata.version("lastseen")
