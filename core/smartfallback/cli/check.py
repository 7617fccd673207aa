"""``smartfallback check``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from smartfallback.cli import exit_codes
from smartfallback.cli.opening import find_and_load, mistakes_as_json
from smartfallback.cli.terminal import CommandError, answer, answer_json, one_line, run_async, tell
from smartfallback.config import ConfigError, RedisUrlError, choose_state, default_config_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from smartfallback.cli.reachability import Finding
    from smartfallback.cli.state_check import StateFinding
    from smartfallback.config import LoadedConfig, StateSettings

VERSION: Final = 1
"""Grows when a key goes or changes its meaning; keys may be added at any time."""


def check_config(config: Path | None, *, redis_url: str | None = None, as_json: bool) -> int:
    """Check the configuration, then what keeps the state and every account, and write what was found.

    Raises:
        CommandError: There is no configuration, or the address of the Redis server can't be used.
    """
    try:
        loaded = find_and_load(config)
    except ConfigError as error:
        if as_json:
            answer_json(
                {
                    "version": VERSION,
                    "ok": False,
                    "file": str(error.file),
                    "mistakes": mistakes_as_json(error),
                    "warnings": [],
                    "state": [],
                    "accounts": [],
                }
            )
        else:
            tell(str(error))
        return exit_codes.MISUSED
    if loaded is None:
        raise CommandError(
            f'No configuration at {default_config_path()}. Write one with "smartfallback init".',
            exit_codes.MISUSED,
        )
    try:
        state = choose_state(loaded.state, redis_url)
    except RedisUrlError as error:
        raise CommandError(str(error), exit_codes.MISUSED) from None
    return run_async(lambda: _check(loaded, state, as_json=as_json))


async def _check(loaded: LoadedConfig, state: StateSettings, *, as_json: bool) -> int:
    from smartfallback.cli.reachability import probe
    from smartfallback.cli.state_check import check_state

    if not as_json:
        for warning in loaded.warnings:
            tell(f"Warning: {warning}")
    if not as_json and sys.stderr.isatty():
        count = sum(len(pool.accounts) for pool in loaded.spec.pools)
        tell(f"Asking {count} account{'' if count == 1 else 's'} …")
    findings, stores = await asyncio.gather(probe(loaded.spec), check_state(state))
    usable = sum(finding.reach.usable for finding in findings)
    kept = all(store.reach.usable for store in stores)
    if as_json:
        answer_json(_as_json(loaded, findings, stores))
    else:
        rows = [(item.account, item.pool, item.provider, item.reach.value) for item in findings]
        answer(_table(rows, findings))
        answer("State:\n")
        told = [(store.kind, store.place, store.reach.value) for store in stores]
        answer(_table(told, stores, indent=2))
        state_too = "" if kept else ", the state can't"
        answer(f"{usable} of {len(findings)} accounts can be used{state_too}.\n")
    return exit_codes.DONE if kept and usable == len(findings) else exit_codes.FAILED


def _table(
    rows: Sequence[tuple[str, ...]], findings: Sequence[Finding | StateFinding], indent: int = 0
) -> str:
    """A line for each finding: its cells in columns, the detail, and below it what to do."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row, item in zip(cells, findings, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(" " * indent + "  ".join([*padded, one_line(item.detail)]).rstrip())
        if item.suggestion:
            column = indent + sum(widths) + 2 * len(widths)
            lines.append(" " * column + "do: " + one_line(item.suggestion))
    return "".join(f"{line}\n" for line in lines)


def _as_json(
    loaded: LoadedConfig, findings: Sequence[Finding], stores: Sequence[StateFinding]
) -> dict[str, object]:
    return {
        "version": VERSION,
        "ok": all(item.reach.usable for item in findings) and all(item.reach.usable for item in stores),
        "file": str(loaded.file),
        "mistakes": [],
        "warnings": [
            {
                "file": str(warning.file),
                "line": warning.line,
                "key": warning.key,
                "message": warning.message,
            }
            for warning in loaded.warnings
        ],
        "state": [
            {
                **store.facts,
                "kind": store.kind,
                "place": store.place,
                "status": store.reach.value,
                "usable": store.reach.usable,
                "detail": store.detail,
                "suggestion": store.suggestion,
            }
            for store in stores
        ],
        "accounts": [
            {
                "account": finding.account,
                "pool": finding.pool,
                "provider": finding.provider,
                "status": finding.reach.value,
                "usable": finding.reach.usable,
                "detail": finding.detail,
                "suggestion": finding.suggestion,
            }
            for finding in findings
        ],
    }
