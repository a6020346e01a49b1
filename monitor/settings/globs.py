"""Globs of the configuration: ``*`` matches any run of characters, everything else itself. Pure."""

from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

MOST_STARS: Final = 8
"""Bounds the work of one match."""


def checked_glob(pattern: str) -> str:
    """Return the pattern, unless it is empty, has another kind of wildcard, or too many stars.

    A valid pattern has the same meaning for ``alerts.groups.classify.fits``, for Redis and for the reader.
    """
    if not pattern:
        raise ValueError("must not be empty")
    if set(pattern) & set("?[]"):
        raise ValueError("`*` is the only wildcard; `?`, `[` and `]` are refused")
    if pattern.count("*") > MOST_STARS:
        raise ValueError(f"has more than {MOST_STARS} stars")
    return pattern


Glob: TypeAlias = Annotated[str, AfterValidator(checked_glob)]
