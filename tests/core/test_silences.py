"""Which workers silences match, and when."""

from typing import Any

import pytest

from alerts.groups.silences import Matchers, Silence, SilenceState, silenced_until
from tests.support.alerts_fakes import START_MS, event

HOUR_MS = 3_600_000


def _silence(**changes: Any) -> Silence:
    values: dict[str, Any] = {
        "id": "sil_" + "0" * 32,
        "tenant": "acme",
        "matchers": Matchers(worker_id="w"),
        "starts_ms": START_MS,
        "ends_ms": START_MS + HOUR_MS,
        "comment": "deploy",
        "author": "ann",
        "created_ms": START_MS,
    }
    return Silence(**{**values, **changes})


@pytest.mark.parametrize(
    ("matchers", "matches"),
    [
        (Matchers(worker_id="w"), True),
        (Matchers(worker_id="W"), False),
        (Matchers(worker_id="*"), True),
        (Matchers(worker_id="w?"), False),
        (Matchers(environment="pr*d"), True),
        (Matchers(worker_id="w", exact=True), True),
        (Matchers(worker_id="*", exact=True), False),
        (Matchers(environment="pr*d", exact=True), False),
        (Matchers(environment="prod", metadata={"host": "*"}, exact=True), False),
        (Matchers(environment="prod", metadata={"host": "é", "cpus": "8"}, exact=True), True),
        (Matchers(environment="pro"), False),
        (Matchers(environment="prod", worker_id="v"), False),
        (Matchers(environment="prod", worker_id="w*"), True),
        (Matchers(metadata={"host": "é"}), True),
        (Matchers(metadata={"host": "*"}), True),
        (Matchers(metadata={"rack": "*"}), False),
        (Matchers(metadata={"cpus": "8"}), True),
        (Matchers(metadata={"gpu": "true"}), True),
        (Matchers(metadata={"cpus": "8", "host": "x"}), False),
        (Matchers(worker_id="v", metadata={"cpus": "8"}), False),
    ],
)
def test_a_silence_matches_when_all_its_matchers_do(matchers: Matchers, *, matches: bool) -> None:
    down = event(worker_metadata_json='{"host":"é","cpus":8,"gpu":true}')
    until_ms = silenced_until([_silence(matchers=matchers)], down, START_MS)
    assert until_ms == (START_MS + HOUR_MS if matches else None)


@pytest.mark.parametrize(
    ("now_ms", "state"),
    [
        (START_MS - 1, SilenceState.PENDING),
        (START_MS, SilenceState.ACTIVE),
        (START_MS + HOUR_MS - 1, SilenceState.ACTIVE),
        (START_MS + HOUR_MS, SilenceState.ENDED),
    ],
)
def test_p17_it_silences_from_its_start_to_just_before_its_end(now_ms: int, state: SilenceState) -> None:
    silence = _silence()
    assert silence.state(now_ms) is state
    silenced = silenced_until([silence], event(), now_ms) is not None
    assert silenced == (state is SilenceState.ACTIVE)


def test_p17_a_silence_that_an_operator_ended_no_longer_silences() -> None:
    ended = _silence(ended_ms=START_MS + 5, ended_by="bob")
    assert silenced_until([ended], event(), START_MS + 4) == START_MS + 5
    assert silenced_until([ended], event(), START_MS + 5) is None
    assert _silence(starts_ms=START_MS + 9, ended_ms=START_MS + 5).state(START_MS + 10) is SilenceState.ENDED


def test_the_latest_end_of_those_that_match_counts() -> None:
    silences = [
        _silence(ends_ms=START_MS + 5),
        _silence(ends_ms=START_MS + 50),
        _silence(ends_ms=START_MS + 500, matchers=Matchers(worker_id="v")),
        _silence(ends_ms=START_MS + 500, starts_ms=START_MS + 1),
        _silence(ends_ms=START_MS + 10),
    ]
    assert silenced_until(silences, event(), START_MS) == START_MS + 50


def test_p24_a_silence_never_matches_another_tenants_worker() -> None:
    assert silenced_until([_silence(tenant="other")], event(), START_MS) is None
