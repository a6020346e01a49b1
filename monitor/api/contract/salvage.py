"""Extracts worker ids from a rejected body: a prefix of one beat, of an array of beats or of JSON lines. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Final

from monitor.api.contract.strict import MAX_NAME_CHARS

# Linear time: an unterminated string matches up to the end of the input, and nothing backtracks.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
_VALUE: Final = re.compile(rb'[ \t\r\n]*+:[ \t\r\n]*+("(?:[^"\\]++|\\.)*+")', re.DOTALL)
_KEY: Final = b'"worker_id"'
_OBJECT: Final = (b"{",)
_IN_ARRAY: Final = (b"[", b"{")
_DEEPEST: Final = 64


def claimed_ids(prefix: bytes, *, tokens: int) -> Iterator[str]:
    """The ``worker_id`` of each beat in a prefix of a body, in order; the rest of the body may be invalid.

    Scans at most ``tokens`` strings and brackets. A ``worker_id`` nested more deeply, as in metadata, is ignored.
    """
    inside: list[bytes] = []
    for token, _ in zip(_TOKEN.finditer(prefix), range(tokens), strict=False):
        text = token[0]
        if text in {b"{", b"["}:
            inside.append(text)
            if len(inside) > _DEEPEST:
                return
        elif text in {b"}", b"]"}:
            if inside:
                inside.pop()
        elif text == _KEY and tuple(inside) in {_OBJECT, _IN_ARRAY} and (value := _VALUE.match(prefix, token.end())):
            worker_id = _text(value[1])
            if worker_id is not None:
                yield worker_id


def _text(literal: bytes) -> str | None:
    try:
        text: str = json.loads(literal)
    except ValueError:
        return None
    return text if 0 < len(text) <= MAX_NAME_CHARS and text.isprintable() else None
