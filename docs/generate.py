"""Write the parts of the documents that the code decides: `python -m docs.generate [--check]`.

A part stands between two marker comments, `<!-- generated:NAME -->` and `<!-- /generated:NAME -->`.
With `--check` nothing is written, and the exit status is 1 when a document is out of step.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.timelines import pictures
from monitor.liveness import TRANSITIONS, Liveness, Trigger

DOCS: Final = Path(__file__).parent


class MarkerError(ValueError):
    """A document has not exactly one place for a generated part."""


def state_diagram() -> str:
    """The transition table as a Mermaid state diagram; an edge's label is `trigger / event`."""
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR"]
    for (state, trigger), transition in TRANSITIONS.items():
        label = trigger.value if transition.event is None else f"{trigger.value} / {transition.event.value}"
        lines.append(f"    {_node(state)} --> {_node(transition.to)} : {label}")
    return "\n".join([*lines, "```"])


def transition_table() -> str:
    """The transition table as a Markdown table, a row for each state and a column for each trigger."""
    states = [None, *(state for state in Liveness if any(state is known for known, _ in TRANSITIONS))]
    header = ["from", *(f"`{trigger}`" for trigger in Trigger)]
    rows = [[f"`{state}`" if state else "(none)", *(_cell(state, trigger) for trigger in Trigger)] for state in states]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


PARTS: Final[Mapping[Path, Mapping[str, Callable[[], str]]]] = {
    DOCS / "architecture.md": {"state-diagram": state_diagram, "transition-table": transition_table},
    DOCS / "outages.md": {"outages": pictures},
}


def rendered(path: Path) -> str:
    """What the document should hold: its text with every generated part made anew.

    Raises:
        MarkerError: a part's markers are missing, doubled or the wrong way round.
    """
    text = path.read_text(encoding="utf-8")
    for name, make in PARTS[path].items():
        opening, closing = f"<!-- generated:{name} -->", f"<!-- /generated:{name} -->"
        if text.count(opening) != 1 or text.count(closing) != 1 or text.index(opening) > text.index(closing):
            raise MarkerError(f"{path.name}: need {opening} and then {closing}, once each")
        before, rest = text.split(opening)
        after = rest.split(closing)[1]
        text = f"{before}{opening}\n\n{make()}\n\n{closing}{after}"
    return text


def out_of_step() -> list[Path]:
    """The documents that are not what the code says."""
    return [path for path in PARTS if path.read_text(encoding="utf-8") != rendered(path)]


def main(arguments: list[str]) -> int:
    """Run the command; the result is its exit status."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m docs.generate [--check]", file=sys.stderr)
        return 2
    stale = out_of_step()
    for path in stale:
        if arguments:
            print(f"{path.name} is out of step with the code: run python -m docs.generate", file=sys.stderr)
        else:
            path.write_text(rendered(path), encoding="utf-8")
            print(f"wrote {path.name}")
    return 1 if arguments and stale else 0


def _node(state: Liveness | None) -> str:
    return "[*]" if state is None else state.value


def _cell(state: Liveness | None, trigger: Trigger) -> str:
    transition = TRANSITIONS.get((state, trigger))
    if transition is None:
        return ""
    to = f"`{transition.to}`" if transition.to else "(none)"
    return to if transition.event is None else f"{to}, `{transition.event}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
