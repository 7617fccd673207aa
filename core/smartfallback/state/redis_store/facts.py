"""Facts about accounts and providers: a hash a subject, and hints in a stream that it changed."""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from smartfallback.model.sharing import Fact, FactWrite
from smartfallback.state.json_fields import Fields, loaded
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.link import BACKGROUND_LIMIT_S, RedisLink
from smartfallback.state.redis_store.replies import parts, text
from smartfallback.state.redis_store.scripts import script

LOG: Final = logging.getLogger("smartfallback.state")

MOST_NAMES: Final = 256
"""Facts of one subject: most are about models, whose names come from outside."""
MOST_VALUE_BYTES: Final = 16 * 1024
MOST_ID_BYTES: Final = 512
"""Of a subject, a name and an instance's id."""
MOST_HINTS: Final = 64
"""Subjects hinted at one by one; of more all are told to read everything, which is cheaper for all."""
STREAM_LENGTH: Final = 10_000
"""About so many hints are kept. A reader further behind reads everything again."""

_MOST_ROW_BYTES: Final = 12 * MOST_VALUE_BYTES
"""A rest's row can hold nine values, and JSON in JSON brings backslashes."""
_MOST_NAMES_READ: Final = 4 * MOST_NAMES
"""Somebody else's fields among them are no reason to read nothing; writing clears them away."""
_WRITTEN_AT_ONCE: Final = 100
"""Subjects a round trip: taking replies apart holds the event loop up for some 5 ms."""
_READ_AT_ONCE: Final = 100
"""Subjects a script: it holds the server up for less than a millisecond."""
_MOST_REMEMBERED: Final = 20_000
_NOTHING: Final[tuple[str, Mapping[str, Fact]]] = ("", MappingProxyType({}))
_NEVER: Final = 253_402_300_800.0
"""The year 10000, for a rest without an end: JSON has no infinity."""


class Facts:
    """Writes and reads facts. What was read is remembered, and only sent again when it has changed.

    Args:
        link: The way to the server.
        keys: The names of keys.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._known: OrderedDict[str, tuple[str, Mapping[str, Fact]]] = OrderedDict()
        """By subject: the digest of its hash, and what was in it."""
        self._complaints: set[str] = set()

    async def write(self, writes: Sequence[FactWrite]) -> list[Fact]:
        """Tell facts to all; returns, in order, what holds afterwards.

        Rows come before hints, so that whoever follows a hint finds the row. A writer that dies
        between the two leaves a change that is seen when readers next look at everything. A fact
        that can't be kept (too large, nameless, at a time that is no number) holds here alone: it
        must not keep the others from being told.

        Raises:
            StoreLostError: The store can't be used; some may have been written. Tell all of them again.
        """
        places: dict[str, list[int]] = {}
        held: dict[int, Fact] = {}
        for place, write in enumerate(writes):
            flaw = _flaw(write)
            if flaw:
                held[place] = write.fact
                self._complain(flaw)
            else:
                places.setdefault(write.subject, []).append(place)
        hints: dict[str, str] = {}
        for subjects in _batches(places, _WRITTEN_AT_ONCE):
            calls = [
                (
                    script("write_fact"),
                    [self._keys.facts(subject)],
                    [
                        str(MOST_NAMES),
                        *(arg for place in places[subject] for arg in _arguments(writes[place])),
                    ],
                )
                for subject in subjects
            ]
            replies = await self._link.run_many(calls, limit_s=BACKGROUND_LIMIT_S)
            for subject, reply in zip(subjects, replies, strict=True):
                for place, row in zip(places[subject], parts(reply), strict=True):
                    look, *fact = (text(part) for part in parts(row))
                    held[place] = _told(*fact)
                    if look == "1":
                        by = writes[place].fact.by
                        hints[subject] = by if hints.get(subject, by) == by else ""
        if hints:
            await self._hint(hints)
        return [held[place] for place in range(len(writes))]

    async def read(self, subjects: Collection[str]) -> dict[str, Mapping[str, Fact]]:
        """The facts of each of these subjects by name; what can't be understood is left out.

        Cheap to call for everything every few seconds: subjects that did not change cost a digest.

        Raises:
            StoreLostError: The store can't be used.
        """
        apart = self._link.clustered  # the keys of one script have to lie on one server
        found: dict[str, Mapping[str, Fact]] = {}
        for batch in _batches(dict.fromkeys(subjects), _READ_AT_ONCE):
            groups = [[subject] for subject in batch] if apart else [batch]
            known = {subject: self._known.get(subject, _NOTHING) for subject in batch}
            calls = [
                (
                    script("read_facts"),
                    [self._keys.facts(subject) for subject in group],
                    [str(_MOST_NAMES_READ), str(_MOST_ROW_BYTES), *(known[subject][0] for subject in group)],
                )
                for group in groups
            ]
            for group, reply in zip(
                groups, await self._link.run_many(calls, limit_s=BACKGROUND_LIMIT_S), strict=True
            ):
                for place, digest, rows in (parts(changed) for changed in parts(reply)):
                    known[group[int(place) - 1]] = text(digest), _facts(parts(rows))
            for subject, (digest, facts) in known.items():
                found[subject] = facts
                self._remember(subject, digest, facts)
        return found

    async def _hint(self, hints: Mapping[str, str]) -> None:
        if len(hints) > MOST_HINTS:
            told = set(hints.values())
            hints = {"": told.pop() if len(told) == 1 else ""}
        flat = [part for subject, by in hints.items() for part in (subject, by)]
        await self._link.run(
            script("hint_changes"),
            [self._keys.changes],
            [str(STREAM_LENGTH), *flat],
            limit_s=BACKGROUND_LIMIT_S,
        )

    def _complain(self, flaw: str) -> None:
        if flaw not in self._complaints:
            self._complaints.add(flaw)
            LOG.warning("a fact is not shared with other instances: %s", flaw)

    def _remember(self, subject: str, digest: str, facts: Mapping[str, Fact]) -> None:
        self._known.pop(subject, None)
        if digest:
            self._known[subject] = digest, facts
            if len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)


def _flaw(write: FactWrite) -> str:
    """Why a fact can't be kept in the store; empty if it can."""
    fact = write.fact
    try:
        for what, value in (("subject", write.subject), ("name", write.name), ("instance", fact.by)):
            if not 0 < len(value.encode()) <= MOST_ID_BYTES:
                return f"its {what} does not have 1 to {MOST_ID_BYTES} bytes"
        if len(fact.value.encode()) > MOST_VALUE_BYTES:
            return f"it has more than {MOST_VALUE_BYTES} bytes"
    except UnicodeEncodeError:
        return "it has half a character in it"
    if not math.isfinite(fact.at) or (fact.until is not None and math.isnan(fact.until)):
        return "its time is no number"
    return ""


def _arguments(write: FactWrite) -> tuple[str, ...]:
    fact = write.fact
    until = "" if fact.until is None else _moment(fact.until)
    return write.name, write.rule.value, fact.value, _moment(fact.at), fact.by, until


def _moment(at: float) -> str:
    return repr(float(min(max(at, -_NEVER), _NEVER)))


def _time(spelled: str) -> float:
    at = float(spelled)
    if not math.isfinite(at):
        raise ValueError("a time is no number")
    return at


def _told(value: str, at: str, by: str, until: str) -> Fact:
    ends = _time(until) if until else None
    if ends is not None and ends >= _NEVER:
        ends = math.inf
    return Fact(value, _time(at), by, ends)


def _facts(rows: Sequence[Any]) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    for name, row in zip(rows[::2], rows[1::2], strict=True):
        try:
            fields = Fields(loaded(text(row)))
            value = fields.text("v")
            json.loads(value)
            facts[text(name)] = _told(
                value, fields.text("at"), fields.text("by"), fields.text_or_none("until") or ""
            )
        except (ValueError, RecursionError):
            continue  # somebody else's data must not hide what can be read
    return facts


def _batches(subjects: Iterable[str], size: int) -> Iterable[list[str]]:
    rest = iter(subjects)
    while batch := list(islice(rest, size)):
        yield batch
