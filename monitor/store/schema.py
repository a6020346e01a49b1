"""Founds the store, and checks that the server can run it and that its data belongs to this installation and release.

Each hash tag has an anchor: the hash ``meta``, which exists from the founding on.
"""

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
    missing = await _missing(connection, settings)
    try:
        await connection.load()
        await _found(connection, settings, since="", missing=missing)
    except StoreFullError:
        if missing:
            raise


async def found_again(connection: Connection, settings: StoreSettings, *, since_ms: int) -> bool:
    """Found a store again that a running daemon has found empty, as after FLUSHALL. Returns whether it was empty.

    ``since_ms``: since when nothing was stored. That is one blind window.

    Raises:
        StoreUnavailableError: only a part of the store is missing, or what is there is not ours.
    """
    try:
        missing = await _missing(connection, settings)
    except (SchemaError, InstallationError) as error:
        raise StoreUnavailableError(str(error)) from error
    if missing:
        await _found(connection, settings, since=since_ms, missing=missing)
    return bool(missing)


async def _missing(connection: Connection, settings: StoreSettings) -> list[str]:
    """Return the bases of the tags that are not founded yet.

    Raises:
        SchemaError: what is there is of a newer release or another number of partitions, or a founded tag is missing.
        InstallationError: what is there belongs to another installation.
    """
    missing, is_complete = connection.bases(settings.partitions), False
    for _ in range(2):  # another daemon may found them between the first reads, but not after one that was complete
        known = dict(zip(missing, await asyncio.gather(*map(connection.founded, missing)), strict=True))
        for one in filter(None, known.values()):
            _check(settings, one)
            is_complete |= one.is_complete
        missing = [base for base, one in known.items() if one is None]
        if not (missing and is_complete):
            return missing
    raise SchemaError(f"the store has lost data: {missing[0]} is missing, and others are there; restore a backup")


async def _found(connection: Connection, settings: StoreSettings, *, since: int | str, missing: list[str]) -> None:
    """Found the tags that are missing, then say so in all. The next daemon ends what stops in between."""
    arguments = SCHEMA_VERSION, settings.partitions, " ".join(settings.installation), since
    await asyncio.gather(*(connection.found(base, *arguments, 0) for base in missing))
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
