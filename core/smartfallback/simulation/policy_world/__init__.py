"""Deterministic simulation of the floors that decide: a virtual clock, seeded faults, invariants.

No event loop, no sockets: a list of events drives the engine's real planner, placement and
settlement through random lives, and after each step invariants are checked that no life may break.
The same seed gives the same trace, byte for byte. In the spirit of FoundationDB's simulation
(Zhou et al., SIGMOD 2021), but without network or threads.
"""

from __future__ import annotations

from smartfallback.simulation.policy_world.books import Violated
from smartfallback.simulation.policy_world.plans import Plan, schedule, week
from smartfallback.simulation.policy_world.runs import InvariantViolated, live, live_week
from smartfallback.simulation.policy_world.world import Outcome, World

__all__ = [
    "InvariantViolated",
    "Outcome",
    "Plan",
    "Violated",
    "World",
    "live",
    "live_week",
    "schedule",
    "week",
]
