"""Parts of a receiver's groups: each has its turn, and none before it is due."""

from alerts.delivery.due_parts import DueParts


def test_a_part_is_taken_once_it_is_due_and_then_only_when_it_is_noted_again() -> None:
    parts = DueParts()
    parts.note("a", 10)
    assert parts.take(9) is None
    assert parts.take(10) == "a"
    assert parts.take(1_000) is None
    parts.note("a", 20)
    assert parts.take(20) == "a"


def test_the_earliest_moment_of_a_part_counts() -> None:
    parts = DueParts()
    for due_ms in (30, 10, 20):
        parts.note("a", due_ms)
    assert parts.take(10) == "a"


def test_p29_parts_in_which_much_is_due_take_turns() -> None:
    parts = DueParts()
    for name in "abc":
        parts.note(name, 0)
    order = []
    for _ in range(7):
        tag = parts.take(100)
        assert tag is not None
        order.append(tag)
        parts.note(tag, 0)
    assert "".join(order) == "abcabca"
