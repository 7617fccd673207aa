"""What an operator can do to circuits: open, close, reset, set to a mode, and force traffic away."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import (
    CircuitScope,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    ForceFailover,
    OpenCircuit,
    ResetCircuit,
    SetCircuitMode,
)
from smartfallback_console.proposal import OperatorError, Proposal, Subject, left_without

if TYPE_CHECKING:
    from smartfallback import CircuitView, Snapshot

MODES = {
    "normal": (CircuitState.CLOSED, "opens on failures, closed now"),
    "half-open": (CircuitState.HALF_OPEN, "the next requests are probes"),
    "observe-only": (CircuitState.OBSERVE_ONLY, "reports, but turns nothing away"),
    "disabled": (CircuitState.DISABLED, "admits all, counts nothing"),
}
"""The modes by the word that asks for each, and what they mean."""


def mode_of(state: CircuitState) -> str:
    """The word for the mode that a circuit in this state works by, empty for one held open."""
    return next((word for word, (mode, _) in MODES.items() if mode is state), "")


def failover(
    action: str, target: CircuitTarget, name: str, subject: Subject, snapshot: Snapshot | None
) -> Proposal:
    """Move traffic away from an account or a provider."""
    return Proposal(
        action,
        f"Force failover from {name}?",
        "Its circuit is forced open and requests that wait for a first token there move on now; "
        "answers already flowing finish.",
        "Fail over",
        ForceFailover(target, ""),
        left_without(subject, snapshot),
        takes_duration=True,
        undo=ResetCircuit(target, "undo"),
    )


def circuit_of(subject: Subject) -> CircuitView:
    """The circuit that circuit actions concern: the model's, the account's or the provider's."""
    if subject.account is None:
        return subject.pool.provider_circuit
    if subject.model is not None:
        for circuit in subject.account.model_circuits:
            if circuit.target.name == f"{subject.account.id}/{subject.model}":
                return circuit
    return subject.account.circuit


def circuit(action: str, subject: Subject, snapshot: Snapshot | None) -> Proposal:
    """Open, close or reset the circuit that is meant.

    Raises:
        OperatorError: It is closed already.
    """
    view = circuit_of(subject)
    target, state = view.target, view.state
    name = f"provider {target.name}" if target.scope is CircuitScope.PROVIDER else target.name
    now = f"It is {state.value.replace('_', '-')}" + (f": {view.cause}." if view.cause else ".")
    if action == "open_circuit":
        return Proposal(
            action,
            f"Open the circuit of {name}?",
            "Nothing passes until its time is over or it is reset; running answers finish.",
            "Open",
            OpenCircuit(target, ""),
            "" if state is CircuitState.FORCED_OPEN else left_without(subject, snapshot),
            takes_duration=True,
            undo=ResetCircuit(target, "undo"),
        )
    if action == "close_circuit":
        if state is CircuitState.CLOSED:
            raise OperatorError(f"the circuit of {name} is closed already")
        return Proposal(
            action,
            f"Close the circuit of {name}?",
            f"{now} Requests pass again at once and its counts start anew.",
            "Close",
            CloseCircuit(target, ""),
        )
    return Proposal(
        action,
        f"Reset the circuit of {name}?",
        f"{now} Counts and back-off are cleared, and any cooldown is lifted.",
        "Reset",
        ResetCircuit(target),
    )


def set_mode(subject: Subject, argument: str) -> Proposal:
    """Let a circuit work by another mode.

    Args:
        subject: Whose circuit.
        argument: One of :data:`MODES`.

    Raises:
        OperatorError: There is no such mode, or it holds already.
    """
    word = argument.casefold().replace("_", "-")
    if word not in MODES:
        near = get_close_matches(word, MODES, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(MODES)}"
        raise OperatorError(f"there is no mode {argument!r}{hint}")
    mode = MODES[word][0]
    view = circuit_of(subject)
    target, state = view.target, view.state
    name = f"provider {target.name}" if target.scope is CircuitScope.PROVIDER else target.name
    if state is mode:
        raise OperatorError(f"the circuit of {name} is {state.value.replace('_', '-')} already")
    shut = state in (CircuitState.OPEN, CircuitState.FORCED_OPEN)
    now = f"It is {state.value.replace('_', '-')}" + (f": {view.cause}." if view.cause else ".")
    consequence = {
        CircuitState.CLOSED: "Requests pass, failures are counted from now on, and enough of them open it.",
        CircuitState.HALF_OPEN: "The next requests are probes: they close it, or a failure opens it again.",
        CircuitState.OBSERVE_ONLY: "It reports when it would have opened, and turns no request away.",
        CircuitState.DISABLED: "It admits every request and counts nothing.",
    }[mode]
    unprotected = mode in (CircuitState.OBSERVE_ONLY, CircuitState.DISABLED)
    warning = ""
    if unprotected:
        warning = f"Nothing keeps requests from {name} any more while it fails; this outlives a restart."
    elif shut and state is CircuitState.FORCED_OPEN:
        warning = "An operator holds it open."
    return Proposal(
        "circuit_mode",
        f"Set the circuit of {name} to {word}?",
        f"{now} {consequence}",
        "Set",
        SetCircuitMode(target, mode),
        warning,
        asks=unprotected or shut,
        undo=SetCircuitMode(target, state, "undo") if mode_of(state) else None,
    )
