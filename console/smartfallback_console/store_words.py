"""The store of the state in words: how it is, what that means, and how its instances are."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from smartfallback import SharingMode, StoreKind
from smartfallback_console.changes import Severity
from smartfallback_console.formatting import clean, duration, lag

if TYPE_CHECKING:
    from smartfallback import InstanceView, StoreView

SILENT_AFTER_S = 5.0
"""An instance tells that it runs every second or so; one that has not for so long may be gone."""

MODES = {
    SharingMode.LEASED: "each instance leases slices of a quota and spends them without asking",
    SharingMode.STRICT: "each reservation is asked for, so that a limit holds to the unit",
}
"""What it means, in one sentence."""

PLACES = {
    StoreKind.MEMORY: "in this process; forgotten when it ends",
    StoreKind.SQLITE: "in a file on this machine; survives a restart",
    StoreKind.REDIS: "on a Redis server, shared with other instances",
}
"""Where it is, in a few words."""

ALONE = (
    "Nobody shares this state. Name a Redis server (redis_url under [state], or --redis-url), and several "
    "instances share quotas, circuits, rests and drains."
)
SILENT = (
    "It may have ended without a word, or lost its way to the store. What it holds is freed when its leases "
    "end, and what it had leased counts as used."
)
"""What a silent instance means."""
NOBODY = "No instance has been heard of yet."


class Standing(NamedTuple):
    """How the store is: in words, in short, and how much that should catch the eye."""

    text: str
    short: str
    severity: Severity


def standing(view: StoreView, now: float) -> Standing:
    """How the store is at ``now``, in epoch seconds, for a line with little room."""
    kind = view.kind.value
    if view.degraded_since is None:
        text = kind if view.lag_s is None or view.kind is not StoreKind.REDIS else f"{kind} {lag(view.lag_s)}"
        return Standing(text, kind, Severity.INFO)
    word = trouble_word(view)
    since = duration(now - view.degraded_since)
    severity = Severity.WARNING if view.slow else Severity.ERROR
    return Standing(f"{kind} {word} {since}", f"{kind} {word}", severity)


def trouble_word(view: StoreView) -> str:
    """What is wrong with a degraded store, in one word."""
    if view.slow:
        return "slow"
    return "down" if view.kind is StoreKind.REDIS else "failing"


def headline(view: StoreView, now: float) -> str:
    """One sentence for a banner, empty while all is well."""
    if view.degraded_since is None:
        return ""
    cause = f" ({clean(view.trouble)})" if view.trouble else ""
    said = f"{standing(view, now).text}{cause}"
    kept = "kept in memory only" if view.kind is StoreKind.SQLITE else "requests go on from memory"
    return f"{said}: {kept}"


def meaning(view: StoreView) -> str:
    """What a degraded store means for the operator; empty while all is well."""
    if view.degraded_since is None:
        return ""
    if view.kind is StoreKind.SQLITE:
        return (
            "Requests go on. What changes now is kept in memory only: it is forgotten if this process ends "
            "before the file can be written again."
        )
    if view.slow:
        return (
            "Requests don't wait for it and go on from memory. Changes still reach the other instances, only "
            "later; each spends what it has leased, and a part of its share where that runs out."
        )
    return (
        "Requests go on from memory. Until it is back each instance spends what it had leased and its share "
        "of what was left, and what is drained, opened or rested here is not seen elsewhere. All of it is "
        "merged on its return."
    )


def shown_place(view: StoreView) -> str:
    """Where it is; a file below the user's home with ``~``."""
    if view.kind is StoreKind.SQLITE:
        with contextlib.suppress(ValueError, RuntimeError):
            return f"~/{PurePath(view.place).relative_to(Path.home())}"
    return view.place


def silent_s(instance: InstanceView, view: StoreView, now: float) -> float | None:
    """For how long another instance has been silent; None while it isn't, or nobody could tell."""
    if instance.here or (view.degraded_since is not None and not view.slow):
        return None
    age = now - instance.seen_at
    return age if age >= SILENT_AFTER_S else None


def instance_state(instance: InstanceView, view: StoreView, now: float) -> tuple[str, Severity]:
    """How an instance is, in a word or two."""
    if instance.here:
        return "this one", Severity.GOOD
    silent = silent_s(instance, view, now)
    if silent is not None:
        return f"silent for {duration(silent)}", Severity.WARNING
    if view.degraded_since is not None and not view.slow:
        return "store is down", Severity.INFO
    return "running", Severity.GOOD
