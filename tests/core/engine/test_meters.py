"""Requests are counted once, in whatever order their events come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.engine import meters
from smartfallback.engine.meters import Meters, PoolAccounts
from smartfallback.model.decisions import Decision, Rule, Tier
from smartfallback.model.events import (
    Event,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
)
from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.requests import Origin, Reply, Usage
from support.clock import EPOCH, FakeClock

FAILURE = Failure(ErrorCategory.TRANSIENT_ERROR, "overloaded")
DECISION = Decision(EPOCH, "default", "main", "a-1", "m", "hybrid", Rule.BEST_OF_TOP, Tier.NORMAL, (), ())
BEGINNINGS = ("routed", "queued", "replayed")
ENDS = ("finished", "failed", "cancelled")


def new_meters() -> Meters:
    return Meters({"main": PoolAccounts(["a-1"], [None])}, FakeClock(), lambda _pool: [None])


def event(what: str, name: str, cached_age_s: float | None = None) -> Event:
    reply = Reply(
        name, "Hello", "a-1", "main", "api", "m", Usage(1, 1), "stop", (), 1.0, 0.5, cached_age_s=cached_age_s
    )
    made: dict[str, Event] = {
        "routed": RequestRouted(1, EPOCH, name, "default", Origin.API, DECISION),
        "queued": RequestQueued(1, EPOCH, name, Origin.API, "default", 0, 1, EPOCH + 60, FAILURE),
        "replayed": RequestReplayed(1, EPOCH, name, Origin.API, "default", 60.0, restored=True),
        "finished": RequestFinished(1, EPOCH, name, Origin.API, reply),
        "failed": RequestFailed(1, EPOCH, name, Origin.API, "default", FAILURE, (), 1.0, 0, None, ()),
        "cancelled": RequestCancelled(1, EPOCH, name, Origin.API, (), 1.0),
    }
    return made[what]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(BEGINNINGS + ENDS), st.sampled_from(["r1", "r2", "r3"]))))
def test_a_request_counts_once_from_its_first_event_to_its_end(told: list[tuple[str, str]]) -> None:
    projection = new_meters()
    running: set[str] = set()
    total = failed = 0
    for what, name in told:
        projection.on_event(event(what, name))
        # An answer or an error without a beginning is a whole request; a cancelled one did nothing.
        total += name not in running and what != "cancelled"
        failed += what == "failed"
        if what in BEGINNINGS:
            running.add(name)
        else:
            running.discard(name)
        view = projection.traffic.view(0.0)
        assert (view.in_flight, view.total_requests, view.total_failed) == (len(running), total, failed)


def test_an_earlier_answer_is_no_use_of_an_account_and_no_latency() -> None:
    projection = new_meters()
    projection.on_event(event("finished", "r1", cached_age_s=60.0))
    assert sum(projection.latency.view(0.0).counts) == sum(projection.first_token.view(0.0).counts) == 0
    assert projection.traffic.view(0.0).success_rate == 1.0


def test_requests_that_never_end_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "MOST_RUNNING", 3)
    projection = new_meters()
    for number in range(10):
        projection.on_event(event("routed", f"r{number}"))
    assert projection.traffic.view(0.0).in_flight == 3
    for number in range(10):
        projection.on_event(event("cancelled", f"r{number}"))
    assert projection.traffic.view(0.0).in_flight == 0
