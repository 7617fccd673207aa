"""What a step of a scenario is judged by, and the words in which that is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from smartfallback.simulation.scenarios.model import Role

if TYPE_CHECKING:
    from smartfallback.model.circuits import CircuitState
    from smartfallback.model.snapshot import AccountView, PoolView, Snapshot
    from smartfallback.simulation.scenarios.asking import Asking
    from smartfallback.simulation.scenarios.store_watch import StoreEvidence

_MOST_NAMED: Final = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed.

    Attributes:
        asking: The step's own requests.
        snapshot: The state of everything now.
        pools: The pool of each role as it stands now.
        accounts: The ids of the accounts of each role that take part.
        met: How many calls have met drills in this step.
        threshold: How many failures open the circuits behind the drills in force.
        store: The store that is shared with other instances; None where the scenario is about none.
    """

    asking: Asking
    snapshot: Snapshot
    pools: Mapping[Role, PoolView]
    accounts: Mapping[Role, frozenset[str]]
    met: int
    threshold: int
    store: StoreEvidence | None = None

    def of(self, role: Role) -> list[AccountView]:
        """The accounts of ``role`` that take part, as they stand now."""
        taking_part = self.accounts[role]
        return [account for account in self.pools[role].accounts if account.id in taking_part]


def answers_by_role(evidence: Evidence) -> dict[str, int]:
    """How many answers each role gave; pools without a role by their name."""
    counts: dict[str, int] = {}
    for reply in evidence.asking.replies:
        role = next((role for role, pool in evidence.pools.items() if pool.name == reply.pool), None)
        name = reply.pool if role is None else role
        counts[name] = counts.get(name, 0) + 1
    return counts


def told_counts(counts: Mapping[str, int], evidence: Evidence) -> str:
    """What :func:`answers_by_role` counted, in words."""
    told = [f"{count} by {name_of(role, evidence)}" for role, count in counts.items()]
    return ", ".join(told) or "no answer"


def tries_at(role: Role, evidence: Evidence) -> int:
    """How many attempts the step made at accounts of ``role``."""
    return sum(each.role is role for each in evidence.asking.tries)


def name_of(role: str, evidence: Evidence) -> str:
    """The pool that has the role; the text itself for what is none."""
    return evidence.pools[role].name if isinstance(role, Role) and role in evidence.pools else str(role)


def names_of(roles: Sequence[Role], evidence: Evidence) -> str:
    """The pools of some roles."""
    return listed([name_of(role, evidence) for role in roles])


def listed(names: Iterable[str]) -> str:
    """``a, b and c``."""
    found = [str(name) for name in names]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def few(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def counted(values: Iterable[str]) -> str:
    """Each value with how often it occurs."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


def amount(number: int, what: str) -> str:
    """``1 call`` or ``2 calls``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def words_of(state: CircuitState) -> str:
    """A state as people read it."""
    return state.value.replace("_", "-")
