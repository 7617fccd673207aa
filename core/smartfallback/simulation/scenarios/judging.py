"""Compares what is observed with what is expected, one sentence a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.simulation.scenarios.model import THRESHOLD, Expected, Role
from smartfallback.simulation.scenarios.views import Check

if TYPE_CHECKING:
    from smartfallback.model.quota import QuotaStatus
    from smartfallback.model.snapshot import AccountView, PoolView, Snapshot
    from smartfallback.simulation.scenarios.asking import Asking

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
    """

    asking: Asking
    snapshot: Snapshot
    pools: Mapping[Role, PoolView]
    accounts: Mapping[Role, frozenset[str]]
    met: int
    threshold: int

    def of(self, role: Role) -> list[AccountView]:
        """The accounts of ``role`` that take part, as they stand now."""
        taking_part = self.accounts[role]
        return [account for account in self.pools[role].accounts if account.id in taking_part]


def judge(expected: Expected, evidence: Evidence) -> tuple[Check, ...]:
    """Each expectation with what was observed, in the order of the fields."""
    return tuple(
        check for name in expected.given for check in _JUDGES[name](getattr(expected, name), evidence)
    )


def announced(expected: Expected, evidence: Evidence) -> tuple[Check, ...]:
    """Each expectation, still open."""
    return tuple(Check(check.expected) for check in judge(expected, evidence))


def holds(expected: Expected, evidence: Evidence) -> bool:
    """Whether all of it is so."""
    return all(check.passed for check in judge(expected, evidence))


def settled(expected: Expected, evidence: Evidence) -> bool:
    """Whether what is expected of requests is so: once they are over, that won't change any more."""
    return all(
        check.passed
        for name in expected.given
        if name in _OF_REQUESTS
        for check in _JUDGES[name](getattr(expected, name), evidence)
    )


# -- requests -------------------------------------------------------------------------------


def _answered(share: float, evidence: Evidence) -> Iterable[Check]:
    asked = evidence.asking.asked
    answered = len(evidence.asking.replies)
    wanted = "every request is answered" if share >= 1 else f"at least {share:.0%} of requests are answered"
    if not share:
        wanted = "requests are sent, answered or not"
    observed = f"{answered} of {len(asked)} answered"
    errors = dict.fromkeys(str(each.error.failure) for each in asked if each.error is not None)
    if errors:
        observed += f"; {next(iter(errors))[:120]}"
    yield Check(wanted, observed, bool(asked) and answered >= share * len(asked))


def _by_role(evidence: Evidence) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reply in evidence.asking.replies:
        role = next((role for role, pool in evidence.pools.items() if pool.name == reply.pool), None)
        name = reply.pool if role is None else role
        counts[name] = counts.get(name, 0) + 1
    return counts


def _told_counts(counts: Mapping[str, int], evidence: Evidence) -> str:
    told = [f"{count} by {_name(role, evidence)}" for role, count in counts.items()]
    return ", ".join(told) or "no answer"


def _answered_by(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    counts = _by_role(evidence)
    passed = bool(counts) and set(counts) <= set(roles)
    yield Check(f"answers come from {_names(roles, evidence)} only", _told_counts(counts, evidence), passed)


def _some_by(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    counts = _by_role(evidence)
    for role in roles:
        yield Check(f"{_name(role, evidence)} answers", _told_counts(counts, evidence), role in counts)


def _path(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    yield _path_check("the path is", roles, evidence, list(roles) == evidence.asking.roles)


def _path_begins(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    begun = evidence.asking.roles[: len(roles)]
    yield _path_check("the path begins with", roles, evidence, list(roles) == begun)


def _path_contains(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    left = iter(evidence.asking.roles)
    passed = all(role in left for role in roles)
    yield _path_check("the path leads over", roles, evidence, passed)


def _path_check(words: str, roles: Sequence[Role], evidence: Evidence, passed: bool) -> Check:
    wanted = " → ".join(_name(role, evidence) for role in roles)
    seen = " → ".join("another pool" if r is None else _name(r, evidence) for r in evidence.asking.roles)
    return Check(f"{words} {wanted}", seen or "nobody was asked", passed)


def _tries(role: Role, evidence: Evidence) -> int:
    return sum(each.role is role for each in evidence.asking.tries)


def _most_tries(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, most in counts:
        tries, name = _tries(role, evidence), _name(role, evidence)
        wanted = f"at most {_amount(most, 'attempt')} at {name}" if most else f"{name} is not asked"
        yield Check(wanted, f"{_amount(tries, 'attempt')} at {name}", tries <= most)


def _least_tries(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, least in counts:
        tries, name = _tries(role, evidence), _name(role, evidence)
        wanted = f"at least {_amount(least, 'attempt')} at {name}"
        yield Check(wanted, f"{_amount(tries, 'attempt')} at {name}", tries >= least)


def _most_met(most: int | str, evidence: Evidence) -> Iterable[Check]:
    limit = _limit(most, evidence)
    wanted = f"at most {_amount(limit, 'call')} meet the fault" if limit else "no call meets the fault"
    if most == THRESHOLD:
        wanted += ", as many as open the circuit"
    yield Check(wanted, f"{_amount(evidence.met, 'call')} met it", evidence.met <= limit)


def _least_met(least: int | str, evidence: Evidence) -> Iterable[Check]:
    limit = _limit(least, evidence)
    wanted = f"at least {_amount(limit, 'call')} meet the fault"
    yield Check(wanted, f"{_amount(evidence.met, 'call')} met it", evidence.met >= limit)


def _limit(number: int | str, evidence: Evidence) -> int:
    return evidence.threshold if isinstance(number, str) else number


def _degraded(kinds: Sequence[str], evidence: Evidence) -> Iterable[Check]:
    replies = evidence.asking.replies
    seen = [{each.kind for each in reply.degradations} for reply in replies]
    met = sorted({kind.value for kinds_of_one in seen for kind in kinds_of_one})
    if kinds:
        wanted = f"each answer is marked {_listed(kinds)}"
        passed = bool(seen) and all(set(kinds) <= each for each in seen)
    else:
        wanted = "no answer is degraded"
        passed = bool(seen) and not met
    yield Check(wanted, f"marked {_listed(met)}" if met else "not marked", passed)


def _error(category: str, evidence: Evidence) -> Iterable[Check]:
    errors = [each.category for each in evidence.asking.asked if each.category is not None]
    seen = _counted(each.value for each in errors)
    passed = bool(errors) and set(errors) == {category}
    yield Check(f"requests fail with {category}", seen or "none failed", passed)


def _failures(categories: Sequence[str], evidence: Evidence) -> Iterable[Check]:
    met = [each.failure.category for each in evidence.asking.tries if each.failure is not None]
    wanted = f"attempts fail with {_listed(categories)} only" if categories else "no attempt fails"
    passed = set(met) <= set(categories) and bool(met) is bool(categories)
    yield Check(wanted, _counted(each.value for each in met) or "none failed", passed)


def _slowest(most: float, evidence: Evidence) -> Iterable[Check]:
    times = [each.ended_at - each.began_at for each in evidence.asking.asked if each.ended_at is not None]
    yield _slowest_check(f"every request ends within {most:g} s", most, times)


def _slowest_token(most: float, evidence: Evidence) -> Iterable[Check]:
    times = [each.first_token_s for each in evidence.asking.replies if each.first_token_s is not None]
    yield _slowest_check(f"every first token comes within {most:g} s", most, times)


def _slowest_check(wanted: str, most: float, times: Sequence[float]) -> Check:
    observed = f"the slowest after {max(times):.2f} s" if times else "nothing came"
    return Check(wanted, observed, bool(times) and max(times) <= most)


def _most_at_once(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, most in counts:
        peak, name = evidence.asking.most_at_once.get(role, 0), _name(role, evidence)
        yield Check(f"at most {_amount(most, 'call')} at once at {name}", f"{peak} at once", peak <= most)


def _spread(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, least in counts:
        name = evidence.pools[role].name
        by = {reply.account for reply in evidence.asking.replies if reply.pool == name}
        # There may be fewer accounts here than where the scenario was written.
        wanted = min(least, len(evidence.accounts[role]))
        yield Check(
            f"at least {_amount(wanted, 'account')} of {name} answer", f"{len(by)} did", len(by) >= wanted
        )


# -- states ---------------------------------------------------------------------------------


def _provider_circuits(states: Sequence[tuple[Role, CircuitState]], evidence: Evidence) -> Iterable[Check]:
    for role, state in states:
        pool = evidence.pools[role]
        seen = pool.provider_circuit.state
        yield Check(
            f"the circuit of provider {pool.provider_id} is {_words(state)}",
            f"it is {_words(seen)}",
            seen is state,
        )


def _states(account: AccountView) -> list[CircuitState]:
    return [account.circuit.state, *(circuit.state for circuit in account.model_circuits)]


def _account_circuits(states: Sequence[tuple[Role, CircuitState]], evidence: Evidence) -> Iterable[Check]:
    for role, state in states:
        accounts = evidence.of(role)
        others = [account.id for account in accounts if set(_states(account)) != {state}]
        wanted = f"all account circuits of {_name(role, evidence)} are {_words(state)}"
        yield Check(wanted, f"not those of {_few(others)}" if others else "all are", not others)


def _some_account_circuit(states: Sequence[tuple[Role, CircuitState]], evidence: Evidence) -> Iterable[Check]:
    for role, state in states:
        accounts = [account.id for account in evidence.of(role) if state in _states(account)]
        wanted = f"an account circuit of {_name(role, evidence)} is {_words(state)}"
        yield Check(wanted, f"that of {_few(accounts)}" if accounts else "none is", bool(accounts))


def _shut(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    for role in roles:
        pool = evidence.pools[role]
        accounts = [account.circuit.state for account in evidence.of(role)]
        by_provider = pool.provider_circuit.state is CircuitState.OPEN
        by_accounts = bool(accounts) and set(accounts) == {CircuitState.OPEN}
        seen = f"that of provider {pool.provider_id} is {_words(pool.provider_circuit.state)}"
        if not by_provider:
            seen += f", those of accounts are {_counted(_words(state) for state in accounts)}"
        yield Check(f"circuits keep {_name(role, evidence)} shut", seen, by_provider or by_accounts)


def _quota(expected: Sequence[tuple[Role, Any]], evidence: Evidence) -> Iterable[Check]:
    for role, wanted in expected:
        accounts = evidence.of(role)
        name = _name(role, evidence)
        if wanted.status is not None:
            yield _each(
                f"the quota of {name} is {wanted.status}",
                accounts,
                lambda account: account.quota.status.value,
                partial(_has_status, wanted.status),
            )
        if wanted.label is not None:
            yield _each(
                f"the quota of {name} is {wanted.label}",
                accounts,
                _label,
                partial(_has_label, wanted.label),
            )
        if wanted.least_percent is not None or wanted.most_percent is not None:
            yield _percent(name, accounts, wanted.least_percent, wanted.most_percent)


def _percent(name: str, accounts: Sequence[AccountView], least: float | None, most: float | None) -> Check:
    low, high = least if least is not None else 0.0, most if most is not None else 1_000.0
    words = f"{low:g} % or more" if most is None else f"from {low:g} to {high:g} %"
    return _each(
        f"{words} of {name} is used",
        accounts,
        lambda account: "unknown" if (used := _used(account)) is None else f"{used:.0f} %",
        lambda account: (used := _used(account)) is not None and low <= round(used, 6) <= high,
    )


def _used(account: AccountView) -> float | None:
    bound = account.quota.bound
    return None if bound is None else bound.percent


def _label(account: AccountView) -> str:
    bound = account.quota.bound
    return "unknown" if bound is None else bound.label.value


def _each(
    wanted: str,
    accounts: Sequence[AccountView],
    told: Callable[[AccountView], str],
    passes: Callable[[AccountView], bool],
) -> Check:
    seen = _counted(told(account) for account in accounts)
    return Check(wanted, seen, bool(accounts) and all(passes(account) for account in accounts))


def _skipped(reasons: Sequence[tuple[Role, str]], evidence: Evidence) -> Iterable[Check]:
    for role, reason in reasons:
        yield _each(
            f"{_name(role, evidence)} is skipped: {reason}",
            evidence.of(role),
            _skip_of,
            partial(_is_skipped, reason),
        )


def _has_status(status: QuotaStatus, account: AccountView) -> bool:
    return account.quota.status is status


def _has_label(label: str, account: AccountView) -> bool:
    return _label(account) == label


def _is_skipped(reason: str, account: AccountView) -> bool:
    return account.skip is not None and account.skip.reason.value == reason


def _skip_of(account: AccountView) -> str:
    return "would be asked" if account.skip is None else account.skip.reason.value


def _usable(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    for role in roles:
        accounts = evidence.of(role)
        free = sum(account.skip is None for account in accounts)
        observed = f"{free} of {len(accounts)} can"
        yield Check(f"an account of {_name(role, evidence)} can be asked", observed, free > 0)


def _attention(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, count in counts:
        named = [account.id for account in evidence.of(role) if account.attention]
        wanted = f"{_amount(count, 'account')} of {_name(role, evidence)} need attention"
        yield Check(wanted, _few(named) or "none", len(named) == count)


def _without_tool(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    counts = _by_role(evidence)
    for role in roles:
        pool, name = evidence.pools[role], _name(role, evidence)
        wanted = f"{name} is used another way, or skipped with the reason"
        if not pool.unavailable:
            passed = counts.get(role, 0) > 0
            yield Check(wanted, f"used: {_told_counts(counts, evidence)}", passed)
            continue
        skipped = all(account.skip is not None for account in evidence.of(role))
        yield Check(wanted, f"skipped: {pool.unavailable}", skipped and not _tries(role, evidence))


def _unblamed(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    for role in roles:
        blamed = [account.id for account in evidence.of(role) if _is_blamed(account)]
        circuit = evidence.pools[role].provider_circuit
        if circuit.failures or circuit.state is not CircuitState.CLOSED:
            blamed.append(f"provider {evidence.pools[role].provider_id}")
        yield Check(
            f"nobody of {_name(role, evidence)} is blamed",
            f"blamed: {_few(blamed)}" if blamed else "nobody is",
            not blamed,
        )


def _is_blamed(account: AccountView) -> bool:
    return bool(
        account.attention
        or account.cooldown_until is not None
        or account.quota.exhausted_until is not None
        or account.circuit.failures
        or set(_states(account)) != {CircuitState.CLOSED}
        or account.admin is not AdminState.ACTIVE
    )


def _all_given_back(_wanted: bool, evidence: Evidence) -> Iterable[Check]:
    left = [
        account.id
        for role in evidence.pools
        for account in evidence.of(role)
        if account.in_flight or any(window.held for window in account.quota.windows)
    ]
    observed = f"held at {_few(left)}" if left else "nothing is held"
    yield Check("all reservations are given back", observed, not left)


# -- words ----------------------------------------------------------------------------------


def _name(role: str, evidence: Evidence) -> str:
    return evidence.pools[role].name if isinstance(role, Role) and role in evidence.pools else str(role)


def _names(roles: Sequence[Role], evidence: Evidence) -> str:
    return _listed([_name(role, evidence) for role in roles])


def _listed(names: Iterable[str]) -> str:
    found = [str(name) for name in names]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def _few(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _counted(values: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


def _amount(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _words(state: CircuitState | QuotaStatus) -> str:
    return state.value.replace("_", "-")


_OF_REQUESTS: Final[dict[str, Callable[[Any, Evidence], Iterable[Check]]]] = {
    "answered": _answered,
    "answered_by": _answered_by,
    "some_by": _some_by,
    "path": _path,
    "path_begins": _path_begins,
    "path_contains": _path_contains,
    "most_tries": _most_tries,
    "least_tries": _least_tries,
    "most_met": _most_met,
    "least_met": _least_met,
    "degraded": _degraded,
    "error": _error,
    "failures": _failures,
    "slowest_s": _slowest,
    "slowest_token_s": _slowest_token,
    "most_at_once": _most_at_once,
    "spread": _spread,
}
_OF_STATES: Final[dict[str, Callable[[Any, Evidence], Iterable[Check]]]] = {
    "provider_circuits": _provider_circuits,
    "account_circuits": _account_circuits,
    "some_account_circuit": _some_account_circuit,
    "shut": _shut,
    "quota": _quota,
    "skipped": _skipped,
    "usable": _usable,
    "attention": _attention,
    "without_tool": _without_tool,
    "unblamed": _unblamed,
    "all_given_back": _all_given_back,
}
_JUDGES: Final = {**_OF_REQUESTS, **_OF_STATES}

ABOUT_REQUESTS: Final = frozenset(_OF_REQUESTS)
"""The expectations that are about a step's own requests; all others may come about with time."""
