"""Which configuration a command runs on, and its mistakes as a program reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartfallback.config import ConfigError, locate_config

if TYPE_CHECKING:
    from pathlib import Path

    from smartfallback.config import LoadedConfig


def find_and_load(named: Path | None) -> LoadedConfig | None:
    """The configuration named or the user's own; None when there is neither.

    Raises:
        ConfigError: It has mistakes.
    """
    from smartfallback.config import load_config

    path = locate_config(named)
    return None if path is None else load_config(path)


def mistakes_as_json(error: ConfigError) -> list[dict[str, object]]:
    """Each mistake with its place."""
    return [
        {
            "file": str(mistake.file),
            "line": mistake.line,
            "column": mistake.column,
            "key": mistake.key,
            "problem": mistake.problem,
            "found": mistake.found,
            "allowed": mistake.allowed,
            "suggestion": mistake.suggestion,
        }
        for mistake in error.mistakes
    ]
