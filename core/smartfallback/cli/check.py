"""``smartfallback check``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from smartfallback.cli import exit_codes
from smartfallback.cli.opening import find_and_load, mistakes_as_json
from smartfallback.cli.terminal import CommandError, answer, answer_json, one_line, run_async, tell
from smartfallback.config import ConfigError, default_config_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from smartfallback.cli.reachability import Finding
    from smartfallback.config import LoadedConfig

VERSION: Final = 1
"""Grows when a key goes or changes its meaning; keys may be added at any time."""


def check_config(config: Path | None, *, as_json: bool) -> int:
    """Check the configuration, then every account in it, and write what was found.

    Raises:
        CommandError: There is no configuration.
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
    return run_async(lambda: _check(loaded, as_json=as_json))


async def _check(loaded: LoadedConfig, *, as_json: bool) -> int:
    from smartfallback.cli.reachability import probe

    if not as_json:
        for warning in loaded.warnings:
            tell(f"Warning: {warning}")
    if not as_json and sys.stderr.isatty():
        count = sum(len(pool.accounts) for pool in loaded.spec.pools)
        tell(f"Asking {count} account{'' if count == 1 else 's'} …")
    findings = await probe(loaded.spec)
    usable = sum(finding.reach.usable for finding in findings)
    if as_json:
        answer_json(_as_json(loaded, findings))
    else:
        answer(_table(findings))
        answer(f"{usable} of {len(findings)} accounts can be used.\n")
    return exit_codes.DONE if usable == len(findings) else exit_codes.FAILED


def _table(findings: Sequence[Finding]) -> str:
    rows = [
        [one_line(text) for text in (item.account, item.pool, item.provider, item.reach.value, item.detail)]
        for item in findings
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row, item in zip(rows, findings, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[4]]).rstrip())
        if item.suggestion:
            lines.append(" " * (sum(widths) + 8) + "do: " + one_line(item.suggestion))
    return "".join(f"{line}\n" for line in lines)


def _as_json(loaded: LoadedConfig, findings: Sequence[Finding]) -> dict[str, object]:
    return {
        "version": VERSION,
        "ok": all(finding.reach.usable for finding in findings),
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
