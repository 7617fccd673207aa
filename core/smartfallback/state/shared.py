"""What several instances share their state through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from smartfallback.model.circuits import CircuitTarget
from smartfallback.model.sharing import (
    AccountReport,
    Change,
    Fact,
    FactWrite,
    Heartbeat,
    HoldRequest,
    InstanceView,
    ProbeReply,
    QuotaReply,
    StoreKind,
)


class StoreLostError(Exception):
    """The shared store can't be used now; what was asked may have been done or not.

    The store tells of the change of its state itself, once; callers go on from memory.
    """


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How the store is.

    Attributes:
        usable: Whether a request may wait on it now. Else it would be kept waiting for nothing.
        reachable: Whether it can be used in the background; a slow one can, and yet is not usable.
        degraded_since: Epoch seconds on this machine's clock; None while all is well.
        trouble: Why, in words, without credentials.
        lag_s: How long the latest exchange took; None before any.
    """

    usable: bool
    reachable: bool
    degraded_since: float | None
    trouble: str
    lag_s: float | None


class SharedStore(Protocol):
    """Holds what instances share. One orchestrator owns it and closes it; for one event loop.

    Every method that waits raises :class:`StoreLostError` when the store can't be used.
    :meth:`reserve` and :meth:`take_probe` are called on a request's way and wait for at most the
    request budget (50 ms), or not at all while the store is not usable. All others are called in the
    background and wait for at most a second.
    """

    @property
    def kind(self) -> StoreKind:
        """The kind of store."""
        ...

    @property
    def place(self) -> str:
        """Its address, without credentials."""
        ...

    @property
    def status(self) -> StoreStatus:
        """How it is now. Costs nothing."""
        ...

    @property
    def offset_s(self) -> float:
        """The store's clock minus this machine's, in seconds; 0 until it was heard."""
        ...

    def on_change(self, listener: Callable[[StoreStatus], None]) -> None:
        """Call ``listener``, on the loop, whenever it becomes usable, reachable, or neither."""
        ...

    async def start(self) -> None:
        """Connect, and keep trying in the background; returns within a second, connected or not."""
        ...

    async def aclose(self) -> None:
        """End every task and connection. Safe to call twice."""
        ...

    # -- quota

    async def reserve(self, instance: str, hold: HoldRequest) -> QuotaReply:
        """Make a reservation in all windows, or in none. Idempotent by its id."""
        ...

    async def report(
        self, instance: str, reports: Sequence[AccountReport], *, lease_s: float
    ) -> Sequence[QuotaReply]:
        """Report what was spent, end reservations, lease slices for ``lease_s``; replies in order."""
        ...

    # -- facts

    async def write_facts(self, writes: Sequence[FactWrite]) -> Sequence[Fact]:
        """Tell facts to all; returns, in order, the facts that hold afterwards."""
        ...

    async def read_facts(self, subjects: Collection[str]) -> Mapping[str, Mapping[str, Fact]]:
        """All facts of these subjects, by subject and name."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """Hints at changes that others made, as they come; never raises and never ends by itself.

        While the store can't be reached none come; the first after that has an empty subject.
        """
        ...

    # -- probes

    async def take_probe(
        self, instance: str, target: CircuitTarget, probe: str, *, at_once: int, lease_s: float
    ) -> ProbeReply:
        """Take one of the ``at_once`` places for probes of a half-open circuit, over all instances.

        ``probe`` is the probe's own id: its place is freed when its own lease ends, whatever else
        is asked meanwhile. Idempotent by that id.
        """
        ...

    async def drop_probe(self, target: CircuitTarget, probe: str) -> None:
        """Give the probe's place back."""
        ...

    # -- instances

    async def heartbeat(self, instance: InstanceView) -> Heartbeat:
        """Say that the instance runs, and hear who else does."""
        ...

    async def leave(self, instance: str) -> None:
        """Say that the instance ends: it is listed no longer."""
        ...
