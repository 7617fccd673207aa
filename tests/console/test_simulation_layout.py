"""Where the parts of the simulation view stand at any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from textual.geometry import Size

from smartfallback_console.widgets.simulation_layout import FEWEST_ACCOUNTS, HEAD, plan


@given(st.integers(20, 400), st.integers(5, 200), st.booleans(), st.integers(3, 2_000))
def test_the_parts_fill_the_area_and_never_overlap(width: int, height: int, steps: bool, lines: int) -> None:
    regions = plan(Size(width, height), steps=steps, account_lines=lines)
    assert sum(region.area for region in regions.values()) == width * height
    placed = list(regions.values())
    for index, one in enumerate(placed):
        assert one.right <= width
        assert one.bottom <= height
        assert not any(one.overlaps(other) for other in placed[index + 1 :])


def test_accounts_stay_in_sight_beside_the_steps_where_there_is_room() -> None:
    for size in (Size(100, 28), Size(120, 37), Size(200, 57)):
        regions = plan(size, steps=True, account_lines=19)
        assert regions["live-accounts"].height >= min(19, FEWEST_ACCOUNTS)
        assert regions["run-steps"].height >= 10
        assert regions["run-head"].height == HEAD
    assert "live-routing" in plan(Size(200, 57), steps=False, account_lines=19)


def test_a_small_screen_has_the_steps_and_one_line_of_what_happens() -> None:
    regions = plan(Size(80, 21), steps=True, account_lines=19)
    assert regions["run-steps"].height == 17
    assert regions["live"].height == 1
    assert "scenarios" not in regions
