"""What a seed decides beforehand: the system, its traffic, its faults, what its operator does."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from smartfallback.model.circuits import ACCOUNT_DEFAULT, PROVIDER, CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.commands import (
    CloseCircuit,
    Command,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    ForceFailover,
    OpenCircuit,
    ResetCircuit,
    Resume,
    SetCircuitMode,
    SetStrategy,
)
from smartfallback.model.quota import QuotaUnit, WindowKind, WindowSpec
from smartfallback.model.specs import (
    AccountSpec,
    ChainSpec,
    PoolSpec,
    ProviderKind,
    Recency,
    ReserveRule,
    Strategy,
    SystemSpec,
    Timeouts,
)
from smartfallback.simulation.policy_world.faults import LASTING, Episode, Trouble
from smartfallback.simulation.policy_world.timeline import STARTS_AT

WEEK_S: Final = 7 * 86_400.0
MONDAY: Final = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
"""The first moment of a Monday."""

_STRATEGIES: Final = tuple(Strategy)
_MODEL: Final = "large"
_CHEAPER: Final = "small"


@dataclass(frozen=True, slots=True)
class Plan:
    """One life of the world.

    Attributes:
        seed: Of all draws.
        spec: The accounts, pools and the one chain, ``default``.
        starts_at: Epoch seconds of the beginning.
        heals_at: Monotonic seconds at which faults and traffic end.
        per_s: Mean rate of requests over a day.
        pace: Mean seconds of a whole answer.
        output_tokens: The answer's limit that requests ask for is drawn up to this.
        cancelled: Share of requests whose caller goes away before the end.
        pinned: Share of requests that one account must answer.
        in_session: Share of requests that belong to one of a few sessions.
        hurried: Share of requests with a deadline of a few seconds.
        tick_s: Between two looks of the maintenance.
        episodes: The faults.
        commands: What the operator does when, in monotonic seconds.
        clock_steps: When the calendar's clock steps, and by how many seconds.
        used: Percent of the first window that accounts have used at the beginning.
    """

    seed: int
    spec: SystemSpec
    starts_at: float
    heals_at: float
    per_s: float
    pace: float
    output_tokens: int
    cancelled: float
    pinned: float
    in_session: float
    hurried: float
    tick_s: float
    episodes: tuple[Episode, ...]
    commands: tuple[tuple[float, Command], ...]
    clock_steps: tuple[tuple[float, float], ...]
    used: tuple[tuple[str, float], ...]


def schedule(seed: int) -> Plan:
    """A short, rough life: a small random system, a few minutes of traffic, several faults at once."""
    rng = random.Random(f"schedule {seed}")
    lasts_s = rng.choice((60.0, 150.0, 400.0))
    heals_at = STARTS_AT + lasts_s
    spec = _system(rng)
    # Half of them begin shortly before the quota week ends.
    starts_at = MONDAY + (
        WEEK_S - 86_400.0 - rng.uniform(0, 1.2 * lasts_s) if rng.random() < 0.5 else 43_200.0
    )
    accounts = tuple(account.id for pool in spec.pools for account in pool.accounts)
    steps = tuple(
        (rng.uniform(STARTS_AT, heals_at), rng.choice((-3_600.0, -90.0, -5.0, 5.0, 90.0, 3_600.0)))
        for _ in range(rng.choice((0, 0, 1, 2)))
    )
    return Plan(
        seed=seed,
        spec=spec,
        starts_at=starts_at,
        heals_at=heals_at,
        per_s=rng.choice((60, 90, 130)) / lasts_s,
        pace=rng.choice((0.5, 2.0, 6.0)),
        output_tokens=rng.choice((200, 1_000)),
        cancelled=rng.choice((0.0, 0.05, 0.2)),
        pinned=rng.choice((0.0, 0.1)),
        in_session=rng.choice((0.0, 0.5)),
        hurried=rng.choice((0.0, 0.1)),
        tick_s=rng.choice((0.5, 2.0)) * lasts_s / 60.0,
        episodes=_episodes(rng, spec, heals_at, rng.randint(1, 6), (0.05, 0.6)),
        commands=_commands(rng, spec, heals_at, rng.choice((0, 2, 6))),
        clock_steps=steps,
        used=tuple(
            (name, rng.choice((0.0, 40.0, 78.0, 90.0, 94.0))) for name in accounts if rng.random() < 0.3
        ),
    )


def week(seed: int, *, requests: int = 100_000) -> Plan:
    """A week of an ordinary system: eight accounts in one pool, faults and an operator now and then."""
    rng = random.Random(f"week {seed}")
    heals_at = STARTS_AT + WEEK_S
    each = 1.3 * requests * 900.0 / 8.0
    quota = (
        WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, max(100_000, round(each)), "sun 00:00 UTC"),
        WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.REQUESTS, max(60, round(requests / 8.0 / 12.0))),
    )
    pool = PoolSpec(
        name="antigravity",
        provider=ProviderKind.GEMINI,
        provider_id="gemini",
        accounts=tuple(AccountSpec(f"ag-{n}", quota=quota, max_concurrency=4) for n in range(1, 9)),
        model=_MODEL,
        strategy=_STRATEGIES[seed % len(_STRATEGIES)],
        timeouts=Timeouts(first_token_s=20.0, adaptive_first_token=False),
    )
    spec = SystemSpec((pool,), (ChainSpec("default", (pool.name,)),), simulated=True)
    return Plan(
        seed=seed,
        spec=spec,
        starts_at=MONDAY,
        heals_at=heals_at,
        per_s=requests / WEEK_S,
        pace=6.0,
        output_tokens=1_000,
        cancelled=0.01,
        pinned=0.01,
        in_session=0.3,
        hurried=0.01,
        tick_s=60.0,
        episodes=_episodes(rng, spec, heals_at, 40, (300 / WEEK_S, 3_600 / WEEK_S)),
        commands=_commands(rng, spec, heals_at, 40),
        clock_steps=tuple(
            (rng.uniform(STARTS_AT, heals_at), rng.choice((-40.0, -3.0, 3.0, 40.0))) for _ in range(4)
        ),
        used=(),
    )


def _system(rng: random.Random) -> SystemSpec:
    pools: list[PoolSpec] = []
    for index in range(rng.choice((1, 1, 2, 3))):
        account_circuit = replace(
            ACCOUNT_DEFAULT,
            failure_threshold=rng.choice((1, 3)),
            window_s=rng.choice((20.0, 300.0)),
            recovery_timeout_s=rng.choice((5.0, 30.0)),
            max_recovery_timeout_s=60.0,
            rate_limit_recovery_s=rng.choice((5.0, 30.0)),
            half_open_max_calls=rng.choice((1, 1, 2)),
            success_threshold=rng.choice((1, 2)),
            probe_lease_s=rng.choice((4.0, 120.0)),
        )
        provider_circuit = replace(
            PROVIDER,
            recovery_timeout_s=rng.choice((5.0, 20.0)),
            max_recovery_timeout_s=60.0,
            slow_call_s=rng.choice((3.0, 60.0)),
            min_calls=rng.choice((3, 10)),
        )
        name = f"p{index}"
        provider = name if index == 0 or rng.random() < 0.7 else pools[0].provider_id
        projects = rng.random() < 0.3
        most = rng.choice((1, 2, 4))
        quota = _quota(rng)
        pools.append(
            PoolSpec(
                name=name,
                provider=ProviderKind.OPENAI,
                provider_id=provider,
                accounts=tuple(
                    AccountSpec(
                        f"{name}-{n}",
                        quota=quota,
                        max_concurrency=most,
                        project=f"{name}-project-{n % 2}" if projects else None,
                    )
                    for n in range(rng.randint(1, 4))
                ),
                model=_MODEL,
                strategy=rng.choice(_STRATEGIES),
                hybrid=replace(
                    PoolSpec("", ProviderKind.OPENAI, "", ()).hybrid, recency=rng.choice(tuple(Recency))
                ),
                reserve=rng.choice(tuple(ReserveRule)),
                account_circuit=account_circuit,
                provider_circuit=provider_circuit,
                timeouts=Timeouts(
                    first_token_s=rng.choice((2.0, 10.0)), idle_s=5.0, adaptive_first_token=False
                ),
                burst_cooldown_s=rng.choice((0.5, 5.0)),
                cheaper_model=rng.choice(("", "", _CHEAPER)),
                failed_model_s=rng.choice((0.0, 10.0)),
                adaptive_concurrency=rng.random() < 0.7,
            )
        )
    chain = ChainSpec(
        "default",
        tuple(pool.name for pool in pools),
        timeout_s=rng.choice((15.0, 60.0)),
        switch_on_content_filter=rng.random() < 0.5,
        hedge_after_s=rng.choice((None, None, 1.0)),
    )
    return SystemSpec(tuple(pools), (chain,), simulated=True)


def _quota(rng: random.Random) -> tuple[WindowSpec, ...]:
    week = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, rng.choice((20_000.0, 200_000.0)), "sun 00:00 UTC")
    hours = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.REQUESTS, rng.choice((40.0, 500.0)))
    return rng.choice(((), (week,), (hours,), (week, hours)))


def _episodes(
    rng: random.Random, spec: SystemSpec, heals_at: float, count: int, lengths: tuple[float, float]
) -> tuple[Episode, ...]:
    whole_s = heals_at - STARTS_AT
    episodes = []
    for _ in range(count):
        trouble = rng.choice(tuple(Trouble))
        pool = rng.choice(spec.pools)
        names = [account.id for account in pool.accounts]
        of_all = rng.random() < 0.4 and trouble not in LASTING
        accounts = () if of_all else tuple(sorted(rng.sample(names, rng.randint(1, min(2, len(names))))))
        begins = STARTS_AT + whole_s * rng.random() * 0.9
        ends = min(heals_at, begins + whole_s * rng.uniform(*lengths))
        share = rng.choice((0.3, 0.7, 1.0))
        episodes.append(Episode(trouble, accounts, pool.provider_id, begins, ends, share))
    return tuple(episodes)


def _commands(
    rng: random.Random, spec: SystemSpec, heals_at: float, count: int
) -> tuple[tuple[float, Command], ...]:
    """Commands in pairs: what is done is undone some time later, if not by the healing."""
    whole_s = heals_at - STARTS_AT
    commands: list[tuple[float, Command]] = []
    for _ in range(count):
        pool = rng.choice(spec.pools)
        name = rng.choice(pool.accounts).id
        target = (
            CircuitTarget(CircuitScope.PROVIDER, pool.provider_id)
            if rng.random() < 0.25
            else CircuitTarget(CircuitScope.ACCOUNT, name)
        )
        lasts_s = min(7_200.0, whole_s * rng.uniform(0.05, 0.4))
        ends_itself = lasts_s if rng.random() < 0.5 else None
        mode = rng.choice((CircuitState.DISABLED, CircuitState.OBSERVE_ONLY, CircuitState.HALF_OPEN))
        close = CloseCircuit(target, "over")
        pairs: tuple[tuple[Command, Command], ...] = (
            (Drain(name, "update"), Resume(name)),
            (Drain(name, "update"), Resume(name)),
            (Disable(name, "test"), Enable(name)),
            (OpenCircuit(target, "test", ends_itself), close),
            (ForceFailover(target, "test", ends_itself), close),
            (SetCircuitMode(target, mode, "test"), close),
            (ResetCircuit(target, "test"), Enable(name)),
            (SetStrategy(pool.name, rng.choice(_STRATEGIES)), SetStrategy(pool.name, pool.strategy)),
            (CorrectQuota(name, rng.choice((10.0, 85.0, 100.0))), CorrectQuota(name, 5.0)),
        )
        do, undo = rng.choice(pairs)
        at = STARTS_AT + whole_s * rng.random()
        commands += [(at, do), (at + lasts_s, undo)]
    return tuple(sorted((pair for pair in commands if pair[0] < heals_at), key=lambda pair: pair[0]))
