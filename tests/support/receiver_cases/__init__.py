"""What the suite over all types of receivers needs of each: a module here, named as the type, that has its ``CASE``."""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias

Serving: TypeAlias = AbstractAsyncContextManager["Peer"]


class Does(Enum):
    """How the other side behaves."""

    ACCEPT = auto()
    ACCEPT_SLOWLY = auto()
    REFUSE = auto()
    """For good, this notification."""
    BE_GONE = auto()
    """For good, everything."""
    BE_BUSY = auto()
    """And ask for a retry after seven seconds."""
    BREAK = auto()
    REDIRECT = auto()
    HANG = auto()
    CUT = auto()
    """Hang up when all has been received."""
    BABBLE = auto()
    """Answer with bytes that are no valid answer."""


@dataclass(kw_only=True)
class Peer:
    """The other side: where it is, and what it has received, whole messages only."""

    address: str = ""
    received: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One type of receiver."""

    environ: Mapping[str, str] = field(default_factory=dict)
    """Holds its secrets."""
    hidden: tuple[str, ...] = ()
    """Secrets that must appear nowhere, besides the values of ``environ``."""
    serve: Callable[[Does], Serving] | None = None
    """Runs the other side; None when there is none."""
    table: Callable[[str], Mapping[str, Any]] = lambda _address: {}
    """The keys of its table, beside name and type, for a peer at ``host:port``."""
    tls_table: Callable[[str], Mapping[str, Any]] | None = None
    """The same when it is to speak TLS."""


def case_of(kind: str) -> Case:
    """The case of a type; a type without one fails the suite."""
    case: Case = importlib.import_module(f"tests.support.receiver_cases.{kind}").CASE
    return case
