"""Short text: exact widths, whatever is put in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from smartfallback_console import formatting


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60), st.integers(1, 40), st.sampled_from(["left", "right", "center"]))
def test_fit_fills_exactly_and_lets_no_control_through(
    text: str, width: int, align: formatting.Align
) -> None:
    fitted = formatting.fit(text, width, align)
    assert cell_len(fitted) == width
    assert not any(character in fitted for character in "\x00\x07\x08\x1b\x7f\x9b\n\r\t\u202e\u2066\u200d")


@settings(deadline=None, max_examples=200)
@given(st.floats(0, 1e15))
def test_counts_take_four_characters_at_most(number: float) -> None:
    assert len(formatting.count(number)) <= 4


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0.4, "0s", "0s"),
        (59.4, "59s", "59s"),
        (59.6, "1m 00s", "59s"),
        (3_599, "59m 59s", "59m"),
        (3_600, "1h 00m", "1h"),
        (86_400 * 5 + 3_600 * 11, "5d 11h", "5d"),
        (-5, "0s", "0s"),
    ],
)
def test_spans(seconds: float, long: str, short: str) -> None:
    assert formatting.duration(seconds) == long
    assert formatting.age(seconds) == short


def test_a_countdown_never_shows_zero_before_the_end() -> None:
    assert formatting.countdown(0.2) == "0:01"
    assert formatting.countdown(0) == "0:00"
    assert formatting.countdown(125) == "2:05"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("2h", 7_200.0), ("1d", 86_400.0), ("", None)],
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    assert formatting.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-3m", "0", "nan", "inf", "1e9d", "m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|range"):
        formatting.parse_duration(text)


def test_charts_have_their_height_and_show_the_smallest_value() -> None:
    lines = formatting.columns((0.0, 0.01, 5.0, 10.0), 2, 10.0)
    assert lines == ["   █", " ▁██"]
    assert formatting.sparkline((1.0, 2.0), 4) == "  ▄█"


@pytest.mark.parametrize("absurd", [1e20, 1e30, float("inf"), float("-inf"), float("nan"), -1e30])
def test_no_number_that_an_upstream_may_state_is_a_crash_or_a_long_line(absurd: float) -> None:
    spans = (formatting.duration, formatting.age, formatting.countdown)
    assert {len(span(absurd)) <= 7 for span in spans} == {True}
    assert len({span(absurd) for span in spans}) == 1 or absurd < 0
    assert formatting.clock_time(absurd) == "--:--:--"
