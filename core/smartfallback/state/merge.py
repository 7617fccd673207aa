"""What two processes that keep their state in one file make of each other's changes.

Each process knows what it had last read or written (``base``), what it holds now (``mine``) and
what the file holds (``theirs``). What only one of them changed is taken from that one. Where both
did, counts add up and whatever holds an account back longest wins: nobody's drain, cooldown, forced
open or use is lost because another process wrote later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.model.state import (
    AccountState,
    CircuitRecord,
    RestState,
    ThrottleState,
    WallState,
    WindowState,
)

Value = TypeVar("Value")

_SAME_S: Final = 1.0
"""Times so close are one: each process reckons them anew from its own clocks."""

_ADMIN: Final = tuple(AdminState)
_CIRCUITS: Final = (None, CircuitState.HALF_OPEN, CircuitState.OPEN, CircuitState.FORCED_OPEN)


def merged(base: AccountState, mine: AccountState, theirs: AccountState) -> AccountState:
    """The account with the changes of both; holds, which are each process's own, as in ``mine``."""
    admin = _pick(
        (base.admin, base.admin_reason, base.admin_at),
        (mine.admin, mine.admin_reason, mine.admin_at),
        (theirs.admin, theirs.admin_reason, theirs.admin_at),
        lambda a, b: a == b,
        lambda state: _ADMIN.index(state[0]),
    )
    used_at = [at for at in (mine.last_used_at, theirs.last_used_at) if at is not None]
    return AccountState(
        admin=admin[0],
        admin_reason=admin[1],
        admin_at=admin[2],
        attention=_pick(
            base.attention,
            mine.attention,
            theirs.attention,
            lambda a, b: a == b,
            lambda state: 0.0 if state is None else state.since,
        ),
        cooldown=_rest(base.cooldown, mine.cooldown, theirs.cooldown),
        wall=_rest(base.wall, mine.wall, theirs.wall),
        windows=_windows(base, mine, theirs),
        circuit=merged_circuit(base.circuit, mine.circuit, theirs.circuit),
        model_rests=_by_name(_rest, base.model_rests, mine.model_rests, theirs.model_rests),
        model_circuits=_by_name(
            merged_circuit, base.model_circuits, mine.model_circuits, theirs.model_circuits
        ),
        last_used_at=max(used_at, default=None),
        requests=max(0, theirs.requests + mine.requests - base.requests),
        failures=max(0, theirs.failures + mine.failures - base.failures),
        tokens=max(0, theirs.tokens + mine.tokens - base.tokens),
        throttle=_pick(base.throttle, mine.throttle, theirs.throttle, _same_throttle, _narrowness),
        holds=mine.holds,
    )


def merged_circuit(
    base: CircuitRecord | None, mine: CircuitRecord | None, theirs: CircuitRecord | None
) -> CircuitRecord | None:
    """The circuit with the changes of both; None is a closed one."""
    return _pick(base, mine, theirs, _same_circuit, _strength)


def _pick(
    base: Value,
    mine: Value,
    theirs: Value,
    same: Callable[[Value, Value], bool],
    strength: Callable[[Value], Any],
) -> Value:
    """The one that changed; of two that did, the stronger, and ours of two equally strong."""
    if same(base, mine):
        return theirs
    if same(base, theirs):
        return mine
    return max(mine, theirs, key=strength)


Rest = TypeVar("Rest", RestState, WallState)


def _rest(base: Rest | None, mine: Rest | None, theirs: Rest | None) -> Rest | None:
    return _pick(base, mine, theirs, _same_rest, lambda rest: 0.0 if rest is None else rest.until)


def _same_rest(a: RestState | WallState | None, b: RestState | WallState | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a.until - b.until) < _SAME_S and a.reason == b.reason


def _same_throttle(a: ThrottleState | None, b: ThrottleState | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.limit, a.broke_at) == (b.limit, b.broke_at) and abs(a.since - b.since) < _SAME_S


def _narrowness(throttle: ThrottleState | None) -> float:
    return -float("inf") if throttle is None else -throttle.limit


def _same_circuit(a: CircuitRecord | None, b: CircuitRecord | None) -> bool:
    if a is None or b is None:
        return a is b
    ends = abs(a.until - b.until) < _SAME_S if a.until is not None and b.until is not None else False
    return (a.state, a.cause) == (b.state, b.cause) and (ends or a.until is b.until)


def _strength(record: CircuitRecord | None) -> tuple[int, float]:
    if record is None:
        return (0, 0.0)
    return (_CIRCUITS.index(record.state), float("inf") if record.until is None else record.until)


def _by_name(
    merge: Callable[[Value | None, Value | None, Value | None], Value | None],
    base: Mapping[str, Value],
    mine: Mapping[str, Value],
    theirs: Mapping[str, Value],
) -> dict[str, Value]:
    found = {name: merge(base.get(name), mine.get(name), theirs.get(name)) for name in {**theirs, **mine}}
    return {name: value for name, value in found.items() if value is not None}


def _windows(base: AccountState, mine: AccountState, theirs: AccountState) -> tuple[WindowState, ...]:
    ours, others, before = _numbered(mine), _numbered(theirs), _numbered(base)
    windows = [_window(before.get(key), ours.get(key), others.get(key)) for key in {**others, **ours}]
    return tuple(window for window in windows if window is not None)


def _numbered(state: AccountState) -> dict[tuple[str, str, int], WindowState]:
    """The windows by kind, unit and how many of the same came before."""
    named: dict[tuple[str, str, int], WindowState] = {}
    for window in state.windows:
        number = 0
        while (key := (window.kind.value, window.unit.value, number)) in named:
            number += 1
        named[key] = window
    return named


def _window(
    base: WindowState | None, mine: WindowState | None, theirs: WindowState | None
) -> WindowState | None:
    if mine is None or theirs is None:
        return mine or theirs
    later, earlier = (mine, theirs) if mine.started_at >= theirs.started_at else (theirs, mine)
    if later.started_at >= earlier.ends_at:
        return later
    if base is not None and base.ends_at <= mine.started_at:
        base = None
    if mine.read_at != (None if base is None else base.read_at):
        return mine  # a reading or correction counts everybody's use
    used = max(0.0, theirs.used + mine.used - (0.0 if base is None else base.used))
    changed_at = max(mine.changed_at, theirs.changed_at)
    return replace(theirs, used=used, changed_at=changed_at, ends_at=max(mine.ends_at, theirs.ends_at))
