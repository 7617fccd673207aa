"""What an operator can tell the engine to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from smartfallback.model.circuits import CircuitState, CircuitTarget
from smartfallback.model.quota import TruthLabel
from smartfallback.model.specs import HybridSettings, Strategy


@dataclass(frozen=True, slots=True)
class Drain:
    """No new requests for the account; those running finish; then it is DRAINED."""

    account: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """Make a draining or drained account ACTIVE again."""

    account: str


@dataclass(frozen=True, slots=True)
class Disable:
    """Take the account out of service at once; running answers finish."""

    account: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Enable:
    """Put a disabled account back, and clear what needed attention."""

    account: str


@dataclass(frozen=True, slots=True)
class ForceFailover:
    """Move traffic away from an account or a provider.

    Its circuit is forced open (for ``duration_s``, or until it is reset) and requests that wait
    for their first token there are switched away at once; answers already flowing finish.
    """

    target: CircuitTarget
    reason: str
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """Force a circuit open, for ``duration_s`` or until it is reset.

    This command, and those below on circuits, act on ``target`` and on all of ``also``, or, if one
    of them can't be acted on, on none.
    """

    target: CircuitTarget
    reason: str
    duration_s: float | None = None
    also: tuple[CircuitTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class CloseCircuit:
    """Close a circuit now; its counts start anew."""

    target: CircuitTarget
    reason: str
    also: tuple[CircuitTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class ResetCircuit:
    """Back to CLOSED with cleared counts and back-off; an account's or model's cooldown is lifted too."""

    target: CircuitTarget
    reason: str = ""
    also: tuple[CircuitTarget, ...] = ()


CIRCUIT_MODES = (
    CircuitState.CLOSED,
    CircuitState.HALF_OPEN,
    CircuitState.OBSERVE_ONLY,
    CircuitState.DISABLED,
)
"""What :class:`SetCircuitMode` can set; a circuit is opened by :class:`OpenCircuit`."""


@dataclass(frozen=True, slots=True)
class SetCircuitMode:
    """Set a circuit to work by a mode of :data:`CIRCUIT_MODES`, until the next such command.

    OBSERVE_ONLY reports what it would have done and rejects nothing, DISABLED admits everything and
    records nothing; both outlive a restart. HALF_OPEN lets the next calls be probes now, CLOSED puts
    it to its normal work.
    """

    target: CircuitTarget
    mode: CircuitState
    reason: str = ""
    also: tuple[CircuitTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class SetStrategy:
    """Let a pool select by another strategy; ``hybrid`` replaces the formula's terms when given."""

    pool: str
    strategy: Strategy
    hybrid: HybridSettings | None = None


@dataclass(frozen=True, slots=True)
class RefreshQuota:
    """Ask the account's quota source now, in the background."""

    account: str


@dataclass(frozen=True, slots=True)
class CorrectQuota:
    """Set what is used of a quota window by hand, in percent of its limit.

    ``window`` counts from 0; None is the window that binds. ``label`` is REPORTED for what was read off
    the provider's own page, ESTIMATED for a guess, which gives way to any other knowledge.
    """

    account: str
    percent_used: float
    window: int | None = None
    label: TruthLabel = TruthLabel.REPORTED


@dataclass(frozen=True, slots=True)
class DropQueued:
    """Take a request out of the queue: it fails with the reason for which it waited."""

    request_id: str


Command = (
    Drain
    | Resume
    | Disable
    | Enable
    | ForceFailover
    | OpenCircuit
    | CloseCircuit
    | ResetCircuit
    | SetCircuitMode
    | SetStrategy
    | RefreshQuota
    | CorrectQuota
    | DropQueued
)


class CommandResult(NamedTuple):
    """Whether a command took effect, and what it did or why it could not, in a sentence."""

    ok: bool
    message: str
