"""The facts that instances tell each other, and their order.

What stands here is compared with what stood here before: a difference is a fact to tell. It is
stamped when it is noticed, so that facts which wait for a store that is away still come in the right
order when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, ProviderRuntime, Roster
from smartfallback.engine.sharing.account_facts import (
    ADMIN,
    COUNT,
    NOTHING,
    READING,
    AccountFacts,
    Standing,
    cut_short,
    lifted,
    rests_here,
    rule_of,
    standings,
)
from smartfallback.engine.sharing.circuit_facts import CircuitFacts, place_of, target_of
from smartfallback.engine.sharing.fact_book import FactBook, Place, shortens
from smartfallback.model.circuits import CircuitTarget
from smartfallback.model.sharing import Fact, FactWrite
from smartfallback.policy.circuit import CircuitChange
from smartfallback.state.shared import SharedStore, StoreLostError

_AT_ONCE: Final = 500
"""Facts written, or subjects read, in one exchange."""
_LOOKED_AT: Final = 500
"""Accounts looked at in one turn of the loop."""
_BEFORE: Final = 0.0
"""When something came about before this process began, and nobody knows when: all that is known is later."""
_AFTER_QUOTA: Final = frozenset({READING, COUNT})
"""Facts that say that there is something to see in the quota."""


class Board:
    """One instance's view of all shared facts. On one event loop.

    Args:
        roster: The accounts and providers.
        placement: Places an account about which others have news.
        accounts: Sets accounts by facts.
        circuits: Sets circuits by facts.
        clock: Set by the store's clock.
        store: What the instances share.
        instance: This one's id.
        name_of: The name of an instance by its id.
    """

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        accounts: AccountFacts,
        circuits: CircuitFacts,
        clock: Clock,
        store: SharedStore,
        instance: str,
        name_of: Callable[[str], str],
    ) -> None:
        self._accounts = {name: each for name, each in roster.accounts.items() if not each.pool.is_local}
        self._providers = {
            name: each
            for name, each in roster.providers.items()
            if not all(pool.is_local for pool in each.pools)
        }
        self._subjects = (
            *(f"account:{name}" for name in self._accounts),
            *(f"provider:{name}" for name in self._providers),
        )
        self._placement = placement
        self._account_facts = accounts
        self._circuit_facts = circuits
        self._clock = clock
        self._store = store
        self._instance = instance
        self._name_of = name_of
        self._book = FactBook(clock, instance)
        self._here: dict[str, dict[str, Standing]] = {}
        """What stood here when an account was last looked at, by subject."""
        self._touched: dict[AccountRuntime, None] = {}
        self._unread: dict[str, None] = {}
        """Subjects of which news may have been missed."""
        self._next_reread = 0
        self._passed_over: dict[str, None] = {}
        """Subjects in a rehearsal: what is heard of them meanwhile is read again afterwards."""
        self._adopting = False

    @property
    def unsent(self) -> int:
        """Facts that the others don't know yet."""
        return len(self._book)

    @property
    def behind(self) -> bool:
        """Whether there are subjects of which news may have been missed."""
        return bool(self._unread)

    @property
    def busy(self) -> bool:
        """Whether there is more to read or to look at than fits into one turn."""
        return bool(self._unread) or len(self._touched) > _LOOKED_AT

    @property
    def size(self) -> int:
        """How many accounts and providers there are."""
        return len(self._subjects)

    # -- what happens here ---------------------------------------------------------------------

    def touch(self, account: AccountRuntime) -> None:
        """The account may have changed."""
        if not self._adopting and not account.pool.is_local:
            self._touched[account] = None

    def circuit_changed(self, change: CircuitChange) -> None:
        """A circuit has changed."""
        if self._concerns(change.target) and not self._apart(change.target):
            standing = self._circuit_facts.changed(change)
            if standing is not None:
                self._book.tell(place_of(change.target), standing)

    def look(self) -> None:
        """Note what has changed of the accounts that were touched, of many at a time."""
        providers: dict[ProviderRuntime, None] = {}
        for account in list(islice(self._touched, _LOOKED_AT)):
            providers[account.pool.provider] = None
            self._look_at(account)
        for provider in providers:
            if provider.id in self._providers:
                self._look_at_hold(provider.circuit.target)

    def _look_at(self, account: AccountRuntime) -> None:
        self._touched.pop(account, None)
        subject = subject_of(account)
        new = standings(account, self._clock)
        old = self._here.get(subject, {})
        if new or old:
            self._here[subject] = new
            self._compare(subject, old, new)
        self._look_at_hold(account.circuit.target)
        for circuit in (account.kept or account).model_circuits.values():
            self._look_at_hold(circuit.target)

    def _look_at_hold(self, target: CircuitTarget) -> None:
        """An operator may have changed a hold without a change of state, or during a rehearsal."""
        standing = self._circuit_facts.rehold(target)
        if standing is not None:
            self._book.tell(place_of(target), standing)

    def _compare(self, subject: str, old: Mapping[str, Standing], new: Mapping[str, Standing]) -> None:
        now = self._clock.time()
        for name, standing in new.items():
            before = old.get(name)
            if not standing.same_as(before):
                if before is not None and cut_short(before, standing):
                    # Rests only grow, so that one was lifted, and then another began.
                    self._book.tell_lifted((subject, name), before.rule)
                self._book.tell((subject, name), standing)
        for name, standing in old.items():
            if name not in new:
                lift = lifted(name, standing, now)
                if lift is not None:
                    self._book.tell((subject, name), lift)

    # -- to and from the others ----------------------------------------------------------------

    async def write(self, *, early: bool = False) -> None:
        """Tell what is to be told.

        Args:
            early: Only what may be told before the quotas are exchanged: a count that was set has to
                be there before the others are told to look at it.

        Raises:
            StoreLostError: The store can't be reached; what was to be told is kept.
        """
        writes = self._book.to_tell(_AFTER_QUOTA if early else ())
        for start in range(0, len(writes), _AT_ONCE):
            batch = [write for write in writes[start : start + _AT_ONCE] if self._book.is_to_tell(write)]
            held = await self._store.write_facts(batch) if batch else ()
            for write, fact in zip(batch, held, strict=True):
                self._book.was_told(write)
                self._answered(write, fact)

    def _answered(self, write: FactWrite, fact: Fact) -> None:
        """The store says that ``fact`` holds, now that ``write`` was told."""
        place = subject, name = write.subject, write.name
        if fact != write.fact and fact.by != self._instance:
            self._look_first(subject)
            if not self._book.tells_later(place, fact):
                if shortens(write, fact):
                    self._adopt_all(subject, {name: Fact(NOTHING, fact.at, fact.by)})
                self._adopt_all(subject, {name: fact})
                return
        self._book.holds(place, fact, write.rule)

    async def read(self, subjects: Iterable[str]) -> None:
        """Hear what others said of ``subjects``.

        Raises:
            StoreLostError: The store can't be reached.
        """
        wanted = list(subjects)
        for start in range(0, len(wanted), _AT_ONCE):
            batch = wanted[start : start + _AT_ONCE]
            found = await self._store.read_facts(batch)
            for subject in batch:
                self._unread.pop(subject, None)
                self._hear(subject, found.get(subject, {}))

    async def read_unread(self, most: int = _AT_ONCE) -> None:
        """Hear what may have been missed, of so many subjects.

        Raises:
            StoreLostError: The store can't be reached; what was not read still is to be.
        """
        batch = list(islice(self._unread, most))
        try:
            await self.read(batch)
        except (StoreLostError, asyncio.CancelledError):
            raise
        except BaseException:
            # One that can't be read must not keep the others from being read; its turn comes again.
            for subject in batch:
                self._unread.pop(subject, None)
            raise

    def miss(self, most: int | None = None) -> None:
        """News may have been missed: of all subjects, or of the next so many in their turn."""
        if most is None:
            self._unread.update(dict.fromkeys(self._subjects))
            return
        for _ in range(min(most, len(self._subjects))):
            self._next_reread = (self._next_reread + 1) % len(self._subjects)
            self._unread[self._subjects[self._next_reread]] = None

    def miss_these(self, subjects: Iterable[str]) -> None:
        """There are news of these: they are read before all others."""
        first = dict.fromkeys(subject for subject in subjects if self._knows(*_parts(subject)))
        if first:
            self._unread = first | self._unread

    async def read_passed_over(self) -> None:
        """Hear what was said of accounts while they were in a rehearsal that is over.

        Raises:
            StoreLostError: The store can't be reached; it is heard later.
        """
        over = [subject for subject in self._passed_over if not self._kept(*_parts(subject))]
        if over:
            await self.read(over)
            for subject in over:
                if not self._kept(*_parts(subject)):
                    self._passed_over.pop(subject, None)

    def resend(self) -> None:
        """The store has lost what it knew: tell it all again, as old as it is."""
        self._book.tell_all_again()

    def note(self) -> None:
        """Note what stands here, before the others are heard."""
        for account in self._accounts.values():
            new = standings(account, self._clock)
            if new:
                self._here[subject_of(account)] = new
        for target in self._targets():
            self._circuit_facts.held(target)
        self._touched.clear()

    def start(self) -> None:
        """What stood here before the others were heard, and is not known to them, is news to them."""
        for subject, stands in self._here.items():
            told = self._book.told(subject)
            for name, standing in stands.items():
                if name not in told:
                    at = _BEFORE if standing.at is None else standing.at
                    self._book.tell((subject, name), standing._replace(at=at))
        for target in self._targets():
            held = self._circuit_facts.held(target)
            subject, name = place_of(target)
            if held is not None and name not in self._book.told(subject):
                self._book.tell((subject, name), held)

    def clock_moved(self, by_s: float) -> None:
        """The clock was set: what was stamped by it before is moved along."""
        for (subject, name), at in self._book.clock_moved(by_s):
            account = self._accounts.get(_parts(subject)[1])
            if name == ADMIN and account is not None and account.admin_at == at:
                account.admin_at = at + by_s
        for stands in self._here.values():
            for name, standing in stands.items():
                if standing.until is not None and rests_here(name):
                    stands[name] = standing._replace(until=standing.until + by_s)

    # -- inside --------------------------------------------------------------------------------

    def _hear(self, subject: str, facts: Mapping[str, Fact]) -> None:
        self._look_first(subject)
        told = self._book.told(subject)
        news = {
            name: fact
            for name, fact in self._book.news(subject, facts).items()
            if name in told or not self._stood_later((subject, name), fact)
        }
        if news:
            self._adopt_all(subject, news)

    def _look_first(self, subject: str) -> None:
        """What has happened here before something is heard comes before that."""
        kind, name = _parts(subject)
        account = self._accounts.get(name) if kind == "account" else None
        if account is not None and account in self._touched:
            self._look_at(account)
        elif kind == "provider" and name in self._providers:
            self._look_at_hold(self._providers[name].circuit.target)

    def _stood_later(self, place: Place, fact: Fact) -> bool:
        """Whether what stood here before a restart came about later, while nobody could be told."""
        subject, name = place
        target = target_of(subject, name)
        if target is not None and self._concerns(target):
            here = self._circuit_facts.held(target)
        else:
            here = self._here.get(subject, {}).get(name)
        return here is not None and here.at is not None and here.at > fact.at

    def _adopt_all(self, subject: str, facts: Mapping[str, Fact]) -> None:
        kind, name = _parts(subject)
        account = self._accounts.get(name) if kind == "account" else None
        if not self._knows(kind, name):
            return
        if self._kept(kind, name):
            self._passed_over[subject] = None
            return
        self._adopting = True
        try:
            for fact_name, fact in facts.items():
                self._adopt(subject, account, fact_name, fact)
            if account is not None:
                self._placement.roll(account, self._clock.monotonic())
            else:
                self._placement.room()
        finally:
            self._adopting = False
        if account is not None:
            self._here[subject] = standings(account, self._clock)

    def _adopt(self, subject: str, account: AccountRuntime | None, name: str, fact: Fact) -> None:
        known = self._book.told(subject).get(name)
        self._book.holds((subject, name), fact, rule_of(name) if known is None else known.rule)
        if fact.by == self._instance:
            return
        target = target_of(subject, name)
        try:
            if target is not None:
                self._circuit_facts.adopt(target, fact, self._name_of(fact.by))
            elif account is not None:
                self._account_facts.adopt(account, name, fact)
        except (ValueError, TypeError, OverflowError):
            return  # of another version, or damaged: what stands here goes on to stand

    def _targets(self) -> Iterator[CircuitTarget]:
        for account in self._accounts.values():
            yield account.circuit.target
            for circuit in account.model_circuits.values():
                yield circuit.target
        for provider in self._providers.values():
            yield provider.circuit.target

    def _kept(self, kind: str, name: str) -> bool:
        if kind == "account":
            account = self._accounts.get(name)
            return account is not None and account.kept is not None
        provider = self._providers.get(name)
        return provider is not None and provider.kept is not None

    def _knows(self, kind: str, name: str) -> bool:
        return name in self._accounts if kind == "account" else kind == "provider" and name in self._providers

    def _concerns(self, target: CircuitTarget) -> bool:
        """Whether others have a part in it; a model on this machine is this machine's."""
        return self._knows(*_parts(place_of(target)[0]))

    def _apart(self, target: CircuitTarget) -> bool:
        subject, _ = place_of(target)
        return self._kept(*_parts(subject))


def subject_of(account: AccountRuntime) -> str:
    """The account as facts name it."""
    return f"account:{account.id}"


def _parts(subject: str) -> tuple[str, str]:
    kind, _, name = subject.partition(":")
    return kind, name
