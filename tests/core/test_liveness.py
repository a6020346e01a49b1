"""The machine, written out a second time and by hand; the deadlines to the millisecond; the rules for its Lua."""

import dataclasses
import re
from pathlib import Path
from typing import Final

import pytest

from monitor.liveness import (
    TRANSITIONS,
    EventKind,
    Liveness,
    Transition,
    TransitionRefusedError,
    Trigger,
    disconnect_trigger,
    liveness_at,
    step,
)
from monitor.store import library

LAST_SEEN = 1_790_000_000_000
INTERVAL = 30_000
GRACE = 60_000

REFUSED: Final = "refused"

# One row for each state, one word pair for each trigger: (where to, what is recorded), or refused.
MACHINE: Final[dict[str | None, dict[str, tuple[str | None, str | None] | str]]] = {
    None: {
        "beat": ("alive", "worker.registered"),
        "deadline": REFUSED,
        "deadline_after_stop": REFUSED,
        "deadline_rejected": REFUSED,
        "rejections_ended": REFUSED,
        "return_overdue": REFUSED,
        "disconnect_clean": REFUSED,
        "disconnect_failure": ("failed", "worker.failed"),
        "forget": REFUSED,
    },
    "alive": {
        "beat": ("alive", None),
        "deadline": ("stale", "worker.stale"),
        "deadline_after_stop": ("stopped", "worker.stopped"),
        "deadline_rejected": ("stale", "worker.rejected"),
        "rejections_ended": REFUSED,
        "return_overdue": REFUSED,
        "disconnect_clean": ("stopped", "worker.stopped"),
        "disconnect_failure": ("failed", "worker.failed"),
        "forget": (None, "worker.forgotten"),
    },
    "stale": {
        "beat": ("alive", "worker.recovered"),
        "deadline": REFUSED,
        "deadline_after_stop": REFUSED,
        "deadline_rejected": REFUSED,
        "rejections_ended": ("stale", "worker.stale"),
        "return_overdue": REFUSED,
        "disconnect_clean": ("stopped", "worker.stopped"),
        "disconnect_failure": ("failed", "worker.failed"),
        "forget": (None, "worker.forgotten"),
    },
    "stopped": {
        "beat": ("alive", "worker.resumed"),
        "deadline": REFUSED,
        "deadline_after_stop": REFUSED,
        "deadline_rejected": REFUSED,
        "rejections_ended": REFUSED,
        "return_overdue": ("stale", "worker.stale"),
        "disconnect_clean": REFUSED,
        "disconnect_failure": REFUSED,
        "forget": (None, "worker.forgotten"),
    },
    "failed": {
        "beat": ("alive", "worker.recovered"),
        "deadline": REFUSED,
        "deadline_after_stop": REFUSED,
        "deadline_rejected": REFUSED,
        "rejections_ended": REFUSED,
        "return_overdue": REFUSED,
        "disconnect_clean": REFUSED,
        "disconnect_failure": REFUSED,
        "forget": (None, "worker.forgotten"),
    },
}
PAIRS: Final = [(state, trigger, to) for state, row in MACHINE.items() for trigger, to in row.items()]


def _state(word: str | None) -> Liveness | None:
    return None if word is None else Liveness(word)


@pytest.mark.parametrize(("state", "trigger", "expected"), PAIRS)
def test_each_pair_of_state_and_trigger_leads_where_the_table_says_or_is_refused(
    state: str | None, trigger: str, expected: tuple[str | None, str | None] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(TransitionRefusedError) as refusal:
            step(_state(state), Trigger(trigger))
        assert refusal.value.state == _state(state)
        assert refusal.value.trigger is Trigger(trigger)
        assert str(refusal.value) == f"no transition from {state or '(none)'!r} by {trigger!r}"
        assert refusal.value.__cause__ is None
    else:
        to, event = expected
        made = step(_state(state), Trigger(trigger))
        assert (made.to, made.event) == (to, event)


def test_the_table_above_is_complete() -> None:
    assert len(MACHINE) == 5
    for row in MACHINE.values():
        assert list(row) == [trigger.value for trigger in Trigger]
    assert len(PAIRS) == 45
    assert len(TRANSITIONS) == sum(not isinstance(to, str) for _, _, to in PAIRS) == 19


@pytest.mark.parametrize("trigger", Trigger)
def test_late_is_read_and_never_stored_so_nothing_leads_from_it_or_to_it(trigger: Trigger) -> None:
    with pytest.raises(TransitionRefusedError, match="'late'"):
        step(Liveness.LATE, trigger)
    assert Liveness.LATE not in {made.to for made in TRANSITIONS.values()}
    assert Liveness.LATE not in library.STATE_CODES


def test_every_stored_state_has_a_code_of_its_own_and_every_event_but_a_status_change_is_a_transition_s() -> None:
    stored = {liveness for liveness in Liveness if liveness is not Liveness.LATE}
    assert set(library.STATE_CODES) == stored
    assert len(set(library.STATE_CODES.values())) == len(stored)
    assert {made.event for made in TRANSITIONS.values() if made.event} == set(EventKind) - {EventKind.STATUS_CHANGED}


def test_a_transition_cannot_be_changed() -> None:
    made = step(None, Trigger.BEAT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.to = Liveness.STALE  # type: ignore[misc]
    assert made == Transition(to=Liveness.ALIVE, event=EventKind.REGISTERED)


# Deadlines


def _at(
    now_ms: int, *, stored: Liveness = Liveness.ALIVE, straggler: bool = False, back_ms: int | None = None
) -> Liveness:
    return liveness_at(
        stored,
        now_ms=now_ms,
        late_ms=LAST_SEEN + INTERVAL,
        deadline_ms=LAST_SEEN + INTERVAL + GRACE,
        straggler=straggler,
        missed_ms=back_ms,
    )


@pytest.mark.parametrize("straggler", [False, True])
@pytest.mark.parametrize(
    ("after_ms", "expected"),
    [
        (0, Liveness.ALIVE),
        (INTERVAL - 1, Liveness.ALIVE),
        (INTERVAL, Liveness.LATE),
        (INTERVAL + 1, Liveness.LATE),
        (INTERVAL + GRACE - 1, Liveness.LATE),
        (INTERVAL + GRACE, Liveness.STALE),
        (INTERVAL + GRACE + 1, Liveness.STALE),
        (10**12, Liveness.STALE),
    ],
)
def test_p22_what_is_shown_changes_in_the_millisecond_of_the_interval_and_of_the_deadline(
    after_ms: int, expected: Liveness, *, straggler: bool
) -> None:
    shown = Liveness.STOPPED if straggler and expected is Liveness.STALE else expected
    assert _at(LAST_SEEN + after_ms, straggler=straggler) is shown


def test_a_clock_before_the_last_beat_shows_alive() -> None:
    assert _at(LAST_SEEN - 1) is Liveness.ALIVE


def test_without_grace_a_worker_is_never_late() -> None:
    shown = [
        liveness_at(
            Liveness.ALIVE,
            now_ms=now_ms,
            late_ms=LAST_SEEN + INTERVAL,
            deadline_ms=LAST_SEEN + INTERVAL,
            straggler=False,
            missed_ms=None,
        )
        for now_ms in (LAST_SEEN + INTERVAL - 1, LAST_SEEN + INTERVAL)
    ]
    assert shown == [Liveness.ALIVE, Liveness.STALE]


@pytest.mark.parametrize("straggler", [False, True])
@pytest.mark.parametrize("after_ms", [0, INTERVAL, INTERVAL + GRACE, 10**12])
@pytest.mark.parametrize("stored", [Liveness.STALE, Liveness.STOPPED, Liveness.FAILED])
def test_what_is_stored_as_not_alive_is_shown_as_it_is(stored: Liveness, after_ms: int, *, straggler: bool) -> None:
    assert _at(LAST_SEEN + after_ms, stored=stored, straggler=straggler) is stored


@pytest.mark.parametrize(("off", "expected"), [(-1, Liveness.STOPPED), (0, Liveness.STALE), (1, Liveness.STALE)])
def test_p22_a_stopped_worker_is_shown_stale_from_the_end_of_its_announced_absence_on(
    off: int, expected: Liveness
) -> None:
    back_ms = LAST_SEEN + 3_600_000
    assert _at(back_ms + off, stored=Liveness.STOPPED, back_ms=back_ms) is expected


@pytest.mark.parametrize(
    ("after_ms", "expected"),
    [
        (INTERVAL + GRACE - 1, Liveness.LATE),
        (INTERVAL + GRACE, Liveness.STOPPED),
        (INTERVAL + GRACE + 999, Liveness.STOPPED),
        (INTERVAL + GRACE + 1_000, Liveness.STALE),
    ],
)
def test_p22_a_straggler_is_shown_stopped_until_its_announced_absence_ends(after_ms: int, expected: Liveness) -> None:
    back_ms = LAST_SEEN + INTERVAL + GRACE + 1_000
    assert _at(LAST_SEEN + after_ms, straggler=True, back_ms=back_ms) is expected


# Disconnects


@pytest.mark.parametrize("exit_code", [None, 0, 1, 130, 137, 143, -15, -2, -9, 2, 129, 255])
@pytest.mark.parametrize(
    "reason", ["shutdown", "done", "completed", "crash", "", "Shutdown", " shutdown", "shutdown ", "Done", "error"]
)
def test_a_disconnect_is_clean_only_for_a_shutdown_with_an_exit_code_of_a_deploy_or_for_work_that_is_done(
    reason: str, exit_code: int | None
) -> None:
    clean = {("shutdown", code) for code in (None, 0, 130, 143, -2, -15)} | {("done", 0), ("completed", 0)}
    expected = Trigger.DISCONNECT_CLEAN if (reason, exit_code) in clean else Trigger.DISCONNECT_FAILURE
    assert disconnect_trigger(reason=reason, exit_code=exit_code) is expected


# The rules for its Lua

LUA: Final = "".join(path.read_text(encoding="utf-8") for path in Path(library.__file__).parent.rglob("*.lua"))
STRINGS: Final = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")


def _code(source: str) -> str:
    """The source without its comments, which may use the words."""
    without_blocks = re.sub(r"--\[\[.*?\]\]", "", source, flags=re.DOTALL)
    return re.sub(r"--[^\n]*", "", without_blocks)


def _functions(source: str) -> dict[str, str]:
    """Each top-level function's source by its name."""
    begin = r"(?:local function |register\(')"
    found = re.findall(rf"^{begin}(\w+)[('].*?^end\)?$", source, re.DOTALL | re.MULTILINE)
    parts = re.split(rf"^(?={begin}\w+[('])", source, flags=re.MULTILINE)[1:]
    assert len(found) == len(parts) > 30
    return dict(zip(found, parts, strict=True))


def test_words_of_liveness_are_spelled_once_and_not_in_the_lua() -> None:
    literals = {literal[1:-1] for literal in STRINGS.findall(_code(LUA))}
    words = {word.value for kinds in (Liveness, EventKind, Trigger) for word in kinds}
    words |= {kind.removeprefix("worker.") for kind in EventKind}
    words |= set(library.STATE_CODES.values()) - {"a"}  # the name of a key too
    # The names under which functions are registered are the operations', which may be called as a trigger is.
    operations = set(re.findall(r"^register\('(\w+)'", LUA, re.MULTILINE))
    assert words & (literals - operations) == set()
    assert {"beat"} == words & operations
    for name in operations & words:
        assert len(re.findall(rf"['\"]{name}['\"]", _code(LUA))) == 1


def test_states_are_compared_with_what_python_gave_and_not_with_their_codes() -> None:
    codes = "|".join(library.STATE_CODES.values())
    assert re.findall(rf"(?:[=~]=\s*|MOVE\[|WORD\[|R_STATE\]\s*=\s*)['\"](?:{codes})['\"]", _code(LUA)) == []


def test_every_range_in_the_lua_is_bounded() -> None:
    ranges = {
        (name, call)
        for name, source in _functions(_code(LUA)).items()
        for call in re.findall(r"'(?:Z|X)(?:REV)?RANGE(?:BY\w+)?'.*|'XTRIM'.*|'[HSZ]?SCAN'.*", source)
    }
    unbounded = {
        (name, call) for name, call in ranges if not re.search(r"'LIMIT'|'COUNT'|, 0, 0[,)]|, 0, COHORTS_LIMIT\)", call)
    }
    assert len(ranges) >= 12
    # What is gathered has been counted before, in the same step, and is given up when it is too much; what is
    # trimmed exactly has been counted by a bounded range, or is no more than the limit.
    assert {name for name, _ in unbounded} <= {"gather", "trim"}
    assert len(unbounded) <= 2
    counted, _, ranged = _functions(_code(LUA))["gather"].partition("total > GATHER_LIMIT then\n      return nil")
    assert "'ZCOUNT'" in counted
    assert all(call in ranged for name, call in unbounded if name == "gather")
    trim = _functions(_code(LUA))["trim"]
    assert "spare = #call('XRANGE', st.base .. 'history:' .. tenant, '-', old .. '-0', 'COUNT', limit)" in trim
    assert "spare = math.min(over, limit, " in trim
    whole = r"'(?:HGETALL|HKEYS|HVALS|SMEMBERS|KEYS|LRANGE|ZRANGEBYSCORE|ZRANGEBYLEX|SORT)'[^)]*"
    # Daemons are few: those that are there, and the others up to a number. Revocations are counted when they come.
    assert set(re.findall(whole, _code(LUA))) == {"'HGETALL', st.keys.pulses", "'HGETALL', st.keys.revocations"}
    assert "DAEMONS_KEPT" in _functions(_code(LUA))["others_alive"]
    assert "call('HLEN', st.keys.revocations) >= tonumber(args[5])" in _functions(_code(LUA))["revoke"]


def test_every_list_of_arguments_in_the_lua_is_bounded() -> None:
    # Lua's unpack fails on some eight thousand values. `spread` is its name there, so nothing else may have it.
    assert re.findall(r"(?<!\.)\bunpack\b", _code(LUA)) == ["unpack"]
    assert "call, spread, sub, read, write = redis.call, unpack," in _code(LUA)
    spreads = {
        (name, arguments)
        for name, source in _functions(_code(LUA)).items()
        for arguments in re.findall(r"spread\(((?:[^()]|\([^()]*\))*)\)", source)
    }
    assert spreads == {
        ("call_with", "list, from, math.min(from + ARGUMENTS - 1, #list)"),
        ("load_workers", "mids"),  # as many as the limit of a sweep or a purge
        ("beat", "mids, 1, count"),  # at most 256
        ("cold_after", "cold_of(st, w)"),  # the parts X_*
    }
