"""``smartfallback simulate``."""

from __future__ import annotations

import asyncio
import secrets
import sys
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, Final

from smartfallback.cli import exit_codes
from smartfallback.cli.terminal import CommandError, answer, answer_json, one_line, run_async, tell
from smartfallback.config import ConfigError, RedisUrlError, choose_state, load_config, open_stores
from smartfallback.config.mistakes import nearest, one_of
from smartfallback.simulation.scenarios.loading import ALL, LoadedScenarios, available_scenarios
from smartfallback.simulation.scenarios.verdict import verdict_of
from smartfallback.simulation.scenarios.views import RunState, StepState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from smartfallback.config import StateSettings
    from smartfallback.model.specs import SystemSpec
    from smartfallback.simulation.scenarios.model import Scenario
    from smartfallback.simulation.scenarios.runner import Caps
    from smartfallback.simulation.scenarios.simulator import Simulator
    from smartfallback.simulation.scenarios.views import RunView

PACE: Final = 20.0
"""So many times as fast as usual the upstreams of the command's own demos answer."""
SIDE_BY_SIDE: Final = 3
"""So many scenarios run at once, each on a demo of its own."""
LARGEST_SEED: Final = 2**32 - 1
WORD: Final = "rehearse"
"""What is typed to let configured accounts be asked."""

_MARKS: Final = {StepState.PASSED: "ok", StepState.FAILED: "FAILED", StepState.SKIPPED: "skipped"}


def list_scenarios(*, as_json: bool) -> int:
    """Write which scenarios there are."""
    loaded = available_scenarios()
    if as_json:
        answer_json(
            [
                {
                    "scenario": scenario.name,
                    "title": scenario.title,
                    "about": scenario.about,
                    "edge_case": scenario.edge_case,
                    "source": scenario.source,
                    "steps": [step.title for step in scenario.steps],
                    "requests": scenario.most_requests,
                }
                for scenario in loaded.scenarios.values()
            ]
        )
    else:
        width = max(map(len, loaded.scenarios))
        for scenario in loaded.scenarios.values():
            answer(f"{scenario.name.ljust(width)}  {one_line(scenario.title)}\n")
    return _tell_mistakes(loaded)


def simulate(
    name: str,
    *,
    config: Path | None,
    redis_url: str | None = None,
    seed: int | None,
    yes: bool,
    as_json: bool,
    requests: int,
    tokens: int,
) -> int:
    """Run one scenario, or all of them, and write the verdicts.

    Raises:
        CommandError: Something of the input can't be used; nothing was sent.
    """
    try:
        code = _simulate(name, config, redis_url, seed, yes=yes, as_json=as_json, caps=(requests, tokens))
    except (Exception, KeyboardInterrupt):
        if as_json:
            answer_json([])  # whoever reads it finds no verdict, rather than no list
        raise
    if as_json and code > exit_codes.AFTER_SIGNAL:
        answer_json([])
    return code


def _simulate(
    name: str,
    config: Path | None,
    redis_url: str | None,
    seed: int | None,
    *,
    yes: bool,
    as_json: bool,
    caps: tuple[int, int],
) -> int:
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise CommandError(f"A seed is from 0 to {LARGEST_SEED}, not {seed}.", exit_codes.MISUSED)
    loaded = available_scenarios()
    chosen = _chosen(name, loaded)
    seed = secrets.randbelow(LARGEST_SEED + 1) if seed is None else seed
    told = _Told(show=not as_json, prefix=len(chosen) > 1)
    if config is None:
        if redis_url is not None:
            raise CommandError(
                "--redis-url is for configured accounts: name them with --config. "
                "Simulated ones share nothing, so that a verdict is about one instance.",
                exit_codes.MISUSED,
            )
        return run_async(lambda: _on_demos(chosen, seed, told, as_json=as_json))
    try:
        configured = load_config(config)
        state = choose_state(configured.state, redis_url)
    except (ConfigError, RedisUrlError) as error:
        raise CommandError(str(error), exit_codes.MISUSED) from None
    for warning in configured.warnings:
        tell(f"Warning: {warning}")
    if not yes:
        _confirm(configured.spec, chosen)
    return run_async(lambda: _on_accounts(chosen, configured.spec, state, seed, caps, told, as_json=as_json))


def _chosen(name: str, loaded: LoadedScenarios) -> list[Scenario]:
    if name == ALL:
        if _tell_mistakes(loaded) == exit_codes.MISUSED:
            raise CommandError("Correct these files first.", exit_codes.MISUSED)
        return list(loaded.scenarios.values())
    found = loaded.scenarios.get(name)
    for error in loaded.errors:
        if error.file.stem == name and found is None:
            raise CommandError(str(error), exit_codes.MISUSED)
        tell(f"Warning: {error.headline}")
    if found is None:
        names = [*loaded.scenarios, ALL]
        # "edge-2" is nearer to the whole name than its letters are.
        begun = next((each for each in names if name and each.startswith(name)), "")
        closest = f'did you mean "{begun}"?' if begun else nearest(name, names)
        raise CommandError(
            f"There is no scenario {one_of([name])}{f'; {closest}' if closest else '.'} "
            f"The scenarios are {one_of(names)}.",
            exit_codes.MISUSED,
        )
    return [found]


def _tell_mistakes(loaded: LoadedScenarios) -> int:
    for error in loaded.errors:
        tell(str(error))
    return exit_codes.MISUSED if loaded.errors else exit_codes.DONE


def _confirm(spec: SystemSpec, chosen: Sequence[Scenario]) -> None:
    most = sum(scenario.most_requests for scenario in chosen)
    count = sum(len(pool.accounts) for pool in spec.pools)
    tell(f"This sends up to {most} requests to your {count} configured accounts, which may cost something.")
    tell("All that happens to circuits, rests and quotas by it is put back at the end.")
    if not sys.stdin.isatty():
        raise CommandError("Nobody is there to confirm that; --yes does.", exit_codes.MISUSED)
    tell(f'Type "{WORD}" to begin:')
    if sys.stdin.readline().strip() != WORD:
        raise CommandError("Not confirmed; nothing was sent.", exit_codes.MISUSED)


# -- running --------------------------------------------------------------------------------


async def _on_demos(chosen: Sequence[Scenario], seed: int, told: _Told, *, as_json: bool) -> int:
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(scenario: Scenario) -> _Outcome:
        from smartfallback.simulation.demo import demo

        async with (
            room,
            demo(rng=Random(seed), weather=False, traffic=False, pace=PACE) as running,
        ):
            return await _run(running.simulator, scenario.name, seed, told)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(scenario)) for scenario in chosen]
    return _end([task.result() for task in tasks], as_json=as_json)


async def _on_accounts(
    chosen: Sequence[Scenario],
    spec: SystemSpec,
    state: StateSettings,
    seed: int,
    caps: tuple[int, int],
    told: _Told,
    *,
    as_json: bool,
) -> int:
    from smartfallback.clock import SystemClock
    from smartfallback.simulation.scenarios.history import RunHistory, default_history_path
    from smartfallback.simulation.scenarios.runner import Caps
    from smartfallback.simulation.scenarios.simulator import Simulator
    from smartfallback.simulation.scenarios.system import rehearsable

    async with AsyncExitStack() as stack:
        stores = open_stores(state)
        engine, injector = rehearsable(spec, store=stores.store, shared=stores.shared, sharing=stores.sharing)
        orchestrator = await stack.enter_async_context(engine)
        simulator = Simulator(
            orchestrator,
            injector,
            SystemClock(),
            Random(seed),
            scenarios={scenario.name: scenario for scenario in chosen},
            history=RunHistory(default_history_path()),
            confirm=True,
        )
        stack.push_async_callback(simulator.aclose)
        outcomes = []
        for scenario in chosen:
            outcomes.append(await _run(simulator, scenario.name, seed, told, Caps(*caps)))
    return _end(outcomes, as_json=as_json)


class _Outcome:
    """How one scenario ended: with a run, or for a reason for which it could not begin."""

    def __init__(self, name: str, run: RunView | None, lacking: str = "") -> None:
        self.name = name
        self.run = run
        self.lacking = lacking

    @property
    def passed(self) -> bool | None:
        return None if self.run is None else self.run.state is RunState.PASSED


async def _run(simulator: Simulator, name: str, seed: int, told: _Told, caps: Caps | None = None) -> _Outcome:
    try:
        simulator.start(name, seed=seed, caps=caps, confirmed=True)
    except ValueError as error:
        told.lacking(name, str(error))
        return _Outcome(name, None, str(error))
    waiting = asyncio.create_task(simulator.wait())
    try:
        while not waiting.done():
            await asyncio.wait((waiting,), timeout=0.1)
            current = simulator.view().current
            if current is not None:
                told.steps(current)
    finally:
        if not waiting.done():  # the command is interrupted: the run ends, and puts all back, before it does
            simulator.stop()
        await asyncio.gather(waiting, return_exceptions=True)
    run = waiting.result()
    if run is not None:
        told.steps(run)
        told.verdict(run)
    return _Outcome(name, run)


# -- telling --------------------------------------------------------------------------------


class _Told:
    """Tells people each step as it turns; says nothing when a program reads the verdicts."""

    def __init__(self, *, show: bool, prefix: bool) -> None:
        self._show = show
        self._prefix = prefix
        self._steps: dict[str, int] = {}

    def steps(self, run: RunView) -> None:
        done = self._steps.get(run.id + run.scenario, 0)
        for step in run.steps[done:]:
            if step.state not in _MARKS:
                break
            done += 1
            told = f"{step.title} ({step.duration_s:.1f} s)"
            self._line(run.scenario, f"  {_MARKS[step.state]:<7} ", told)
            for check in step.checks if step.state is StepState.FAILED else ():
                if check.passed is False:
                    self._line(run.scenario, " " * 10, f"expected: {check.expected}")
                    self._line(run.scenario, " " * 10, f"observed: {check.observed}")
        self._steps[run.id + run.scenario] = done

    def verdict(self, run: RunView) -> None:
        path = " → ".join(run.path) or "nobody was asked"
        note = f" ({run.note})" if run.note else ""
        where = f" (played on {run.played_on})" if run.played_on else ""
        told = f"{run.title}: {run.state.value}{note} in {run.duration_s:.1f} s; {path}{where}"
        self._line(run.scenario, "", told)

    def lacking(self, name: str, why: str) -> None:
        tell(one_line(f"{name}: not run: {why}"))

    def _line(self, scenario: str, mark: str, text: str) -> None:
        if self._show:
            head = f"{scenario}: " if self._prefix else ""
            answer(f"{head}{mark}{one_line(text)}\n")


def _end(outcomes: Sequence[_Outcome], *, as_json: bool) -> int:
    if as_json:
        answer_json([_as_json(outcome) for outcome in outcomes])
    verdicts = [outcome.passed for outcome in outcomes if outcome.passed is not None]
    if not as_json and len(outcomes) > 1:
        missing = len(outcomes) - len(verdicts)
        not_run = f", {missing} not run" if missing else ""
        answer(f"{sum(verdicts)} of {len(verdicts)} scenarios passed{not_run}.\n")
    if not verdicts:
        return exit_codes.MISUSED
    return exit_codes.DONE if all(verdicts) else exit_codes.FAILED


def _as_json(outcome: _Outcome) -> Mapping[str, object]:
    run = outcome.run
    if run is None:
        return {
            "scenario": outcome.name,
            "passed": None,
            "expected": "",
            "observed": "",
            "path": [],
            "answered_by": None,
            "duration_s": 0.0,
            "lacking": outcome.lacking,
        }
    verdict = verdict_of(run)
    return {
        "scenario": run.scenario,
        "passed": outcome.passed,
        "expected": verdict.expected,
        "observed": verdict.observed,
        "path": list(run.path),
        "answered_by": run.answered_by,
        "duration_s": round(run.duration_s, 3),
        "lacking": "",
        "failed_step": run.failed_step,
        "state": run.state.value,
        "note": run.note,
        "played_on": run.played_on,
        "seed": run.seed,
        "requests": run.requests,
        "tokens": run.tokens,
        "steps": [
            {
                "title": step.title,
                "state": step.state.value,
                "duration_s": round(step.duration_s, 3),
                "checks": [
                    {"expected": check.expected, "observed": check.observed, "passed": check.passed}
                    for check in step.checks
                ],
            }
            for step in run.steps
        ],
    }
