"""What an instance is made of, as a test writes it down and the instance's process reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from smartfallback import (
    AccountSpec,
    ChainSpec,
    CircuitSettings,
    CircuitState,
    PoolSpec,
    ProviderKind,
    QuotaThresholds,
    QuotaUnit,
    Strategy,
    SystemSpec,
    Timeouts,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.circuits import RateLimitRule

POOL, PROVIDER, MODEL = "main", "main-api", "scripted"
_OFF = CircuitSettings(initial_state=CircuitState.DISABLED)


@dataclass(frozen=True)
class Account:
    """An account with a weekly quota of tokens, or without any where ``limit`` is None."""

    id: str
    limit: float | None = 10_000.0
    concurrency: int = 1_000


@dataclass(frozen=True)
class Setup:
    """One instance: its accounts in one pool and one chain, and what it shares them through.

    Attributes:
        journal: The file in which its upstream notes what it has seen.
        number: Its number there.
        redis: The shared store's URL; None shares nothing.
        mode: ``leased`` or ``strict``.
        sqlite: The file that keeps its state over a restart; None keeps nothing.
        account_circuit: Settings that differ from the usual ones; None switches the circuits off.
        provider_circuit: Likewise.
        timeout_s: The deadline of every request.
    """

    journal: str
    number: int = 1
    name: str = "one"
    accounts: tuple[Account, ...] = (Account("a-1"),)
    redis: str | None = None
    mode: str = "leased"
    sqlite: str | None = None
    strategy: str = "round_robin"
    account_circuit: Mapping[str, float | str] | None = None
    provider_circuit: Mapping[str, float | str] | None = None
    timeout_s: float = 5.0
    seed: int = 1

    def to_json(self) -> str:
        """One line for the process's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Setup:
        """The setup that :meth:`to_json` wrote."""
        read = cls(**json.loads(text))
        return replace(read, accounts=tuple(Account(**entry) for entry in read.accounts))  # type: ignore[arg-type]

    def numbered(self, number: int) -> Setup:
        """The same for another instance."""
        return replace(self, number=number, name=f"instance-{number}", seed=self.seed + number)

    @property
    def journal_path(self) -> Path:
        """The upstream's journal."""
        return Path(self.journal)

    def system(self) -> SystemSpec:
        """What the orchestrator is built from: no soft limit, so that a quota is spent to its end."""
        accounts = tuple(
            AccountSpec(
                account.id,
                quota=()
                if account.limit is None
                else (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, account.limit),),
                max_concurrency=account.concurrency,
            )
            for account in self.accounts
        )
        pool = PoolSpec(
            name=POOL,
            provider=ProviderKind.OPENAI,
            provider_id=PROVIDER,
            accounts=accounts,
            model=MODEL,
            strategy=Strategy(self.strategy),
            thresholds=QuotaThresholds(soft_limit=100.0, hard_limit=100.0),
            account_circuit=_circuit(self.account_circuit),
            provider_circuit=_circuit(self.provider_circuit),
            timeouts=Timeouts(first_token_s=60.0, idle_s=60.0, adaptive_first_token=False),
            failed_model_s=0.0,
            adaptive_concurrency=False,
        )
        return SystemSpec((pool,), (ChainSpec("default", (POOL,), timeout_s=self.timeout_s),))


def _circuit(settings: Mapping[str, float | str] | None) -> CircuitSettings:
    if settings is None:
        return _OFF
    fields = dict(settings)
    if "on_rate_limit" in fields:
        fields["on_rate_limit"] = RateLimitRule(str(fields["on_rate_limit"]))
    return CircuitSettings(**fields)  # type: ignore[arg-type]
