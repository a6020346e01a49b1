"""Durations and sizes of the configuration: what is read, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.settings.units import LONGEST_MS, UNIT_MS, duration_ms, duration_text, size_bytes, size_text


@given(st.integers(0, LONGEST_MS))
def test_durations_survive_being_written_and_read(ms: int) -> None:
    assert duration_ms(duration_text(ms)) == ms


@given(st.decimals(0, 999, places=3), st.sampled_from(sorted(UNIT_MS)))
def test_a_fraction_of_a_duration_is_exact_or_refused(number: object, unit: str) -> None:
    text = f"{number}{unit}"
    thousandths = int(str(number).replace(".", "")) * UNIT_MS[unit]
    if thousandths % 1000:
        with pytest.raises(ValueError, match="finer than a millisecond"):
            duration_ms(text)
    else:
        assert duration_ms(text) == thousandths // 1000


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        ms = duration_ms(text)
    except ValueError:
        return
    assert duration_ms(duration_text(ms)) == ms


@pytest.mark.parametrize(
    "value", [30, 1.5, True, "30", "30sec", "30 s", "-1s", "s", "", "1h30m", "\u0661s", "4000d", None]
)
def test_a_duration_without_a_known_unit_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"unit|duration|longer"):
        duration_ms(value)


@given(st.integers(1, 1 << 40))
def test_sizes_survive_being_written_and_read(count: int) -> None:
    text = size_text(count)
    assert (size_bytes(text) if text.endswith("iB") else count) == count


@pytest.mark.parametrize("value", ["16KB", "16", "16k", -1, 1.5, True, "0.3KiB", [1]])
def test_a_size_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"size|whole"):
        size_bytes(value)
