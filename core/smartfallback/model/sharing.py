"""What instances that share their state tell each other: plain values, with times in epoch seconds.

All times are those of the shared store's clock. An *instance* is one process for as long as it runs:
its id is never used again, so that what it counted can be told from what a successor counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from smartfallback.model.quota import TruthLabel


class SharingMode(StrEnum):
    """How instances keep from spending one quota twice."""

    LEASED = "leased"
    """Each leases slices of a quota and spends them without asking."""
    STRICT = "strict"
    """Each reservation is asked for."""


class StoreKind(StrEnum):
    """Where state is kept."""

    MEMORY = "memory"
    SQLITE = "sqlite"
    REDIS = "redis"


# -- quota -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CountBase:
    """What a window's count rests on: a reading, a correction, or an estimate.

    Attributes:
        used: What was used at that time, in the window's unit.
        read_at: When that was so; of two bases the later one holds.
        label: How well it is known.
        mark: What each instance had spent by then: ``used`` contains it.
    """

    used: float
    read_at: float
    label: TruthLabel
    mark: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SharedWindow:
    """One quota window, or the concurrency slots of an account, as the shared store holds it.

    Each instance only ever writes its own number in ``spent``, which only ever grows while the window
    lasts. So a report that is sent twice counts once, and what a store has lost is mended by whoever
    remembers it: of two copies of a number the larger is right (a grow-only counter, M. Shapiro et
    al., "Conflict-free Replicated Data Types", 2011).

    Attributes:
        started_at: When it began.
        ends_at: When it begins anew; infinite for concurrency slots.
        base: What the count rests on, None for nothing but the sum of ``spent``.
        spent: By instance, all that it has settled in this window.
        ceilings: By instance with a running lease: the ``spent`` up to which it may go without asking.
        charged: By instance whose lease ended without a word: what it may have spent unseen.
        held: By instance, what its running reservations hold (strict mode).
    """

    started_at: float
    ends_at: float
    base: CountBase | None = None
    spent: Mapping[str, float] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    charged: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)

    @property
    def used(self) -> float:
        """All that counts as used, over all instances."""
        total = sum(self.charged.values())
        if self.base is None:
            return total + sum(self.spent.values())
        mark = self.base.mark
        since = sum(max(0.0, spent - mark.get(name, 0.0)) for name, spent in self.spent.items())
        return total + self.base.used + since

    def elsewhere(self, instance: str) -> float:
        """What all others hold or have leased and not spent yet."""
        leased = sum(
            max(0.0, ceiling - self.spent.get(name, 0.0))
            for name, ceiling in self.ceilings.items()
            if name != instance
        )
        return leased + sum(held for name, held in self.held.items() if name != instance)


@dataclass(frozen=True, slots=True)
class WindowReport:
    """One instance's side of a window.

    Attributes:
        key: Which window of the account: kind, unit, and how many of the same come before it, as in
            ``week.tokens.0``; ``slots`` for concurrency.
        started_at: When the window began, as far as the instance knows.
        ends_at: When it begins anew; infinite for ``slots``.
        cap: The most that may be used and held over all instances.
        spent: All that the instance has settled in it.
        held: What its running reservations hold.
        want: How much it would like to lease beyond ``spent`` and ``held``; 0 gives its slice back.
        need: The least that would be of use to it, where ``want`` is above 0.
        base: What it heard of the window's count; None for nothing new.
        keeps: The ceiling that it goes by until it has the reply; the reply's is no lower, since it may
            be spent by then.
    """

    key: str
    started_at: float
    ends_at: float
    cap: float
    spent: float
    held: float = 0.0
    want: float = 0.0
    need: float = 0.0
    base: CountBase | None = None
    keeps: float = 0.0


@dataclass(frozen=True, slots=True)
class AccountReport:
    """What an instance reports of one account, and asks for.

    Attributes:
        account: The account's id.
        windows: Its windows.
        ended: Ids of reservations that have ended, also of those whose fate is not known.
        version: The version of the last reply; 0 before any.
        epoch: The epoch of the last reply; empty before any.
        restore: What the instance remembers, for a store that has lost it; None in all other cases.
        also: Keys of windows that have not begun here, and which the reply should tell of too.
    """

    account: str
    windows: tuple[WindowReport, ...]
    ended: tuple[str, ...] = ()
    version: int = 0
    epoch: str = ""
    restore: Mapping[str, SharedWindow] | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """One reservation to be made in the shared store: in all windows, or in none.

    Attributes:
        id: Never used for another one.
        account: The account's id.
        amounts: By key of the window: what is held. Windows that it is not in count nothing.
        windows: All windows, as in a report.
        lease_s: Seconds after which it is freed if nobody ends it.
        most_running: How many reservations the account may have at once, over all instances.
        ended: Ids of reservations that have ended, as in a report; ``windows`` count what they spent.
        version: The version of the last reply; 0 before any.
        epoch: The epoch of the last reply; empty before any.
    """

    id: str
    account: str
    amounts: Mapping[str, float]
    windows: tuple[WindowReport, ...]
    lease_s: float
    most_running: int
    version: int = 0
    epoch: str = ""
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuotaReply:
    """What the shared store holds of an account after a report or a reservation.

    Attributes:
        account: The account's id.
        granted: Whether the reservation was made (or had been); True for reports.
        reason: Why it was not, in words; the key of the window is named.
        lost: The store has lost what it knew (flushed, failed over, restarted empty). Nothing was
            changed: report again, with what is remembered.
        at: The store's time.
        version: Grows with each change.
        epoch: Differs after each loss.
        windows: By key.
    """

    account: str
    granted: bool
    at: float
    version: int
    epoch: str
    windows: Mapping[str, SharedWindow]
    reason: str = ""
    lost: bool = False


# -- facts -----------------------------------------------------------------------------------


class FactRule(StrEnum):
    """Which of two facts about the same thing holds."""

    LATEST = "latest"
    """The one that came about later."""
    LONGEST = "longest"
    """A rest: the one that ends later. One without an end lifts those that came about before it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that all instances should know of an account or a provider.

    Attributes:
        value: The fact, as JSON.
        at: When it came about.
        by: The instance that says so.
        until: When a rest ends; None for what doesn't end by itself.
    """

    value: str
    at: float
    by: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class FactWrite:
    """A fact to be told to all.

    Attributes:
        subject: ``account:ID`` or ``provider:ID``.
        name: What it is about, as in ``admin`` or ``circuit``.
        fact: The fact.
        rule: Which holds if another instance says otherwise.
    """

    subject: str
    name: str
    fact: Fact
    rule: FactRule = FactRule.LATEST


@dataclass(frozen=True, slots=True)
class Change:
    """A hint that facts of ``subject`` have changed; the row is the truth.

    An empty subject says that hints may have been missed: all has to be read again.
    """

    subject: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """Whether an instance may probe a half-open circuit now.

    ``until`` is when the lease of the probe ends; if it was refused, that of the probe that runs
    elsewhere and ends first.
    """

    granted: bool
    until: float


# -- instances and the store itself ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance, as the others and the operator see it.

    Attributes:
        id: Unique for the time that it runs.
        name: What its operator calls it.
        version: The product's version.
        started_at: When it started.
        seen_at: Its last heartbeat.
        in_flight: Attempts that run.
        requests_per_s: Over the last minute.
        here: It is this one.
    """

    id: str
    name: str
    version: str
    started_at: float
    seen_at: float
    in_flight: int
    requests_per_s: float
    here: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to a heartbeat.

    Attributes:
        at: The store's time.
        known: Whether the store still knew the instance; False after a loss, and for the first one.
        instances: All that were seen lately, this one too.
    """

    at: float
    known: bool
    instances: tuple[InstanceView, ...]


@dataclass(frozen=True, slots=True)
class StoreView:
    """Where state is kept, and how well.

    Attributes:
        kind: The kind of store.
        place: Its file or its address, without credentials.
        mode: How a quota is shared; None where it isn't.
        lag_s: How long the latest exchange with it took; None without any.
        degraded_since: Since when it can't be used as it should, None while it can.
        trouble: Why, in words.
        unsent: Changes that wait until it can be used again.
        instances: All that share it, this one first; empty where it isn't shared. Their times are those
            of the snapshot's clock.
        slow: It answers all the same, only too slowly for a request to wait on it.
    """

    kind: StoreKind = StoreKind.MEMORY
    place: str = ""
    mode: SharingMode | None = None
    lag_s: float | None = None
    degraded_since: float | None = None
    trouble: str = ""
    unsent: int = 0
    instances: tuple[InstanceView, ...] = ()
    slow: bool = False


@dataclass(frozen=True, slots=True)
class SharingSpec:
    """How this instance takes part in sharing.

    Attributes:
        mode: How a quota is shared.
        name: What its operator calls this instance; empty for the host's name and the process's number.
    """

    mode: SharingMode = SharingMode.LEASED
    name: str = ""
