"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from docs import generate
from monitor.liveness import TRANSITIONS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def test_generated_parts_are_in_step_with_the_code() -> None:
    assert generate.out_of_step() == [], "run python -m docs.generate"


def test_the_state_diagram_has_one_edge_for_each_transition() -> None:
    edges = [line for line in generate.state_diagram().splitlines() if "-->" in line]
    assert len(edges) == len(TRANSITIONS)
    assert len(set(edges)) == len(edges)
    assert "    alive --> stale : deadline / worker.stale" in edges
    assert "    [*] --> alive : beat / worker.registered" in edges


def test_a_document_that_lags_behind_is_refused_and_then_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- generated:part -->\nold\n<!-- /generated:part -->\nafter\n")
    monkeypatch.setattr(generate, "PARTS", {document: {"part": lambda: "new"}})
    assert generate.main(["--check"]) == 1
    assert "old" in document.read_text()
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert document.read_text() == "before\n<!-- generated:part -->\n\nnew\n\n<!-- /generated:part -->\nafter\n"


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- generated:part -->",
        "<!-- /generated:part --><!-- generated:part -->",
        "<!-- generated:part --><!-- /generated:part -->" * 2,
    ],
)
def test_a_document_without_a_place_for_its_part_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "page.md"
    document.write_text(text)
    monkeypatch.setattr(generate, "PARTS", {document: {"part": lambda: "new"}})
    with pytest.raises(generate.MarkerError, match=r"page\.md"):
        generate.main(["--check"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets: list[str] = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []
