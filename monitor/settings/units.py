"""Durations and sizes as written in the configuration. Pure: text in, whole milliseconds or bytes out.

``Duration`` and ``Size`` are annotations for fields; other fields refuse a unit.
"""

import re
from decimal import Decimal
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator

UNIT_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
UNIT_BYTES: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
LONGEST_MS: Final = 3_650 * UNIT_MS["d"]
"""Ten years; a longer duration is a typing error."""

_QUANTITY: Final = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?)(?P<unit>.*)", re.DOTALL)
_DURATION_HELP: Final = 'write a number and a unit (ms, s, m, h, d), such as "30s"'
_SIZE_HELP: Final = 'write whole bytes, such as 16384, or a string with KiB, MiB or GiB, such as "16KiB"'


def duration_ms(value: object) -> int:
    """Parse a text such as ``500ms``, ``30s`` or ``1.5h`` into whole milliseconds.

    Raises:
        ValueError: not a text, no unit or an unknown one, finer than a millisecond, or over ten years.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'a duration needs a unit: write "{value}s" for seconds, or ms, m, h, d')  # noqa: TRY004
    quantity = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if quantity is None:
        raise ValueError(f"is not a duration: {_DURATION_HELP}")
    if not quantity["unit"]:
        raise ValueError(f'a duration needs a unit: write "{value}s" for seconds, or ms, m, h, d')
    if quantity["unit"] not in UNIT_MS:
        raise ValueError(f"has an unknown unit: {_DURATION_HELP}")
    exact = Decimal(quantity["number"]) * UNIT_MS[quantity["unit"]]
    if exact != int(exact):
        raise ValueError("is finer than a millisecond")
    if exact > LONGEST_MS:
        raise ValueError(f"is longer than {duration_text(LONGEST_MS)}")
    return int(exact)


def duration_text(ms: int) -> str:
    """Return the shortest text with one unit and no fraction that ``duration_ms`` parses to ``ms``."""
    if ms == 0:
        return "0s"
    unit = next(unit for unit, size in UNIT_MS.items() if ms % size == 0)
    return f"{ms // UNIT_MS[unit]}{unit}"


def size_bytes(value: object) -> int:
    """Parse a number of bytes, or a text such as ``16KiB``, into whole bytes.

    Raises:
        ValueError: neither, negative, or an unknown unit.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    quantity = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if quantity is None or quantity["unit"] not in UNIT_BYTES:
        raise ValueError(f"is not a size: {_SIZE_HELP}")
    exact = Decimal(quantity["number"]) * UNIT_BYTES[quantity["unit"]]
    if exact != int(exact):
        raise ValueError("is not a whole number of bytes")
    return int(exact)


def size_text(count: int) -> str:
    """Format ``count`` bytes with the largest unit that leaves no fraction."""
    for unit, size in UNIT_BYTES.items():
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count} bytes"


class SizeMark:
    """Marks a field that accepts a bare number, so that an environment variable may be one."""


Duration: TypeAlias = Annotated[int, BeforeValidator(duration_ms)]
Size: TypeAlias = Annotated[int, BeforeValidator(size_bytes), SizeMark()]


def lasting(low: str, high: str) -> AfterValidator:
    """Return a validator for the bounds of a ``Duration``, both inclusive."""
    return _between(duration_ms(low), duration_ms(high), f"{low} and {high}")


def sized(low: int, high: int) -> AfterValidator:
    """Return a validator for the bounds of a ``Size`` in bytes, both inclusive."""
    return _between(low, high, f"{size_text(low)} and {size_text(high)}")


def _between(low: int, high: int, bounds: str) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"must be between {bounds}")
        return value

    return AfterValidator(check)
