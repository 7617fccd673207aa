"""The ``:`` command line: ``drain ag-3 key rotation``, ``open gemini 10m outage``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import Strategy
from smartfallback_console.actions import Action, Target
from smartfallback_console.circuit_proposals import MODES
from smartfallback_console.drill_words import BY_NAME, STOP
from smartfallback_console.formatting import parse_duration

if TYPE_CHECKING:
    from smartfallback import Snapshot

DURATION_ACTIONS = ("failover", "failover_provider", "open_circuit")


class CommandError(ValueError):
    """A line that says nothing the console can do; the message says what would."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One parsed line. ``confirmed`` stands for a ``!`` after the verb: don't ask."""

    action: Action
    verb: str
    target: str = ""
    text: str = ""
    duration_s: float | None = None
    confirmed: bool = False


def parse(line: str, actions: Iterable[Action], names: Iterable[str] = ()) -> Invocation:
    """Read a line.

    Args:
        line: What was typed, without the colon.
        actions: Those that this console has.
        names: Known targets; a name that holds spaces is found among them.

    Raises:
        CommandError: No such verb, or its target is missing.
    """
    verbs = {verb: action for action in actions for verb in action.verbs}
    head, _, rest = line.strip().lstrip(":").partition(" ")
    confirmed = head.endswith("!")
    verb = head.removesuffix("!")
    rest = rest.strip()
    action = verbs.get(verb)
    if action is None:
        if not verb:
            raise CommandError("type a command, such as drain ag-3")
        near = get_close_matches(verb, verbs, n=1)
        raise CommandError(
            f"there is no command {verb!r}" + (f"; did you mean {near[0]}?" if near else "; ? lists them")
        )
    if action.target is Target.NONE:
        return Invocation(action, verb, text=rest, confirmed=confirmed)
    target, rest = _split_target(rest, names)
    if not target and not action.target_optional:
        raise CommandError(f"{verb} needs a target: {verb} {action.usage}")
    length = None
    if action.id in DURATION_ACTIONS and rest[:1].isdigit():
        first, _, remainder = rest.partition(" ")
        try:
            length, rest = parse_duration(first), remainder.strip()
        except ValueError as error:
            raise CommandError(str(error)) from None
    return Invocation(action, verb, target, rest, length, confirmed)


def _split_target(text: str, names: Iterable[str]) -> tuple[str, str]:
    fitting = [name for name in names if text == name or text.startswith(name + " ")]
    if fitting:
        name = max(fitting, key=len)
        return name, text[len(name) :].strip()
    target, _, rest = text.partition(" ")
    return target, rest.strip()


def complete(
    line: str,
    actions: Iterable[Action],
    snapshot: Snapshot | None,
    themes: Iterable[str] = (),
    scenarios: Iterable[str] = (),
) -> str | None:
    """The line with its last word completed, None when nothing fits."""
    actions = tuple(actions)
    head, space, rest = line.partition(" ")
    if not space:
        verbs = sorted(verb for action in actions for verb in action.verbs)
        return (
            next((verb for verb in verbs if verb.startswith(head) and verb != head), None) if head else None
        )
    action = next((action for action in actions if head.removesuffix("!") in action.verbs), None)
    if action is None:
        return None
    words = (
        list(scenarios) if action.target is Target.SCENARIO else _candidates(action, rest, snapshot, themes)
    )
    found = next((word for word in words if word.startswith(rest) and word != rest), None)
    return None if found is None else f"{head} {found}"


def _candidates(action: Action, rest: str, snapshot: Snapshot | None, themes: Iterable[str]) -> list[str]:
    if action.id == "theme":
        return sorted(themes)
    if action.id == "sort":
        return action.usage.strip("[]").split("|")
    if snapshot is None:
        return []
    accounts = [account.id for pool in snapshot.pools for account in pool.accounts]
    providers = [pool.provider_id for pool in snapshot.pools]
    pools = [pool.name for pool in snapshot.pools]
    if action.target is Target.POOL:
        pool, space, _ = rest.partition(" ")
        if space:
            return [f"{pool} {name}" for name in sorted(member.value for member in Strategy)]
        return pools
    if action.id == "circuit_mode":
        target, space, _ = rest.partition(" ")
        if space:
            return [f"{target} {word}" for word in MODES]
    if action.target is Target.FAULTY:
        target, _ = _split_target(rest, names_of(snapshot))
        if rest.startswith(f"{target} "):
            return [f"{target} {name}" for name in BY_NAME]
        return [*accounts, *pools, *providers, STOP]
    return {
        Target.ACCOUNT: accounts,
        Target.PROVIDER: providers,
        Target.CIRCUIT: accounts + providers,
        Target.QUEUED: [view.request_id for view in snapshot.queue.requests],
    }.get(action.target, [])


def names_of(snapshot: Snapshot | None) -> list[str]:
    """Everything in a snapshot that a command may be pointed at."""
    if snapshot is None:
        return []
    found = [account.id for pool in snapshot.pools for account in pool.accounts]
    found += [pool.name for pool in snapshot.pools] + [pool.provider_id for pool in snapshot.pools]
    found += [view.request_id for view in snapshot.queue.requests]
    return list(dict.fromkeys(found))
