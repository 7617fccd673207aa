"""The questions that the simulated upstreams have prepared answers for."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

_WORD: Final = re.compile(r"[^\W\d_](?:[\w'+#-]*[\w+#])?")


class Topic(NamedTuple):
    """One prepared answer. ``points`` are pairs of a term and what is said of it."""

    question: str
    lead: str
    points: tuple[tuple[str, str], ...]
    code: str
    lang: str
    close: str
    words: frozenset[str]


@cache
def _data() -> dict[str, Any]:
    text = files(__package__).joinpath("topics.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _common_words() -> frozenset[str]:
    """Words that say nothing of what a question is about."""
    return frozenset(str(_data()["common_words"]).split())


@cache
def topics() -> tuple[Topic, ...]:
    """All prepared topics, read once from the package's data file."""
    return tuple(_topic(table) for table in _data()["topic"])


def keywords(text: str) -> tuple[str, ...]:
    """The words of ``text`` that say what it is about, in order and each once, in lower case."""
    return tuple(dict.fromkeys(match[0].lower() for match in _telling(text)))


def subject(text: str) -> str:
    """What ``text`` is about in its own words: from its first to its third telling word."""
    told = _telling(text)[:3]
    return text[told[0].start() : told[-1].end()] if told else ""


def _telling(text: str) -> list[re.Match[str]]:
    common = _common_words()
    found = _WORD.finditer(text[:4_000])
    return [word for word in found if len(word[0]) > 2 and word[0].lower() not in common]


def find_topic(prompt: str) -> Topic | None:
    """The topic that ``prompt`` asks about, None when no topic shares enough of its words."""
    wanted = frozenset(keywords(prompt))
    if not wanted:
        return None
    best = max(topics(), key=lambda topic: len(topic.words & wanted))
    shared = len(best.words & wanted)
    return best if shared >= 2 and shared * 2 >= min(len(best.words), len(wanted)) else None


def _topic(table: dict[str, str | list[str]]) -> Topic:
    points = tuple(tuple(point.split(": ", 1)) for point in table["points"])
    text = {name: value for name, value in table.items() if isinstance(value, str)}
    return Topic(
        question=text["question"],
        lead=text["lead"],
        points=tuple((point[0], point[1] if len(point) > 1 else "") for point in points),
        code=text.get("code", "").strip("\n"),
        lang=text.get("lang", ""),
        close=text["close"],
        words=frozenset(keywords(text["question"])),
    )
