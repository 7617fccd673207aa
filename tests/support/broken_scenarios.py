"""Each expectation of a step turned into its contrary, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from smartfallback import (
    CircuitState,
    DegradationKind,
    ErrorCategory,
    QuotaStatus,
    SkipReason,
    TruthLabel,
)
from smartfallback.simulation.scenarios.evidence import Evidence
from smartfallback.simulation.scenarios.model import Expected, QuotaExpected, Role

NOTHING = Expected()


def only(**field: object) -> Expected:
    return replace(NOTHING, **field)  # type: ignore[arg-type]


def other(member: object) -> object:
    """Another value of the same kind."""
    return next(each for each in type(member) if each is not member)  # type: ignore[attr-defined]


def silent(evidence: Evidence) -> Role:
    """A role that gave no answer."""
    answered = {reply.pool for reply in evidence.asking.replies}
    return next(role for role, pool in evidence.pools.items() if pool.name not in answered)


def marked(evidence: Evidence, role: Role, **changes: object) -> Evidence:
    """The evidence, but the first account of a role is otherwise."""
    pool = evidence.pools[role]
    chosen = evidence.of(role)[0]
    accounts = tuple(
        replace(account, **changes) if account is chosen else account  # type: ignore[arg-type]
        for account in pool.accounts
    )
    return replace(evidence, pools={**evidence.pools, role: replace(pool, accounts=accounts)})


def contraries(expected: Expected, evidence: Evidence) -> Iterator[tuple[str, Expected, Evidence]]:
    """What was expected, made false: in the expectation where that is possible, else in the evidence."""
    for name in expected.given:
        value = getattr(expected, name)
        match name:
            case "answered":
                yield name, only(answered=1.1), evidence
            case "answered_by":
                by = {reply.pool for reply in evidence.asking.replies}
                others = tuple(r for r, pool in evidence.pools.items() if pool.name not in by)
                yield name, only(answered_by=others or (Role.LOCAL,)), evidence
            case "some_by" | "without_tool":
                yield name, only(some_by=(silent(evidence),)), evidence
            case "path" | "path_begins" | "path_contains":
                yield (
                    name,
                    only(**{name: (*value, value[0])[::-1] if len(value) > 1 else (silent(evidence),)}),
                    evidence,
                )
            case "most_tries" | "most_at_once":
                for role, _ in value:
                    yield f"{name}.{role}", only(**{name: ((role, -1),)}), evidence
            case "least_tries":
                for role, _ in value:
                    yield f"{name}.{role}", only(least_tries=((role, 10_000),)), evidence
            case "spread":
                yield name, only(answered_by=(silent(evidence),)), evidence
            case "most_met":
                yield name, only(most_met=-1), evidence
            case "least_met":
                yield name, only(least_met=10_000), evidence
            case "degraded":
                yield name, only(degraded=(DegradationKind.CACHED,)), evidence
            case "error":
                yield name, only(error=ErrorCategory.UNKNOWN), evidence
            case "failures":
                yield name, only(failures=(ErrorCategory.UNKNOWN,)), evidence
            case "slowest_s" | "slowest_token_s":
                yield name, only(**{name: 1e-9}), evidence
            case "provider_circuits" | "account_circuits":
                for role, state in value:
                    yield f"{name}.{role}", only(**{name: ((role, other(state)),)}), evidence
            case "some_account_circuit":
                for role, _ in value:
                    yield (
                        f"{name}.{role}",
                        only(some_account_circuit=((role, CircuitState.DISABLED),)),
                        evidence,
                    )
            case "quota":
                for role, wanted in value:
                    yield from quota_contraries(role, wanted, evidence)
            case "skipped":
                for role, _ in value:
                    yield f"skipped.{role}", only(skipped=((role, SkipReason.DRAINED.value),)), evidence
            case "usable":
                for role in value:
                    yield f"usable.{role}", only(skipped=((role, SkipReason.DRAINED.value),)), evidence
            case "shut":
                for role in value:
                    yield f"shut.{role}", only(provider_circuits=((role, CircuitState.CLOSED),)), evidence
            case "attention":
                for role, count in value:
                    yield f"attention.{role}", only(attention=((role, count + 1),)), evidence
            case "unblamed":
                for role in value:
                    yield f"unblamed.{role}", only(unblamed=(role,)), marked(evidence, role, attention="401")
            case "all_given_back":
                for role in evidence.pools:
                    yield name, only(all_given_back=True), marked(evidence, role, in_flight=1)
            case "store":
                yield name, only(store=other(value)), evidence
            case "store_notices":
                yield name, only(store_notices=value + 1), evidence
            case "least_unsent":
                yield name, only(least_unsent=10_000), evidence
            case "most_unsent":
                yield name, only(most_unsent=-1), evidence
            case "merged":
                yield from count_contraries(evidence)
            case _:
                raise NotImplementedError(name)


def count_contraries(evidence: Evidence) -> Iterator[tuple[str, Expected, Evidence]]:
    """The store has lost some of what was used, has counted it twice, or has never heard of it."""
    store = evidence.store
    assert store is not None
    used = next(count for count in store.counts if count.used)
    for name, count in {
        "lost": replace(used, held=used.held - 1),
        "twice": replace(used, held=used.held + used.grown, grown=2 * used.grown),
        "never told": replace(used, told=used.told - used.grown, held=used.held - used.grown, grown=0.0),
    }.items():
        counts = tuple(count if each is used else each for each in store.counts)
        yield f"merged, {name}", only(merged=True), replace(evidence, store=replace(store, counts=counts))


def quota_contraries(
    role: Role, wanted: QuotaExpected, evidence: Evidence
) -> Iterator[tuple[str, Expected, Evidence]]:
    if wanted.status is not None:
        yield "quota.status", only(quota=((role, QuotaExpected(status=QuotaStatus.UNKNOWN)),)), evidence
    if wanted.label is not None:
        yield "quota.label", only(quota=((role, QuotaExpected(label=TruthLabel.STALE)),)), evidence
    if wanted.least_percent is not None:
        yield "quota.least", only(quota=((role, QuotaExpected(least_percent=999.0)),)), evidence
    if wanted.most_percent is not None:
        yield "quota.most", only(quota=((role, QuotaExpected(most_percent=-1.0)),)), evidence
