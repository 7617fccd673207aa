"""What the values of a configuration mean to each other, checked on the document as it is.

These checks don't wait for the schema: a file with a misspelt key and an account id used twice has
both mistakes in one report. So nothing in here relies on a value having the right type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smartfallback.config.mistakes import nearest, one_of, shown
from smartfallback.config.stores import REDIS_OPTION, REDIS_VARIABLE
from smartfallback.model.specs import ChainSpec, ProviderKind, QuotaSourceRule, RecoverySpec, Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smartfallback.config.locations import KeyPath
    from smartfallback.config.mistakes import Report

_NEEDS_MODEL: Final = (ProviderKind.GEMINI, ProviderKind.OPENAI)
_NEEDS_KEY: Final = (ProviderKind.GEMINI, ProviderKind.OPENAI)
_TELLS_QUOTA: Final = (ProviderKind.GEMINI, ProviderKind.COPILOT)
_NOT_FOR_LOCAL: Final = ("base_url",)
_BUDGET: Final = {
    "retry_share": RecoverySpec().retry_share,
    "retry_reserve": RecoverySpec().retry_reserve,
}
_ENVIRONMENT_EXAMPLE: Final = '{ env = "NAME" }'


def check_relations(report: Report) -> None:
    """Add every mistake that lies between values to ``report``."""
    _check_account_ids(report)
    for name, pool in tables(report.document, "pools"):
        _check_provider_needs(report, name, pool)
        _check_windows(report, name, pool)
        _check_quota_source(report, name, pool)
        _check_cheaper_model(report, name, pool)
    _check_chains(report)
    _check_hedging(report)
    _check_state(report)


def tables(document: dict[str, object], section: str) -> Iterator[tuple[str, dict[str, object]]]:
    """The named tables of a section that are tables at all."""
    found = document.get(section)
    if isinstance(found, dict):
        for name, table in found.items():
            if isinstance(table, dict):
                yield name, table


def accounts(name: str, pool: dict[str, object]) -> Iterator[tuple[KeyPath, dict[str, object]]]:
    """The accounts of a pool that are tables, with their paths."""
    found = pool.get("accounts")
    if isinstance(found, list):
        for index, account in enumerate(found):
            if isinstance(account, dict):
                yield ("pools", name, "accounts", index), account


def _check_account_ids(report: Report) -> None:
    first: dict[str, KeyPath] = {}
    for name, pool in tables(report.document, "pools"):
        for path, account in accounts(name, pool):
            account_id = account.get("id")
            if not isinstance(account_id, str):
                continue
            if account_id in first:
                line = report.locations.line((*first[account_id], "id"))
                report.mistake(
                    (*path, "id"),
                    f"a second account of this id; the first stands on line {line}",
                    allowed="ids that are unique in the whole file",
                    suggestion="rename one of them",
                )
            else:
                first[account_id] = path


def _check_provider_needs(report: Report, name: str, pool: dict[str, object]) -> None:
    kind = pool.get("provider")
    path: KeyPath = ("pools", name)
    if kind == ProviderKind.LOCAL:
        if "model_path" not in pool:
            report.mistake(
                (*path, "model_path"),
                "is missing",
                suggestion='say where the GGUF file is: model_path = "~/models/model.gguf"',
            )
        if "base_url" in pool:
            report.mistake(
                (*path, "base_url"),
                "a local pool has no address",
                suggestion='remove it, or use provider = "openai" for a server of your own',
            )
    elif "model_path" in pool and isinstance(kind, str):
        report.mistake(
            (*path, "model_path"), "only local pools have one", suggestion='name the model in "model"'
        )
    if kind in _NEEDS_MODEL and "model" not in pool:
        report.mistake(
            (*path, "model"), "is missing", suggestion='name the model, as in model = "gemini-2.5-flash"'
        )
    if kind in _NEEDS_KEY and "base_url" not in pool:
        for account_path, account in accounts(name, pool):
            if "api_key" not in account and "base_url" not in account:
                report.mistake(
                    (*account_path, "api_key"),
                    "is missing",
                    suggestion=f"refer to the account's key: api_key = {_ENVIRONMENT_EXAMPLE}",
                )


def _check_windows(report: Report, name: str, pool: dict[str, object]) -> None:
    for path, account in accounts(name, pool):
        windows = account.get("quota")
        seen: set[tuple[str, str]] = set()
        for index, window in enumerate(windows if isinstance(windows, list) else []):
            if not isinstance(window, dict):
                continue
            span, unit = window.get("window"), window.get("unit")
            if not (isinstance(span, str) and isinstance(unit, str)):
                continue
            if (span, unit) in seen:
                report.mistake(
                    (*path, "quota", index),
                    f"a second window of {shown(unit)} over {shown(span)}",
                    allowed="one window for each span and unit",
                )
            seen.add((span, unit))


def _check_quota_source(report: Report, name: str, pool: dict[str, object]) -> None:
    kind = pool.get("provider")
    for key in ("quota_url", "quota_ttl_s"):
        if key not in pool:
            continue
        if kind in tuple(ProviderKind) and kind not in _TELLS_QUOTA:
            report.mistake(
                ("pools", name, key),
                f"no quota is asked of {shown(kind)} providers",
                allowed=f"in pools of {one_of(_TELLS_QUOTA)}",
                suggestion="remove it; the own count and rate-limit headers are used",
            )
        elif pool.get("quota_source") == QuotaSourceRule.NONE:
            report.warn(("pools", name, key), 'has no effect with quota_source = "none"')


def _check_cheaper_model(report: Report, name: str, pool: dict[str, object]) -> None:
    cheaper = pool.get("cheaper_model")
    path: KeyPath = ("pools", name, "cheaper_model")
    if not isinstance(cheaper, str):
        return
    if pool.get("provider") == ProviderKind.LOCAL:
        report.mistake(
            path,
            "a local pool has one model, that of its file",
            suggestion="remove it, or make another local pool and name it after this one in the chain",
        )
    elif cheaper == pool.get("model"):
        report.mistake(
            path,
            "is the pool's usual model",
            allowed="another model of the same accounts",
            suggestion="name one that costs less, or remove it",
        )


def _check_hedging(report: Report) -> None:
    """Chains in which a second candidate could never be asked beside the first."""
    pools = dict(tables(report.document, "pools"))
    for name, chain in tables(report.document, "chains"):
        after_s = _number(chain.get("hedge_after_s"))
        if after_s is None:
            continue
        path: KeyPath = ("chains", name, "hedge_after_s")
        timeout_s = _number(chain.get("timeout_s", ChainSpec("", ()).timeout_s))
        if timeout_s is not None and after_s >= timeout_s > 0:
            report.mistake(
                path,
                f"a request has ended by then: timeout_s is {timeout_s:g}",
                allowed=f"a number below {timeout_s:g}",
                suggestion="set it to a little more than a first token usually takes",
            )
            continue
        named = chain.get("pools")
        members = (
            [pools.get(pool) for pool in named if isinstance(pool, str)] if isinstance(named, list) else []
        )
        known = [pool for pool in members if pool is not None]
        if known and len(known) == len(members):
            _warn_of_idle_hedging(report, path, after_s, known)


def _warn_of_idle_hedging(
    report: Report, path: KeyPath, after_s: float, pools: list[dict[str, object]]
) -> None:
    recovery = report.document.get("recovery")
    limits = [_first_token_s(pool) for pool in pools if pool.get("provider") != ProviderKind.LOCAL]
    if sum(1 for pool in pools for _ in accounts("", pool)) == 1:
        report.warn(path, "has no effect: the chain has one account")
    elif not limits:
        report.warn(path, "has no effect: local models are not asked side by side")
    elif all(limit is not None and after_s >= limit for limit in limits):
        report.warn(path, "has no effect: first_token_s ends the first attempt before that")
    elif isinstance(recovery, dict) and not any(
        recovery.get(key, default) for key, default in _BUDGET.items()
    ):
        report.warn(path, "has no effect: retry_share and retry_reserve are 0")


def _first_token_s(pool: dict[str, object]) -> float | None:
    table = pool.get("timeouts", {})
    return _number(table.get("first_token_s", Timeouts().first_token_s)) if isinstance(table, dict) else None


def _number(value: object) -> float | None:
    """``value`` if it is a number of seconds, None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _check_chains(report: Report) -> None:
    known = [name for name, _ in tables(report.document, "pools")]
    used: set[str] = set()
    for name, chain in tables(report.document, "chains"):
        named = chain.get("pools")
        seen: set[str] = set()
        for index, pool in enumerate(named if isinstance(named, list) else []):
            if not isinstance(pool, str):
                continue
            path: KeyPath = ("chains", name, "pools", index)
            if pool not in known:
                report.mistake(
                    path,
                    "no such pool",
                    allowed=one_of(known) or "the name of a [pools.NAME] table",
                    suggestion=nearest(pool, known),
                )
            elif pool in seen:
                report.mistake(path, "the chain has this pool already", allowed="each pool once")
            seen.add(pool)
        used |= seen
    for name in known:
        if used and name not in used:
            report.warn(("pools", name), "no chain uses this pool")


def _check_state(report: Report) -> None:
    state = report.document.get("state")
    if not isinstance(state, dict):
        return
    for name in ("mode", "instance", "prefix"):
        if name in state and "redis_url" not in state:
            report.warn(
                ("state", name), f"has no effect without redis_url, {REDIS_OPTION} or {REDIS_VARIABLE}"
            )
