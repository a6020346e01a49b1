"""What a wrong change is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One wrong change, and the tests that concern it."""

    wrong: str
    """What the changed product does, in a few words; its name in every output."""
    file: str
    """The changed file, from the top of the repository."""
    old: str
    """The text that is changed; it stands exactly once in the file."""
    new: str
    tests: tuple[str, ...]
    """Test files, or tests by pytest's ids, without parameters."""
    survives: str = ""
    """Why no test can see it; empty for one that must be caught."""
