"""SmartFallback: routes each request to the LLM account that should answer it.

This module is the library's public face; everything else may change. Values (requests, events,
commands, the snapshot) are imported at once, what acts on them when it is first used.

Example::

    from smartfallback import Orchestrator, Request, load_config

    async with Orchestrator(load_config(path).spec) as orchestrator:
        reply = await orchestrator.chat(Request.ask("Why is the sky blue?"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smartfallback.clock import Clock, SystemClock
from smartfallback.model.circuits import CircuitScope, CircuitSettings, CircuitState, CircuitTarget
from smartfallback.model.commands import (
    CloseCircuit,
    Command,
    CommandResult,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    ForceFailover,
    OpenCircuit,
    RefreshQuota,
    ResetCircuit,
    Resume,
    SetStrategy,
)
from smartfallback.model.decisions import AdminState, Decision, Rule, ScoreTerms, Skip, SkipReason, Tier
from smartfallback.model.events import (
    AccountResumed,
    Actor,
    AdminChanged,
    AnswerResumed,
    AttemptDiverted,
    AttemptFailed,
    AttemptOutrun,
    AttemptStarted,
    AttentionRaised,
    CircuitChanged,
    ConcurrencyChanged,
    CooldownStarted,
    DegradedModeChanged,
    Delta,
    Event,
    ProviderNotice,
    QuotaCorrected,
    QuotaHeard,
    QuotaReset,
    QuotaStatusChanged,
    RequestCancelled,
    RequestDegraded,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
    ResetOverdue,
    ResetValidated,
    StateNotice,
    StrategyChanged,
)
from smartfallback.model.outcomes import (
    AttemptRecord,
    AttemptResult,
    ErrorCategory,
    Failure,
    NextStep,
    RequestError,
    TimeoutPhase,
)
from smartfallback.model.quota import (
    QuotaStatus,
    QuotaThresholds,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.recoveries import (
    QueuedView,
    QueueView,
    RecoveryAction,
    RecoveryRecord,
    RecoveryStatistics,
    RecoveryView,
)
from smartfallback.model.requests import (
    Capability,
    Degradation,
    DegradationKind,
    Message,
    OnBreak,
    Origin,
    QueueTerms,
    Reply,
    Request,
    Role,
    Seam,
    Usage,
)
from smartfallback.model.secrets import Secret, redact
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
from smartfallback.model.specs import (
    AccountSpec,
    ChainSpec,
    HybridSettings,
    PoolSpec,
    Price,
    ProviderKind,
    Recency,
    RecoverySpec,
    ReserveRule,
    Strategy,
    SystemSpec,
    Timeouts,
)

if TYPE_CHECKING:
    from smartfallback.config import ConfigError, ConfigWarning, LoadedConfig, load_config, locate_config
    from smartfallback.engine.bus import Subscription
    from smartfallback.engine.orchestrator import Orchestrator
    from smartfallback.simulation.demo import Demo, demo
    from smartfallback.state.base import StateStore
    from smartfallback.state.sqlite import SqliteStateStore

_LAZY = {
    "ConfigError": "smartfallback.config",
    "ConfigWarning": "smartfallback.config",
    "Demo": "smartfallback.simulation.demo",
    "LoadedConfig": "smartfallback.config",
    "Orchestrator": "smartfallback.engine.orchestrator",
    "SqliteStateStore": "smartfallback.state.sqlite",
    "StateStore": "smartfallback.state.base",
    "Subscription": "smartfallback.engine.bus",
    "demo": "smartfallback.simulation.demo",
    "locate_config": "smartfallback.config",
    "load_config": "smartfallback.config",
}


def __getattr__(name: str) -> Any:  # what it returns is declared by the imports above
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AccountResumed",
    "AccountSpec",
    "AccountView",
    "Actor",
    "AdminChanged",
    "AdminState",
    "AnswerResumed",
    "AttemptDiverted",
    "AttemptFailed",
    "AttemptOutrun",
    "AttemptRecord",
    "AttemptResult",
    "AttemptStarted",
    "AttentionRaised",
    "Capability",
    "ChainSpec",
    "ChainView",
    "CircuitChanged",
    "CircuitScope",
    "CircuitSettings",
    "CircuitState",
    "CircuitTarget",
    "CircuitView",
    "Clock",
    "CloseCircuit",
    "Command",
    "CommandResult",
    "ConcurrencyChanged",
    "ConfigError",
    "ConfigWarning",
    "CooldownStarted",
    "CorrectQuota",
    "Decision",
    "Degradation",
    "DegradationKind",
    "DegradedModeChanged",
    "Delta",
    "Demo",
    "Disable",
    "Drain",
    "Enable",
    "ErrorCategory",
    "Event",
    "Failure",
    "FairnessView",
    "ForceFailover",
    "ForecastView",
    "HybridSettings",
    "LatencyView",
    "LoadedConfig",
    "Message",
    "NextStep",
    "OnBreak",
    "OpenCircuit",
    "Orchestrator",
    "Origin",
    "PoolSpec",
    "PoolView",
    "Price",
    "ProviderKind",
    "ProviderNotice",
    "QueueTerms",
    "QueueView",
    "QueuedView",
    "QuotaCorrected",
    "QuotaHeard",
    "QuotaReset",
    "QuotaStatus",
    "QuotaStatusChanged",
    "QuotaThresholds",
    "QuotaUnit",
    "QuotaView",
    "Recency",
    "RecoveryAction",
    "RecoveryRecord",
    "RecoverySpec",
    "RecoveryStatistics",
    "RecoveryView",
    "RefreshQuota",
    "Reply",
    "Request",
    "RequestCancelled",
    "RequestDegraded",
    "RequestError",
    "RequestEvent",
    "RequestFailed",
    "RequestFinished",
    "RequestQueued",
    "RequestReplayed",
    "RequestRouted",
    "ReserveRule",
    "ResetCircuit",
    "ResetOverdue",
    "ResetValidated",
    "Resume",
    "Role",
    "Rule",
    "ScoreTerms",
    "Seam",
    "Secret",
    "SetStrategy",
    "Skip",
    "SkipReason",
    "Snapshot",
    "SqliteStateStore",
    "StateNotice",
    "StateStore",
    "Strategy",
    "StrategyChanged",
    "Subscription",
    "SystemClock",
    "SystemSpec",
    "Tier",
    "TimeoutPhase",
    "Timeouts",
    "TrafficView",
    "TruthLabel",
    "Usage",
    "WindowKind",
    "WindowSpec",
    "WindowView",
    "demo",
    "load_config",
    "locate_config",
    "redact",
]
