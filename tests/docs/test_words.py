"""Words of private language that were taken out of code, tests and documents, and do not come back."""

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TEXTS: Final = (
    *sorted(
        path
        for folder in ("monitor", "alerts", "deploy", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".lua", ".yml"} and path != Path(__file__)
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "config.toml")),
)
RETIRED: Final = {
    "nobody": "no client, no operator, none",
    "somebody": "another process, an operator",
    "whoever": "the caller, the client",
    "so many": "at most N, the number of",
    "in attempts": "in flight",
    "for ever": "without end",
    "an error of ours": "an internal error",
    "short path": "fast path",
    "short way": "fast path",
    "tell": "notify, report, send, show",
    "tells": "notifies, reports, shows",
    "told": "notified, reported, sent",
    "telling": "notifying, reporting",
    "ledger": "the incident store, the silence store",
}
"""Each with what to say instead."""


def _lines_with(word: str) -> list[str]:
    """Also as a part of a name, as in ``told_by``; but not a method, as in ``file.tell()``."""
    pattern = re.compile(r"(?<![a-zA-Z.])" + word.replace(" ", r"[\s_]+") + r"(?![a-zA-Z])", re.IGNORECASE)
    return [
        f"{path.relative_to(ROOT)}: {text[max(0, found.start() - 40) : found.end() + 40]!r}"
        for path in TEXTS
        for text in [path.read_text(encoding="utf-8")]
        for found in pattern.finditer(text)
    ]


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_does_not_come_back(word: str) -> None:
    assert _lines_with(word) == [], f"say instead: {RETIRED[word]}"
