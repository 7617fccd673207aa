"""When quota windows begin anew: calendar resets in a named time zone, and windows that slide.

A calendar boundary is *the first instant at which the local clock does not stand before the named
time of the named day*. Where a clock change skips that time, this is the instant of the change;
where it repeats it, the first of the two. Boundaries therefore never run backwards, and windows
tile time without gap or overlap. (A whole day that a zone skips, as Apia did at the end of 2011,
has no window of its own.)
"""

from __future__ import annotations

import difflib
import re
from calendar import monthrange
from datetime import date, datetime, timedelta
from datetime import time as wall_time
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, available_timezones

from smartfallback.model.quota import WindowKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPAN_S: Final = {
    WindowKind.FIVE_HOURS: 5 * 3600.0,
    WindowKind.DAY: 86_400.0,
    WindowKind.WEEK: 7 * 86_400.0,
    WindowKind.MONTH: 30 * 86_400.0,
}
"""Length in seconds of a window that slides; a sliding month counts as 30 days."""

_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKDAY_NAMES: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FORMS: Final = {
    WindowKind.DAY: '"HH:MM Zone", such as "00:00 UTC"',
    WindowKind.WEEK: '"weekday HH:MM Zone", such as "sun 00:00 Europe/Berlin"',
    WindowKind.MONTH: '"day HH:MM Zone", such as "1 00:00 UTC"',
}
_TIME: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})")
# Today's boundary may lie ahead, so one before; and where clocks turn back over midnight (St John's
# did at 00:01), tomorrow's may lie behind, so two after.
_NEIGHBOURS: Final = range(-1, 3)


class ResetRule:
    """When one kind of window begins anew. Rules are shared: the same text gives the same rule.

    Attributes:
        kind: The window's kind.
        slides: True for a window that starts at its first use instead of by the calendar.
        span_s: Length of a sliding window in seconds.
    """

    __slots__ = ("_day_of", "_time", "_window", "_zone", "kind", "slides", "span_s")

    def __init__(
        self,
        kind: WindowKind,
        *,
        at: wall_time | None = None,
        zone: ZoneInfo | None = None,
        day: int = 0,
    ) -> None:
        """Use :func:`parse_reset`.

        ``day`` is the weekday (Monday 0) of a week, or the day of a month; without ``at`` and
        ``zone`` the window slides.
        """
        self.kind = kind
        self.span_s = SPAN_S[kind]
        self.slides = at is None or zone is None
        self._time = at or wall_time()
        self._zone = zone
        self._day_of = _occurrences(kind, day)
        self._window = (0.0, 0.0)

    def window_at(self, now: float) -> tuple[float, float]:
        """The window that holds ``now``: start and end in epoch seconds, the end exclusive.

        For a window that slides it is the one that a first use at ``now`` would open.
        """
        window = self._window
        if window[0] <= now < window[1]:
            return window
        if self._zone is None:
            return now, now + self.span_s
        today = datetime.fromtimestamp(now, self._zone).date()
        boundaries = [_first_instant(day, self._time, self._zone) for day in self._day_of(today)]
        self._window = window = (
            max(at for at in boundaries if at <= now),
            min(at for at in boundaries if at > now),
        )
        return window


@lru_cache(maxsize=1024)
def parse_reset(kind: WindowKind, text: str | None) -> ResetRule:
    """Read a window's ``resets``.

    Args:
        kind: Decides which form is expected.
        text: ``"sun 00:00 Europe/Berlin"`` for a week, ``"00:00 UTC"`` for a day, ``"1 00:00 UTC"``
            for a month (a day that a month lacks means its last); without a zone, UTC is meant.
            None for a window that slides from its first use.

    Raises:
        ValueError: The text has another form; the message says what was found and what is allowed.
    """
    if text is None:
        return ResetRule(kind)
    if kind not in _FORMS:
        raise ValueError(
            f"resets = {text!r}: a {kind.value} window slides from its first use; leave resets out"
        )
    fields = text.split()
    day = 0
    if kind is not WindowKind.DAY:
        if not fields:
            raise _invalid(kind, text, "it is empty")
        name = fields.pop(0).lower()
        day = _weekday(text, name) if kind is WindowKind.WEEK else _day_of_month(text, name)
    if not fields:
        raise _invalid(kind, text, "it has no time of day")
    found = _TIME.fullmatch(fields[0])
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        raise _invalid(kind, text, f"{fields[0]!r} is no time of day from 00:00 to 23:59")
    if len(fields) > 2:
        raise _invalid(kind, text, f"{' '.join(fields[2:])!r} is too much")
    zone = _zone(kind, text, fields[1] if len(fields) == 2 else "UTC")
    return ResetRule(kind, at=wall_time(int(found[1]), int(found[2])), zone=zone, day=day)


def _invalid(kind: WindowKind, text: str, why: str) -> ValueError:
    return ValueError(f"resets = {text!r}: {why}; a {kind.value} window takes {_FORMS[kind]}")


def _weekday(text: str, name: str) -> int:
    for names in (_WEEKDAYS, _WEEKDAY_NAMES):
        if name in names:
            return names.index(name)
    raise _invalid(WindowKind.WEEK, text, f"{name!r} is none of {', '.join(_WEEKDAYS)}")


def _day_of_month(text: str, name: str) -> int:
    if name.isascii() and name.isdigit() and len(name) <= 2 and 1 <= int(name) <= 31:
        return int(name)
    raise _invalid(WindowKind.MONTH, text, f"{name!r} is no day of the month from 1 to 31")


def _zone(kind: WindowKind, text: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # zoneinfo answers a folder of zones ("Europe") with an OSError, a path with a ValueError.
        known = {zone.lower(): zone for zone in available_timezones()}
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f", did you mean {known[near[0]]!r}?" if near else ""
        why = f"{name!r} is no time zone of the IANA database{hint}"
        raise _invalid(kind, text, why) from None


def _occurrences(kind: WindowKind, day: int) -> Callable[[date], Iterator[date]]:
    """Days of reset around a date: at least one whose boundary lies before it and one after it."""

    def days(today: date) -> Iterator[date]:
        return (today + timedelta(days=n) for n in _NEIGHBOURS)

    def weeks(today: date) -> Iterator[date]:
        anchor = today - timedelta(days=(today.weekday() - day) % 7)
        return (anchor + timedelta(weeks=n) for n in _NEIGHBOURS)

    def months(today: date) -> Iterator[date]:
        for n in _NEIGHBOURS:
            years, month = divmod(today.month - 1 + n, 12)
            year = today.year + years
            yield date(year, month + 1, min(day, monthrange(year, month + 1)[1]))

    return {WindowKind.WEEK: weeks, WindowKind.MONTH: months}.get(kind, days)


def _first_instant(day: date, at: wall_time, zone: ZoneInfo) -> float:
    """Epoch seconds of the first instant at which ``zone`` stands at or after ``day``, ``at``."""
    named = datetime.combine(day, at)
    instant = named.replace(tzinfo=zone).timestamp()
    if datetime.fromtimestamp(instant, zone).replace(tzinfo=None) == named:
        return instant
    # Skipped: read with the offset before the change (fold 0) the time falls at or after the
    # change, with the offset after it (fold 1) before the change.
    before, after = int(named.replace(tzinfo=zone, fold=1).timestamp()), int(instant)
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) < named:
            before = middle
        else:
            after = middle
    return float(after)
