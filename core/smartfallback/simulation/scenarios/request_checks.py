"""The expectations about a step's own requests. What is said of them is final once they are over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from smartfallback.simulation.scenarios.evidence import (
    Evidence,
    amount,
    answers_by_role,
    counted,
    listed,
    name_of,
    names_of,
    told_counts,
    tries_at,
)
from smartfallback.simulation.scenarios.model import THRESHOLD, Role
from smartfallback.simulation.scenarios.views import Check


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


def _answered_by(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    counts = answers_by_role(evidence)
    passed = bool(counts) and set(counts) <= set(roles)
    yield Check(f"answers come from {names_of(roles, evidence)} only", told_counts(counts, evidence), passed)


def _some_by(roles: Sequence[Role], evidence: Evidence) -> Iterable[Check]:
    counts = answers_by_role(evidence)
    for role in roles:
        yield Check(f"{name_of(role, evidence)} answers", told_counts(counts, evidence), role in counts)


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
    wanted = " → ".join(name_of(role, evidence) for role in roles)
    seen = " → ".join("another pool" if r is None else name_of(r, evidence) for r in evidence.asking.roles)
    return Check(f"{words} {wanted}", seen or "nobody was asked", passed)


def _most_tries(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, most in counts:
        tries, name = tries_at(role, evidence), name_of(role, evidence)
        wanted = f"at most {amount(most, 'attempt')} at {name}" if most else f"{name} is not asked"
        yield Check(wanted, f"{amount(tries, 'attempt')} at {name}", tries <= most)


def _least_tries(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, least in counts:
        tries, name = tries_at(role, evidence), name_of(role, evidence)
        wanted = f"at least {amount(least, 'attempt')} at {name}"
        yield Check(wanted, f"{amount(tries, 'attempt')} at {name}", tries >= least)


def _most_met(most: int | str, evidence: Evidence) -> Iterable[Check]:
    limit = _limit(most, evidence)
    wanted = f"at most {amount(limit, 'call')} meet the fault" if limit else "no call meets the fault"
    if most == THRESHOLD:
        wanted += ", as many as open the circuit"
    yield Check(wanted, f"{amount(evidence.met, 'call')} met it", evidence.met <= limit)


def _least_met(least: int | str, evidence: Evidence) -> Iterable[Check]:
    limit = _limit(least, evidence)
    wanted = f"at least {amount(limit, 'call')} meet the fault"
    yield Check(wanted, f"{amount(evidence.met, 'call')} met it", evidence.met >= limit)


def _limit(number: int | str, evidence: Evidence) -> int:
    return evidence.threshold if isinstance(number, str) else number


def _degraded(kinds: Sequence[str], evidence: Evidence) -> Iterable[Check]:
    replies = evidence.asking.replies
    seen = [{each.kind for each in reply.degradations} for reply in replies]
    met = sorted({kind.value for kinds_of_one in seen for kind in kinds_of_one})
    if kinds:
        wanted = f"each answer is marked {listed(kinds)}"
        passed = bool(seen) and all(set(kinds) <= each for each in seen)
    else:
        wanted = "no answer is degraded"
        passed = bool(seen) and not met
    yield Check(wanted, f"marked {listed(met)}" if met else "not marked", passed)


def _error(category: str, evidence: Evidence) -> Iterable[Check]:
    errors = [each.category for each in evidence.asking.asked if each.category is not None]
    seen = counted(each.value for each in errors)
    passed = bool(errors) and set(errors) == {category}
    yield Check(f"requests fail with {category}", seen or "none failed", passed)


def _failures(categories: Sequence[str], evidence: Evidence) -> Iterable[Check]:
    met = [each.failure.category for each in evidence.asking.tries if each.failure is not None]
    wanted = f"attempts fail with {listed(categories)} only" if categories else "no attempt fails"
    passed = set(met) <= set(categories) and bool(met) is bool(categories)
    yield Check(wanted, counted(each.value for each in met) or "none failed", passed)


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
        peak, name = evidence.asking.most_at_once.get(role, 0), name_of(role, evidence)
        yield Check(f"at most {amount(most, 'call')} at once at {name}", f"{peak} at once", peak <= most)


def _spread(counts: Sequence[tuple[Role, int]], evidence: Evidence) -> Iterable[Check]:
    for role, least in counts:
        name = evidence.pools[role].name
        by = {reply.account for reply in evidence.asking.replies if reply.pool == name}
        # There may be fewer accounts here than where the scenario was written.
        wanted = min(least, len(evidence.accounts[role]))
        yield Check(
            f"at least {amount(wanted, 'account')} of {name} answer", f"{len(by)} did", len(by) >= wanted
        )


OF_REQUESTS: Final[dict[str, Callable[[Any, Evidence], Iterable[Check]]]] = {
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
