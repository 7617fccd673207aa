"""The facts that instances tell each other, and their order.

What stands here is compared with what stood here before: a difference is a fact to tell. It is
stamped when it is noticed, so that facts which wait for a store that is away still come in the right
order when it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, Roster
from smartfallback.engine.sharing.account_facts import (
    AccountFacts,
    Standing,
    lifted,
    rule_of,
    standings,
)
from smartfallback.engine.sharing.circuit_facts import CircuitFacts, place_of, target_of
from smartfallback.model.circuits import CircuitScope, CircuitTarget
from smartfallback.model.sharing import Fact, FactWrite
from smartfallback.policy.circuit import CircuitChange
from smartfallback.state.shared import SharedStore

Place = tuple[str, str]
"""A subject and the name of a fact about it."""

_AT_ONCE: Final = 500
"""Facts written, or subjects read, in one exchange."""


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
        self._roster = roster
        self._accounts = {name: each for name, each in roster.accounts.items() if not each.pool.is_local}
        self._providers = {
            name: each
            for name, each in roster.providers.items()
            if not all(pool.is_local for pool in each.pools)
        }
        self._placement = placement
        self._account_facts = accounts
        self._circuit_facts = circuits
        self._clock = clock
        self._store = store
        self._instance = instance
        self._name_of = name_of
        self._here: dict[str, dict[str, Standing]] = {}
        """What stood here when an account was last looked at, by subject."""
        self._told: dict[Place, FactWrite] = {}
        """What holds over all instances, as far as it was told or heard here."""
        self._pending: dict[Place, FactWrite] = {}
        """What is to be told, the latest of each."""
        self._touched: dict[AccountRuntime, None] = {}
        self._passed_over: dict[str, None] = {}
        """Subjects in a rehearsal: what is heard of them meanwhile is read again afterwards."""
        self._adopting = False

    @property
    def unsent(self) -> int:
        """Facts that the others don't know yet."""
        return len(self._pending)

    @property
    def waits(self) -> bool:
        """Whether there is anything to look at or to tell."""
        return bool(self._pending or self._touched)

    # -- what happens here ---------------------------------------------------------------------

    def touch(self, account: AccountRuntime) -> None:
        """The account may have changed."""
        if not self._adopting:
            self._touched[account] = None

    def circuit_changed(self, change: CircuitChange) -> None:
        """A circuit has changed."""
        if self._adopting or self._rehearsed(change.target) or not self._concerns(change.target):
            return
        standing = self._circuit_facts.changed(change)
        if standing is not None:
            self._tell(place_of(change.target), standing)

    def look(self) -> None:
        """Note what has changed of the accounts that were touched."""
        touched, self._touched = self._touched, {}
        for account in touched:
            subject = subject_of(account)
            new = standings(account, self._clock)
            old = self._here.get(subject, {})
            if new or old:
                self._here[subject] = new
                self._compare(subject, old, new)
            if account.kept is None and subject in self._passed_over:
                self._touched[account] = None

    def _compare(self, subject: str, old: Mapping[str, Standing], new: Mapping[str, Standing]) -> None:
        for name, standing in new.items():
            if not standing.same_as(old.get(name)):
                self._tell((subject, name), standing)
        for name, standing in old.items():
            if name not in new:
                lift = lifted(name, standing, self._clock.time())
                if lift is not None:
                    self._tell((subject, name), lift)

    def _tell(self, place: Place, standing: Standing) -> None:
        at = self._clock.time() if standing.at is None else standing.at
        fact = Fact(standing.value, at, self._instance, standing.until)
        self._pending[place] = FactWrite(*place, fact, standing.rule)

    # -- to and from the others ----------------------------------------------------------------

    async def write(self) -> None:
        """Tell what is to be told.

        Raises:
            StoreLostError: The store can't be reached; what was to be told is kept.
        """
        while self._pending:
            batch = list(self._pending.items())[:_AT_ONCE]
            held = await self._store.write_facts([write for _, write in batch])
            for (place, write), fact in zip(batch, held, strict=True):
                if self._pending.get(place) is write:
                    del self._pending[place]
                self._told[place] = FactWrite(*place, fact, write.rule)
                if fact.by != self._instance and fact != write.fact:
                    self._adopt_all(place[0], {place[1]: fact})

    async def read(self, subjects: Iterable[str] | None = None) -> None:
        """Hear what others said of ``subjects``, of all by default.

        Raises:
            StoreLostError: The store can't be reached.
        """
        wanted = list(self._subjects() if subjects is None else subjects)
        for start in range(0, len(wanted), _AT_ONCE):
            batch = wanted[start : start + _AT_ONCE]
            for subject, facts in (await self._store.read_facts(batch)).items():
                self._hear(subject, facts)

    def resend(self) -> None:
        """The store has lost what it knew: tell it all again, as old as it is."""
        for place, write in self._told.items():
            self._pending.setdefault(place, write)

    def note(self) -> None:
        """Note what stands here, before the others are heard."""
        for account in self._accounts.values():
            self._here[subject_of(account)] = standings(account, self._clock)

    def start(self) -> None:
        """What stood here before the others were heard, and is not known to them, is news to them."""
        for account in self._accounts.values():
            subject = subject_of(account)
            new = standings(account, self._clock)
            self._here[subject] = new
            for name, standing in new.items():
                if (subject, name) not in self._told:
                    self._tell((subject, name), standing)
        for target in self._targets():
            held = self._circuit_facts.held(target)
            if held is not None and place_of(target) not in self._told:
                self._tell(place_of(target), held)

    def _hear(self, subject: str, facts: Mapping[str, Fact]) -> None:
        news: dict[str, Fact] = {}
        for name, fact in facts.items():
            known, mine = self._told.get((subject, name)), self._pending.get((subject, name))
            if mine is not None and mine.fact.at > fact.at:
                continue
            here = self._here.get(subject, {}).get(name)
            if known is None and here is not None and here.at is not None and here.at > fact.at:
                continue  # it came about while nobody could be told, and before a restart
            if known is None or known.fact != fact:
                news[name] = fact
        if news:
            self._adopt_all(subject, news)

    def _adopt_all(self, subject: str, facts: Mapping[str, Fact]) -> None:
        kind, _, name = subject.partition(":")
        account = self._accounts.get(name) if kind == "account" else None
        if account is None and name not in self._providers:
            return
        if self._kept(kind, name):
            self._passed_over[subject] = None
            return
        self._passed_over.pop(subject, None)
        self._adopting = True
        try:
            for fact_name, fact in facts.items():
                self._adopt(subject, account, fact_name, fact)
            self._place(kind, name)
        finally:
            self._adopting = False
        if account is not None:
            self._here[subject] = standings(account, self._clock)

    def _adopt(self, subject: str, account: AccountRuntime | None, name: str, fact: Fact) -> None:
        place = (subject, name)
        rule = self._told[place].rule if place in self._told else rule_of(name)
        self._told[place] = FactWrite(*place, fact, rule)
        if fact.by == self._instance:
            return
        target = target_of(subject, name)
        try:
            if target is not None:
                self._circuit_facts.adopt(target, fact, self._name_of(fact.by))
            elif account is not None:
                self._account_facts.adopt(account, name, fact)
        except (ValueError, TypeError):
            return  # of another version, or damaged: what stands here goes on to stand

    def _place(self, kind: str, name: str) -> None:
        scope = CircuitScope.ACCOUNT if kind == "account" else CircuitScope.PROVIDER
        now = self._clock.monotonic()
        for account in self._roster.accounts_of(CircuitTarget(scope, name)):
            self._placement.roll(account, now)

    async def read_passed_over(self) -> None:
        """Hear what was said of accounts while they were in a rehearsal that is over.

        Raises:
            StoreLostError: The store can't be reached.
        """
        over = [subject for subject in self._passed_over if not self._kept(*_parts(subject))]
        if over:
            for subject in over:
                del self._passed_over[subject]
            await self.read(over)

    # -- inside --------------------------------------------------------------------------------

    def _subjects(self) -> Iterable[str]:
        yield from (f"account:{name}" for name in self._accounts)
        yield from (f"provider:{name}" for name in self._providers)

    def _targets(self) -> Iterable[CircuitTarget]:
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

    def _concerns(self, target: CircuitTarget) -> bool:
        """Whether others have a part in it; a model on this machine is this machine's."""
        kind, name = _parts(place_of(target)[0])
        return name in (self._accounts if kind == "account" else self._providers)

    def _rehearsed(self, target: CircuitTarget) -> bool:
        subject, _ = place_of(target)
        return self._kept(*_parts(subject))


def subject_of(account: AccountRuntime) -> str:
    """The account as facts name it."""
    return f"account:{account.id}"


def _parts(subject: str) -> tuple[str, str]:
    kind, _, name = subject.partition(":")
    return kind, name
