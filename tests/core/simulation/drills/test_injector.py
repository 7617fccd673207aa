"""Which drill a call meets: targets, precedence, share, duration and number."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from smartfallback.model.specs import ProviderKind
from smartfallback.simulation.drills.drill import Drill, DrillScope, DrillTarget
from smartfallback.simulation.drills.injector import Injector
from smartfallback.simulation.faults import (
    BurstLimit,
    Fault,
    Flapping,
    HttpStatus,
    KeyRevoked,
    NoUsage,
    QuotaWall,
    SilentEvents,
    SlowFirstToken,
    ToolMissing,
)
from support.clock import FakeClock
from support.drills import at, pool, system

S = DrillScope
SPEC = system(
    pool(ProviderKind.GEMINI, "first", "ag-1", "ag-2", provider_id="gemini"),
    pool(ProviderKind.GEMINI, "spare", "ag-3", provider_id="gemini"),
    pool(ProviderKind.COPILOT, "second", "co-1", "co-2"),
    pool(ProviderKind.LOCAL, "local", "gguf"),
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def injector(clock: FakeClock) -> Injector:
    return Injector(SPEC, clock, Random(5))


def start(injector: Injector, target: DrillTarget, fault: Fault, **settings: Any) -> str:
    return injector.start(Drill(target, fault, **settings)).id


def test_a_drill_touches_its_target_and_nobody_else(injector: Injector) -> None:
    start(injector, at("ag-1"), HttpStatus(500))
    assert injector.draw("ag-1", "first") == HttpStatus(500)
    assert injector.draw("ag-2", "first") is None
    injector.stop_all()
    start(injector, at("first", S.POOL), HttpStatus(501))
    assert [injector.draw(a, "first") for a in ("ag-1", "ag-2")] == [HttpStatus(501)] * 2
    assert injector.draw("ag-3", "spare") is None
    injector.stop_all()
    start(injector, at("gemini", S.PROVIDER), HttpStatus(502))
    assert injector.draw("ag-3", "spare") == HttpStatus(502)
    assert injector.draw("co-1", "second") is None


def test_the_most_specific_drill_goes_first_and_then_the_newest(injector: Injector) -> None:
    account = start(injector, at("ag-1"), HttpStatus(500))
    start(injector, at("first", S.POOL), HttpStatus(501))
    start(injector, at("gemini", S.PROVIDER), HttpStatus(502))
    newer = start(injector, at("ag-1"), HttpStatus(503))
    seen = [injector.draw("ag-1", "first")]
    for drill in (newer, account):
        assert injector.stop(drill)
        seen.append(injector.draw("ag-1", "first"))
    assert seen == [HttpStatus(503), HttpStatus(500), HttpStatus(501)]


def test_a_drill_that_leaves_a_call_alone_makes_way_for_the_next(
    injector: Injector, clock: FakeClock
) -> None:
    start(injector, at("first", S.POOL), HttpStatus(501))
    start(injector, at("ag-1"), Flapping(KeyRevoked(), period_s=10, down_share=0.5))
    assert injector.draw("ag-1", "first") == KeyRevoked()
    clock.advance(6)
    assert injector.draw("ag-1", "first") == HttpStatus(501)
    clock.advance(4)
    assert injector.draw("ag-1", "first") == KeyRevoked()


def test_a_share_touches_that_share_of_the_calls_and_the_same_ones_for_the_same_seed() -> None:
    def touched(seed: int) -> list[bool]:
        injector = Injector(SPEC, FakeClock(), Random(seed))
        start(injector, at("ag-1"), HttpStatus(500), share=0.5)
        return [injector.draw("ag-1", "first") is not None for _ in range(1_000)]

    assert touched(3) == touched(3)
    assert touched(3) != touched(4)
    assert 450 < sum(touched(3)) < 550


def test_a_drill_ends_by_itself(injector: Injector, clock: FakeClock) -> None:
    view = injector.start(Drill(at("ag-1"), HttpStatus(500), duration_s=30, reason="Friday"))
    assert (view.started_at, view.ends_at) == (clock.time(), clock.time() + 30)
    clock.advance(29.9)
    assert injector.draw("ag-1", "first") is not None
    assert [(entry.id, entry.hits, entry.drill.reason) for entry in injector.active()] == [
        (view.id, 1, "Friday")
    ]
    clock.advance(0.1)
    assert injector.draw("ag-1", "first") is None
    assert injector.active() == ()
    assert not injector.armed
    assert not injector.stop(view.id)


def test_most_calls_bounds_how_many_are_touched(injector: Injector) -> None:
    start(injector, at("ag-1"), HttpStatus(500), most_calls=3)
    assert [injector.draw("ag-1", "first") is not None for _ in range(5)] == [True] * 3 + [False] * 2
    assert injector.active() == ()


def test_the_last_touched_call_keeps_its_drill_until_it_is_over(injector: Injector) -> None:
    start(injector, at("ag-1"), SlowFirstToken(5), most_calls=1)
    meeting = injector.meet("ag-1", "first")
    assert meeting is not None
    assert injector.meet("ag-1", "first") is None
    assert [view.hits for view in injector.active()] == [1]
    assert not meeting.lifted
    meeting.close()
    meeting.close()
    assert injector.active() == ()


def test_a_burst_limit_for_a_model_leaves_other_models_alone(injector: Injector) -> None:
    start(injector, at("ag-1"), BurstLimit(model="big"))
    assert injector.meet("ag-1", "first", "small") is None
    assert injector.meet("ag-1", "first", "big") is not None


def test_all_can_be_stopped_at_once(injector: Injector) -> None:
    start(injector, at("ag-1"), HttpStatus(500))
    start(injector, at("ag-2"), HttpStatus(500))
    assert injector.stop_all() == 2
    assert injector.stop_all() == 0
    assert injector.draw("ag-1", "first") is None


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (at("ag-11"), "there is no account ag-11; did you mean ag-1?"),
        (at("frist", S.POOL), "there is no pool frist; did you mean first?"),
        (at("gemni", S.PROVIDER), "there is no provider gemni; did you mean gemini?"),
        (at("ag-1", S.POOL), "there is no pool ag-1"),
    ],
)
def test_an_unknown_target_is_told_with_the_nearest_name(
    injector: Injector, target: DrillTarget, words: str
) -> None:
    with pytest.raises(ValueError, match="there is no") as error:
        start(injector, target, HttpStatus(500))
    assert str(error.value) == words
    assert not injector.armed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 0}, "share must be"),
        ({"share": 1.5}, "share must be"),
        ({"duration_s": 0}, "duration_s must be"),
        ({"duration_s": 901}, "at most 900"),
        ({"duration_s": float("nan")}, "duration_s must be"),
        ({"most_calls": 0}, "most_calls must be"),
        ({"fault": SlowFirstToken(float("inf"))}, "delay_s must be"),
        ({"fault": SilentEvents()}, "SilentEvents can't be played to account ag-1"),
        ({"fault": NoUsage()}, "NoUsage can't be played"),
        ({"fault": ToolMissing()}, "ToolMissing can't be played"),
        ({"fault": QuotaWall(), "target": at("gguf")}, "calls of kind local can't meet it"),
        ({"fault": ToolMissing(), "target": at("co-1")}, "choose the pool"),
        ({"fault": ToolMissing(), "target": at("local", S.POOL), "share": 0.5}, "all calls or for none"),
    ],
)
def test_what_no_drill_can_be_is_refused_in_a_sentence(
    injector: Injector, settings: dict[str, Any], words: str
) -> None:
    fields: dict[str, Any] = {"target": at("ag-1"), "fault": HttpStatus(500)} | settings
    with pytest.raises(ValueError, match=words):
        injector.start(Drill(**fields))
    assert injector.active() == ()
