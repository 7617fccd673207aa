from __future__ import annotations

import pytest

from smartfallback import ConfigError
from smartfallback.simulation.faults import Flapping, Garbage, GarbageKind, HttpStatus
from smartfallback.simulation.scenarios.loading import built_in, load_scenario, load_scenarios
from smartfallback.simulation.scenarios.model import Role

GOOD = """
title = "Mine"
about = "What I fear."
[[steps]]
title = "It breaks"
drills = [
    { on = "first", fault = "http-status", status = 503, flapping = { period_s = 2.0 } },
    { on = "second", fault = "garbage", kind = "html" },
]
traffic = { requests = 3 }
expect = { answered = 1.0, answered_by = ["local"] }
"""


def test_an_own_scenario_is_read_with_its_faults(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    loaded = load_scenarios(tmp_path)
    assert loaded.mistakes == ()
    mine = loaded.scenarios["mine"]
    assert (mine.name, mine.source, mine.most_requests) == ("mine", str(tmp_path / "mine.toml"), 3)
    assert [drill.fault for drill in mine.drills] == [
        Flapping(HttpStatus(503), 2.0),
        Garbage(GarbageKind.HTML),
    ]
    assert mine.roles == (Role.FIRST, Role.SECOND, Role.LOCAL)


def test_every_mistake_is_reported_with_its_line_and_the_nearest_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """titel = "Mine"
about = 3
[[steps]]
title = "It breaks"
drills = [
    { on = "first", fault = "http-statsu", status = 503 },
    { on = "frist", fault = "http-status", status = 200 },
    { on = "first", fault = "burst-limit", retry_after = 1.0 },
]
traffic = { requests = 0 }
[steps.expect]
answered_by = ["thrid"]
provider_circuits = { first = "opened" }
most_tries = { frist = 1 }
[[steps]]
title = "No traffic"
expect = { answered = 1.0 }
"""
    )
    with pytest.raises(ConfigError) as caught:
        load_scenario(path)
    found = [(each.line, each.key, each.problem, each.suggestion) for each in caught.value.mistakes]
    lines = {key: line for line, key, _, _ in found}
    report = str(caught.value)
    assert (1, "titel", "unknown key", 'did you mean "title"?') in found
    assert lines["title"] == 1
    assert lines["about"] == 2
    assert (6, "steps[0].drills[0].fault", "there is no such fault", 'did you mean "http-status"?') in found
    assert lines["steps[0].drills[1].on"] == 7
    assert (
        8,
        "steps[0].drills[2].retry_after",
        "unknown key",
        'did you mean "retry_after_s"?',
    ) in found
    assert lines["steps[0].traffic.requests"] == 10
    assert lines["steps[0].expect.answered_by[0]"] == 12
    assert lines["steps[0].expect.provider_circuits.first"] == 13
    assert lines["steps[0].expect.most_tries.frist"] == 14
    assert report.count("did you mean") >= 6


def test_what_values_mean_to_each_other_is_checked_too(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """title = "Mine"
about = "x"
[[steps]]
title = "One"
expect = { answered = 1.0 }
[[steps]]
title = "Two"
traffic = { requests = 1 }
wait_for = { answered = 1.0 }
expect = { most_met = 1 }
[[steps]]
title = "Three"
drills = [{ on = "first", fault = "http-status", status = 200 }]
expect = {}
"""
    )
    with pytest.raises(ConfigError) as caught:
        load_scenario(path)
    problems = {each.problem for each in caught.value.mistakes}
    assert "is about requests, and the step sends none" in problems
    assert "is about requests, and none are sent while waiting" in problems
    assert "counts calls that meet a drill, and none is in force" in problems
    assert "expects nothing" in problems
    assert "status must be from 300 to 599, not 200" in problems


@pytest.mark.parametrize("where", ["expect", "wait_for", "traffic.stop_when"])
@pytest.mark.parametrize(
    ("nothing", "key"),
    [
        ("provider_circuits = {}", ".provider_circuits"),
        ("most_tries = {}", ".most_tries"),
        ("skipped = {}", ".skipped"),
        ("quota = {}", ".quota"),
        ("quota.first = {}", ".quota.first"),
        ("", ""),
    ],
)
def test_an_expectation_that_could_never_fail_is_a_mistake(tmp_path, where, nothing, key):
    path = tmp_path / "mine.toml"
    expect = "" if where == "expect" else "expect.answered = 1.0"
    path.write_text(
        f"""title = "Mine"
about = "x"
[[steps]]
title = "One"
traffic.requests = 1
{expect}
[steps.{where}]
{nothing}
"""
    )
    with pytest.raises(ConfigError) as caught:
        load_scenario(path)
    assert f"steps[0].{where}{key}" in {each.key for each in caught.value.mistakes}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("broken.toml", "title = ", "not valid TOML"),
        ("empty.toml", "", "is empty"),
        ("binary.toml", "\0", "is a binary file"),
        ("all.toml", GOOD, "is no name for a scenario"),
        ("Big Name.toml", GOOD, "is no name for a scenario"),
        ("edge-2-api-down.toml", GOOD, "a scenario that comes along has the name"),
    ],
)
def test_a_file_that_can_not_be_used_is_reported_and_the_others_are_there(tmp_path, name, content, problem):
    (tmp_path / "good.toml").write_text(GOOD)
    (tmp_path / name).write_text(content)
    loaded = load_scenarios(tmp_path)
    assert list(loaded.scenarios) == ["good"]
    assert len(loaded.errors) == 1
    assert problem in loaded.mistakes[0]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    loaded = load_scenarios(tmp_path / "nowhere")
    assert (dict(loaded.scenarios), loaded.errors) == ({}, ())


def test_scenarios_that_come_along_say_what_they_show():
    assert all(each.title and each.about and not each.source for each in built_in().values())
