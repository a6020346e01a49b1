"""From the body of a batch to the bodies of its beats, unread: a JSON array, or JSON lines. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET, Raw

from monitor.api.contract.errors import MISSING, ContractError, Fault, syntax_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer as Buffer

SMALL_BYTES: Final = 524_288
"""An array of this size has at most half as many items, 64 bytes each: bounded enough to be counted afterwards."""

DEEPEST: Final = 512
"""Levels of nesting that are read. The interpreter's own limit is between 900 and 10,000, by its version."""
_DEEP_IN_BYTES: Final = 65_536
_NESTING: Final = re.compile(rb'"(?:[^"\\]|\\[\s\S])*+"?|[\[{\]}]')

_BOM: Final = b"\xef\xbb\xbf"
_BYTE: Final = re.compile(r"\(byte (\d+)\)\Z")
_NOT_A_LIST: Final = Fault(loc=("body",), msg="Input should be a valid list", type="list_type")
_small: Final = msgspec.json.Decoder(list[Raw]).decode


class TooManyBeatsError(Exception):
    """The batch holds more beats than one may."""


def split_array(body: bytes, most: int) -> Sequence[Raw]:
    """The items of a JSON array, at most ``most``. An item that is JSON may still be no beat.

    Raises:
        ContractError: this is no JSON array.
        TooManyBeatsError: it has more items.
    """
    if not body:
        raise ContractError([MISSING])
    start = len(_BOM) if body.startswith(_BOM) else 0
    text = memoryview(body)[start:]
    try:
        if len(text) <= SMALL_BYTES:
            items: Sequence[Raw] = _small(text)
        else:
            items = [item for item in msgspec.structs.astuple(long_array_reader(most)(text)) if item is not UNSET]
    except msgspec.ValidationError:
        opening = body[start : start + 1_024].lstrip()
        if opening.startswith(b"["):
            raise TooManyBeatsError from None
        raise ContractError([MISSING if opening.startswith(b"null") else _NOT_A_LIST]) from None
    except RecursionError:
        raise syntax_error(start) from None
    except msgspec.DecodeError as error:
        position = _position(str(error), len(text))
        raise syntax_error(start if is_deep(text[:position]) else start + position) from None
    if len(items) > most:
        raise TooManyBeatsError
    if any(len(item) > DEEPEST and is_deep(item) for item in items):
        raise syntax_error(start)
    return items


def is_deep(text: Buffer) -> bool:
    """Whether JSON is nested more deeply than ``DEEPEST``, as far as its first 64 KiB show."""
    begin = bytes(memoryview(text)[:_DEEP_IN_BYTES])
    if begin.count(b"[") + begin.count(b"{") <= DEEPEST:
        return False
    depth = 0
    for token in _NESTING.findall(begin):
        depth += (token in b"[{") - (token in b"]}")
        if depth > DEEPEST:
            return True
    return False


def split_lines(body: bytes, most: int) -> Sequence[bytes]:
    """The lines, blank ones too, at most ``most``; nothing behind the last line's end is no line.

    Raises:
        ContractError: there is no body.
        TooManyBeatsError: there are more lines.
    """
    if not body:
        raise ContractError([MISSING])
    ended = body.endswith(b"\n")
    if body.count(b"\n") + (not ended) > most:
        raise TooManyBeatsError
    lines = body.split(b"\n")
    return lines[:-1] if ended else lines


@lru_cache(maxsize=4)
def long_array_reader(most: int) -> Callable[[Buffer], msgspec.Struct]:
    """Reads a JSON array of at most ``most`` items as a record with a field for each.

    Of all ways to read an array it is the one that stops at the first item too many: 16 MiB of ``0,0,...`` as a
    list would take half a GiB before it could be counted. It takes some 40 ms to make, once.
    """
    fields = [(f"item_{index}", Raw, UNSET) for index in range(most)]
    record = msgspec.defstruct("LongArray", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(record).decode


def _position(msg: str, end: int) -> int:
    """Where the error is, from msgspec's message; what ends too early has no place in it."""
    found = _BYTE.search(msg)
    if found is None:
        return end
    # Of what follows the array it names the byte behind.
    return int(found[1]) - ("trailing characters (" in msg)
