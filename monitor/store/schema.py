"""Founds the store, and checks that the server can run it and that its data belongs to this installation and release.

Each hash tag has an anchor: the hash ``meta``, which exists from the founding on.
"""

from __future__ import annotations

import asyncio
from typing import Final

from monitor.errors import StoreUnavailableError
from monitor.store.connection import Connection, Founded
from monitor.store.errors import InstallationError, SchemaError, StoreFullError
from monitor.store.settings import StoreSettings

SCHEMA_VERSION: Final = 1


async def open_partitions(connection: Connection, settings: StoreSettings) -> None:
    """Check the server and all data, load the library, and found what is new. Raises as ``Store.open`` does.

    A start that is refused leaves nothing in a new store. One that is killed may leave some tags founded: the next one
    founds the rest.
    """
    await connection.judge_server()
    known = await _known(connection, settings)
    for one in known.values():
        if one is not None:
            _check(settings, one)
    lost = [base for base, one in known.items() if one is None]
    if lost and _is_complete(known):
        raise SchemaError(f"the store has lost data: {lost[0]} is missing, and others are there; restore a backup")
    try:
        await connection.load()
        await _found(connection, settings, since="", lost=lost)
    except StoreFullError:
        if lost:
            raise


async def found_again(connection: Connection, settings: StoreSettings, *, since_ms: int) -> bool:
    """Found a store again that a running daemon has found empty, as after FLUSHALL. Returns whether it was empty.

    ``since_ms``: since when nothing was stored. That is one blind window.

    Raises:
        StoreUnavailableError: only a part of the store is missing.
    """
    known = await _known(connection, settings)
    lost = [base for base, one in known.items() if one is None]
    if lost and _is_complete(known):
        raise StoreUnavailableError(f"the store has lost data: {lost[0]} is missing, and others are there")
    if lost:
        await _found(connection, settings, since=since_ms, lost=lost)
    return bool(lost)


async def _known(connection: Connection, settings: StoreSettings) -> dict[str, Founded | None]:
    bases = connection.bases(settings.partitions)
    return dict(zip(bases, await asyncio.gather(*map(connection.founded, bases)), strict=True))


def _is_complete(known: dict[str, Founded | None]) -> bool:
    """Whether the tags that are there are of a store of which every tag was founded once."""
    return any(one is not None and one.is_complete for one in known.values())


async def _found(connection: Connection, settings: StoreSettings, *, since: int | str, lost: list[str]) -> None:
    """Found the tags that are missing, then say so in all. The next daemon ends what stops in between."""
    arguments = SCHEMA_VERSION, settings.partitions, " ".join(settings.installation), since
    await asyncio.gather(*(connection.found(base, *arguments, 0) for base in lost))
    await asyncio.gather(*(connection.found(base, *arguments, 1) for base in connection.bases(settings.partitions)))


def _check(settings: StoreSettings, known: Founded) -> None:
    if known.schema > SCHEMA_VERSION:
        raise SchemaError(
            f"the store's schema is version {known.schema}, written by a newer release; this one knows {SCHEMA_VERSION}"
        )
    if known.partitions != settings.partitions:
        raise SchemaError(
            f"the store was founded with store.partitions = {known.partitions}, the configuration says"
            f" {settings.partitions}"
        )
    theirs, ours = known.installation, settings.installation
    if ours and theirs and not set(ours) & set(theirs):
        raise InstallationError(
            f"the store belongs to another installation, {theirs[0]}: give this one a store.namespace or a database"
            f' of its own; if it is the same, with all of its keys replaced, set store.installation = "{theirs[0]}"'
        )
