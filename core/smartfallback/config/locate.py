"""Where the configuration is: named, or in the user's configuration directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from pathlib import Path


def default_config_path() -> Path:
    """``smartfallback/config.toml`` in the user's configuration directory."""
    return platformdirs.user_config_path("smartfallback", appauthor=False) / "config.toml"


def locate_config(named: Path | None = None) -> Path | None:
    """The file to load: the one named, else the user's own, else None, which means the demo.

    A path of the user's own that is there but can't be read is returned all the same: loading it
    then says what is wrong, where the demo would hide it.
    """
    if named is not None:
        return named
    path = default_config_path()
    return path if os.path.lexists(path) else None
