"""From checked tables to the values that the engine runs on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from smartfallback.model.circuits import ACCOUNT_DEFAULT, PROVIDER
from smartfallback.model.quota import QuotaThresholds, WindowSpec
from smartfallback.model.specs import AccountSpec, ChainSpec, PoolSpec, Price, SystemSpec, Timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smartfallback.config.locations import KeyPath
    from smartfallback.config.schema import AccountTable, ConfigFile, PoolTable, WindowTable
    from smartfallback.model.secrets import Secret


def build_spec(checked: ConfigFile, keys: Mapping[KeyPath, Secret], folder: Path) -> SystemSpec:
    """The configured system.

    Args:
        checked: The file, without mistakes.
        keys: The resolved secret of each account, by the account's path in the file.
        folder: What a relative ``model_path`` starts from.
    """
    return SystemSpec(
        pools=tuple(_pool(name, table, keys, folder) for name, table in checked.pools.items()),
        chains=tuple(
            ChainSpec(
                name=name,
                pools=tuple(chain.pools),
                timeout_s=chain.timeout_s,
                switch_on_content_filter=chain.switch_on_content_filter,
                on_break=chain.on_break,
                hedge_after_s=chain.hedge_after_s,
                cache_s=chain.cache_s,
                queue_s=chain.queue_s,
            )
            for name, chain in checked.chains.items()
        ),
        recovery=checked.recovery.settings(),
    )


def _pool(name: str, table: PoolTable, keys: Mapping[KeyPath, Secret], folder: Path) -> PoolSpec:
    model_path = None if table.model_path is None else folder / _expanded(table.model_path)
    model = table.model or (model_path.stem if model_path else "")
    return PoolSpec(
        name=name,
        provider=table.provider,
        provider_id=table.provider_id or _provider_id(table),
        accounts=tuple(
            _account(account, keys.get(("pools", name, "accounts", index)))
            for index, account in enumerate(table.accounts)
        ),
        model=model,
        base_url=table.base_url,
        model_path=model_path,
        strategy=table.strategy,
        hybrid=table.hybrid.settings(),
        thresholds=QuotaThresholds(
            warning=table.thresholds.warning,
            critical=table.thresholds.critical,
            soft_limit=table.thresholds.soft_limit,
            hard_limit=table.thresholds.hard_limit,
        ),
        reserve=table.reserve,
        account_circuit=table.account_circuit.settings(ACCOUNT_DEFAULT),
        provider_circuit=table.provider_circuit.settings(PROVIDER),
        timeouts=Timeouts(
            connect_s=table.timeouts.connect_s,
            first_token_s=table.timeouts.first_token_s,
            idle_s=table.timeouts.idle_s,
            adaptive_first_token=table.timeouts.adaptive_first_token,
        ),
        context_tokens=table.context_tokens,
        capabilities=frozenset(table.capabilities),
        default_output_tokens=table.default_output_tokens,
        burst_cooldown_s=table.burst_cooldown_s,
        price=None if table.price is None else Price(table.price.input, table.price.output),
        notice=table.notice,
        command=_command(table.command, folder),
        quota_source=table.quota_source,
        quota_url=table.quota_url,
        quota_ttl_s=table.quota_ttl_s,
        cheaper_model=table.cheaper_model or "",
        failed_model_s=table.failed_model_s,
        adaptive_concurrency=table.adaptive_concurrency,
    )


def _account(table: AccountTable, key: Secret | None) -> AccountSpec:
    return AccountSpec(
        id=table.id,
        api_key=key,
        quota=tuple(_window(window) for window in table.quota),
        max_concurrency=table.max_concurrency,
        base_url=table.base_url,
        project=table.project,
    )


def _window(table: WindowTable) -> WindowSpec:
    # Only a fraction has no limit of its own; it is then counted as a share of one whole.
    return WindowSpec(table.window, table.unit, 1.0 if table.limit is None else table.limit, table.resets)


def _provider_id(table: PoolTable) -> str:
    """The API that the pool's accounts share: its kind, and its host when that is not the usual one."""
    addresses = {account.base_url or table.base_url for account in table.accounts}
    address = addresses.pop() if len(addresses) == 1 else table.base_url
    if address is None:
        return table.provider.value
    return f"{table.provider.value}@{urlsplit(address).netloc.lower()}"


def _command(argv: list[str], folder: Path) -> tuple[str, ...]:
    """A command whose program is looked for on the search path, unless it is given with a folder."""
    if not argv:
        return ()
    program = _expanded(argv[0])
    return (str(folder / program) if program.name != argv[0] else argv[0], *argv[1:])


def _expanded(name: str) -> Path:
    """``name`` with ``~`` expanded; kept as it is for a user whom the system doesn't know."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)
