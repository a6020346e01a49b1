"""Splits the body of a batch, a JSON array or JSON lines, into the unparsed bodies of its beats. Pure."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from monitor.api.contract.errors import MISSING, ContractError, Fault, syntax_error

SMALL_BYTES: Final = 524_288
"""Arrays up to this size are parsed before their items are counted: there are at most half as many, 64 bytes each."""

DEEPEST: Final = 512
"""Maximum nesting. The interpreter's own limit is between 900 and 10,000, depending on its version."""
_DEEP_IN_BYTES: Final = 65_536
_NESTING: Final = re.compile(rb'"(?:[^"\\]|\\[\s\S])*+"?|[\[{\]}]')

_BOM: Final = b"\xef\xbb\xbf"
_BYTE: Final = re.compile(r"\(byte (\d+)\)\Z")
_NOT_A_LIST: Final = Fault(loc=("body",), msg="Input should be a valid list", type="list_type")
_small: Final = msgspec.json.Decoder(list[Raw]).decode


class TooManyBeatsError(Exception):
    """The batch has too many beats."""


def split_array(body: bytes, most: int) -> Sequence[Raw]:
    """The items of a JSON array, at most ``most``. They are valid JSON, but not necessarily beats.

    Raises:
        ContractError: the body is not a JSON array.
        TooManyBeatsError: the array has more items.
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


def is_deep(text: bytes | bytearray | memoryview) -> bool:
    """Whether JSON is nested more deeply than ``DEEPEST``. Checks its first 64 KiB only."""
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
    """The lines, at most ``most``. Blank lines count; a final line feed does not begin another line.

    Raises:
        ContractError: the body is empty.
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
def long_array_reader(most: int) -> Callable[[bytes | bytearray | memoryview], msgspec.Struct]:
    """Create a decoder that reads a JSON array of at most ``most`` items as a record with one field per item.

    A record stops at the first item too many. A list does not: 16 MiB of ``0,0,...`` would take half a GiB before
    its items could be counted. Creating the decoder takes about 40 ms, once.
    """
    fields = [(f"item_{index}", Raw, UNSET) for index in range(most)]
    record = msgspec.defstruct("LongArray", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(record).decode


def _position(msg: str, end: int) -> int:
    """Offset of the error, from msgspec's message; ``end`` if the text ends too early, which has no offset there."""
    found = _BYTE.search(msg)
    if found is None:
        return end
    # For trailing characters msgspec names the byte after the first of them.
    return int(found[1]) - ("trailing characters (" in msg)
