"""Checks that the server can run the store, and that its data belongs to this installation and release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.store.errors import InstallationError, SchemaError, StoreFullError

if TYPE_CHECKING:
    from monitor.store.connection import Connection
    from monitor.store.settings import StoreSettings

SCHEMA_VERSION: Final = 1


async def open_partitions(connection: Connection, settings: StoreSettings) -> None:
    """Check the server, load the library, and found the partitions that are new. Raises as ``Store.open`` does."""
    await connection.judge_server()
    ids = " ".join(settings.installation)
    try:
        await connection.load()
        for partition in range(settings.partitions):
            hello = await connection.write("hello", partition, SCHEMA_VERSION, settings.partitions, ids)
            _, schema, partitions, known_ids = hello
            _check(settings, schema, partitions, known_ids.decode())
    except StoreFullError:
        for partition in range(settings.partitions):
            known = await connection.founded(partition)
            if known is None:
                raise
            _check(settings, *known)


def _check(settings: StoreSettings, schema: int, partitions: int, installation: str) -> None:
    if schema > SCHEMA_VERSION:
        raise SchemaError(
            f"the store's schema is version {schema}, written by a newer release; this one knows {SCHEMA_VERSION}"
        )
    if partitions != settings.partitions:
        raise SchemaError(
            f"the store was founded with store.partitions = {partitions}, the configuration says {settings.partitions}"
        )
    known, ours = installation.split(), settings.installation
    if ours and known and not set(ours) & set(known):
        raise InstallationError(
            f"the store belongs to another installation, {known[0]}: give this one a store.namespace or a database"
            f' of its own; if it is the same, with all of its keys replaced, set store.installation = "{known[0]}"'
        )
