"""What a simulated upstream has seen, in one file that many processes write: the truth that outlives a kill.

Every entry is appended by a single write, so that those of different processes never mix, and nothing
that was written is lost with the process.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

_ENTRY = struct.Struct("<dIHBxi")


class Step(IntEnum):
    """What happened to a call."""

    ASKED = 1
    """It has come in."""
    ANSWERED = 2
    """Its answer begins, and costs so many units."""
    ENDED = 3
    """It is over, in whatever way."""


class Entry(NamedTuple):
    """One step of a call; ``at`` is in monotonic seconds, which all processes of a machine share."""

    at: float
    instance: int
    account: int
    step: Step
    units: int


class Journal:
    """Writes the entries of one process, whose operator has numbered it ``instance``."""

    def __init__(self, path: Path, instance: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._instance = instance

    def note(self, account: int, step: Step, units: int = 0) -> None:
        """Append an entry."""
        os.write(self._file, _ENTRY.pack(time.monotonic(), self._instance, account, step, units))

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


def read_journal(path: Path) -> list[Entry]:
    """All entries so far, in the order of time; none of a file that isn't there yet."""
    if not path.exists():
        return []
    raw = path.read_bytes()
    whole = len(raw) - len(raw) % _ENTRY.size
    return sorted(
        Entry(at, instance, account, Step(step), units)
        for at, instance, account, step, units in _ENTRY.iter_unpack(raw[:whole])
    )


def spent(entries: Iterable[Entry], *, account: int = 0) -> dict[int, int]:
    """The units that answers of an account have cost, by instance."""
    found: dict[int, int] = {}
    for entry in entries:
        if entry.account == account and entry.step is Step.ANSWERED:
            found[entry.instance] = found.get(entry.instance, 0) + entry.units
    return found


def most_at_once(
    entries: Iterable[Entry], *, account: int = 0, killed: Mapping[int, float] | None = None
) -> int:
    """How many calls of an account ran at once at most; those of killed instances end with them."""
    ends = dict(killed or {})
    running: dict[int, int] = {}
    most = 0
    for entry in entries:
        for instance, at in tuple(ends.items()):
            if at <= entry.at:
                running[instance] = 0
                del ends[instance]
        if entry.account != account or entry.step is Step.ANSWERED:
            continue
        running[entry.instance] = running.get(entry.instance, 0) + (1 if entry.step is Step.ASKED else -1)
        most = max(most, sum(running.values()))
    return most
