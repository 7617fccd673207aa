"""How one account stands with the shared store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from smartfallback.engine.roster import AccountRuntime
from smartfallback.engine.sharing.appetite import Demand
from smartfallback.model.sharing import SharedWindow
from smartfallback.policy.ledger import AccountLedger

SLOTS: Final = "slots"
"""The key of concurrency, which is shared as a window that never ends."""


class Standing:
    """What is known of one account's exchange with the store.

    Attributes:
        windows: What the store last said, by key.
        version: The version of that.
        epoch: Its epoch.
        ended: Ids of reservations that have ended and that the store still holds, as far as is known.
        demand: What the account is used for here.
        exchanged_at: When the store was last heard, in monotonic seconds.
        lost: The store has lost what it knew, and is to be told again.
        asking: What is held here for requests that wait for leave, by key of the window.
        unasked: What runs here without a reservation in the store (strict), by key of the window.
    """

    __slots__ = (
        "asking",
        "demand",
        "ended",
        "epoch",
        "exchanged_at",
        "lost",
        "unasked",
        "version",
        "windows",
    )

    def __init__(self) -> None:
        self.windows: Mapping[str, SharedWindow] = {}
        self.version = 0
        self.epoch = ""
        self.ended: dict[str, None] = {}
        self.demand = Demand()
        self.exchanged_at = -math.inf
        self.lost = False
        self.asking: dict[str, float] = {}
        self.unasked: dict[str, float] = {}


def add(sums: dict[str, float], amounts: Mapping[str, float], sign: float) -> None:
    """Add ``amounts`` to ``sums``, or with a ``sign`` of -1 take them away; what is nothing is left out."""
    for key, amount in amounts.items():
        left = sums.get(key, 0.0) + sign * amount
        if left > 1e-9:
            sums[key] = left
        else:
            sums.pop(key, None)


def shares(account: AccountRuntime) -> bool:
    """Whether other instances have a part in the account; a model on this machine is this machine's."""
    return not account.pool.is_local


def ledger_of(account: AccountRuntime) -> AccountLedger:
    """The ledger of what is really used, also while a rehearsal has put a layer over it."""
    return account.ledger if account.kept is None else account.kept.ledger
