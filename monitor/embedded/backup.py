"""A copy of the embedded store's data, made while the server runs or not, and verified by starting a server on it.

The server's data is in the files that ``appendonlydir/appendonly.aof.manifest`` names: a base, which never
changes, and files that are only appended to. A rewrite replaces the files and the manifest. So a copy is consistent
if all files of one manifest were opened while that manifest was current: a file deleted later can still be read, and
what was read of a growing file is a prefix of its content. The server is not asked, and is not held up.
"""

import asyncio
import contextlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from monitor.clock import monotonic_s
from monitor.embedded.errors import EmbeddedStoreError
from monitor.embedded.server import EmbeddedStore

OPEN_LIMIT_S: Final = 10.0
"""A rewrite changes the manifest twice, seconds apart or more: a few tries are enough."""
_MANIFEST: Final = "appendonly.aof.manifest"
_CHUNK_BYTES: Final = 1 << 20
_LEFT_BY_A_START: Final = ("lock", "store/lock", "store/valkey.log", "store/valkey.log.1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """The result of a backup. ``files`` counts the manifest too."""

    files: int
    size_bytes: int


def back_up(data_dir: Path, target: Path, *, binary: str | None = None) -> Backup:
    """Copy the store of ``data_dir`` to ``target``, which is then a data directory of its own.

    The copy contains what the store had written when it was made. It gets its name only after it is on the disk and
    a server has started on it, which needs as much memory as the store does. The signing key is not copied. Blocks;
    call it in the main thread. ``binary``: the server for the verification, as for ``EmbeddedStore``.

    Raises:
        EmbeddedStoreError: there is no store in ``data_dir``, ``target`` is not empty, or the copy can't be made or
            started on; then nothing is left of the copy.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise EmbeddedStoreError(f"{target} is there already, and is not an empty directory")
    source = data_dir / "store" / "appendonlydir"
    if not (source / _MANIFEST).is_file():
        raise EmbeddedStoreError(f"there is no embedded store in {data_dir}")
    partial = target.absolute().with_name(f"{target.absolute().name}.partial-{os.getpid()}")
    try:
        partial.mkdir(mode=0o700, parents=True)
        made = _copy(source, partial / "store" / "appendonlydir")
        _prove(partial, binary)
        _sync_tree(partial)
        partial.rename(target.absolute())
        _sync(target.absolute().parent)
    except OSError as error:
        raise EmbeddedStoreError(f"no backup of {data_dir} to {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _copy(source: Path, target: Path) -> Backup:
    target.mkdir(mode=0o700, parents=True)
    with contextlib.ExitStack() as stack:
        manifest, files = _opened(source, stack)
        files[_MANIFEST] = io.BytesIO(b"".join(line + b"\n" for line in manifest))
        size_bytes = sum(_written(target / name, file) for name, file in files.items())
    return Backup(files=len(files), size_bytes=size_bytes)


def _opened(source: Path, stack: contextlib.ExitStack) -> tuple[list[bytes], dict[str, BinaryIO]]:
    """Return the lines of the manifest, and the files that they name, opened while the manifest was current.

    Raises:
        OSError: there is no manifest, or a file can't be read.
        EmbeddedStoreError: the manifest kept changing.
    """
    give_up_s = monotonic_s() + OPEN_LIMIT_S
    while monotonic_s() < give_up_s:
        lines = _manifest(source)
        try:
            files: dict[str, BinaryIO] = {
                name: stack.enter_context((source / name).open("rb")) for name in map(_name, lines)
            }
        except FileNotFoundError:
            if _manifest(source) == lines:
                raise
            continue
        if _manifest(source) == lines:
            return lines, files
    raise EmbeddedStoreError(f"{source / _MANIFEST} changed all the time for {OPEN_LIMIT_S:g} s")


def _manifest(source: Path) -> list[bytes]:
    """Return the manifest's lines without those of files to be deleted, which are no longer used."""
    lines = (source / _MANIFEST).read_bytes().splitlines()
    return [line for line in lines if not line.endswith(b" type h")]


def _name(line: bytes) -> str:
    """Return the file that a line names: ``file NAME seq N type T``; all names come from the server."""
    name = line.split()[1].decode("ascii")
    if Path(name).name != name:
        raise EmbeddedStoreError(f"{_MANIFEST} names {name!r}, which is not in its directory")
    return name


def _made(path: Path) -> BinaryIO:
    """Create a file that only its owner can access."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _written(target: Path, source: BinaryIO) -> int:
    with _made(target) as copy:
        shutil.copyfileobj(source, copy, _CHUNK_BYTES)
        return copy.tell()


def _prove(data_dir: Path, binary: str | None) -> None:
    """Start a server on the copy, and remove its traces. The server drops an incomplete end of the data.

    Raises:
        EmbeddedStoreError: the server does not start.
    """
    store = EmbeddedStore(data_dir, binary=binary)
    store.start()
    asyncio.run(store.stop())
    for name in _LEFT_BY_A_START:
        (data_dir / name).unlink(missing_ok=True)


def _sync_tree(top: Path) -> None:
    for directory, _, names in os.walk(top):
        for name in names:
            Path(directory, name).chmod(0o600)  # the server has replaced some of them
            _sync(Path(directory, name))
        _sync(Path(directory))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
