"""Plays one scenario on a running system and says, step by step, whether what was expected came about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from smartfallback.engine.rehearsal import Rehearsal
from smartfallback.model.commands import RefreshQuota
from smartfallback.simulation.drills.drill import SHARED_STORE, Drill, DrillScope, DrillTarget
from smartfallback.simulation.scenarios.asking import Asker, Asking
from smartfallback.simulation.scenarios.evidence import Evidence
from smartfallback.simulation.scenarios.judging import announced, holds, judge, settled
from smartfallback.simulation.scenarios.model import Expected, PlannedDrill, Role, Scenario, ScenarioStep
from smartfallback.simulation.scenarios.setting_up import SettingUp
from smartfallback.simulation.scenarios.store_watch import StoreWatch
from smartfallback.simulation.scenarios.verdict import Verdict, verdict_of
from smartfallback.simulation.scenarios.views import Check, RunState, RunView, StepState, StepView

if TYPE_CHECKING:
    from smartfallback.model.snapshot import Snapshot
    from smartfallback.simulation.scenarios.stage import Stage

LOOK_S: Final = 0.05
"""How often a state that is waited for is looked at."""
READINGS_S: Final = 6.0
"""How long the first answers of quota sources are waited for; they have five seconds each."""
MOST_S: Final = 180.0
"""No run takes longer."""


class Caps(NamedTuple):
    """What a run may send: so many requests, and no further one once it has used so many tokens."""

    requests: int = 200
    tokens: int = 100_000


class StandIn(NamedTuple):
    """Another system that a scenario can be played on.

    Attributes:
        open: Starts it for the time of a run.
        words: What it is.
    """

    open: Callable[[], AbstractAsyncContextManager[Stage]]
    words: str


class RunEnded(Exception):
    """The run ends before its verdict; the message says why."""


class _Before(NamedTuple):
    """What there was of a run when a step of it began.

    Attributes:
        met: Calls that had met drills.
        notices: Notices about the shared store.
    """

    met: int
    notices: int


@dataclass(slots=True)
class _Step:
    """A step as it goes."""

    plan: ScenarioStep
    state: StepState = StepState.PENDING
    checks: tuple[Check, ...] = ()
    began_at: float | None = None
    ended_at: float | None = None
    asking: Asking = field(default_factory=Asking)

    def view(self, now: float) -> StepView:
        since = now if self.began_at is None else self.began_at
        until = now if self.ended_at is None else self.ended_at
        return StepView(self.plan.title, self.state, self.checks, until - since)


class ScenarioRun:
    """One run. Use :meth:`run` once, on the engine's loop; :meth:`progress` at any time.

    Args:
        scenario: What is played.
        stage: Where.
        seed: Of all random choices of the run.
        caps: Limits of its traffic; none for simulated accounts.
        run_id: Unique in the process; the beginning of its requests' ids.
        stand_in: Where it is played in place of ``stage``, None to play it there.
    """

    def __init__(
        self,
        scenario: Scenario,
        stage: Stage,
        *,
        seed: int,
        caps: Caps | None = None,
        run_id: str = "rehearsal",
        stand_in: StandIn | None = None,
    ) -> None:
        self._scenario = scenario
        self._stage = stage
        self._stand_in = stand_in
        self._seed = seed
        self._caps = caps
        self._id = run_id
        self._rng = Random(seed)
        self._asker = Asker(stage, run_id, self._rng, self._changed)
        self._steps = [_Step(step) for step in scenario.steps]
        self._state = RunState.RUNNING
        self._note = ""
        self._started_at = time.time()
        self._began_at = time.monotonic()
        self._ended_at: float | None = None
        self._watch: StoreWatch | None = None
        self._drills: dict[str, PlannedDrill] = {}
        self._hits: dict[str, int] = {}
        self._accounts: dict[Role, frozenset[str]] = {}
        self.version = 0
        """Grows with every change of what :meth:`progress` tells."""

    async def run(self) -> Verdict:
        """Play the scenario to its verdict; however this ends, all is as it was before.

        Raises:
            ValueError: This system lacks something, or the caps are too low; in a sentence.
            CancelledError: The run was stopped.
        """
        self.check()
        try:
            if self._stand_in is None:
                await self._play()
            else:
                await self._play_elsewhere(self._stand_in)
        except RunEnded as ended:
            self._end(RunState.STOPPED, str(ended))
        except TimeoutError:
            self._end(RunState.STOPPED, f"not over after {MOST_S:g} s")
        except asyncio.CancelledError:
            self._end(RunState.STOPPED, "stopped")
            raise
        except BaseException as error:
            self._end(RunState.STOPPED, f"ended by {type(error).__name__}")
            raise
        return self.verdict()

    def check(self) -> None:
        """See whether the scenario can be played here.

        Raises:
            ValueError: It can't; in a sentence.
        """
        if self._stand_in is None:
            self._check_stage()
        most = self._scenario.most_requests
        if self._caps is not None and most > self._caps.requests:
            raise ValueError(
                f"{self._scenario.name} sends up to {most} requests, and {self._caps.requests} are allowed "
                "(--requests of the command allows more)"
            )

    def _check_stage(self) -> None:
        lacking = self._stage.lacking(self._scenario, self._stage.orchestrator.snapshot())
        if lacking:
            raise ValueError(f"{self._scenario.name} can't be run here: {lacking}")

    def refused(self, why: str) -> None:
        """It can't go on for the reason ``why``; says nothing of a run that is over."""
        if self._state is RunState.RUNNING:
            self._end(RunState.STOPPED, why)

    def progress(self) -> RunView:
        """How the run stands."""
        now = time.monotonic()
        replies = [reply for step in self._steps for reply in step.asking.replies]
        return RunView(
            id=self._id,
            scenario=self._scenario.name,
            title=self._scenario.title,
            state=self._state,
            steps=tuple(step.view(now) for step in self._steps),
            started_at=self._started_at,
            duration_s=(now if self._ended_at is None else self._ended_at) - self._began_at,
            seed=self._seed,
            path=self._path(),
            answered_by=replies[-1].account if replies else None,
            requests=sum(len(step.asking.asked) for step in self._steps),
            tokens=self._tokens(),
            note=self._note,
            played_on="" if self._stand_in is None else self._stand_in.words,
        )

    def verdict(self) -> Verdict:
        """What the run has shown, once it is over."""
        return verdict_of(self.progress())

    # -- the play ---------------------------------------------------------------------------

    async def _play_elsewhere(self, stand_in: StandIn) -> None:
        async with stand_in.open() as stage:
            self._stage = stage
            self._asker = Asker(stage, self._id, self._rng, self._changed)
            try:
                self._check_stage()
            except ValueError as error:
                raise RunEnded(str(error)) from None
            await self._play()

    async def _play(self) -> None:
        stage = self._stage
        for _ in range(round(READINGS_S / LOOK_S)):
            if stage.quotas_known(stage.orchestrator.snapshot()):
                break
            await asyncio.sleep(LOOK_S)
        snapshot = stage.orchestrator.snapshot()
        for role in stage.roles:
            self._accounts[role] = frozenset(each.id for each in stage.in_service(role, snapshot))
        pools = [pool for pool in stage.orchestrator.spec.pools if pool.name in stage.pools]
        held = [account.id for pool in pools for account in pool.accounts]
        if self._scenario.needs_store and stage.injector.store is not None:
            self._watch = StoreWatch(stage.orchestrator, stage.injector.store)
        try:
            with stage.orchestrator.rehearsal(held, {pool.provider_id for pool in pools}) as rehearsal:
                try:
                    async with asyncio.timeout(MOST_S):
                        await self._go_through(rehearsal)
                finally:
                    self._lift(tuple(self._drills))
        finally:
            if self._watch is not None:
                self._watch.close()
            self._ask_sources_anew(snapshot)

    async def _go_through(self, rehearsal: Rehearsal) -> None:
        setting_up = SettingUp(self._stage, rehearsal, self._accounts, self._rng)
        setting_up.make_fit()
        for step in self._steps:
            step.state, step.began_at = StepState.RUNNING, time.monotonic()
            self._changed()
            passed = await self._take(step, setting_up)
            step.state = StepState.PASSED if passed else StepState.FAILED
            step.ended_at = time.monotonic()
            self._changed()
            if not passed:
                self._end(RunState.FAILED)
                return
        self._end(RunState.PASSED)

    async def _take(self, step: _Step, setting_up: SettingUp) -> bool:
        plan = step.plan
        before_step = _Before(self._met(), 0 if self._watch is None else self._watch.notices())
        if plan.lift:
            self._lift(tuple(self._drills))
        setting_up.use(plan.usage)
        setting_up.act(plan.actions)
        later = sorted((each for each in plan.drills if each.after), key=lambda each: each.after)
        for planned in plan.drills:
            if not planned.after:
                self._start(planned)
        step.checks = announced(plan.expect, self._evidence(step, before_step))
        self._changed()
        if plan.wait_for is not None and not await self._comes_about(plan.wait_for, step, before_step):
            waited = judge(plan.wait_for, self._evidence(step, before_step))
            step.checks = tuple(replace(check, expected=f"first: {check.expected}") for check in waited)
            return False
        traffic = plan.traffic
        if traffic is not None:
            stop_when = traffic.stop_when

            def enough() -> bool:
                return stop_when is not None and holds(stop_when, self._evidence(step, before_step))

            def before() -> None:
                self._check_caps()
                setting_up.hold_usage()
                while later and len(step.asking.asked) >= later[0].after:
                    self._start(later.pop(0))

            try:
                await self._asker.ask(traffic, step.asking, enough, before)
            except* RunEnded as group:
                raise group.exceptions[0] from None
        passed = await self._comes_about(plan.expect, step, before_step)
        step.checks = judge(plan.expect, self._evidence(step, before_step))
        self._lift([name for name, planned in self._drills.items() if planned.lasts == "step"])
        return passed

    async def _comes_about(self, expected: Expected, step: _Step, before_step: _Before) -> bool:
        """Whether all of it is so within the step's limit; what was sent won't change any more."""
        until = time.monotonic() + step.plan.within_s
        while True:
            checks = judge(expected, self._evidence(step, before_step))
            final = not settled(expected, self._evidence(step, before_step))
            if expected is step.plan.expect and checks != step.checks:
                step.checks = checks
                self._changed()
            if all(check.passed for check in checks):
                return True
            if final or time.monotonic() >= until:
                return False
            await asyncio.sleep(LOOK_S)

    def _evidence(self, step: _Step, before_step: _Before) -> Evidence:
        snapshot = self._stage.orchestrator.snapshot()
        pools = {role: self._stage.pool_view(role, snapshot) for role in self._stage.roles}
        store = None
        if self._watch is not None:
            replies = [reply for each in self._steps for reply in each.asking.replies]
            store = self._watch.evidence(snapshot.store, replies, before_step.notices)
        met = self._met() - before_step.met
        return Evidence(step.asking, snapshot, pools, self._accounts, met, self._threshold(), store)

    def _ask_sources_anew(self, before: Snapshot) -> None:
        """Have quotas read again that could not be read, or that what was set has made forgotten."""
        for role, taking_part in self._accounts.items():
            for account in self._stage.pool_view(role, before).accounts:
                if account.quota_source and account.id in taking_part:
                    self._stage.orchestrator.execute(RefreshQuota(account.id))

    # -- drills -----------------------------------------------------------------------------

    def _start(self, planned: PlannedDrill) -> None:
        drill = Drill(
            SHARED_STORE if planned.on is None else self._target(planned, planned.on),
            planned.fault,
            planned.share,
            MOST_S,
            planned.most_calls,
            f"{self._scenario.name}",
        )
        try:
            view = self._stage.injector.start(drill)
        except ValueError as error:
            raise RunEnded(str(error)) from None
        self._drills[view.id] = planned
        self._hits[view.id] = 0

    def _target(self, planned: PlannedDrill, on: Role) -> DrillTarget:
        pool = self._stage.roles[on]
        name = {DrillScope.POOL: pool.name, DrillScope.PROVIDER: pool.provider_id}.get(planned.scope)
        if name is None:
            taking_part = [each.id for each in pool.accounts if each.id in self._accounts[on]]
            name = taking_part[(planned.account - 1) % len(taking_part)]
        return DrillTarget(planned.scope, name)

    def _lift(self, names: tuple[str, ...] | list[str]) -> None:
        self._met()
        for name in names:
            self._stage.injector.stop(name)
            self._drills.pop(name, None)

    def _met(self) -> int:
        """How many calls have met the run's drills."""
        active = {view.id: view.hits for view in self._stage.injector.active()}
        for name, planned in self._drills.items():
            # One that has touched as many calls as it may is gone by itself.
            self._hits[name] = active.get(name, planned.most_calls or self._hits[name])
        return sum(self._hits.values())

    def _threshold(self) -> int:
        providers = {
            pool.provider_id: pool.provider_circuit.failure_threshold
            for pool in (self._stage.roles[each.on] for each in self._drills.values() if each.on is not None)
        }
        return sum(providers.values())

    # -- telling ----------------------------------------------------------------------------

    def _check_caps(self) -> None:
        caps = self._caps
        if caps is None:
            return
        sent = sum(len(step.asking.asked) for step in self._steps)
        if sent >= caps.requests:
            raise RunEnded(f"the cap of {caps.requests} requests is reached")
        if self._tokens() >= caps.tokens:
            raise RunEnded(f"the cap of {caps.tokens} tokens is reached")

    def _tokens(self) -> int:
        return sum(reply.usage.total_tokens for step in self._steps for reply in step.asking.replies)

    def _path(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for step in self._steps for name in step.asking.accounts))

    def _end(self, state: RunState, note: str = "") -> None:
        self._state, self._note = state, note
        self._ended_at = time.monotonic()
        for step in self._steps:
            if step.state is StepState.RUNNING:
                step.state, step.ended_at = StepState.SKIPPED, self._ended_at
            elif step.state is StepState.PENDING:
                step.state = StepState.SKIPPED
        self._changed()

    def _changed(self) -> None:
        self.version += 1
