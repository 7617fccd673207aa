"""Numbers, times and names as short text that fits a given count of terminal cells."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from functools import lru_cache
from typing import Literal

from rich.cells import cell_len as cell_len
from rich.cells import chop_cells, get_character_cell_size

Align = Literal["left", "right", "center"]

_KEPT_OUT = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Control, format (bidi overrides, joiners), surrogate, private-use and line separator characters."""

_VARIATION_SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Terminals disagree on the width of a character followed by one of these."""


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """``text`` on one line without anything that could move the cursor or turn the line round."""
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    for character in text:
        if character in "\n\r\t\v\f":
            kept.append(" ")
        elif unicodedata.category(character) in _KEPT_OUT:
            if character < "\x20" or character == "\x7f":
                kept.append("·")
        elif character not in _VARIATION_SELECTORS:
            kept.append(character)
    return "".join(kept)


@lru_cache(maxsize=8192)
def fit(text: str, width: int, align: Align = "left") -> str:
    """Cleaned ``text`` in exactly ``width`` cells: padded, or cut with an ellipsis."""
    if width <= 0:
        return ""
    text = clean(text)
    length = cell_len(text)
    if length > width:
        text = _cut(text, width - 1) + "…"
        length = cell_len(text)
    space = width - length
    if align == "right":
        return " " * space + text
    if align == "center":
        return " " * (space // 2) + text + " " * (space - space // 2)
    return text + " " * space


def _cut(text: str, width: int) -> str:
    """As many leading characters as fill at most ``width`` cells."""
    used = 0
    for index, character in enumerate(text):
        used += get_character_cell_size(character)
        if used > width:
            return text[:index]
    return text


def wrapped(text: str, width: int) -> list[str]:
    """Cleaned ``text`` in lines of at most ``width`` cells, broken between words where that is possible."""
    width = max(1, width)
    lines: list[str] = []
    line = ""
    for word in clean(text).split():
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, width)
        lines += whole
    return [*lines, line] if line or not lines else lines


_ENDLESS_S = 99_999 * 86_400
_ENDLESS = ">99999d"
"""An upstream may state any wait, and ask for longer than any calendar lasts."""


def duration(seconds: float) -> str:
    """A span in its two largest units: ``9s``, ``4m 05s``, ``3h 12m``, ``5d 11h``."""
    if not seconds < _ENDLESS_S:
        return _ENDLESS
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, second = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {second:02}s"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minute:02}m"
    days, hour = divmod(hours, 24)
    return f"{days}d {hour:02}h"


def span(seconds: float) -> str:
    """A duration that somebody has set: ``30m``, ``1h 30m``."""
    return duration(seconds).removesuffix(" 00s").removesuffix(" 00m").removesuffix(" 00h")


def age(seconds: float) -> str:
    """A span in its largest unit only: ``9s``, ``4m``, ``3h``, ``5d``."""
    if not seconds < _ENDLESS_S:
        return _ENDLESS
    whole = int(max(0.0, seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def countdown(seconds: float) -> str:
    """A running clock: ``0:42``, ``12:05``; from an hour on as :func:`duration`."""
    if not seconds < _ENDLESS_S:
        return _ENDLESS
    whole = int(max(0.0, seconds + 0.999))
    if whole >= 3_600:
        return duration(whole)
    return f"{whole // 60}:{whole % 60:02}"


def count(number: float) -> str:
    """At most four characters: ``947``, ``1.2k``, ``38k``, ``4.1M``."""
    if number < 999.5:
        return f"{number:.0f}"
    for unit in ("k", "M", "G", "T", "P"):
        number /= 1_000
        if number < 9.95:
            return f"{number:.1f}{unit}"
        if number < 999.5:
            return f"{number:.0f}{unit}"
    return "lots"


def latency(seconds: float | None) -> str:
    """A response time: ``85ms``, ``0.82s``, ``12.4s``, ``—`` when there is none."""
    if seconds is None:
        return "—"
    if seconds < 0.1:
        return f"{seconds * 1_000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.2f}s"
    if seconds < 100:
        return f"{seconds:.1f}s"
    return duration(seconds)


def lag(seconds: float) -> str:
    """How long an exchange with a store took: ``0.3ms``, ``12ms``, ``1.20s``."""
    return f"{seconds * 1_000:.1f}ms" if seconds < 0.009_95 else latency(seconds)


def percent(value: float | None) -> str:
    """At most five characters: ``41.2%``, ``100%``, ``—`` when unknown."""
    if value is None:
        return "—"
    return f"{value:.1f}%" if value < 99.95 else f"{value:.0f}%"


def share(value: float | None) -> str:
    """A share from 0 to 1 as a percentage."""
    return percent(None if value is None else value * 100)


def clock_time(at: float) -> str:
    """The local time of day of an epoch time, dashes for one that no calendar has."""
    try:
        return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return "--:--:--"


def calendar_date(at: float) -> str:
    """The local date of an epoch time, dashes for one that no calendar has."""
    try:
        return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d")
    except (OverflowError, OSError, ValueError):
        return "----------"


def parse_duration(text: str) -> float | None:
    """Seconds of ``90``, ``90s``, ``10m``, ``2h``, ``1d``.

    Raises:
        ValueError: Not a positive span of that form.
    """
    text = text.strip().lower()
    if not text:
        return None
    unit = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}.get(text[-1])
    number = text[:-1] if unit else text
    try:
        seconds = float(number) * (unit or 1.0)
    except ValueError:
        raise ValueError(f"{text!r} is no duration: write 90s, 10m, 2h or 1d") from None
    if not 0 < seconds < 366 * 86_400:
        raise ValueError(f"{text!r} is out of range: from 1s to 366d")
    return seconds


SPARK = " ▁▂▃▄▅▆▇█"


def spark(value: float, top: float) -> str:
    """One column of a sparkline; anything above nothing shows at least the lowest step."""
    if value <= 0 or top <= 0:
        return SPARK[1] if value == 0 else SPARK[0]
    return SPARK[max(1, min(8, round(value / top * 8)))]


def sparkline(values: tuple[float, ...], width: int, top: float | None = None) -> str:
    """The last ``width`` values as one line, right-aligned."""
    shown = values[-width:]
    peak = top if top is not None else max(shown, default=0.0)
    return (" " * (width - len(shown))) + "".join(spark(value, peak) for value in shown)


def columns(values: tuple[float, ...], height: int, top: float) -> list[str]:
    """A column chart of ``height`` lines, highest line first; eight steps a line."""
    steps = [
        0 if value <= 0 or top <= 0 else max(1, min(8 * height, round(value / top * 8 * height)))
        for value in values
    ]
    return [
        "".join(SPARK[max(0, min(8, step - 8 * line))] for step in steps) for line in reversed(range(height))
    ]
