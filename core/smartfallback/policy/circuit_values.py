"""What a circuit hands out and tells: permits, rejections, changes, statistics.

All instants are monotonic seconds, as handed to the circuit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from smartfallback.model.circuits import CircuitState, CircuitTarget


@final
class Permit:
    """A circuit's permission for one call, ended exactly once; a second end does nothing.

    Attributes:
        generation: The circuit's generation in which it was given.
        started_at: When it was given.
        lease_until: For a probe, when its place is given to another; None for an ordinary call.
        live: False once it ended or its lease ran out.
        noticed: It was counted as slow while it ran.
    """

    __slots__ = ("generation", "lease_until", "live", "noticed", "started_at")

    def __init__(self, generation: int, started_at: float, lease_until: float | None) -> None:
        self.generation = generation
        self.started_at = started_at
        self.lease_until = lease_until
        self.live = True
        self.noticed = False

    @property
    def probe(self) -> bool:
        """Whether the call tests a half-open circuit."""
        return self.lease_until is not None

    def __repr__(self) -> str:
        kind = "probe" if self.probe else "call"
        return f"<Permit {kind} of generation {self.generation}, {'live' if self.live else 'ended'}>"


class CircuitChange(NamedTuple):
    """A circuit went from ``old`` to ``new``.

    ``until`` is when an open circuit may probe, or a forced one ends by itself. ``old`` equals
    ``new`` in one case: an observing circuit reports that it would have opened.

    ``suspicion`` says that the change begins or ends the one test by which a circuit finds out
    whether it should open as another instance's did. ``news`` is False for what the instances that
    share the target are not to be told: they said so themselves, or it undoes what they never heard.
    """

    target: CircuitTarget
    old: CircuitState
    new: CircuitState
    cause: str
    by_operator: bool
    until: float | None
    generation: int
    at: float
    suspicion: bool = False
    news: bool = True


class Rejection(NamedTuple):
    """Why a circuit does not admit.

    ``retry_after_s`` is never below 0; None when only an operator can lift the rejection. For a
    half-open circuit it is the latest moment: a place is free as soon as a probe ends.
    """

    state: CircuitState
    retry_after_s: float | None
    cause: str


class CircuitStatistics(NamedTuple):
    """A circuit in numbers.

    ``calls``, ``failures`` and ``slow`` are those of the sliding window, ``success_rate`` (0 to 1)
    is None without calls. The others count since the circuit was made: admitted = settled +
    released + live. ``expired`` are those among the released whose lease ran out.
    """

    calls: int
    failures: int
    slow: int
    success_rate: float | None
    rejected: int
    admitted: int
    settled: int
    released: int
    live: int
    expired: int
    listener_errors: int
