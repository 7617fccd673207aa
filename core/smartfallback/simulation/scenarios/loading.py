"""Scenario files: those that come along, and the user's own, with every mistake in one report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smartfallback.config.loading import parse_toml, read_text
from smartfallback.config.locate import default_config_path
from smartfallback.config.locations import Locations
from smartfallback.config.mistakes import ConfigError, Mistake, Report, nearest

if TYPE_CHECKING:
    from smartfallback.config.locations import KeyPath
    from smartfallback.simulation.scenarios.model import PlannedDrill, Scenario

ALL: Final = "all"
"""No scenario has this name: it stands for every one."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LIBRARY: Final = Path(__file__).parent / "library"
_START: Final = "the scenarios that come along are examples"


@dataclass(frozen=True, slots=True)
class LoadedScenarios:
    """The scenarios of a folder that can be run, and what is wrong with its other files."""

    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    errors: tuple[ConfigError, ...] = ()

    @property
    def mistakes(self) -> tuple[str, ...]:
        """Each mistake with its place, in words."""
        return tuple(str(mistake) for error in self.errors for mistake in error.mistakes)


@cache
def built_in() -> Mapping[str, Scenario]:
    """The scenarios that come along: the six edge cases in their order, then the others by name."""
    found = [load_scenario(path) for path in sorted(_LIBRARY.glob("*.toml"))]
    found.sort(key=lambda scenario: (scenario.edge_case or 99, scenario.name))
    return {scenario.name: scenario for scenario in found}


def user_folder() -> Path:
    """``scenarios`` beside the user's configuration."""
    return default_config_path().parent / "scenarios"


def load_scenarios(folder: Path) -> LoadedScenarios:
    """The scenarios of ``*.toml`` files in ``folder``; a folder that is not there holds none.

    A file that has mistakes is left out and reported, and so is one with the name of a scenario that
    comes along.
    """
    scenarios: dict[str, Scenario] = {}
    errors: list[ConfigError] = []
    try:
        paths = sorted(folder.glob("*.toml"))
    except OSError:
        paths = []
    for path in paths:
        try:
            scenario = load_scenario(path, source=str(path))
        except ConfigError as error:
            errors.append(error)
            continue
        if scenario.name in built_in():
            problem = f"a scenario that comes along has the name {scenario.name!r}"
            errors.append(ConfigError(path, [Mistake(path, None, "", problem, suggestion="rename the file")]))
        else:
            scenarios[scenario.name] = scenario
    return LoadedScenarios(scenarios, tuple(errors))


def available_scenarios(folder: Path | None = None) -> LoadedScenarios:
    """Those that come along, then the user's own."""
    own = load_scenarios(user_folder() if folder is None else folder)
    return LoadedScenarios({**built_in(), **own.scenarios}, own.errors)


def load_scenario(path: Path, *, source: str = "") -> Scenario:
    """Read and check one file; its name without the ending is the scenario's.

    Raises:
        ConfigError: With every mistake in it.
    """
    text = read_text(path, start_over=_START)
    document = parse_toml(path, text)
    report = Report(path, document, Locations(text))

    # pydantic is loaded here because only those pay for it who rehearse something.
    from pydantic import ValidationError

    from smartfallback.config.explain import explain
    from smartfallback.simulation.scenarios.model import Scenario
    from smartfallback.simulation.scenarios.schema import ScenarioFile

    name = path.stem
    if not _NAME.fullmatch(name) or name == ALL:
        report.mistake(
            (), f"the file's name is no name for a scenario: {name!r}", allowed='such as "my-outage.toml"'
        )
    checked: ScenarioFile | None = None
    try:
        checked = ScenarioFile.model_validate(document)
    except ValidationError as error:
        explain(error, report, ScenarioFile)
    drills = _drills(document, report)
    if checked is not None:
        _check_meaning(checked, report)
    if report.mistakes or checked is None:
        raise ConfigError(path, report.sorted_mistakes())
    steps = tuple(step.made(made) for step, made in zip(checked.steps, drills, strict=True))
    return Scenario(name, checked.title, checked.about, steps, checked.edge_case, source)


def _drills(document: Mapping[str, object], report: Report) -> list[tuple[PlannedDrill, ...]]:
    """The drills of each step, in whatever state the rest of the file is."""
    steps = document.get("steps")
    found: list[tuple[PlannedDrill, ...]] = []
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        raw = step.get("drills") if isinstance(step, dict) else None
        planned = [
            _drill(("steps", index, "drills", place), each, report)
            for place, each in enumerate(raw if isinstance(raw, list) else ())
            if isinstance(each, dict)
        ]
        found.append(tuple(drill for drill in planned if drill is not None))
    return found


def _drill(path: KeyPath, raw: dict[str, Any], report: Report) -> PlannedDrill | None:
    from pydantic import ValidationError

    from smartfallback.config.explain import explain
    from smartfallback.simulation.scenarios.schema import FAULTS, DrillTable, drill_table

    name = raw.get("fault")
    table = drill_table(name) if isinstance(name, str) else None
    if table is None:
        if isinstance(name, str):
            report.mistake(
                (*path, "fault"),
                "there is no such fault",
                allowed=", ".join(FAULTS),
                suggestion=nearest(name, FAULTS),
            )
            raw = {key: raw[key] for key in DrillTable.model_fields if key in raw}
        table = DrillTable
    try:
        checked = table.model_validate(raw)
        return None if name not in FAULTS else checked.made()
    except ValidationError as error:
        explain(error, report, table, at=path)
    except ValueError as error:
        report.mistake(path, str(error))
    return None


def _check_meaning(checked: Any, report: Report) -> None:
    """What values mean to each other."""
    in_force = False
    for index, step in enumerate(checked.steps):
        place: KeyPath = ("steps", index)
        in_force = (in_force and not step.lift) or bool(step.drills)
        expected = step.expect
        if not step.traffic and (asked := _about_requests(expected.made().given)):
            report.mistake(
                (*place, "expect", asked[0]),
                "is about requests, and the step sends none",
                suggestion="add [steps.traffic]",
            )
        for where, table in _expectations(step):
            if not table.made().given:
                report.mistake((*place, *where), "expects nothing", suggestion="say what has to be observed")
            for role, quota in (table.quota or {}).items():
                if not any(each is not None for each in quota.made()):
                    report.mistake(
                        (*place, *where, "quota", role.value),
                        "expects nothing",
                        allowed=", ".join(type(quota).model_fields),
                    )
        sent = step.traffic.requests if step.traffic else 0
        for place_of, drill in enumerate(step.drills):
            after = drill.get("after", 0)
            if isinstance(after, int) and after and after >= sent:
                report.mistake(
                    (*place, "drills", place_of, "after"), "would never begin", allowed=f"below {sent}"
                )
        if not in_force and not {"most_met", "least_met"}.isdisjoint(expected.made().given):
            report.mistake((*place, "expect"), "counts calls that meet a drill, and none is in force")
        if step.wait_for and (asked := _about_requests(step.wait_for.made().given)):
            report.mistake(
                (*place, "wait_for", asked[0]),
                "is about requests, and none are sent while waiting",
                allowed="states only",
            )
        in_force = in_force and any(
            drill.get("lasts", "scenario") == "scenario"
            for other in checked.steps[: index + 1]
            for drill in other.drills
        )


def _expectations(step: Any) -> list[tuple[KeyPath, Any]]:
    """All that is compared with what is observed: what holds of nothing would hold always."""
    found: list[tuple[KeyPath, Any]] = [(("expect",), step.expect)]
    if step.wait_for:
        found.append((("wait_for",), step.wait_for))
    if step.traffic and step.traffic.stop_when:
        found.append((("traffic", "stop_when"), step.traffic.stop_when))
    return found


def _about_requests(given: tuple[str, ...]) -> list[str]:
    from smartfallback.simulation.scenarios.judging import ABOUT_REQUESTS

    return [name for name in given if name in ABOUT_REQUESTS]
