"""Runs one seed, and says how to run it again when an invariant is violated."""

from __future__ import annotations

from typing import Final

from smartfallback.simulation.policy_world.books import Violated
from smartfallback.simulation.policy_world.plans import Plan, schedule, week
from smartfallback.simulation.policy_world.world import Outcome, World

_COMMAND: Final = "python -m smartfallback.simulation.policy_world"
_LOOK_EVERYWHERE: Final = 64
"""In a week all accounts are looked at after so many steps; those that a step touched, after each."""


class InvariantViolated(Exception):
    """A life broke an invariant.

    Attributes:
        seed: Of the life.
        invariant: Its name.
        replay: The command that repeats the life.
        trace: The lines up to there, empty unless they were kept.
    """

    def __init__(self, seed: int, violated: Violated, at: float, replay: str, trace: str) -> None:
        super().__init__(f"seed {seed}, {at:.6f}: {violated}\nreplay it with: {replay}")
        self.seed = seed
        self.invariant = violated.invariant
        self.replay = replay
        self.trace = trace


def live(seed: int, *, keep_trace: bool = False) -> Outcome:
    """The short life of ``seed``; the invariants are checked for all accounts after each step.

    Raises:
        InvariantViolated: One did not hold; the message holds the seed and the command.
    """
    return _run(schedule(seed), f"{_COMMAND} --seed {seed}", keep_trace, 1)


def live_week(seed: int, *, requests: int = 100_000, keep_trace: bool = False) -> Outcome:
    """A week of an ordinary system with about so many requests.

    Raises:
        InvariantViolated: One did not hold; the message holds the seed and the command.
    """
    replay = f"{_COMMAND} --seed {seed} --week --requests {requests}"
    return _run(week(seed, requests=requests), replay, keep_trace, _LOOK_EVERYWHERE)


def _run(plan: Plan, replay: str, keep_trace: bool, look_everywhere: int) -> Outcome:
    world = World(plan, keep_trace=keep_trace, look_everywhere=look_everywhere)
    try:
        return world.run()
    except Exception as error:
        # What the engine raises where it should not is as much of a finding as a broken invariant.
        violated = error if isinstance(error, Violated) else Violated("nothing raises", repr(error))
        at, trace = world.clock.now, world.trace.text()
        raise InvariantViolated(plan.seed, violated, at, replay, trace) from error
