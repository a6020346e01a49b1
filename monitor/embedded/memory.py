"""How much memory the embedded server may take: a share of what this process may."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

SHARE: Final = 0.5
"""A rewrite of the append-only file forks: by its end the copy may have taken as much again. And there are others."""
LEAST_BYTES: Final = 64 << 20

_UNLIMITED_BYTES: Final = 1 << 60
"""Control groups of version 1 say the largest number of pages for no limit."""


def share_of_memory(root: Path = Path("/")) -> int:
    """``SHARE`` of the memory that there is for this process, in bytes; ``root`` is where its files are looked for."""
    return max(LEAST_BYTES, int(SHARE * available_bytes(root)))


def available_bytes(root: Path = Path("/")) -> int:
    """The least limit of this process's control groups, or the machine's memory if that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_group_limits(root)])


def _group_limits(root: Path) -> list[int]:
    """By cgroups(7): lines of ``number:controllers:path``. The limits of a group's parents hold for it too."""
    found = []
    lines = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines()]
    for _, controllers, path in (parts for parts in lines if len(parts) == 3):  # noqa: PLR2004 - see above
        if not controllers:
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for one in (group, *group.parents):
            limit = _text(base / one / name).strip()
            if limit.isdecimal() and 0 < int(limit) < _UNLIMITED_BYTES:
                found.append(int(limit))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
