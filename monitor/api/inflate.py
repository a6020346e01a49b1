"""Inflates a gzip body (RFC 1952) in pieces, up to a size limit. Pure."""

import zlib
from collections.abc import Iterator
from typing import Final

from monitor.api.contract.errors import ContractError, Fault
from monitor.api.errors import BodyTooLargeError

MAX_MEMBERS: Final = 64
"""Limited, because even an empty member costs memory and time."""
_READ_BYTES: Final = 65_536
_PIECE_BYTES: Final = 262_144
_GZIP: Final = 31
"""zlib's ``wbits`` for a gzip header and a window of any size."""


def inflated(body: bytes, most_bytes: int) -> Iterator[bytes]:
    """Inflate a gzip body in pieces of at most 256 KiB; some are empty. Each step takes about a millisecond.

    Raises:
        ContractError: the body is not gzip, is truncated, or has data after its end.
        BodyTooLargeError: the inflated body is over ``most_bytes``.
    """
    position = size = 0
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            data = member.unconsumed_tail
            if not data:
                data = body[position : position + _READ_BYTES]
                position += len(data)
            try:
                piece = member.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise _error("The body is not valid gzip") from None
            if not (data or piece or member.eof):
                raise _error("The gzip body ends early")
            size += len(piece)
            if size > most_bytes:
                raise BodyTooLargeError(f"the batch is over limits.batch_bytes = {most_bytes} when inflated")
            yield piece
        position -= len(member.unused_data)
        if position == len(body):
            return
    raise _error(f"The gzip body has more than {MAX_MEMBERS} members")


def _error(msg: str) -> ContractError:
    return ContractError([Fault(loc=("body",), msg=msg, type="gzip_invalid")])
