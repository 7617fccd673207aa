"""Fixed snapshots and events for the console: one of each state that an operator can meet."""

from __future__ import annotations

from dataclasses import replace

from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.decisions import AdminState, Decision, Rule, ScoreTerms, Skip, SkipReason, Tier
from smartfallback.model.events import (
    Actor,
    AdminChanged,
    AttemptFailed,
    AttemptStarted,
    CircuitChanged,
    CooldownStarted,
    Event,
    RequestCancelled,
    RequestDegraded,
    RequestFailed,
    RequestFinished,
    RequestRouted,
)
from smartfallback.model.outcomes import AttemptRecord, AttemptResult, ErrorCategory, Failure, NextStep
from smartfallback.model.quota import QuotaThresholds, QuotaUnit, TruthLabel, WindowKind
from smartfallback.model.requests import Degradation, DegradationKind, Origin, Reply, Usage
from smartfallback.model.sharing import InstanceView, SharingMode, StoreKind, StoreView
from smartfallback.model.snapshot import (
    AccountView,
    ChainView,
    CircuitView,
    FairnessView,
    ForecastView,
    LatencyView,
    PoolView,
    QuotaView,
    Snapshot,
    TrafficView,
    WindowView,
)
from smartfallback.model.specs import ProviderKind, Strategy
from support.clock import EPOCH

NOW = EPOCH
DAY = 86_400.0


def circuit(
    name: str,
    state: CircuitState = CircuitState.CLOSED,
    *,
    scope: CircuitScope = CircuitScope.ACCOUNT,
    until: float | None = None,
    cause: str = "",
    failures: int = 0,
    calls: int = 212,
    success_rate: float | None = 0.992,
) -> CircuitView:
    return CircuitView(
        CircuitTarget(scope, name), state, NOW - 400.0, until, cause, failures, calls, success_rate, 0, 1
    )


def window(
    percent: float | None,
    *,
    kind: WindowKind = WindowKind.WEEK,
    limit: float = 5_000_000.0,
    held: float = 0.0,
    label: TruthLabel = TruthLabel.MEASURED,
    read_ago: float | None = 3.0,
    resets_in: float | None = 5 * DAY + 11 * 3600,
    unit: QuotaUnit = QuotaUnit.TOKENS,
) -> WindowView:
    return WindowView(
        kind,
        unit,
        limit,
        0.0 if percent is None else limit * percent / 100,
        limit * held / 100,
        percent,
        held,
        label,
        None if read_ago is None else NOW - read_ago,
        None if resets_in is None else NOW + resets_in,
    )


def forecast(runs_out_in: float | None, *, lasts: bool | None) -> ForecastView | None:
    if runs_out_in is None:
        return None if lasts is None else ForecastView(0, 4_100.0, None, None, None, lasts)
    at = NOW + runs_out_in
    return ForecastView(0, 61_000.0, at, NOW + runs_out_in * 0.7, NOW + runs_out_in * 1.6, lasts=False)


def account(
    name: str,
    quota: WindowView | None,
    *,
    pool: str = "antigravity",
    provider: ProviderKind = ProviderKind.GEMINI,
    model: str = "gemini-2.5-flash",
    admin: AdminState = AdminState.ACTIVE,
    admin_reason: str = "",
    attention: str = "",
    circuit_view: CircuitView | None = None,
    cooldown: float | None = None,
    in_flight: int = 0,
    used_ago: float | None = 4.0,
    requests: int = 412,
    failures: int = 2,
    skip: tuple[SkipReason, str] | None = None,
    skip_until: float | None = None,
    runs_out_in: float | None = None,
    lasts: bool | None = None,
) -> AccountView:
    return AccountView(
        name,
        pool,
        provider,
        provider.value,
        model,
        admin,
        admin_reason,
        attention,
        QuotaView(
            () if quota is None else (quota,),
            None if quota is None else 0,
            QuotaThresholds().status(quota.percent if quota else None),
            forecast=forecast(runs_out_in, lasts=lasts),
        ),
        circuit_view or circuit(name),
        (),
        None if cooldown is None else NOW + cooldown,
        "" if cooldown is None else "429: retry after 30 s",
        in_flight,
        8,
        None if used_ago is None else NOW - used_ago,
        requests,
        failures,
        requests * 840,
        None if skip is None else Skip(name, pool, skip[0], skip[1], skip_until),
    )


def antigravity_accounts() -> tuple[AccountView, ...]:
    return (
        account("ag-1", window(41.2, held=3.0), in_flight=2, used_ago=1, lasts=True),
        account("ag-2", window(38.7, held=1.5), in_flight=1, used_ago=2, requests=407, runs_out_in=2.2 * DAY),
        account(
            "ag-3",
            window(84.6, label=TruthLabel.REPORTED, read_ago=190),
            used_ago=340,
            requests=520,
            skip=(SkipReason.SOFT_LIMIT, "84.6 % of week"),
        ),
        account(
            "ag-4",
            window(97.1),
            used_ago=900,
            requests=611,
            skip=(SkipReason.HARD_LIMIT, "97.1 % of week"),
            skip_until=NOW + 5 * DAY,
        ),
        account(
            "ag-5",
            window(52.3),
            admin=AdminState.DRAINED,
            admin_reason="key rotation",
            used_ago=1_260,
            requests=388,
            skip=(SkipReason.DRAINED, "key rotation"),
        ),
        account(
            "ag-6",
            window(47.9),
            circuit_view=circuit(
                "ag-6", CircuitState.OPEN, until=NOW + 103, cause="3 failures in 300 s", failures=3
            ),
            used_ago=17,
            failures=9,
            skip=(SkipReason.CIRCUIT, "3 failures in 300 s"),
            skip_until=NOW + 103,
        ),
        account(
            "ag-7",
            window(44.0, held=2.0),
            circuit_view=circuit("ag-7", CircuitState.HALF_OPEN, cause="429", failures=1),
            in_flight=1,
            used_ago=1,
            requests=399,
        ),
        account(
            "ag-8",
            window(61.4, label=TruthLabel.LEARNED, read_ago=45),
            cooldown=24.0,
            used_ago=6,
            skip=(SkipReason.COOLDOWN, "429: retry after 30 s"),
            skip_until=NOW + 24,
        ),
    )


def pools() -> tuple[PoolView, ...]:
    copilot = {
        "pool": "copilot",
        "provider": ProviderKind.COPILOT,
        "model": "gpt-4o",
    }
    month = WindowKind.MONTH
    return (
        PoolView(
            "antigravity",
            ProviderKind.GEMINI,
            "gemini",
            "gemini-2.5-flash",
            Strategy.HYBRID,
            antigravity_accounts(),
            circuit("gemini", scope=CircuitScope.PROVIDER),
            FairnessView(0.131, 0.142, 0.038, alarm=False),
            "",
        ),
        PoolView(
            "copilot",
            ProviderKind.COPILOT,
            "copilot",
            "gpt-4o",
            Strategy.ROUND_ROBIN,
            (
                account(
                    "copilot-work",
                    window(22.0, kind=month, unit=QuotaUnit.REQUESTS, limit=300, resets_in=28 * DAY),
                    requests=61,
                    used_ago=95,
                    **copilot,  # type: ignore[arg-type]  # one value a keyword
                ),
                account(
                    "copilot-home",
                    window(80.0, kind=month, label=TruthLabel.ESTIMATED, read_ago=None, resets_in=None),
                    requests=12,
                    used_ago=4_000,
                    **copilot,  # type: ignore[arg-type]  # one value a keyword
                ),
            ),
            circuit("copilot", scope=CircuitScope.PROVIDER),
            FairnessView(0.335, 0.31, 0.402, alarm=True),
            "",
        ),
        PoolView(
            "opencode",
            ProviderKind.OPENCODE,
            "opencode",
            "claude-sonnet",
            Strategy.STICKY,
            (
                account(
                    "opencode",
                    window(None, label=TruthLabel.UNKNOWN, read_ago=None, resets_in=None),
                    pool="opencode",
                    provider=ProviderKind.OPENCODE,
                    model="claude-sonnet",
                    requests=9,
                    used_ago=8_000,
                ),
            ),
            circuit("opencode", scope=CircuitScope.PROVIDER),
            FairnessView(None, None, None, alarm=False),
            "",
        ),
        PoolView(
            "local",
            ProviderKind.LOCAL,
            "local",
            "tiny-demo.gguf",
            Strategy.LRU,
            (
                account(
                    "gguf",
                    None,
                    pool="local",
                    provider=ProviderKind.LOCAL,
                    model="tiny-demo.gguf",
                    requests=0,
                    used_ago=None,
                ),
            ),
            circuit("local", scope=CircuitScope.PROVIDER),
            FairnessView(None, None, None, alarm=False),
            "",
        ),
    )


BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 8.0, 12.0, 20.0, 40.0)


def snapshot(*, at: float = NOW, version: int = 1, degraded: str = "", simulated: bool = True) -> Snapshot:
    return Snapshot(
        version,
        at,
        simulated,
        (
            ChainView("default", ("antigravity", "copilot", "opencode", "local"), degraded),
            ChainView("fast", ("copilot", "local"), ""),
        ),
        pools(),
        LatencyView(
            BOUNDS, (0, 2, 5, 11, 19, 40, 61, 52, 38, 22, 14, 9, 6, 5, 3, 2, 1, 0, 0, 0), 0.78, 2.31, 4.62
        ),
        LatencyView(
            BOUNDS, (1, 18, 52, 71, 48, 30, 12, 6, 4, 3, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0), 0.27, 0.81, 1.74
        ),
        TrafficView(
            4,
            3.4,
            1_480.0,
            0.994,
            0.041,
            18_204,
            37,
            tuple(float(v) for v in (2, 3, 3, 4, 2, 3, 5, 4, 3, 2, 3, 4, 6, 5, 4, 3, 3, 2, 4, 3) * 3),
            tuple(float(v) for v in (0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0) * 3),
        ),
        (
            ("antigravity", (0.09, 0.08, 0.06, 0.05, 0.05, 0.04, 0.04, 0.035, 0.04, 0.04, 0.038)),
            ("copilot", (0.0, 0.1, 0.2, 0.28, 0.3, 0.33, 0.38, 0.402)),
        ),
    )


def instance(
    name: str,
    *,
    up: float = 3 * 3600.0,
    heard: float = 0.4,
    in_flight: int = 2,
    rate: float = 3.4,
    here: bool = False,
) -> InstanceView:
    return InstanceView(f"{name[:12]}-1f09", name, "0.1.0", NOW - up, NOW - heard, in_flight, rate, here)


INSTANCES = (
    instance("desk", here=True),
    instance("build-server", up=5 * DAY + 7 * 3600, heard=0.9, in_flight=31, rate=84.2),
    instance("laptop", up=95.0, heard=9.0, in_flight=1, rate=0.2),
    instance("night-batch", up=40.0, heard=1.2, in_flight=0, rate=0.0),
)
"""Four that share a store; one of them is silent."""

_REDIS = StoreView(
    StoreKind.REDIS, "redis://10.0.0.5:6379/0", SharingMode.LEASED, 0.000_31, None, "", 0, INSTANCES
)

STORES = {
    "memory": StoreView(),
    "file": StoreView(StoreKind.SQLITE, "~/.local/state/smartfallback/state.db"),
    "full disk": StoreView(
        StoreKind.SQLITE,
        "~/.local/state/smartfallback/state.db",
        degraded_since=NOW - 75.0,
        trouble="database or disk is full",
        unsent=9,
    ),
    "redis": _REDIS,
    "slow": replace(
        _REDIS,
        mode=SharingMode.STRICT,
        lag_s=0.212,
        degraded_since=NOW - 4.0,
        trouble="it takes longer than 50 ms to answer",
        unsent=1,
        slow=True,
    ),
    "down": replace(
        _REDIS,
        lag_s=None,
        degraded_since=NOW - 12.0,
        trouble="connection refused",
        unsent=1_240,
    ),
}
"""How a store can be."""


def stored(how: str = "redis", *, degraded: str = "", simulated: bool = False) -> Snapshot:
    """A snapshot whose state is kept as one of :data:`STORES`, with quota held by other instances."""
    base = snapshot(degraded=degraded, simulated=simulated)
    view = replace(base, store=STORES[how])
    if STORES[how].kind is not StoreKind.REDIS:
        return view
    first = base.pools[0]
    accounts = tuple(
        replace(
            item,
            quota=replace(
                item.quota,
                windows=tuple(replace(it, elsewhere=it.limit * 0.08) for it in item.quota.windows),
            ),
        )
        for item in first.accounts
    )
    return replace(view, pools=(replace(first, accounts=accounts), *base.pools[1:]))


HOSTILE_NAMES = (
    "[/bold][@click=app.quit]x[/]",
    "👩‍💻 émoji-café",
    "حساب-رئيسي\u202eevil",
    "n" * 200,
    "ctrl\x1b[2J\x07\x00\nnew",
    "日本語アカウント",
    "[red]",
    "\\[",
)
"""Names that try to be markup, to turn the line round, to move the cursor and to overflow."""


def hostile_store() -> Snapshot:
    """Instances with such names, on a store whose place and trouble are of that kind too."""
    instances = tuple(
        instance(name, here=not place, heard=9.0 if place % 2 else 0.5)
        for place, name in enumerate(HOSTILE_NAMES)
    )
    text = " ".join(HOSTILE_NAMES)
    view = replace(STORES["down"], instances=instances, place=text, trouble=text)
    return replace(snapshot(), store=view)


def hostile_snapshot() -> Snapshot:
    """Accounts with such names."""
    base = snapshot()
    names = HOSTILE_NAMES
    first = base.pools[0]
    accounts = tuple(
        replace(
            view,
            id=name,
            admin_reason=name,
            skip=view.skip and view.skip._replace(name=name, detail=name),
            circuit=replace(view.circuit, target=CircuitTarget(CircuitScope.ACCOUNT, name), cause=name),
        )
        for name, view in zip(names, first.accounts, strict=True)
    )
    return replace(base, pools=(replace(first, accounts=accounts, model=names[0]), *base.pools[1:]))


def decision(chosen: str, pool: str = "antigravity", *, rule: Rule = Rule.BEST_OF_TOP) -> Decision:
    known = (("ag-2", 0.613, 0.9998), ("ag-1", 0.588, 1.0), ("ag-7", 0.56, 0.9999))
    scores = tuple(
        ScoreTerms(name, quota, recency, 0.6 * quota + 0.4 * recency, 1.048 if name == chosen else 0.964)
        for name, quota, recency in known
    )
    skipped = tuple(view.skip for view in antigravity_accounts() if view.skip)
    return Decision(
        NOW, "default", pool, chosen, "gemini-2.5-flash", "hybrid", rule, Tier.NORMAL, scores, skipped
    )


RATE_LIMIT = Failure(
    ErrorCategory.RATE_LIMIT,
    "Resource has been exhausted (e.g. check quota).",
    http_status=429,
    code="RESOURCE_EXHAUSTED",
    retry_after_s=30.0,
)
OUTAGE = Failure(ErrorCategory.API_FAILURE, "Internal error encountered.", http_status=500, code="INTERNAL")
SLOW = Failure(ErrorCategory.TIMEOUT, "no token within 20 s")


class Script:
    """Builds events with growing sequence numbers."""

    def __init__(self) -> None:
        self.seq = 0
        self.events: list[Event] = []

    def next(self) -> int:
        self.seq += 1
        return self.seq

    def request(
        self,
        request_id: str,
        at: float,
        path: tuple[tuple[str, str, Failure | None], ...],
        *,
        origin: Origin = Origin.TRAFFIC,
        latency_s: float = 0.82,
        tokens: int = 412,
        degradations: tuple[Degradation, ...] = (),
        finish: bool = True,
    ) -> None:
        """One request along ``path`` of (account, pool, failure); the last without one answers."""
        attempts: list[AttemptRecord] = []
        first = decision(path[0][0], path[0][1])
        self.events.append(RequestRouted(self.next(), at, request_id, "default", origin, first))
        for number, (name, pool, failure) in enumerate(path, 1):
            step = decision(name, pool)
            self.events.append(
                AttemptStarted(
                    self.next(), at, request_id, number, name, pool, pool, "gemini-2.5-flash", step
                )
            )
            if failure is not None:
                attempts.append(
                    AttemptRecord(number, name, pool, "gemini-2.5-flash", AttemptResult.FAILED, 0.12, failure)
                )
                then = NextStep.SWITCH_ACCOUNT if number < len(path) else NextStep.FAIL
                self.events.append(
                    AttemptFailed(self.next(), at, request_id, number, name, pool, pool, 0.12, failure, then)
                )
        if not finish:
            return
        name, pool, failure = path[-1]
        if failure is not None:
            self.events.append(
                RequestFailed(
                    self.next(),
                    at,
                    request_id,
                    origin,
                    "default",
                    failure,
                    tuple(attempts),
                    latency_s,
                    0,
                    NOW + 24,
                    ("ag-4: above the hard limit",),
                )
            )
            return
        attempts.append(
            AttemptRecord(len(path), name, pool, "gemini-2.5-flash", AttemptResult.SUCCESS, latency_s, None)
        )
        for degradation in degradations:
            self.events.append(RequestDegraded(self.next(), at, request_id, degradation))
        reply = Reply(
            request_id,
            "A short answer.",
            name,
            pool,
            pool,
            "gemini-2.5-flash",
            Usage(tokens // 4, tokens - tokens // 4),
            "stop",
            tuple(attempts),
            latency_s,
            latency_s / 3,
            None,
            degradations,
        )
        self.events.append(RequestFinished(self.next(), at + latency_s, request_id, origin, reply))


def events() -> tuple[Event, ...]:
    """A minute of routing: plain answers, a failover, a degraded answer, a failure, changes of state."""
    script = Script()
    ag = "antigravity"
    for index in range(12):
        name = f"ag-{(1, 2, 7)[index % 3]}"
        script.request(
            f"warm-{index}",
            NOW - 50 + index * 2,
            ((name, ag, None),),
            latency_s=0.5 + index * 0.07,
            tokens=180 + 37 * index,
        )
    script.events.append(
        CircuitChanged(
            script.next(),
            NOW - 21,
            CircuitTarget(CircuitScope.ACCOUNT, "ag-6"),
            CircuitState.CLOSED,
            CircuitState.OPEN,
            "3 failures in 300 s",
            Actor.SYSTEM,
            NOW + 103,
        )
    )
    script.request("a", NOW - 18, (("ag-6", ag, OUTAGE), ("ag-1", ag, None)), latency_s=1.31)
    script.events.append(
        AdminChanged(
            script.next(),
            NOW - 16,
            "ag-5",
            AdminState.DRAINING,
            AdminState.DRAINED,
            "key rotation",
            Actor.OPERATOR,
        )
    )
    script.request("b", NOW - 12, (("ag-8", ag, RATE_LIMIT), ("ag-2", ag, None)), origin=Origin.CHAT)
    script.events.append(CooldownStarted(script.next(), NOW - 12, "ag-8", None, NOW + 24, "429"))
    script.request(
        "c",
        NOW - 9,
        (("ag-8", ag, RATE_LIMIT), ("ag-6", ag, OUTAGE), ("copilot-work", "copilot", None)),
        origin=Origin.API,
        latency_s=2.6,
        tokens=1_912,
        degradations=(Degradation(DegradationKind.FALLBACK_POOL, "answered by copilot"),),
    )
    script.request("d", NOW - 7, (("ag-1", ag, SLOW),), latency_s=20.02)
    script.request("e", NOW - 4, (("ag-2", ag, None),), latency_s=0.61)
    script.events.append(RequestCancelled(script.next(), NOW - 3, "nobody", Origin.CHAT, (), 0.4))
    script.request("f", NOW - 2, (("ag-7", ag, None),), latency_s=0.95, tokens=620)
    script.request("g", NOW - 1, (("ag-1", ag, None),), finish=False)
    return tuple(script.events)


def many_accounts(number: int) -> Snapshot:
    """One pool of ``number`` accounts, for scrolling and speed."""
    base = snapshot()
    first = base.pools[0]
    accounts = tuple(
        account(f"ag-{index:04}", window(index % 100), requests=index, skip=None) for index in range(number)
    )
    return replace(base, pools=(replace(first, accounts=accounts), *base.pools[1:]))


__all__ = [
    "HOSTILE_NAMES",
    "INSTANCES",
    "NOW",
    "STORES",
    "Script",
    "account",
    "decision",
    "events",
    "hostile_snapshot",
    "hostile_store",
    "instance",
    "many_accounts",
    "snapshot",
    "stored",
    "window",
]
