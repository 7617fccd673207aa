"""The expectations about the state of accounts and circuits, which may take a moment to come about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.simulation.scenarios.evidence import (
    Evidence,
    amount,
    answers_by_role,
    counted,
    few,
    name_of,
    told_counts,
    tries_at,
    words_of,
)
from smartfallback.simulation.scenarios.model import Role
from smartfallback.simulation.scenarios.views import Check

if TYPE_CHECKING:
    from smartfallback.model.quota import QuotaStatus
    from smartfallback.model.snapshot import AccountView


def _provider_circuits(states: Sequence[tuple[Role, CircuitState]], evidence: Evidence) -> Iterable[Check]:
    for role, state in states:
        pool = evidence.pools[role]
        seen = pool.provider_circuit.state
        yield Check(
            f"the circuit of provider {pool.provider_id} is {words_of(state)}",
            f"it is {words_of(seen)}",
            seen is state,
        )


def _states(account: AccountView) -> list[CircuitState]:
    return [account.circuit.state, *(circuit.state for circuit in account.model_circuits)]


def _account_circuits(states: Sequence[tuple[Role, CircuitState]], evidence: Evidence) -> Iterable[Check]:
    for role, state in states:
        accounts = evidence.of(role)
        others = [account.id for account in accounts if set(_states(account)) != {state}]
        wanted = f"all account circuits of {name_of(role, evidence)} are {words_of(state)}"
        yield Check(wanted, f"not those of {few(others)}" if others else "all are", not others)


def _some_account_circuit(states: Sequence[tuple[Role, CircuitState]], evidence: Evidence) -> Iterable[Check]:
    for role, state in states:
        accounts = [account.id for account in evidence.of(role) if state in _states(account)]
        wanted = f"an account circuit of {name_of(role, evidence)} is {words_of(state)}"
        yield Check(wanted, f"that of {few(accounts)}" if accounts else "none is", bool(accounts))


def _shut(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    for role in roles:
        pool = evidence.pools[role]
        accounts = [account.circuit.state for account in evidence.of(role)]
        by_provider = pool.provider_circuit.state is CircuitState.OPEN
        by_accounts = bool(accounts) and set(accounts) == {CircuitState.OPEN}
        seen = f"that of provider {pool.provider_id} is {words_of(pool.provider_circuit.state)}"
        if not by_provider:
            seen += f", those of accounts are {counted(words_of(state) for state in accounts)}"
        yield Check(f"circuits keep {name_of(role, evidence)} shut", seen, by_provider or by_accounts)


def _quota(expected: Sequence[tuple[Role, Any]], evidence: Evidence) -> Iterable[Check]:
    for role, wanted in expected:
        accounts = evidence.of(role)
        name = name_of(role, evidence)
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
    seen = counted(told(account) for account in accounts)
    return Check(wanted, seen, bool(accounts) and all(passes(account) for account in accounts))


def _skipped(reasons: Sequence[tuple[Role, str]], evidence: Evidence) -> Iterable[Check]:
    for role, reason in reasons:
        yield _each(
            f"{name_of(role, evidence)} is skipped: {reason}",
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
        yield Check(f"an account of {name_of(role, evidence)} can be asked", observed, free > 0)


def _attention(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, count in counts:
        named = [account.id for account in evidence.of(role) if account.attention]
        wanted = f"{amount(count, 'account')} of {name_of(role, evidence)} need attention"
        yield Check(wanted, few(named) or "none", len(named) == count)


def _without_tool(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    counts = answers_by_role(evidence)
    for role in roles:
        pool, name = evidence.pools[role], name_of(role, evidence)
        wanted = f"{name} is used another way, or skipped with the reason"
        if not pool.unavailable:
            passed = counts.get(role, 0) > 0
            yield Check(wanted, f"used: {told_counts(counts, evidence)}", passed)
            continue
        skipped = all(account.skip is not None for account in evidence.of(role))
        yield Check(wanted, f"skipped: {pool.unavailable}", skipped and not tries_at(role, evidence))


def _unblamed(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    for role in roles:
        blamed = [account.id for account in evidence.of(role) if _is_blamed(account)]
        circuit = evidence.pools[role].provider_circuit
        if circuit.failures or circuit.state is not CircuitState.CLOSED:
            blamed.append(f"provider {evidence.pools[role].provider_id}")
        yield Check(
            f"nobody of {name_of(role, evidence)} is blamed",
            f"blamed: {few(blamed)}" if blamed else "nobody is",
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
    observed = f"held at {few(left)}" if left else "nothing is held"
    yield Check("all reservations are given back", observed, not left)


OF_STATES: Final[dict[str, Callable[[Any, Evidence], Iterable[Check]]]] = {
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
