"""In which partitions and shards a group of one receiver is due. Pure."""

from math import inf


class DueParts:
    """When the next group is due in each part of a receiver's groups, by the part's base, as far as is known."""

    def __init__(self) -> None:
        self._due_ms: dict[str, float] = {}

    def note(self, tag: str, due_ms: float) -> None:
        """Note when a group of a part is due."""
        self._due_ms[tag] = min(due_ms, self._due_ms.get(tag, due_ms))

    def next_ms(self) -> float:
        """When the first part is due; infinity: none is."""
        return min(self._due_ms.values(), default=inf)

    def take(self, now_ms: int) -> str | None:
        """Return a part in which a group is due, and forget it: a claim there says when the next is due.

        A part that is noted again comes after the others, so those in which much is due take turns.
        """
        tag = next((tag for tag, due_ms in self._due_ms.items() if due_ms <= now_ms), None)
        if tag is not None:
            del self._due_ms[tag]
        return tag
