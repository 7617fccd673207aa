"""The expectations about the store that instances share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from smartfallback.simulation.scenarios.evidence import Evidence, amount, few
from smartfallback.simulation.scenarios.model import StoreState
from smartfallback.simulation.scenarios.views import Check

if TYPE_CHECKING:
    from smartfallback.model.sharing import StoreView

_NONE: Final = "nothing is shared"


def _state_of(view: StoreView) -> StoreState:
    if view.degraded_since is None:
        return StoreState.WELL
    return StoreState.SLOW if view.slow else StoreState.LOST


def _store(state: StoreState, evidence: Evidence) -> Iterable[Check]:
    wanted = f"the shared store is {state.value}"
    if evidence.store is None:
        yield Check(wanted, _NONE, False)
        return
    view = evidence.store.view
    seen = _state_of(view)
    why = f" ({view.trouble})" if view.trouble else ""
    yield Check(wanted, f"{view.place} is {seen.value}{why}", seen is state)


def _notices(number: int, evidence: Evidence) -> Iterable[Check]:
    seen = 0 if evidence.store is None else evidence.store.notices
    wanted = f"{amount(number, 'notice')} about it" if number else "no notice about it"
    yield Check(wanted, f"{amount(seen, 'notice')} came", evidence.store is not None and seen == number)


def _least_unsent(least: int, evidence: Evidence) -> Iterable[Check]:
    unsent = 0 if evidence.store is None else evidence.store.view.unsent
    yield Check(f"at least {amount(least, 'change')} waits for it", _waiting(unsent), unsent >= least)


def _most_unsent(most: int, evidence: Evidence) -> Iterable[Check]:
    unsent = 0 if evidence.store is None else evidence.store.view.unsent
    wanted = f"at most {amount(most, 'change')} waits for it" if most else "nothing waits for it"
    yield Check(wanted, _waiting(unsent), evidence.store is not None and unsent <= most)


def _waiting(unsent: int) -> str:
    return f"{amount(unsent, 'change')} {'waits' if unsent == 1 else 'wait'}" if unsent else "nothing waits"


def _merged(_wanted: bool, evidence: Evidence) -> Iterable[Check]:
    counts = () if evidence.store is None else evidence.store.counts
    wrong = list(dict.fromkeys(count.account for count in counts if not count.right))
    grown = sum(count.grown for count in counts if count.used)
    used = sum(count.used or 0 for count in counts)
    observed = f"it counts otherwise at {few(wrong)}" if wrong else f"it counts {grown:g} of {used:g} used"
    yield Check("it has counted all that was used, and nothing twice", observed, bool(used) and not wrong)


OF_STORE: Final[dict[str, Callable[[Any, Evidence], Iterable[Check]]]] = {
    "store": _store,
    "store_notices": _notices,
    "least_unsent": _least_unsent,
    "most_unsent": _most_unsent,
    "merged": _merged,
}
