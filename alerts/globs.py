"""Patterns in which ``*`` is the only wildcard. Pure."""

from __future__ import annotations


def fits(pattern: str, text: str) -> bool:
    """Whether the whole text matches the pattern. ``*`` matches any run of characters, all else matches itself.

    For a text that is a pattern too: whether this one matches all that the other does. Only stars match its stars.

    Each part between two stars is matched at its first place, without backtracking, so that no text and no number of
    stars makes matching slow.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    *middle, last = rest
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
