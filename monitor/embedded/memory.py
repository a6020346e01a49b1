"""The embedded server's memory limit: a share of the memory that this process may use."""

import os
from pathlib import Path, PurePosixPath
from typing import Final

SHARE: Final = 0.5
"""A rewrite of the append-only file forks, and the copy may need as much memory again. Other programs need some too."""
LEAST_BYTES: Final = 64 << 20

_UNLIMITED_BYTES: Final = 1 << 60
"""Control groups of version 1 report a huge number of pages for "no limit"."""


def share_of_memory(root: Path = Path("/")) -> int:
    """Return ``SHARE`` of the memory available to this process, in bytes. ``root`` is the root of the file system."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(LEAST_BYTES, int(SHARE * min([machine, *_group_limits(root)])))


def _group_limits(root: Path) -> list[int]:
    """Read lines of ``number:controllers:path``, by cgroups(7). The limits of a group's parents hold for it too."""
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
