"""The published heartbeat contract: parses bytes into a ``Beat`` or a ``Disconnect``, or raises the 422. Pure.

Faults, their locations and their types are those of the published service (FastAPI with Pydantic). Bodies are read
the same way: lax integers, the last of equal keys wins, unknown fields are ignored.
Stricter on purpose, because the store can only keep valid JSON: an empty id or one with control
characters, NaN and infinities anywhere, lone surrogates, bytes that are not UTF-8 (UTF-16 among them),
nesting beyond about 200 levels, integers beyond 64 bits signed (``int_parsing_size``), names beyond
``MAX_NAME_CHARS``, and metadata beyond its limit. Logs and system info are truncated instead, with a flag.

There are two readers. ``fast`` accepts the usual beats at a tenth of the cost, and declines all others.
``strict`` reads every body, and alone decides which faults it has.
"""
