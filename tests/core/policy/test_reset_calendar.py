from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import WindowKind
from smartfallback.policy.reset_calendar import SPAN_S, parse_reset

HOUR = 3600.0
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def wall(at: float, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(at, zone).replace(tzinfo=None)


def is_named(kind: WindowKind, day: int, moment: datetime) -> bool:
    if kind is WindowKind.WEEK:
        return moment.weekday() == day
    if kind is WindowKind.MONTH:
        last = (moment + timedelta(days=1)).day == 1
        return moment.day == day or (last and moment.day < day)
    return True


instants = st.floats(utc("1985-01-01"), utc("2037-06-01"))


@settings(deadline=None, max_examples=400)
@given(
    now=instants,
    zone_name=st.sampled_from(ZONES),
    kind=st.sampled_from((WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH)),
    day=st.integers(0, 30),
    hour=st.sampled_from((0, 0, 0, 1, 2, 3, 12, 23)),
    minute=st.sampled_from((0, 0, 15, 30)),
)
def test_windows_tile_time_and_begin_at_the_named_local_time(
    now: float, zone_name: str, kind: WindowKind, day: int, hour: int, minute: int
) -> None:
    day = day % 7 if kind is WindowKind.WEEK else day + 1
    prefix = {WindowKind.WEEK: f"{WEEKDAYS[day % 7]} ", WindowKind.MONTH: f"{day} "}.get(kind, "")
    rule = parse_reset(kind, f"{prefix}{hour:02}:{minute:02} {zone_name}")
    zone = ZoneInfo(zone_name)

    start, end = rule.window_at(now)
    assert start <= now < end
    for _ in range(4):
        assert rule.window_at(start) == (start, end)
        assert rule.window_at(end - 0.5) == (start, end)
        following, following_end = rule.window_at(end)
        assert following == end < following_end

        before, at = wall(start - 1, zone), wall(start, zone)
        named = at.replace(hour=hour, minute=minute, second=0, microsecond=0)
        if at == named:
            assert is_named(kind, day, named)
            repeats = (wall(start - back, zone) for back in (1800.0, HOUR, 2 * HOUR, 86_400.0))
            assert named not in repeats, "the first of two equal wall times begins the window"
        else:
            candidates = (named - timedelta(days=back) for back in (0, 1))
            assert any(before < skipped < at and is_named(kind, day, skipped) for skipped in candidates)
            assert at - before > timedelta(seconds=1), "only a clock change may move a boundary"
        start, end = following, following_end


@settings(deadline=None, max_examples=60)
@given(st.lists(instants, min_size=2, max_size=12), st.sampled_from(ZONES))
def test_answers_do_not_depend_on_what_was_asked_before(times: list[float], zone: str) -> None:
    rule = parse_reset(WindowKind.WEEK, f"sun 00:00 {zone}")
    forward = [rule.window_at(at) for at in sorted(times)]
    backward = [rule.window_at(at) for at in sorted(times, reverse=True)]
    assert forward == backward[::-1]


@pytest.mark.parametrize(
    ("kind", "text", "now", "start", "end"),
    [
        (WindowKind.WEEK, "sun 00:00 UTC", "2026-03-02T12:00", "2026-03-01T00:00", "2026-03-08T00:00"),
        (WindowKind.WEEK, "sun 00:00 UTC", "2026-03-08T00:00", "2026-03-08T00:00", "2026-03-15T00:00"),
        # Berlin's clocks change on Sunday at 02:00: a week of 167 and one of 169 hours.
        (
            WindowKind.WEEK,
            "sun 00:00 Europe/Berlin",
            "2026-03-30T00:00",
            "2026-03-28T23:00",
            "2026-04-04T22:00",
        ),
        (
            WindowKind.WEEK,
            "sun 00:00 Europe/Berlin",
            "2026-10-26T00:00",
            "2026-10-24T22:00",
            "2026-10-31T23:00",
        ),
        # Midnight does not exist: the day begins with the change, whatever skipped time is named.
        (
            WindowKind.DAY,
            "00:00 America/Sao_Paulo",
            "2018-11-04T12:00",
            "2018-11-04T03:00",
            "2018-11-05T02:00",
        ),
        (
            WindowKind.WEEK,
            "sun 00:30 Asia/Beirut",
            "2024-03-31T12:00",
            "2024-03-30T22:00",
            "2024-04-06T21:30",
        ),
        (WindowKind.DAY, "00:00 Africa/Cairo", "2023-04-28T12:00", "2023-04-27T22:00", "2023-04-28T21:00"),
        # Midnight turns back to 23:00: Sunday begins when the clock reaches midnight for good.
        (
            WindowKind.WEEK,
            "sun 00:00 Asia/Beirut",
            "2024-10-27T12:00",
            "2024-10-26T22:00",
            "2024-11-02T22:00",
        ),
        # Midnight comes twice: the first one counts.
        (WindowKind.DAY, "00:00 America/Havana", "2024-11-03T04:30", "2024-11-03T04:00", "2024-11-04T05:00"),
        # At 00:01 the clock turns back to 23:01: Sunday has begun, and is not taken back.
        (
            WindowKind.DAY,
            "00:00 America/St_Johns",
            "2010-11-07T03:00",
            "2010-11-07T02:30",
            "2010-11-08T03:30",
        ),
        # A zone that skipped 30 December 2011.
        (WindowKind.DAY, "00:00 Pacific/Apia", "2011-12-30T11:00", "2011-12-30T10:00", "2011-12-31T10:00"),
        (WindowKind.MONTH, "1 00:00 UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        (WindowKind.MONTH, "31 06:00 UTC", "2028-03-01T00:00", "2028-02-29T06:00", "2028-03-31T06:00"),
        (WindowKind.DAY, "00:00", "2026-03-02T12:00", "2026-03-02T00:00", "2026-03-03T00:00"),
        (WindowKind.WEEK, "Sunday 00:00 UTC", "2026-03-02T12:00", "2026-03-01T00:00", "2026-03-08T00:00"),
    ],
)
def test_windows_of_known_days(kind: WindowKind, text: str, now: str, start: str, end: str) -> None:
    assert parse_reset(kind, text).window_at(utc(now)) == (utc(start), utc(end))


@pytest.mark.parametrize("kind", list(WindowKind))
def test_without_a_reset_a_window_slides_from_its_first_use(kind: WindowKind) -> None:
    rule = parse_reset(kind, None)
    assert rule.slides
    assert rule.window_at(1000.5) == (1000.5, 1000.5 + SPAN_S[kind])
    assert rule.window_at(2000.0) == (2000.0, 2000.0 + SPAN_S[kind])


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (WindowKind.WEEK, "", ("empty", "sun 00:00 Europe/Berlin")),
        (WindowKind.WEEK, "00:00 UTC", ("'00:00'", "mon, tue, wed, thu, fri, sat, sun")),
        (WindowKind.WEEK, "sun", ("no time of day", "weekday HH:MM Zone")),
        (WindowKind.WEEK, "sonntag 00:00 UTC", ("'sonntag'", "mon, tue")),
        (WindowKind.WEEK, "sun 24:00 UTC", ("'24:00'", "00:00 to 23:59")),
        (WindowKind.WEEK, "sun 00:60 UTC", ("'00:60'", "00:00 to 23:59")),
        (WindowKind.WEEK, "sun midnight UTC", ("'midnight'", "00:00 to 23:59")),
        (WindowKind.WEEK, "sun 00:00 Europe/Berln", ("'Europe/Berln'", "did you mean 'Europe/Berlin'")),
        (WindowKind.WEEK, "sun 00:00 Europe", ("'Europe'", "IANA")),
        (WindowKind.WEEK, "sun 00:00 ../../etc/passwd", ("'../../etc/passwd'", "IANA")),
        (WindowKind.WEEK, "sun 00:00 UTC please", ("'please'", "weekday HH:MM Zone")),
        (WindowKind.DAY, "sun 00:00 UTC", ("'sun'", "HH:MM Zone")),
        (WindowKind.MONTH, "0 00:00 UTC", ("'0'", "1 to 31")),
        (WindowKind.MONTH, "32 00:00 UTC", ("'32'", "1 to 31")),
        (WindowKind.MONTH, "sun 00:00 UTC", ("'sun'", "day HH:MM Zone")),
        (WindowKind.FIVE_HOURS, "00:00 UTC", ("5h", "leave resets out")),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(kind: WindowKind, text: str, said: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="resets = ") as caught:
        parse_reset(kind, text)
    for part in (repr(text), *said):
        assert part in str(caught.value)
