"""Carries what is sticky over a restart: which session stays with which account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.roster import PoolRuntime, Roster
from smartfallback.model.decisions import AdminState
from smartfallback.model.specs import Strategy
from smartfallback.model.state import MOST_TIES, TieState
from smartfallback.policy.selection import Selection
from smartfallback.policy.selection.selection import Ties

LONGEST_NAME: Final = 500
"""Sessions with longer names are not kept."""

_Seen = dict[str | None, int]
_ORDER_STEP_S: Final = 1e-6
"""Ties that were used in one turn differ by so much, so that their order is kept."""


class TieKeeper:
    """Finds out what has changed since it was asked last; nothing is noted while requests are routed."""

    def __init__(self, roster: Roster, clock: Clock) -> None:
        self._roster = roster
        self._clock = clock
        self._seen: dict[Selection, _Seen] = {}

    def restore(self, saved: Mapping[str, Sequence[TieState]]) -> None:
        """Bind again what is saved, as far as its account is there and may be used."""
        for name, ties in saved.items():
            pool = self._roster.pools.get(name)
            if pool is None or pool.strategy is not Strategy.STICKY:
                continue
            slots = {
                account.id: account.slot for account in pool.accounts if account.admin is AdminState.ACTIVE
            }
            for tie in ties:
                slot = slots.get(tie.account)
                if slot is not None:
                    selection = pool.reserve if tie.reserve else pool.normal
                    selection.tie(slot, Ties(None, (tie.session,)))
            for selection in (pool.normal, pool.reserve):
                self._seen[selection] = dict(selection.bound(MOST_TIES))

    def changes(self) -> dict[str, tuple[TieState, ...]]:
        """What was bound, used or unbound since the last call, by pool."""
        found: dict[str, tuple[TieState, ...]] = {}
        for pool in self._roster.pools.values():
            if pool.strategy is not Strategy.STICKY and pool.normal not in self._seen:
                continue
            if any(account.kept is not None for account in pool.accounts):
                continue  # what a rehearsal binds is not kept
            changed = (*self._changed(pool, pool.normal), *self._changed(pool, pool.reserve))
            if changed:
                found[pool.name] = changed
        return found

    def _changed(self, pool: PoolRuntime, selection: Selection) -> list[TieState]:
        bound = selection.bound(MOST_TIES)
        before = self._seen.get(selection, {})
        if len(bound) == len(before) and bound == list(before.items()):
            return []
        self._seen[selection] = dict(bound)
        reserve = selection is pool.reserve
        at = self._clock.time()
        changed = [
            TieState(session, reserve, "", at)
            for session in before
            if not selection.holds(session) and _fits(session)
        ]
        used = _used_since(before, bound)
        first_at = at - len(used) * _ORDER_STEP_S
        changed += [
            TieState(session, reserve, pool.accounts[slot].id, first_at + place * _ORDER_STEP_S)
            for place, (session, slot) in enumerate(used, 1)
            if _fits(session)
        ]
        return changed


def _used_since(before: _Seen, bound: Sequence[tuple[str | None, int]]) -> Sequence[tuple[str | None, int]]:
    """Those of ``bound`` that are new, moved, or used again.

    What is used goes to the end, so the others stand at the beginning, in the order of ``before``.
    """
    places = {session: place for place, session in enumerate(before)}
    last = -1
    for number, (session, slot) in enumerate(bound):
        place = places.get(session, -1)
        if place <= last or before[session] != slot:
            return bound[number:]
        last = place
    return ()


def _fits(session: str | None) -> bool:
    return session is None or len(session) <= LONGEST_NAME
