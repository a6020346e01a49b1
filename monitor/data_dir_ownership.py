"""Checks that the data directory is ours: its contents decide which tokens are valid.

A directory that root owns and gives to our group, as container platforms mount volumes, is accepted. Then our files
are in a subdirectory of our own.
"""

import os
import stat
from pathlib import Path
from typing import Final

OWN_FOLDER: Final = "lastseen"
KEY_FILE: Final = "signing-key"
LOCK_FILE: Final = "lock"
STORE_FOLDER: Final = "store"
_ROOT: Final = 0


class DataDirError(Exception):
    """The data directory can't be used, or other users may change its contents. The message says how to fix it."""


def own_dir(data_dir: Path) -> Path:
    """Return the directory of our files, in or under the data directory; absolute, whether it exists or not."""
    data_dir = data_dir.absolute()
    inner = data_dir / OWN_FOLDER
    try:
        is_given = data_dir.stat().st_uid == _ROOT != os.geteuid()
    except OSError:
        return data_dir
    return inner if is_given or os.path.lexists(inner) else data_dir


def trusted_dir(data_dir: Path) -> Path:
    """Return ``own_dir``, created if it does not exist.

    Raises:
        DataDirError: others than our group may write to the data directory, or one of our files in it is a link or
            belongs to another user.
    """
    data_dir = data_dir.absolute()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _judge_shared(data_dir)
        ours = own_dir(data_dir)
        if ours != data_dir:
            ours.mkdir(mode=0o700, exist_ok=True)
            _judge_own(ours)
            if stat.S_IMODE(ours.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
                raise DataDirError(f"{ours} is open to others: chmod 700 {ours}")
        for name in (KEY_FILE, LOCK_FILE, STORE_FOLDER):
            if os.path.lexists(ours / name):
                _judge_own(ours / name)
    except OSError as error:
        raise DataDirError(f"data directory {data_dir} can't be used: {error}") from error
    return ours


def _judge_shared(path: Path) -> None:
    found = path.stat()
    if found.st_uid not in {os.geteuid(), _ROOT}:
        raise DataDirError(
            f"data directory {path} belongs to user {found.st_uid}, who may change it, and we are {os.geteuid()}: "
            "start as that user, or change its owner"
        )
    if found.st_mode & stat.S_IWOTH:
        raise DataDirError(f"data directory {path} may be written by everybody: chmod o-w {path}")
    if found.st_mode & stat.S_IWGRP and found.st_gid not in {os.getegid(), *os.getgroups()}:
        raise DataDirError(f"data directory {path} may be written by group {found.st_gid}, not ours: chmod g-w {path}")


def _judge_own(path: Path) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise DataDirError(f"{path} is a link: what is ours must lie in the data directory itself")
    if found.st_uid != os.geteuid():
        raise DataDirError(f"{path} belongs to user {found.st_uid}, and we are {os.geteuid()}: restore its owner")
